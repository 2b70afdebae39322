"""Rows of the grid while a forward pass runs: what each layer received, carried and handed up."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn.adapters.base import AnyAdapter, Pass, SequenceAdapter, StepAdapter
from lsc_snn.events import EventBatch
from lsc_snn.grid import Memory, Points, Source, Step


class Row(ABC):
    """One layer, recorded: T steps of B samples. Its output is cut off from its input, and starts at leaves."""

    def __init__(self, name: str, module: Any, adapter: AnyAdapter) -> None:
        self.name, self.module, self.adapter = name, module, adapter

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(T, B)."""

    @abstractmethod
    def leaves(self, time: int | None = None) -> list[Tensor]:
        """Return the leaves at which the output starts: all, or that of one step."""

    @abstractmethod
    def left(self, points: Points) -> Source:
        """Return where the output of the points starts."""

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

    def __init__(self, name: str, module: Any, adapter: AnyAdapter, done: Pass) -> None:
        super().__init__(name, module, adapter)
        self.done = done
        self.leaf = done.output.detach().requires_grad_()

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
    """A layer that was called once a step."""

    adapter: StepAdapter

    def __init__(self, name: str, module: Any, adapter: StepAdapter) -> None:
        super().__init__(name, module, adapter)
        self._arrived: list[Tensor] = []
        self._memories: list[Memory] = []
        self._leaves: list[Tensor] = []
        self.cut = ""
        """Why no gradient passes from step to step, if that is so."""

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do one step of the module as its forward does, and record it."""
        arrived, memory = self.adapter.unpack(self.module, *args, **kwargs)
        if not torch.is_grad_enabled():
            self.cut = "called under torch.no_grad"
        elif self._leaves and not all(tensor.requires_grad for tensor in memory if tensor.is_floating_point()):
            self.cut = "its state is detached, or reset, between two steps of one forward pass"
        with torch.no_grad(), attributes_kept(self.module):
            output, after = self.adapter.step(self.module, arrived, memory)
        leaf = output.detach().requires_grad_()
        self._arrived.append(arrived)
        self._memories.append(tuple(tensor.detach() for tensor in memory))
        self._leaves.append(leaf)
        # A tensor that is both output and memory, as in a GRU, stays one tensor.
        carried = tuple(
            leaf if tensor is output else tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in after
        )
        return self.adapter.pack(self.module, leaf, carried)

    @property
    def shape(self) -> tuple[int, int]:  # noqa: D102
        return len(self._leaves), self._leaves[0].shape[0]

    def leaves(self, time: int | None = None) -> list[Tensor]:  # noqa: D102
        return self._leaves if time is None else [self._leaves[time]]

    def left(self, points: Points) -> Source:  # noqa: D102
        times, index = torch.unique(points.times, return_inverse=True)
        leaves = tuple(self._leaves[time] for time in times.tolist())
        return Source(leaves, (points.samples,) if len(leaves) == 1 else (index, points.samples))

    def arrived(self, points: Points) -> Tensor:  # noqa: D102
        return _picked(self._arrived, points)

    def at(self, points: Points) -> tuple[Step, Memory]:  # noqa: D102
        memory = tuple(
            _picked([memory[index] for memory in self._memories], points) for index in range(len(self._memories[0]))
        )
        return pure(self.adapter, self.module), memory

    def activity(self, valid: Tensor) -> float:  # noqa: D102
        means = torch.stack([leaf.detach().flatten(1).mean(1) for leaf in self._leaves])
        return float(means[valid].mean())


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
    if not into.get(name):  # what no parameter acts on needs a graph from the start, or it would never have one
        memory = tuple(
            tensor if tensor.requires_grad else tensor.detach().requires_grad_(tensor.is_floating_point())
            for tensor in memory
        )
    if not adapter.over_time(module):
        with attributes_kept(module):
            output, after = adapter.step(module, signal, memory)
        into.setdefault(name, []).append(after or (output,))
        return adapter.pack(module, output, after)
    last: Memory = ()
    for full_name, part, now in parts_of(name, module, adapter, memory):
        outputs: list[Tensor] = []
        memories = into[full_name] = []
        with attributes_kept(module):
            for arrived in signal.unbind(0):
                output, now = adapter.step(part, arrived, now)
                outputs.append(output)
                memories.append(now)
        signal = torch.stack(outputs)
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
    with attributes_kept(model), torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(0)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(0)
        model.eval()
        for module in model.modules():
            for name, buffer in list(module._buffers.items()):
                module._buffers[name] = None if buffer is None else copies[id(buffer)]
        yield
