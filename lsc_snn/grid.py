"""The grid of transitions: what ``trace`` records of a forward pass, and the Jacobians that follow from it.

Every record holds K *points*: (time step, sample) pairs drawn from the pass. A transition is the batch of K Jacobians
at those points, kept as a linear operator: products by differentiation, or by a closed form that a step brings along,
never a matrix unless asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Memory = tuple[Tensor, ...]
"""The differentiable tensors that a layer carries to its next step, each (K, ...): (v, a) for ALIF."""
Step = Callable[[Tensor, Memory], tuple[Tensor, Memory]]
"""One time step of a layer, pure: what arrives (K, ...) and the memory, to what leaves and the next memory."""


class ClosedForm(ABC):
    """The products of a transition written out, for speed alone: the same numbers as by differentiation.

    Everything that does not depend on the vector is computed when it is made. It holds tensors without a graph.
    """

    @abstractmethod
    def rmatvec(self, vectors: Tensor) -> Tensor:
        """Return M^T u, (K, cols), for u (K, rows)."""

    @abstractmethod
    def matvec(self, vectors: Tensor) -> Tensor:
        """Return M v, (K, rows), for v (K, cols)."""

    def block(self, row_index: Tensor, col_index: Tensor) -> ClosedForm | None:
        """Return the closed form of a sub-block; None, the default, where it would cost no less than the whole."""
        return None


@runtime_checkable
class ClosedStep(Protocol):
    """A ``Step`` that also knows its Jacobians in closed form; any callable will do as a step, this one is faster."""

    def __call__(self, arrived: Tensor, memory: Memory, /) -> tuple[Tensor, Memory]:
        """Do the step."""

    def closed_time(self, memory: Memory) -> ClosedForm:
        """Return d(next memory) / d(memory)."""

    def closed_depth(self, arrived: Tensor, memory: Memory) -> ClosedForm:
        """Return d(what leaves) / d(arrived)."""


@dataclass(frozen=True)
class Points:
    """K (time step, sample) pairs, sample fastest: ``times`` and ``samples`` are (K,) indices."""

    times: Tensor
    samples: Tensor

    def take(self, sequence: Tensor) -> Tensor:
        """Return the rows (K, ...) of a sequence (T, B, ...) at the points."""
        return sequence[self.times, self.samples]


@dataclass(frozen=True)
class Source:
    """Where a signal starts: a leaf that gradients are taken to, with one row at each of K points.

    ``points`` is None where the leaf's rows are the K points themselves, else the leaf is a sequence (T, B, ...).
    """

    leaf: Tensor
    points: Points | None = None

    def rows(self, gradient: Tensor) -> Tensor:
        """Return the (K, cols) rows of a gradient of the leaf."""
        return (gradient if self.points is None else self.points.take(gradient)).flatten(1)

    def spread(self, rows: Tensor) -> Tensor:
        """Return a leaf-shaped tensor that holds the (K, cols) rows at the points, and zeros elsewhere."""
        if self.points is None:
            return rows.reshape(self.leaf.shape)
        full = torch.zeros_like(self.leaf)
        return full.index_put((self.points.times, self.points.samples), rows.reshape(len(rows), *self.leaf.shape[2:]))


class Transition:
    """A batch of K Jacobians d outputs / d sources, (rows, cols) each, as a linear operator.

    ``outputs`` (K, ...) carries a graph to the sources, in which a point depends on that point alone. Products cost one
    backward pass over the graph; they work for any function that autograd can differentiate once (``matvec``, and
    gradients of either product in the parameters: twice). Where there is a ``closed`` form, products without
    ``create_graph`` are its.
    """

    def __init__(self, outputs: Tensor, sources: Sequence[Source], closed: ClosedForm | None = None) -> None:
        self.closed = closed
        self._outputs = outputs.flatten(1)
        self._sources = tuple(sources)
        self._cotangent: Tensor | None = None
        self._pulled: Tensor | None = None
        with torch.no_grad():
            widths = [source.rows(source.leaf).shape[1] for source in self._sources]
        self._widths = widths
        self.batch, self.rows = self._outputs.shape
        self.cols = sum(widths)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the products."""
        return self._outputs.dtype

    @property
    def device(self) -> torch.device:
        """Device of the products."""
        return self._outputs.device

    def rmatvec(self, vectors: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return M^T u, (K, cols), for u (K, rows): one vector-Jacobian product at every point.

        With ``create_graph`` the product is differentiable in the parameters of the step (and in u).
        """
        if self.closed is not None and not create_graph:
            return self.closed.rmatvec(vectors.detach())
        return self._pull(vectors, create_graph=create_graph)

    def _pull(self, vectors: Tensor, *, create_graph: bool) -> Tensor:
        if not self._outputs.requires_grad:
            return vectors.new_zeros(self.batch, self.cols)
        with torch.set_grad_enabled(create_graph):  # whatever mode the caller is in
            gradients = torch.autograd.grad(
                self._outputs,
                [source.leaf for source in self._sources],
                vectors,
                retain_graph=True,
                create_graph=create_graph,
                materialize_grads=True,
            )
            rows = [source.rows(gradient) for source, gradient in zip(self._sources, gradients, strict=True)]
            return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return M v, (K, rows), for v (K, cols): a Jacobian-vector product, as the transpose of the transpose.

        Forward-mode rules are not needed, which the surrogates of other libraries lack.
        """
        if self.closed is not None:
            return self.closed.matvec(vectors.detach())
        if self._pulled is None:
            self._cotangent = torch.zeros_like(self._outputs, requires_grad=True)
            self._pulled = self._pull(self._cotangent, create_graph=True)
        if self._cotangent is None or not self._pulled.requires_grad:
            return vectors.new_zeros(self.batch, self.rows)
        (product,) = torch.autograd.grad(
            self._pulled, self._cotangent, vectors, retain_graph=True, materialize_grads=True
        )
        return product

    def to_dense(self, *, create_graph: bool = False) -> Tensor:
        """Return the K Jacobians as a tensor (K, rows, cols): the oracle of the estimators, by differentiation alone."""
        identity = torch.eye(self.rows, dtype=self.dtype, device=self.device)
        rows = [self._pull(unit.expand(self.batch, -1), create_graph=create_graph) for unit in identity]
        return torch.stack(rows, 1)


class Block:
    """A square sub-block of a transition: the rows and columns of two index sets of one size."""

    def __init__(self, whole: Transition, row_index: Tensor, col_index: Tensor) -> None:
        self._whole, self._row_index, self._col_index = whole, row_index, col_index
        self.batch, self.rows, self.cols = whole.batch, len(row_index), len(col_index)
        self.dtype, self.device = whole.dtype, whole.device
        self.closed = None if whole.closed is None else whole.closed.block(row_index, col_index)

    def rmatvec(self, vectors: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return M^T u for the block."""
        if self.closed is not None and not create_graph:
            return self.closed.rmatvec(vectors.detach())
        full = vectors.new_zeros(self.batch, self._whole.rows).index_copy(1, self._row_index, vectors)
        return self._whole.rmatvec(full, create_graph=create_graph)[:, self._col_index]

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return M v for the block."""
        if self.closed is not None:
            return self.closed.matvec(vectors.detach())
        full = vectors.new_zeros(self.batch, self._whole.cols).index_copy(1, self._col_index, vectors)
        return self._whole.matvec(full)[:, self._row_index]

    def to_dense(self, *, create_graph: bool = False) -> Tensor:
        """Return the K blocks as a tensor (K, n, n)."""
        return self._whole.to_dense(create_graph=create_graph)[:, self._row_index][:, :, self._col_index]


Operator = Transition | Block


def square(transition: Transition, generator: torch.Generator) -> Operator:
    """Return a transition as it is if square, else a random square sub-block of its smaller side.

    That is the paper's radius of a non-square transition; for a random matrix it agrees with
    ``||M||_F / sqrt(max(rows, cols))``. ``generator`` lives on the CPU and draws the block, the same at all points.
    """
    size = min(transition.rows, transition.cols)
    if transition.rows == transition.cols:
        return transition

    def choose(count: int) -> Tensor:
        return torch.randperm(count, generator=generator)[:size].sort().values.to(transition.device)

    return Block(transition, choose(transition.rows), choose(transition.cols))


@dataclass(frozen=True)
class LayerRecord:
    """What one layer did at the K points.

    ``arrived`` (K, ...) is its input, with a graph back to ``below`` (the layer underneath, or the model's input);
    ``memory`` is what it carried into the step; ``left`` is where its output starts, for the layer above; ``activity``
    is the mean of its output over valid steps, the firing rate of a spiking layer.
    """

    name: str
    module: nn.Module
    step: Step
    arrived: Tensor
    below: Source
    memory: Memory
    left: Source
    activity: float

    def time(self) -> Transition:
        """Return the time transition dm'/dm: memory after the step by memory before it."""
        memory = tuple(tensor.detach().requires_grad_() for tensor in self.memory)
        with torch.enable_grad():
            _, after = self.step(self.arrived.detach(), memory)
            outputs = torch.cat([tensor.flatten(1) for tensor in after], 1)
        closed = self.step.closed_time(self.memory) if isinstance(self.step, ClosedStep) else None
        return Transition(outputs, [Source(leaf) for leaf in memory], closed)

    def depth(self) -> Transition:
        """Return the depth transition dy/d(below): output of the step by what left the layer underneath."""
        with torch.enable_grad():
            output, _ = self.step(self.arrived, self.memory)
        closed = None
        if isinstance(self.step, ClosedStep) and self.arrived is self.below.leaf:  # nothing stands in between
            closed = self.step.closed_depth(self.arrived, self.memory)
        return Transition(output, [self.below], closed)


@dataclass(frozen=True)
class Grid:
    """A model as transitions at K points: its layers from the input up, and the decoder, where there is one.

    ``decoder`` makes the transition d output / d y_L; ``readout`` is its module, if an adapter knows it.
    """

    layers: tuple[LayerRecord, ...]
    decoder: Callable[[], Transition] | None
    readout: tuple[str, nn.Module] | None
