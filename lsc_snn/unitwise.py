"""What units do by themselves: Jacobians that are a few diagonal matrices, one for each pair of variables of a unit.

As many products as a unit has variables give all of them. Where nothing else is in a Jacobian, as in a neuron without
recurrent weights, its radius is the largest of those of small matrices, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lsc_snn.transition import ClosedForm, Source, Transition

_PLACES = 32
"""Points at least, in one product or in several, at which is looked for links between units."""


class Term(NamedTuple):
    """The derivatives (K, N) of one variable of each unit by another one of it, by their indices."""

    row: int
    col: int
    derivative: Tensor


@dataclass(frozen=True)
class Unitwise(ClosedForm):
    """K Jacobians of ``rows`` variables of each of N units by ``cols`` variables; pairs without a term are 0.

    Vectors are (K, rows N) and (K, cols N), all units of the first variable first.
    """

    terms: tuple[Term, ...]
    rows: int
    cols: int

    def rmatvec(self, vectors: Tensor) -> Tensor:
        """Return M^T u, (K, cols N)."""
        return _summed(vectors, self.rows, self.cols, self.terms)

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return M v, (K, rows N)."""
        return _summed(vectors, self.cols, self.rows, ((col, row, found) for row, col, found in self.terms))

    def radius(self) -> Tensor | None:
        """Return the spectral radius (K,), the largest |eigenvalue| of the matrices of all units; None without any."""
        if not self.terms or self.rows != self.cols:
            return None
        shape = self.terms[0].derivative.shape
        local = self.terms[0].derivative.new_zeros(self.rows, self.cols, *shape)
        for row, col, derivative in self.terms:
            local[row, col] = derivative
        finite = torch.isfinite(local).all(3).all(1).all(0)
        local = torch.where(finite[:, None], local, torch.zeros_like(local))
        radii = [_largest(local[group][:, group]) for group in self._coupled()]
        return torch.where(finite, torch.stack(radii).amax(0), torch.full_like(radii[0], torch.inf))

    def columns(self, start: int, end: int) -> Unitwise:
        """Return the Jacobians by some of the variables."""
        terms = (Term(row, col - start, found) for row, col, found in self.terms if start <= col < end)
        return Unitwise(tuple(terms), self.rows, end - start)

    def units(self, index: Tensor) -> Unitwise:
        """Return the Jacobians of some of the units."""
        terms = (Term(row, col, derivative[:, index]) for row, col, derivative in self.terms)
        return Unitwise(tuple(terms), self.rows, self.cols)

    def _coupled(self) -> list[list[int]]:
        """Return the groups of variables that act on each other: of one each, in most neurons.

        Eigenvalues are those of the groups: with what these hold taken together, the matrices are triangular.
        """
        reach = torch.eye(self.rows, dtype=torch.float64)
        for row, col, _ in self.terms:
            reach[row, col] = 1
        for _ in range(self.rows):
            reach = (reach @ reach > 0).double()
        both = (reach * reach.T > 0).tolist()
        groups = {tuple(index for index, coupled in enumerate(row) if coupled) for row in both}
        return [list(group) for group in sorted(groups)]


def _summed(vectors: Tensor, given: int, returned: int, terms: Iterable[tuple[int, int, Tensor]]) -> Tensor:
    """Return the sums over terms (variable that is given, variable that is returned, derivatives of each unit)."""
    arrived = _by_variable(vectors, given)
    product = vectors.new_zeros(len(vectors), returned, arrived.shape[2])
    for source, end, derivative in terms:
        product[:, end].addcmul_(derivative, arrived[:, source])
    return product.flatten(1)


def _by_variable(vectors: Tensor, count: int) -> Tensor:
    return vectors.reshape(len(vectors), count, -1)


def _largest(local: Tensor) -> Tensor:
    """Return the largest |eigenvalue| of the matrices (m, m, K, N) of all units, (K,)."""
    if len(local) == 1:
        magnitudes = local[0, 0].abs()
    elif len(local) == 2:
        half, beside = (local[0, 0] + local[1, 1]) / 2, (local[0, 0] - local[1, 1]) / 2
        inside = beside.square() + local[0, 1] * local[1, 0]
        turning = (half.square() - inside).clamp(min=0).sqrt()
        magnitudes = torch.where(inside < 0, turning, half.abs() + inside.clamp(min=0).sqrt())
    else:
        values = torch.linalg.eigvals(local.permute(2, 3, 0, 1).cpu())  # on a GPU, each small matrix is a call
        magnitudes = values.abs().amax(2).to(local.device)
    return magnitudes.amax(1)


def unitwise(outputs: Tensor, inputs: Sequence[Tensor], units: int) -> Unitwise | None:
    """Return d outputs / d inputs, where no unit acts on another; None where units do.

    ``outputs`` (K, rows N) carries a graph to ``inputs``, each (K, ...) of a multiple of N ``units`` numbers. Products
    with vectors on half of the units, another half at every point, tell: they are exactly 0 on all others. Each finds a
    single link with a chance of 1/4 for every point at which it acts.
    """
    transition = Transition(outputs, [Source((tensor,)) for tensor in inputs])
    count, sizes = transition.batch, [transition.rows, *(tensor.shape[1:].numel() for tensor in inputs)]
    if not count or not units or any(size % units for size in sizes):
        return None
    rows, cols = transition.rows // units, transition.cols // units
    drawn = torch.Generator().manual_seed(0)
    for _ in range(math.ceil(_PLACES / count)):
        half = (torch.rand(count, 1, units, generator=drawn) < 0.5).to(transition.device)
        vectors = torch.randn(count, rows, units, generator=drawn).to(transition.device, transition.dtype) * half
        product = _by_variable(transition.rmatvec(vectors.flatten(1)), cols)
        if bool(torch.where(half, torch.zeros_like(product), product).any()):
            return None
    terms = []
    for row in range(rows):
        unit = torch.zeros_like(vectors)
        unit[:, row] = 1
        derivatives = _by_variable(transition.rmatvec(unit.flatten(1)), cols)
        acting = (derivatives != 0).any(2).any(0).tolist()
        terms += [Term(row, col, derivatives[:, col].contiguous()) for col in range(cols) if acting[col]]
    return Unitwise(tuple(terms), rows, cols)
