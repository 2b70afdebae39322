"""Record one forward pass of a model as a grid of transitions, and leave the model as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsc_snn import _checks
from lsc_snn.adapters.base import Adapter, Pass, find_adapters
from lsc_snn.events import EventBatch
from lsc_snn.grid import Grid, LayerRecord, Points, Source, Transition

Inputs = Tensor | EventBatch
Call = Callable[[nn.Module, Any], Any]
"""How to run a model on one batch; ``model(inputs)`` by default."""


class Handled(NamedTuple):
    """A module of the model, by its name, and the adapter that knows it."""

    name: str
    module: nn.Module
    adapter: Adapter


class _Called(NamedTuple):
    handled: Handled
    done: Pass
    leaf: Tensor


def handled_modules(model: nn.Module) -> list[Handled]:
    """Return the modules of a model that adapters know, in definition order.

    Raises TypeError where ``model`` is no module, ValueError where none of its layers is known.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found = [Handled(*entry) for entry in find_adapters(model)]
    if not any(entry.adapter.role == "layer" for entry in found):
        raise ValueError(
            f"model: expected at least one layer that can be measured, got {type(model).__name__} with none; "
            "use the layers of lsc_snn, or teach it yours with lsc_snn.register_adapter"
        )
    return found


def check_inputs(model: nn.Module, inputs: Inputs) -> None:
    """Raise TypeError or ValueError unless a batch is finite, floating, not empty, and on the device of the model.

    Also raises ValueError where a parameter of the model is not finite, and in inference mode, where every radius would
    come out as 0.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "inputs: expected gradients to be possible, got torch.inference_mode; use torch.no_grad instead"
        )
    if not isinstance(inputs, EventBatch):
        _checks.check_float("inputs", inputs)
        if inputs.dim() < 3 or inputs.numel() == 0:
            raise ValueError(
                "inputs: expected (time steps, batch, features...), none of them empty, "
                f"got shape {tuple(inputs.shape)}"
            )
    for name, parameter in model.named_parameters():
        if parameter.device != inputs.device:
            raise ValueError(
                f"inputs: expected the model's device {parameter.device}, got {inputs.device}; "
                "move one of them with .to(device)"
            )
        _checks.check_finite(f"parameter {name}", parameter)
    if not isinstance(inputs, EventBatch):
        _checks.check_finite("inputs", inputs)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a block with the model in eval mode, and afterwards undo what it did to the model and the random states.

    Undone are training flags, buffers, and plain attributes that a forward sets (a hidden state, a counter). A model
    that draws noise draws the same in every block.
    """
    attributes = [(module, dict(module.__dict__), dict(module._buffers)) for module in model.modules()]
    # The forward gets copies: restoring what it wrote into a buffer would change what the recorded graph refers to.
    copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(0)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(0)
            model.eval()
            for module, _, buffers in attributes:
                module._buffers.update({name: copies.get(id(buffer)) for name, buffer in buffers.items()})
            yield
    finally:
        for module, own, buffers in attributes:
            for current, before in ((module.__dict__, own), (module._buffers, buffers)):
                current.clear()
                current.update(before)


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

    Raises ValueError or TypeError for bad inputs (``check_inputs``), a model without a known layer, and a layer that is
    never called, or more than once; errors of the model's own forward pass through. The model is as before either way.
    """
    _checks.check_count("num_times", num_times)
    handled = handled_modules(model)
    check_inputs(model, inputs)
    start = inputs if isinstance(inputs, EventBatch) else inputs.detach().requires_grad_()
    called: list[_Called] = []

    def record(entry: Handled, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.no_grad():
            done = entry.adapter.run(entry.module, *args, **kwargs)
        leaf = done.output.detach().requires_grad_()
        called.append(_Called(entry, done, leaf))
        return done.returned(leaf)

    with undisturbed(model), replaced_forwards(handled, record), torch.enable_grad():
        output = model(start) if call is None else call(model, start)

    _check_calls(handled, called)
    layers = [entry for entry in called if entry.handled.adapter.role == "layer"]
    readouts = [entry for entry in called if entry.handled.adapter.role == "readout"]
    points, valid = _choose_points(inputs, layers[0].leaf, num_times, generator)
    records = []
    below: Tensor | EventBatch = start
    for entry in layers:
        records.append(_record(entry, below, points, valid))
        below = entry.leaf
    if readouts:
        last = _record(readouts[-1], below, points, valid)
        return Grid(tuple(records), last.depth, (last.name, last.module))
    return Grid(tuple(records), _output_transition(output, layers[-1].leaf, points), None)


def _check_calls(handled: list[Handled], called: list[_Called]) -> None:
    names = [entry.handled.name for entry in called]
    for entry in handled:
        count = names.count(entry.name)
        if count != 1:
            raise ValueError(
                f"layer {entry.name!r}: expected one call for each forward pass, got {count}; "
                "a layer of the grid is one module, called once on the whole sequence"
            )


def _choose_points(
    inputs: Inputs, like: Tensor, num_times: int, generator: torch.Generator | None
) -> tuple[Points, Tensor]:
    """Return the points, and which (step, sample) are valid, (T, B) bool."""
    steps, batch = like.shape[:2]
    lengths = torch.full((batch,), steps, device=like.device)
    if isinstance(inputs, EventBatch):
        lengths = inputs.lengths.to(like.device)
    share = torch.full((), 0.5) if generator is None else torch.rand(num_times, batch, generator=generator)
    # Disjoint whole shares of a sample's steps: a point that came twice would enter its own products twice.
    edges = torch.arange(num_times + 1, device=like.device)[:, None] * lengths // num_times
    widths = edges.diff(dim=0)
    times = edges[:-1] + (share.to(like.device) * widths).long()
    samples = torch.arange(batch, device=like.device).expand(num_times, -1)
    valid = torch.arange(steps, device=like.device)[:, None] < lengths
    return Points(times[widths > 0], samples[widths > 0]), valid


def _record(entry: _Called, below: Tensor | EventBatch, points: Points, valid: Tensor) -> LayerRecord:
    arrived, source = _arrival(entry, below, points)
    step, memory = entry.done.at(points)
    activity = entry.leaf.detach().flatten(2).mean(2)[valid].mean()
    name, module, _ = entry.handled
    return LayerRecord(name, module, step, arrived, source, memory, Source(entry.leaf, points), float(activity))


def _arrival(entry: _Called, below: Tensor | EventBatch, points: Points) -> tuple[Tensor, Source]:
    """Return what arrived at the points, and the source that it depends on."""
    inputs = entry.done.inputs
    if isinstance(inputs, EventBatch):
        rows = inputs.rows(points.times, points.samples)
    elif inputs is below:
        rows = points.take(inputs.detach())
    elif isinstance(below, EventBatch):
        raise ValueError(
            f"layer {entry.handled.name!r}: expected the model's EventBatch as its input, got a tensor made from it; "
            "give the model inputs.to_dense() to measure what stands in between"
        )
    else:
        return points.take(inputs), Source(below, points)
    rows = rows.detach().requires_grad_()
    return rows, Source(rows)


def _output_transition(output: Any, top: Tensor, points: Points) -> Callable[[], Transition] | None:
    """Return the decoder of a model without a known readout: output by y_L, if the output has a time axis."""
    tensor = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(tensor, Tensor) or tensor.dim() < 3 or tensor.shape[:2] != top.shape[:2]:
        return None

    def decoder() -> Transition:
        with torch.enable_grad():
            return Transition(points.take(tensor), [Source(top, points)])

    return decoder
