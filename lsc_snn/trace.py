"""Record one forward pass of a model as a grid of transitions, and leave the model as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lsc_snn import _checks
from lsc_snn.adapters.base import AnyAdapter, Pass, SequenceAdapter, StepAdapter, find_adapters
from lsc_snn.assemble import Assembly
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.graph import leaf_ids, reached, tensors_in
from lsc_snn.grid import Grid, Memory, Points
from lsc_snn.recording import CellRow, Row, SequenceRow, parts_of, run_by_steps, shared, undisturbed
from lsc_snn.replay import Outputs
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
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"parameter {full_name}: expected float32 or float64, got {parameter.dtype}; "
                "hand over model.float(), and convert it afterwards"
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


@dataclass
class _Replaced:
    """What stands in for a module's forward. No closure, which would hold itself, and with it all that was recorded."""

    entry: Handled
    replacement: Replacement
    original: dict[str, Any]

    def put(self) -> None:
        self.entry.module.__dict__["forward"] = self

    def restore(self) -> None:
        self.entry.module.__dict__.pop("forward", None)
        self.entry.module.__dict__.update(self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.restore()
        try:
            return self.replacement(self.entry, args, kwargs)
        finally:
            self.put()


@contextlib.contextmanager
def _replaced_forward(entry: Handled, replacement: Replacement) -> Iterator[None]:
    own = entry.module.__dict__
    replaced = _Replaced(entry, replacement, {key: own[key] for key in ("forward",) if key in own})
    replaced.put()
    try:
        yield
    finally:
        replaced.restore()


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
    from its share. A sample with fewer valid steps than ``num_times`` gives each of them once.

    The gradient is cut where a layer hands its output up, so that what stands between two layers is recorded by
    autograd, and a transition sees nothing but one step.

    Raises ValueError or TypeError for bad inputs (``check_inputs``), a model without a known layer, a module with
    memory that no adapter knows, a layer that is never called, or not as often as the others, one that is used as
    several layers, and a state that is detached between steps; errors of the model's own forward pass through. The
    model is as before either way.
    """
    _checks.check_count("num_times", num_times)
    return record(model, inputs, call).grid(num_times, generator)


def record(model: nn.Module, inputs: Inputs, call: Call | None = None) -> Assembly:
    """Run the model's own forward once, and return what ``trace`` makes a grid of, any number of times.

    Raises as ``trace`` does.
    """
    handled = handled_modules(model)
    check_inputs(model, inputs)
    start = inputs if isinstance(inputs, EventBatch) else inputs.detach().requires_grad_()
    rows: dict[str, Row] = {}
    counts = dict.fromkeys((entry.name for entry in handled), 0)

    def recorded(entry: Handled, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        counts[entry.name] += 1
        return _record_call(rows, entry, args, kwargs)

    # A linear layer is no sign that what it stands in is known.
    known = [entry.module for entry in handled if entry.adapter.role != "feedforward"]

    def forward(batch: Inputs, replacement: Replacement) -> Any:
        # Fused attention can be differentiated only once, and products M v differentiate twice.
        plain = sdpa_kernel(SDPBackend.MATH)
        with undisturbed(model), replaced_forwards(handled, replacement), torch.enable_grad(), plain:
            return model(batch) if call is None else call(model, batch)

    with watched(model, known) as unknown:
        output = forward(start, recorded)

    if unknown:
        raise unknown_memory(*min(unknown, key=lambda found: found[0].count(".")))
    _check_called(handled, counts, rows, output)
    if handled[0].adapter.role == "feedforward":
        _check_no_loop(model, list(rows.values()), start)
    _check_calls(handled, counts, rows)

    def replay(batch: Inputs, outputs: Outputs) -> tuple[dict[str, Row], Any]:
        again: dict[str, Row] = {}
        return again, forward(batch, lambda entry, args, kwargs: _record_call(again, entry, args, kwargs, outputs))

    with torch.enable_grad():  # whatever mode the caller is in
        return Assembly(list(rows.values()), start, output, model, replay)


def _record_call(
    rows: dict[str, Row],
    entry: Handled,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outputs: Outputs | None = None,
) -> Any:
    """Record one call of a handled module, and return what its forward returns.

    ``outputs`` are what sequence modules hand up instead of what they compute, by the names of their layers.
    """
    name, module, adapter = entry

    def recorded(full_name: str, part: Any, done: Pass) -> Tensor:
        output = None if outputs is None else outputs[full_name]
        row = rows[full_name] = SequenceRow(full_name, part, adapter, done, output)
        return row.leaf

    if isinstance(adapter, SequenceAdapter):
        with torch.no_grad():
            done = adapter.run(module, *args, **kwargs)
        _check_not_shared(rows, name, [name], done.inputs)
        return done.returned(recorded(name, module, done))
    signal, memory = adapter.unpack(module, *args, **kwargs)
    if not adapter.over_time(module):
        return adapter.pack(module, *_cell(rows, name, module, adapter).record(signal, memory))
    parts = list(parts_of(name, module, adapter, memory))
    last: Memory = ()
    before = [rows.get(full_name) for full_name, _, _ in parts]
    if outputs is None and len(signal) == 1 and not any(isinstance(row, SequenceRow) for row in before):
        # A sequence module in a loop over time is a cell.
        now = signal[0]
        for full_name, part, first in parts:
            now, after = _cell(rows, full_name, part, adapter).record(now, first)
            last += after
        return adapter.pack(module, now[None], last)
    _check_not_shared(rows, name, [full_name for full_name, _, _ in parts], signal)
    for full_name, part, first in parts:
        done, after = run_by_steps(adapter, part, signal, first)
        signal = recorded(full_name, part, done)
        last += after
    return adapter.pack(module, signal, last)


def _cell(rows: dict[str, Row], name: str, module: Any, adapter: StepAdapter) -> CellRow:
    """Return the row of a cell, a new one at its first step."""
    row = rows.get(name)
    if not isinstance(row, CellRow):
        row = rows[name] = CellRow(name, module, adapter)
    return row


def _check_not_shared(rows: dict[str, Row], name: str, parts: list[str], inputs: Inputs) -> None:
    """Raise ValueError where a sequence module gets what it handed up itself."""
    leaves = [leaf for part in parts if part in rows for leaf in rows[part].leaves()]
    if isinstance(inputs, Tensor) and reached(inputs, leaves):
        raise shared(name)


def _check_no_loop(model: nn.Module, rows: list[Row], start: Inputs) -> None:
    """Raise ValueError where feed-forward layers get, in their second call, what they handed up in the first.

    That is memory, if new input arrives with it: other entries of it, or the same by themselves; else it is depth.
    """
    first = [leaf for row in rows for leaf in row.leaves(0)]
    at = [Points(*(torch.tensor([index], device=start.device) for index in (call, 0))) for call in (0, 1)]
    again = {row.name: row.arrived(at[1]) for row in rows if row.shape[0] > 1}
    looped = [name for name, arrived in again.items() if reached(arrived, first)]
    if not looped:
        return
    if not isinstance(start, EventBatch):
        known = sum(_used(row.arrived(at[0]), start) for row in rows)
        fresh = any(bool(((known == 0) & (_used(arrived, start) > 0)).any()) for arrived in again.values())
        by_itself = any(name not in looped and reached(arrived, [start]) for name, arrived in again.items())
        if not (fresh or by_itself):
            raise shared(looped[0])
    raise unknown_memory("model", model)


def _used(tensor: Tensor, start: Tensor) -> Tensor:
    """Return how strongly a tensor depends on each entry of the input."""
    if not tensor.requires_grad:
        return torch.zeros_like(start)
    (used,) = torch.autograd.grad(tensor.square().sum(), start, retain_graph=True, materialize_grads=True)
    return used.abs()


def _check_called(handled: list[Handled], counts: dict[str, int], rows: dict[str, Row], output: Any) -> None:
    """Raise ValueError where a module was not called, and its parameters were not used either."""
    idle = [entry for entry in handled if counts[entry.name] == 0]
    if not idle:
        return
    zero = torch.zeros(1, dtype=torch.long)
    arrived = [row.arrived(Points(zero, zero)) for row in rows.values()]
    used = leaf_ids([*arrived, *tensors_in(output)])
    for entry in idle:
        # Attention multiplies by the weights of a linear layer that it never calls: it stands between the layers.
        free = [parameter for parameter in entry.module.parameters() if parameter.requires_grad]
        if entry.adapter.role != "feedforward" or not used.issuperset(map(id, free)) or not rows:
            raise ValueError(
                f"layer {entry.name!r}: expected a call in every forward pass, got none; remove it, or call it"
            )


def _check_calls(handled: list[Handled], counts: dict[str, int], rows: dict[str, Row]) -> None:
    """Raise ValueError where calls make no grid: too many, uneven, or without a gradient."""
    once = {row.name for row in rows.values() if isinstance(row, SequenceRow)}
    for entry in handled:
        if counts[entry.name] > 1 and any(name == entry.name or name.startswith(f"{entry.name}.") for name in once):
            raise ValueError(
                f"layer {entry.name!r}: expected one call for each forward pass, got {counts[entry.name]}; "
                "a sequence module is called once, on the whole sequence, or with one step at a time"
            )
    first = next(iter(rows.values()))
    for row in rows.values():
        if row.cut:
            between, undo = "from step to step", "measure the model with its whole sequence in one graph"
            if row.adapter.role == "feedforward":
                between, undo = "through every layer", "measure the model with gradients"
            raise ValueError(f"layer {row.name!r}: expected a gradient {between}, got none: {row.cut}; {undo}")
        if row.shape != first.shape:
            raise ValueError(
                f"layer {row.name!r}: expected as many steps and samples as layer {first.name!r} has, {first.shape}, "
                f"got {row.shape}; call every layer once for each time step"
            )
