"""Rows of the grid while a forward pass runs: what each layer received, carried and handed up."""

from __future__ import annotations

import contextlib
import functools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from lsc_snn.adapters.base import AnyAdapter, Pass, SequenceAdapter, StepAdapter
from lsc_snn.events import EventBatch
from lsc_snn.graph import reached
from lsc_snn.grid import Memory, Points, Step
from lsc_snn.transition import Source


class Row(ABC):
    """One layer, recorded: T steps of B samples. Its output is cut off from its input, and starts at leaves."""

    sample_axis = 0
    """Axis of a leaf that counts samples."""

    def __init__(self, name: str, module: Any, adapter: AnyAdapter) -> None:
        self.name, self.module, self.adapter = name, module, adapter
        self.cut = "" if torch.is_grad_enabled() else "called under torch.no_grad"
        """Why no gradient passes from step to step, if that is so."""

    @property
    def spikes(self) -> bool:
        """Whether what the layer hands up is spikes."""
        return self.adapter.spikes(self.module)

    @property
    def is_readout(self) -> bool:
        """Whether what the layer hands up is that of a readout, as long as no other layer gets it."""
        return self.adapter.role == "readout"

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(T, B)."""

    @abstractmethod
    def leaves(self, time: int | None = None) -> list[Tensor]:
        """Return the leaves at which the output starts: all, or that of one step."""

    def candidates(self) -> list[list[Tensor]]:
        """Return the leaves of all that the layer may hand up: its output, and each tensor of its memory."""
        return [self.leaves()]

    @abstractmethod
    def left(self, points: Points) -> Source:
        """Return where the output of the points starts."""

    def carried(self, index: int, points: Points) -> Source:
        """Return where a tensor of the memory after the points starts."""
        return source_of(self.candidates()[1 + index], points)

    @abstractmethod
    def arrived(self, points: Points) -> Tensor:
        """Return what arrived at the points, (K, ...), with its graph."""

    @abstractmethod
    def at(self, points: Points) -> tuple[Step, Memory]:
        """Return the pure step of the layer, and the memory that it carried into the step."""

    @abstractmethod
    def activity(self, valid: Tensor) -> float:
        """Return the mean output over valid (step, sample) pairs, (T, B) bool."""


class SequenceRow(Row):
    """A layer that was called once, on the whole sequence."""

    sample_axis = 1

    def __init__(self, name: str, module: Any, adapter: AnyAdapter, done: Pass, output: Tensor | None = None) -> None:
        super().__init__(name, module, adapter)
        self.done = done
        if output is not None and output.shape != done.output.shape:
            raise ValueError(
                f"layer {name!r}: expected an output {tuple(done.output.shape)}, got {tuple(output.shape)}"
            )
        self.leaf = (done.output if output is None else output).detach().requires_grad_()

    @property
    def shape(self) -> tuple[int, int]:  # noqa: D102
        return self.leaf.shape[0], self.leaf.shape[1]

    def leaves(self, time: int | None = None) -> list[Tensor]:  # noqa: D102
        return [self.leaf]

    def left(self, points: Points) -> Source:  # noqa: D102
        return Source((self.leaf,), (points.times, points.samples))

    def arrived(self, points: Points) -> Tensor:  # noqa: D102
        inputs = self.done.inputs
        if isinstance(inputs, EventBatch):
            return inputs.rows(points.times, points.samples)
        return points.take(inputs)

    def at(self, points: Points) -> tuple[Step, Memory]:  # noqa: D102
        return self.done.at(points)

    def activity(self, valid: Tensor) -> float:  # noqa: D102
        return float(self.leaf.detach().flatten(2).mean(2)[valid].mean())


class CellRow(Row):
    """A layer that was called once a step.

    It hands up its output or, where the user's forward takes that, a memory: the potential of the last neurons, say.
    """

    adapter: StepAdapter

    def __init__(self, name: str, module: Any, adapter: StepAdapter) -> None:
        super().__init__(name, module, adapter)
        self._arrived: list[Tensor] = []
        self._memories: list[Memory] = []
        self._outputs: list[Tensor] = []
        self._carried: list[Memory] = []
        self.shown: int | None = None
        """Index of the memory that is handed up; None for the output."""

    def record(self, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Do one step as the module does, record it, and return the output and the next memory."""
        if not torch.is_grad_enabled():
            self.cut = "called under torch.no_grad"
        elif self._outputs and not all(tensor.requires_grad for tensor in memory if tensor.is_floating_point()):
            if reached(arrived, self._outputs[-1:]):
                raise shared(self.name)
            self.cut = "its state is detached, or reset, between two steps of one forward pass"
        with torch.no_grad(), attributes_kept(self.module):
            output, after = self.adapter.step(self.module, arrived, memory)
        leaf = output.detach().requires_grad_()
        # A tensor that is both output and memory, as in a GRU, stays one tensor.
        carried = tuple(
            leaf if tensor is output else tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in after
        )
        self._arrived.append(arrived)
        self._memories.append(tuple(tensor.detach() for tensor in memory))
        self._outputs.append(leaf)
        self._carried.append(carried)
        return leaf, carried

    @property
    def spikes(self) -> bool:  # noqa: D102
        return self.shown is None and super().spikes

    @property
    def is_readout(self) -> bool:  # noqa: D102
        return self.shown is not None or super().is_readout

    @property
    def shape(self) -> tuple[int, int]:  # noqa: D102
        return len(self._outputs), self._outputs[0].shape[0]

    def _handed(self) -> list[Tensor]:
        return self._outputs if self.shown is None else [carried[self.shown] for carried in self._carried]

    def leaves(self, time: int | None = None) -> list[Tensor]:  # noqa: D102
        return self._handed() if time is None else [self._handed()[time]]

    def candidates(self) -> list[list[Tensor]]:  # noqa: D102
        return [self._outputs, *(list(column) for column in zip(*self._carried, strict=True))]

    def left(self, points: Points) -> Source:  # noqa: D102
        return source_of(self._handed(), points)

    def arrived(self, points: Points) -> Tensor:  # noqa: D102
        return _picked(self._arrived, points)

    def at(self, points: Points) -> tuple[Step, Memory]:  # noqa: D102
        memory = tuple(
            _picked([memory[index] for memory in self._memories], points) for index in range(len(self._memories[0]))
        )
        step, shown = pure(self.adapter, self.module), self.shown
        if shown is None:
            return step, memory

        def showing(arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
            after = step(arrived, memory)[1]
            return after[shown], after

        return showing, memory

    def activity(self, valid: Tensor) -> float:  # noqa: D102
        means = torch.stack([leaf.detach().flatten(1).mean(1) for leaf in self._handed()])
        return float(means[valid].mean())


def shared(name: str) -> ValueError:
    """Return the error for a module that stands for several layers."""
    return ValueError(
        f"layer {name!r}: expected parameters of its own in every layer, got one shared by several layers: the module "
        "is called again on what it handed up; give each layer its own, for example with copy.deepcopy"
    )


def source_of(steps: Sequence[Tensor], points: Points, edges: Mapping[int, GradientEdge] | None = None) -> Source:
    """Return the source of the points among leaves (B, ...), one for each step; ``Source`` says what edges are."""
    times, index = torch.unique(points.times, return_inverse=True)
    leaves = tuple(steps[time] for time in times.tolist())
    taken = None if edges is None else tuple(edges[time] for time in times.tolist())
    return Source(leaves, (points.samples,) if len(leaves) == 1 else (index, points.samples), taken)


def _picked(steps: list[Tensor], points: Points) -> Tensor:
    times, index = torch.unique(points.times, return_inverse=True)
    return torch.stack([steps[time] for time in times.tolist()])[index, points.samples]


def run_by_steps(adapter: StepAdapter, module: Any, inputs: Tensor, memory: Memory) -> tuple[Pass, Memory]:
    """Run a sequence (T, B, ...) through a module, step by step; return what it did and its last memory."""
    outputs, memories = [], [tuple(tensor.detach() for tensor in memory)]
    with torch.no_grad(), attributes_kept(module):
        for arrived in inputs.unbind(0):
            output, memory = adapter.step(module, arrived, memory)
            outputs.append(output)
            memories.append(memory)

    def at(points: Points) -> tuple[Step, Memory]:
        rows = tuple(_picked([before[index] for before in memories], points) for index in range(len(memory)))
        return pure(adapter, module), rows

    return Pass(inputs, torch.stack(outputs), lambda output: output, at), memory


def parts_of(name: str, module: Any, adapter: StepAdapter, memory: Memory) -> Iterator[tuple[str, Any, Memory]]:
    """Yield (name, part, its memory) of the layers inside a sequence module, from the input up."""
    parts = adapter.parts(module)
    size = len(memory) // len(parts)
    for index, part in enumerate(parts):
        yield name if len(parts) == 1 else f"{name}.{index}", part, memory[index * size : (index + 1) * size]


def unrolled(
    name: str,
    module: Any,
    adapter: AnyAdapter,
    into: dict[str, list[Memory]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Do as a module's forward, by single differentiable steps; add the memory after every step to ``into``.

    ``into`` holds a list for each layer. A feed-forward layer has its output there.
    """
    if isinstance(adapter, SequenceAdapter):
        returned, into[name] = adapter.unroll(module, *args, **kwargs)
        return returned
    signal, memory = adapter.unpack(module, *args, **kwargs)
    over_time = adapter.over_time(module)
    last: Memory = ()
    parts = parts_of(name, module, adapter, memory) if over_time else [(name, module, memory)]
    for full_name, part, now in parts:
        memories = into.setdefault(full_name, [])
        if not memories:  # what no parameter acts on needs a graph from the start, or it would never have one
            now = tuple(
                tensor if tensor.requires_grad else tensor.detach().requires_grad_(tensor.is_floating_point())
                for tensor in now
            )
        outputs: list[Tensor] = []
        with attributes_kept(module):
            for arrived in signal.unbind(0) if over_time else [signal]:
                output, now = adapter.step(part, arrived, now)
                outputs.append(output)
                memories.append(now or (output,))
        signal = torch.stack(outputs) if over_time else output
        last += now
    return adapter.pack(module, signal, last)


def pure(adapter: StepAdapter, module: Any) -> Step:
    """Return the step of a module as a function without side effects: in eval mode, with the same noise every time."""

    def step(arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        with undisturbed(module):
            return adapter.step(module, arrived, memory)

    return step


@contextlib.contextmanager
def attributes_kept(module: Any) -> Iterator[None]:
    """Undo, after a block, what it did to the attributes of a module and of those inside it.

    Buffers are undone too, and so is what else a module keeps in a dict or a list.
    """
    held: list[Any] = [inner.__dict__ for inner in module.modules()] if isinstance(module, nn.Module) else []
    held += [value for own in held for value in own.values() if isinstance(value, dict | list)]
    kept = [(container, container.copy()) for container in held]
    try:
        yield
    finally:
        for container, before in kept:
            container.clear()
            container.update(before) if isinstance(container, dict) else container.extend(before)


@contextlib.contextmanager
def _generators_kept(model: nn.Module) -> Iterator[None]:
    """Seed the random states of Python and NumPy for a block; restore them, and those of a generator in the model."""
    own = [value for module in model.modules() for value in module.__dict__.values()]
    undo: list[Callable[[], Any]] = [
        functools.partial(random.setstate, random.getstate()),
        functools.partial(np.random.set_state, np.random.get_state()),
        *(functools.partial(value.set_state, value.get_state()) for value in own if isinstance(value, torch.Generator)),
    ]
    for value in own:
        if isinstance(value, np.random.Generator):
            undo.append(functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state))
    try:
        random.seed(0)
        np.random.seed(0)
        yield
    finally:
        for restore in undo:
            restore()


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Run a block with the model in eval mode, and afterwards undo what it did to the model and the random states.

    Undone are training flags, buffers, and plain attributes that a forward sets (a hidden state, a counter). A model
    that draws noise draws the same in every block.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    # The forward gets copies: restoring what it wrote into a buffer would change what the recorded graph refers to.
    copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with attributes_kept(model), _generators_kept(model), torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(0)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(0)
        model.eval()
        for module in model.modules():
            for name, buffer in list(module._buffers.items()):
                module._buffers[name] = None if buffer is None else copies[id(buffer)]
        yield
