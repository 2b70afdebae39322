"""Transitions: batches of Jacobians as linear operators, by products or in closed form, and square blocks of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

_AGREES = 1e-4
"""Relative difference of two products up to which they agree: some libraries compute in float32 whatever they get."""


class ClosedForm(ABC):
    """The products of a transition written out, for speed alone: up to rounding, the same as by differentiation.

    Everything that does not depend on the vector is computed when it is made.
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

    def radius(self) -> Tensor | None:
        """Return the spectral radius (K,) where it is known; None, the default, where products have to find it."""
        return None


@dataclass(frozen=True)
class Source:
    """Where a signal starts: leaves that gradients are taken to, in which each of K points finds its row.

    ``leaves`` is one tensor, or several of one shape that are stacked; ``index`` then picks the K rows (None: the rows
    are the points themselves). ``edges``, one for each of the leaves, are given where these are no leaves of the graph
    but come out of operations in it: the steps of an input, say, whose gradient as a whole would be mostly zeros.
    """

    leaves: tuple[Tensor, ...]
    index: tuple[Tensor, ...] | None = None
    edges: tuple[GradientEdge, ...] | None = None

    def rows(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the (K, cols) rows of tensors of the shapes of the leaves."""
        whole = tensors[0] if len(tensors) == 1 else torch.stack(list(tensors))
        return (whole if self.index is None else whole[self.index]).flatten(1)


class Transition:
    """A batch of K Jacobians d outputs / d sources, (rows, cols) each, as a linear operator.

    ``outputs`` (K, ...) carries a graph to the sources, in which a point depends on that point alone. Products cost one
    backward pass over the graph; they work for any function that autograd can differentiate once (``matvec``, and
    gradients of either product in the parameters: twice). Where ``find_closed`` finds a closed form, products without
    ``create_graph`` are its.
    """

    def __init__(
        self,
        outputs: Tensor,
        sources: Sequence[Source],
        find_closed: Callable[[], ClosedForm | None] | None = None,
    ) -> None:
        self._find_closed = find_closed
        self._sources = tuple(sources)
        # Some libraries give float32 spikes to a float64 membrane: products are in the wider type throughout.
        types = [leaf.dtype for source in self._sources for leaf in source.leaves]
        with torch.enable_grad():  # whatever mode the caller is in
            self._outputs = outputs.flatten(1).to(reduce(torch.promote_types, types, outputs.dtype))
        self._cotangent: Tensor | None = None
        self._pulled: Tensor | None = None
        with torch.no_grad():
            widths = [source.rows(source.leaves).shape[1] for source in self._sources]
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

    @cached_property
    def closed(self) -> ClosedForm | None:
        """The closed form, if one is found that gives what differentiation gives of a random vector."""
        try:
            found = None if self._find_closed is None else self._find_closed()
            return found if found is not None and self._agrees(found) else None
        except RuntimeError:
            return None  # a step may write into what it is given, say: products are found by differentiation then

    def _agrees(self, form: ClosedForm) -> bool:
        drawn = torch.randn(self.batch, self.rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        vectors = drawn.to(self.device, self.dtype)
        expected = self._pull(vectors, create_graph=False)
        miss, size = (torch.linalg.vector_norm(x, dim=1) for x in (form.rmatvec(vectors) - expected, expected))
        return bool((miss <= _AGREES * size).all())  # and not where either is NaN

    def rmatvec(self, vectors: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return M^T u, (K, cols), for u (K, rows): one vector-Jacobian product at every point.

        With ``create_graph`` the product is differentiable in the parameters of the step (and in u).
        """
        if not create_graph and self.closed is not None:
            return self.closed.rmatvec(vectors.detach())
        return self._pull(vectors, create_graph=create_graph)

    def _pull(self, vectors: Tensor, *, create_graph: bool) -> Tensor:
        if not self._outputs.requires_grad:
            return vectors.new_zeros(self.batch, self.cols)
        with torch.set_grad_enabled(create_graph):  # whatever mode the caller is in
            ends: list[Any] = [end for source in self._sources for end in source.edges or source.leaves]
            found = torch.autograd.grad(
                self._outputs, ends, vectors, retain_graph=True, create_graph=create_graph, allow_unused=True
            )
            leaves = (leaf for source in self._sources for leaf in source.leaves)
            gradients = (
                torch.zeros_like(leaf, requires_grad=create_graph) if gradient is None else gradient
                for gradient, leaf in zip(found, leaves, strict=True)
            )
            rows = [source.rows([next(gradients) for _ in source.leaves]).to(self.dtype) for source in self._sources]
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
        """Return the K Jacobians as a tensor (K, rows, cols): the estimators' oracle, by differentiation alone."""
        identity = torch.eye(self.rows, dtype=self.dtype, device=self.device)
        rows = [self._pull(unit.expand(self.batch, -1), create_graph=create_graph) for unit in identity]
        return torch.stack(rows, 1)


class Block:
    """A square sub-block of a transition: the rows and columns of two index sets of one size."""

    def __init__(self, whole: Transition, row_index: Tensor, col_index: Tensor) -> None:
        self._whole, self._row_index, self._col_index = whole, row_index, col_index
        self.batch, self.rows, self.cols = whole.batch, len(row_index), len(col_index)
        self.dtype, self.device = whole.dtype, whole.device

    @cached_property
    def closed(self) -> ClosedForm | None:
        """The closed form of the block, where it is smaller than that of the whole."""
        whole = self._whole.closed
        return None if whole is None else whole.block(self._row_index, self._col_index)

    def rmatvec(self, vectors: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return M^T u for the block."""
        if not create_graph and self.closed is not None:
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
