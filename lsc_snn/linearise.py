"""The Jacobians of one neuron step in closed form: a product is one matrix product and a few elementwise operations.

A step mixes units by its matrices alone, the recurrent W, which acts on the spikes z, and the input W_in::

    d(v', a') / d(v, a) = local + e_v W dz/d(v, a)      e_v: the rows of v'
    dz' / dx            = diag(dz'/dI) W_in             I: the current

``local``, the Jacobian of the step without W, and the derivatives of spikes are blocks of diagonal matrices: a few
numbers for each unit, which autograd finds once, from ``neurons.step`` itself, whatever its resets and surrogates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_snn.grid import ClosedForm
from lsc_snn.neurons import NeuronParameters, NeuronState, spike, step


@dataclass(frozen=True)
class ClosedTime(ClosedForm):
    """The time transition at K points, of m variables in each of N units; vectors are (K, m N), v first.

    ``local`` (m, K, m, N) holds the derivatives of the m-th variable after the step by those before, ``spike``
    (K, m, N) those of z before the step, ``recurrent`` the matrix (N, N) or None.
    """

    local: Tensor
    spike: Tensor
    recurrent: Tensor | None

    def rmatvec(self, vectors: Tensor) -> Tensor:
        """Return M^T u, (K, m N)."""
        u = vectors.reshape(self.spike.shape)
        product = self.local[0] * u[:, :1]
        for index in range(1, len(self.local)):
            product.addcmul_(self.local[index], u[:, index : index + 1])
        if self.recurrent is not None:
            product.addcmul_(self.spike, (u[:, 0] @ self.recurrent)[:, None])
        return product.flatten(1)

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return M v, (K, m N)."""
        v = vectors.reshape(self.spike.shape)
        product = (self.local * v).sum(2)
        if self.recurrent is not None:
            product[0].addmm_((self.spike * v).sum(1), self.recurrent.T)
        return product.transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class ClosedDepth(ClosedForm):
    """The depth transition at K points: ``slope`` (K, N) is dz'/dI, ``weight`` (N, num_inputs) is W_in."""

    slope: Tensor
    weight: Tensor

    def rmatvec(self, vectors: Tensor) -> Tensor:
        """Return M^T u, (K, num_inputs)."""
        return (self.slope * vectors) @ self.weight

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return M v, (K, N)."""
        return (vectors @ self.weight.T).mul_(self.slope)

    def block(self, row_index: Tensor, col_index: Tensor) -> ClosedDepth:
        """Return the sub-block, of a smaller matrix."""
        return ClosedDepth(self.slope[:, row_index], self.weight[row_index][:, col_index])


def closed_time(state: NeuronState, parameters: NeuronParameters) -> ClosedTime:
    """Return the time transition of ``neurons.step`` at a state (K, N), for the parameters as they are now.

    >>> from lsc_snn import LIF
    >>> layer = LIF(3, 2, tau=1.0, recurrent=False)
    >>> closed_time(layer.initial_state(1), layer.neuron_parameters()).rmatvec(torch.ones(1, 2))
    tensor([[0.3679, 0.3679]])
    """
    memory = [part.detach().requires_grad_() for part in state[:2] if part is not None]
    before = NeuronState(memory[0], memory[1] if len(memory) > 1 else None, state.refractory)
    with torch.enable_grad():
        z = spike(before, parameters)
        _, after = step(torch.zeros_like(state.v), before, parameters._replace(recurrent=None))
        # Each unit depends on its own memory alone: the gradient of a sum over units holds the derivatives of all.
        of_spike, *local = (
            torch.stack(torch.autograd.grad(part.sum(), memory, retain_graph=True, materialize_grads=True), 1)
            for part in (z, *after[:2])
            if part is not None
        )
    # Copies of matrices: parameters change in place.
    matrix = None if parameters.recurrent is None else parameters.recurrent.detach().clone()
    return ClosedTime(torch.stack(local), of_spike, matrix)


def closed_depth(current: Tensor, state: NeuronState, parameters: NeuronParameters, weight: Tensor) -> ClosedDepth:
    """Return the depth transition of ``neurons.step`` at a current and a state (K, N), for the parameters as now.

    >>> from lsc_snn import LIF
    >>> layer = LIF(1, 1, recurrent=False)
    >>> closed_depth(torch.full((1, 1), 0.8), layer.initial_state(1), layer.neuron_parameters(), torch.eye(1)).slope
    tensor([[0.8000]])
    """
    current = current.detach().requires_grad_()
    with torch.enable_grad():
        z, _ = step(current, state, parameters)
        (slope,) = torch.autograd.grad(z.sum(), current)
    return ClosedDepth(slope, weight.detach().clone())
