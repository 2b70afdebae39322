"""Record one forward pass of a model as a grid of transitions, and leave the model as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from lsc_snn import _checks
from lsc_snn.adapters.base import AnyAdapter, SequenceAdapter, find_adapters
from lsc_snn.assemble import Assembly
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.graph import reached
from lsc_snn.grid import Grid, Memory, Points
from lsc_snn.recording import CellRow, Row, SequenceRow, parts_of, run_by_steps, undisturbed
from lsc_snn.unknown import unknown_memory, watched

Call = Callable[[nn.Module, Any], Any]
"""How to run a model on one batch; ``model(inputs)`` by default."""


class Handled(NamedTuple):
    """A module of the model, by its name, and the adapter that knows it."""

    name: str
    module: nn.Module
    adapter: AnyAdapter


def handled_modules(model: nn.Module) -> list[Handled]:
    """Return the modules of a model that adapters know, in definition order.

    Raises TypeError where ``model`` is no module, ValueError where none of its layers is known.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found = [Handled(*entry) for entry in find_adapters(model)]
    if any(entry.adapter.role == "layer" for entry in found):
        return [entry for entry in found if entry.adapter.role != "feedforward"]
    found = [entry for entry in found if entry.adapter.role == "feedforward"]
    if not found:
        raise ValueError(
            f"model: expected at least one layer that can be measured, got {type(model).__name__} with none; "
            "use the layers of lsc_snn, or teach it yours with lsc_snn.register_adapter"
        )
    return found


def check_inputs(model: nn.Module, inputs: Inputs, name: str = "inputs") -> None:
    """Raise TypeError or ValueError unless a batch is finite, floating, not empty, and on the device of the model.

    ``name`` is what errors call the batch. Also raises ValueError where a parameter of the model is not finite, and in
    inference mode, where every radius would come out as 0.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            f"{name}: expected gradients to be possible, got torch.inference_mode; use torch.no_grad instead"
        )
    if not isinstance(inputs, EventBatch):
        _checks.check_float(name, inputs)
        if inputs.dim() < 2 or inputs.numel() == 0:
            raise ValueError(
                f"{name}: expected (time steps, batch, features...), or (batch, features...) for a model without time, "
                f"none of them empty, got shape {tuple(inputs.shape)}"
            )
    for full_name, parameter in model.named_parameters():
        if parameter.device != inputs.device:
            raise ValueError(
                f"{name}: expected the model's device {parameter.device}, got {inputs.device}; "
                "move one of them with .to(device)"
            )
        _checks.check_finite(f"parameter {full_name}", parameter)
    if not isinstance(inputs, EventBatch):
        _checks.check_finite(name, inputs)


Replacement = Callable[[Handled, tuple[Any, ...], dict[str, Any]], Any]


@contextlib.contextmanager
def replaced_forwards(handled: list[Handled], replacement: Replacement) -> Iterator[None]:
    """Run a block in which calling a handled module calls ``replacement(handled, args, kwargs)``, not its forward.

    During that call the module has its own forward back, so that an adapter may simply run it.
    """
    with contextlib.ExitStack() as stack:
        for entry in handled:
            stack.enter_context(_replaced_forward(entry, replacement))
        yield


@contextlib.contextmanager
def _replaced_forward(entry: Handled, replacement: Replacement) -> Iterator[None]:
    own = entry.module.__dict__
    original = {key: own[key] for key in ("forward",) if key in own}

    def restore() -> None:
        own.pop("forward", None)
        own.update(original)

    def forward(*args: Any, **kwargs: Any) -> Any:
        restore()
        try:
            return replacement(entry, args, kwargs)
        finally:
            own["forward"] = forward

    own["forward"] = forward
    try:
        yield
    finally:
        restore()


def trace(
    model: nn.Module,
    inputs: Inputs,
    *,
    num_times: int = 8,
    call: Call | None = None,
    generator: torch.Generator | None = None,
) -> Grid:
    """Run the model's own forward once, in eval mode, and return its transitions at ``num_times`` steps of each sample.

    Steps are spread evenly over the valid length of each sample; with a ``generator`` (CPU), each is drawn at random
    from its share. A sample with fewer valid steps than ``num_times`` gives each of them once. The gradient is cut
    where a layer hands its output up, so that what stands between two layers is recorded by autograd, and a transition
    sees nothing but one step.

    Raises ValueError or TypeError for bad inputs (``check_inputs``), a model without a known layer, a module with
    memory that no adapter knows, a layer that is never called, or not as often as the others, and a state that is
    detached between steps; errors of the model's own forward pass through. The model is as before either way.
    """
    _checks.check_count("num_times", num_times)
    handled = handled_modules(model)
    check_inputs(model, inputs)
    start = inputs if isinstance(inputs, EventBatch) else inputs.detach().requires_grad_()
    rows: dict[str, Row] = {}
    counts = dict.fromkeys((entry.name for entry in handled), 0)

    def record(entry: Handled, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        counts[entry.name] += 1
        return _record_call(rows, entry, args, kwargs)

    # A linear layer is no sign that what it stands in is known.
    known = [entry.module for entry in handled if entry.adapter.role != "feedforward"]
    with (
        undisturbed(model),
        watched(model, known) as unknown,
        replaced_forwards(handled, record),
        torch.enable_grad(),
    ):
        output = model(start) if call is None else call(model, start)

    if unknown:
        raise unknown_memory(*min(unknown, key=lambda found: found[0].count(".")))
    _check_calls(handled, counts, rows)
    if handled[0].adapter.role == "feedforward" and _looped(list(rows.values())):
        raise unknown_memory("model", model)
    return Assembly(list(rows.values()), start, model).grid(output, num_times, generator)


def _record_call(rows: dict[str, Row], entry: Handled, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record one call of a handled module, and return what its forward returns."""
    name, module, adapter = entry
    if isinstance(adapter, SequenceAdapter):
        with torch.no_grad():
            done = adapter.run(module, *args, **kwargs)
        row = rows[name] = SequenceRow(name, module, adapter, done)
        return done.returned(row.leaf)
    if not adapter.over_time(module):
        cell = rows.get(name)
        if not isinstance(cell, CellRow):
            cell = rows[name] = CellRow(name, module, adapter)
        return cell.call(args, kwargs)
    signal, memory = adapter.unpack(module, *args, **kwargs)
    last: Memory = ()
    for full_name, part, first in parts_of(name, module, adapter, memory):
        done, after = run_by_steps(adapter, part, signal, first)
        row = rows[full_name] = SequenceRow(full_name, part, adapter, done)
        signal = row.leaf
        last += after
    return adapter.pack(module, signal, last)


