"""Modules with memory that no adapter knows: found while a model runs, and told to the user with the remedy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from lsc_snn.graph import depends, tensors_in

_REMEDY = """\
from lsc_snn.adapters import Knobs, StepAdapter, multiplied

class {name}Adapter(StepAdapter):
    def unpack(self, module, x, state=None):  # what one call of forward gets: the input, and the memory as a tuple
        return x, (x.new_zeros(len(x), module.num_units) if state is None else state,)
    def step(self, module, x, memory):  # one time step: the output and the next memory
        output, state = module(x, memory[0])
        return output, (state,)
    def pack(self, module, output, memory):  # what forward returns
        return output, memory[0]
    def knobs(self, module):  # which parameters move the radii
        return Knobs(depth=multiplied([module.input_weight]), time=multiplied([module.recurrent_weight]))

lsc_snn.register_adapter({name}, {name}Adapter())"""


def unknown_memory(name: str, module: nn.Module) -> ValueError:
    """Return the error for a module with memory that no adapter knows; its first line says what is wrong."""
    kind = type(module).__name__
    return ValueError(
        f"layer {name!r}: expected a module that an adapter knows, got {kind}, which carries memory from step to step; "
        f"teach it to the library, for example with\n\n{_REMEDY.format(name=kind)}"
    )


@contextlib.contextmanager
def watched(model: nn.Module, known: Iterable[nn.Module]) -> Iterator[list[tuple[str, nn.Module]]]:
    """Watch a forward pass; the list that this yields then holds the (name, module) that carry memory by themselves.

    Such a module is called again with two or more tensors, of which one depends on what it returned before. Watched are
    all modules but the model itself and those that are ``known``, are inside a known one, or hold one.
    """
    handled = {id(inner) for module in known for inner in module.modules()}
    found: list[tuple[str, nn.Module]] = []
    before: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if name and not any(id(inner) in handled for inner in module.modules()):
            handles.append(module.register_forward_hook(_hook(name, module, before, found), with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, module: nn.Module, before: dict[str, list[Tensor]], found: list[tuple[str, nn.Module]]) -> Any:
    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if name not in before:
            before[name] = list(tensors_in(output))
        elif before[name]:  # the second call says it, and a third would only be longer
            arrived = list(tensors_in((args, kwargs)))
            # One input alone is an activation used again further up, as likely as a memory.
            if len(arrived) > 1 and any(depends(tensor, before[name]) for tensor in arrived):
                found.append((name, module))
            before[name] = []

    return hook
