"""A step's Jacobian in closed form, where units act on each other by matrices alone.

A product is then a few elementwise operations, and one matrix product for each of them. That is what neurons do,
whatever their equations: recurrent weights act on spikes, input weights on what arrives. With s what a matrix W acts
on, r = W s, x what the step is given and y what it returns, all else of the Jacobian is of units by themselves::

    dy / dx = local + sum over W of (dy / dr) W (ds / dx)

The step is run with every r cut off, so that autograd finds the derivatives of units at once. A step may be anything:
where one unit acts on another in a way that is not seen here, ``unitwise`` finds out, and there is no closed form; a
``Transition`` also compares what is found with a product by differentiation.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lsc_snn.fused import FUSED
from lsc_snn.graph import reached
from lsc_snn.transition import ClosedForm, Transition
from lsc_snn.unitwise import Unitwise, unitwise


class Through(NamedTuple):
    """The part of a Jacobian that passes one matrix: dy / dr, W, and ds / dx, or None where s is x itself."""

    after: Unitwise
    weight: Tensor
    before: Unitwise | None


@dataclass(frozen=True)
class Mixing(ClosedForm):
    """Units by themselves, or None where these do not act, and all that passes matrices."""

    local: Unitwise | None
    through: tuple[Through, ...]

    def rmatvec(self, vectors: Tensor) -> Tensor:
        """Return M^T u."""
        parts = [] if self.local is None else [self.local.rmatvec(vectors)]
        for after, weight, before in self.through:
            product = after.rmatvec(vectors) @ weight
            parts.append(product if before is None else before.rmatvec(product))
        return _total(parts)

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return M v."""
        parts = [] if self.local is None else [self.local.matvec(vectors)]
        for after, weight, before in self.through:
            product = vectors if before is None else before.matvec(vectors)
            parts.append(after.matvec(product @ weight.T))
        return _total(parts)

    def block(self, row_index: Tensor, col_index: Tensor) -> Mixing | None:
        """Return the sub-block of a layer behind one matrix, of a smaller one."""
        if self.local is not None or len(self.through) != 1:
            return None
        ((after, weight, before),) = self.through
        if before is not None or (after.rows, after.cols) != (1, 1):
            return None
        return Mixing(None, (Through(after.units(row_index), weight[row_index][:, col_index], None),))


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total.add_(part)
    return total


@dataclass(frozen=True)
class Behind(ClosedForm):
    """A closed form behind what a user's forward does in front of it."""

    step: ClosedForm
    front: Transition

    def rmatvec(self, vectors: Tensor) -> Tensor:
        """Return M^T u."""
        return self.front.rmatvec(self.step.rmatvec(vectors))

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return M v."""
        return self.step.matvec(self.front.matvec(vectors))


def closed_form(run: Callable[[tuple[Tensor, ...]], Sequence[Tensor]], start: Sequence[Tensor]) -> ClosedForm | None:
    """Return the Jacobian at ``start`` of what ``run`` returns, variables (K, ...) of some units; None if unknown.

    >>> from torch import nn
    >>> closed_form(lambda x: (torch.tanh(x[0]),), (torch.zeros(1, 2),)).rmatvec(torch.ones(1, 2))
    tensor([[1., 1.]])
    """
    leaves = tuple(tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for tensor in start)
    inputs = [leaf for leaf in leaves if leaf.requires_grad]
    if not inputs:
        return None
    with torch.enable_grad():  # whatever mode the caller is in
        with _uncompiled(), _Cut(inputs) as cut:
            variables = [tensor.flatten(1) for tensor in run(leaves)]
        outputs = torch.cat(variables, 1)
    changes = [product.change for product in cut.products]
    used = reached(outputs, changes)
    products = [product for product in cut.products if id(product.change) in used]
    if any(reached(product.signal, changes) for product in products):
        return None  # one behind the other: they do not simply add up
    units, widths = {tensor.shape[1] for tensor in variables}, {leaf.shape[1:].numel() for leaf in inputs}
    types = {tensor.dtype for tensor in (*variables, *inputs, *(part for product in products for part in product))}
    if any(len(found) != 1 for found in (units, widths, types)):
        return None
    return _assembled(outputs, inputs, products, units.pop(), widths.pop())


def _assembled(
    outputs: Tensor, inputs: list[Tensor], products: list[_Product], units: int, width: int
) -> ClosedForm | None:
    """Return the closed form of outputs of some units, of inputs of ``width`` units, and of products of both."""
    direct = inputs if units == width else []
    if not direct and (not products or reached(outputs, inputs)):
        return None
    after = unitwise(outputs, [*direct, *(product.change for product in products)], units)
    if after is None:
        return None
    local, start, through = after.columns(0, len(direct)), len(direct), []
    for signal, weight, change in products:
        before = None
        if signal is not inputs[0] or len(inputs) > 1:
            before = unitwise(signal, inputs, width)
            if before is None:
                return None
        end = start + change.shape[1] // units
        through.append(Through(after.columns(start, end), weight, before))
        start = end
    return Mixing(local if local.terms else None, tuple(through)) if through else local


class _Product(NamedTuple):
    """A matrix product of a pass: ``signal`` (K, cols), ``weight`` (rows, cols), and a ``change`` of it, of zeros."""

    signal: Tensor
    weight: Tensor
    change: Tensor


class _Cut(TorchFunctionMode):
    """Cuts products of a matrix with what depends on some leaves: gradients end at a change that is added to them."""

    def __init__(self, leaves: list[Tensor]) -> None:
        super().__init__()
        self._leaves = leaves
        self.products: list[_Product] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Do as ``func``; of a product, return one that is cut off."""
        if func in FUSED and not kwargs:
            with self:  # so that the products in it are seen
                return FUSED[func](*args)
        value = func(*args, **(kwargs or {}))
        operands = _operands(func, args, kwargs or {})
        if operands is None or not value.requires_grad:
            return value
        added, signal, weight = operands
        if len(signal) != len(self._leaves[0]):
            return value
        moving = [*self._leaves, *(product.change for product in self.products)]
        if not reached(signal, moving) or reached(weight, moving):
            return value
        change = torch.zeros_like(value).requires_grad_()
        self.products.append(_Product(signal, weight.detach().clone(), change))
        value = value.detach() + change
        # What is added to the product as well, as ``torch.addmm`` does, goes on in its own way.
        return value + (added - added.detach()) if added is not None and reached(added, moving) else value


def _operands(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor | None, Tensor, Tensor] | None:
    """Return what is added to a matrix product, its signal (K, cols) and its matrix (rows, cols); None for others."""
    if func is functional.linear and kwargs.keys() <= {"bias"}:
        added, signal, weight = kwargs.get("bias", args[2] if len(args) > 2 else None), args[0], args[1]
    elif func in _MATRIX_PRODUCTS and not kwargs and _are_matrices(*args):
        added, signal, weight = None, args[0], args[1].mT
    elif func is torch.addmm and not kwargs and _are_matrices(*args[1:]):
        added, signal, weight = args[0], args[1], args[2].mT
    else:
        return None
    return (added, signal, weight) if _are_matrices(signal, weight) else None


def _are_matrices(*values: Any) -> bool:
    return len(values) == 2 and all(isinstance(value, Tensor) and value.dim() == 2 for value in values)


_MATRIX_PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run compiled functions as they were written: what is compiled is not seen, or would be compiled anew."""
    if "torch._dynamo" not in sys.modules:  # a slow import, which has compiled nothing yet
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