def _looped(rows: list[Row]) -> bool:
    """Say whether feed-forward layers, called at every step, get what they handed up a step before."""
    if rows[0].shape[0] < 2:
        return False
    first = [leaf for row in rows for leaf in row.leaves(0)]
    at = Points(*(torch.tensor([index], device=first[0].device) for index in (1, 0)))
    return any(reached(row.arrived(at), first) for row in rows)


def _check_calls(handled: list[Handled], counts: dict[str, int], rows: dict[str, Row]) -> None:
    for name, count in counts.items():
        if count == 0:
            raise ValueError(f"layer {name!r}: expected a call in every forward pass, got none; remove it, or call it")
    for entry in handled:
        once = isinstance(entry.adapter, SequenceAdapter) or entry.adapter.over_time(entry.module)
        if once and counts[entry.name] != 1:
            raise ValueError(
                f"layer {entry.name!r}: expected one call for each forward pass, got {counts[entry.name]}; "
                "a sequence module is called once, on the whole sequence"
            )
    first = next(iter(rows.values()))
    for row in rows.values():
        if isinstance(row, CellRow) and row.cut and row.adapter.role != "feedforward":
            raise ValueError(
                f"layer {row.name!r}: expected a gradient from step to step, got none: {row.cut}; "
                "measure the model with its whole sequence in one graph"
            )
        if row.shape != first.shape:
            raise ValueError(
                f"layer {row.name!r}: expected as many steps and samples as layer {first.name!r} has, {first.shape}, "
                f"got {row.shape}; call every layer once for each time step"
            )
