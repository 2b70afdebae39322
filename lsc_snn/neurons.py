"""Pure steps of the spiking neurons LIF, ALIF and LSNN.

One equation serves all three (Bellec et al. 2018, "Long short-term memory and learning-to-learn in networks of spiking
neurons", with the resistance chosen so that weights are in units of the membrane potential, as in Bellec et al. 2020)::

    v' = alpha v + I + W z - reset          membrane potential
    a' = rho a + (1 - rho) z                adaptation
    A' = threshold + beta a'                effective threshold
    z' = H(v' - A')                         spike

where ``z`` is the spike of the state before the step. LIF has no ``a``; LSNN is ALIF with ``beta = 0`` for a part of
the units. The resets, by the spike before the step: ``soft`` subtracts the effective threshold, ``A z``; ``hard`` sets
the potential to zero, ``alpha v (1 - z)``; ``none`` leaves it.

The spike is a function of the state, ``z = H(v - A)``, so the state does not carry it: a redundant coordinate would add
rows to every transition and only zeros to its spectrum.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lsc_snn.surrogate import Surrogate

Reset = Literal["soft", "hard", "none"]
RESETS: tuple[Reset, ...] = ("soft", "hard", "none")


class NeuronState(NamedTuple):
    """What a layer carries to its next step.

    ``v`` and ``a`` are (B, N) and differentiable; ``a`` is None for LIF. ``refractory`` (B, N) counts down from
    ``period + 1`` at a spike; it is None where there is no refractory period, and carries no gradient.
    """

    v: Tensor
    a: Tensor | None = None
    refractory: Tensor | None = None


class NeuronParameters(NamedTuple):
    """Values (not raw parameters) of one layer: per-neuron tensors (N,), the recurrent matrix (N, N), and the rules.

    ``alpha`` and ``rho`` are decays per step, exp(-1/tau) with tau in steps. ``rho`` and ``beta`` are None for LIF,
    ``recurrent`` (row: to, column: from) is None for a feed-forward layer. ``detach_reset`` says that the spike inside
    the reset passes no gradient. ``refractory`` is the number of steps after a spike in which a unit cannot spike.
    """

    alpha: Tensor
    threshold: Tensor
    rho: Tensor | None
    beta: Tensor | None
    recurrent: Tensor | None
    surrogate: Surrogate
    reset: Reset
    detach_reset: bool
    refractory: int


def initial_state(batch_size: int, parameters: NeuronParameters) -> NeuronState:
    """Return the state at rest, all zeros, for ``batch_size`` samples.

    >>> from lsc_snn import ALIF
    >>> initial_state(3, ALIF(2, 4).neuron_parameters()).v.shape
    torch.Size([3, 4])
    """
    v = parameters.alpha.new_zeros(batch_size, parameters.alpha.shape[0])
    return NeuronState(
        v,
        None if parameters.rho is None else torch.zeros_like(v),
        torch.zeros_like(v) if parameters.refractory else None,
    )


def effective_threshold(a: Tensor | None, parameters: NeuronParameters) -> Tensor:
    """Return A = threshold + beta a, (B, N), or the bare threshold (N,) for LIF."""
    if a is None or parameters.beta is None:
        return parameters.threshold
    return torch.addcmul(parameters.threshold, parameters.beta, a)


def spike(state: NeuronState, parameters: NeuronParameters) -> Tensor:
    """Return the spikes z = H(v - A) of a state, (B, N); its derivative is the surrogate's."""
    z: Tensor = parameters.surrogate(state.v - effective_threshold(state.a, parameters))
    if state.refractory is not None:
        z = z * can_spike(state.refractory, parameters.refractory).to(z.dtype)
    return z


def can_spike(refractory: Tensor, period: int) -> Tensor:
    """Return where a unit's spike is not blocked: it is free (0), or it is spiking right now (period + 1)."""
    return (refractory < 1) | (refractory > period)


def count_down(refractory: Tensor, crossed: Tensor, period: int) -> Tensor:
    """Return the refractory counter after a step, given where the potential ``crossed`` the threshold (bool)."""
    left = (refractory - 1).clamp(min=0)
    return torch.where(crossed & (left < 1), torch.full_like(left, period + 1), left)


def step(current: Tensor, state: NeuronState, parameters: NeuronParameters) -> tuple[Tensor, NeuronState]:
    """Advance a layer by one time step: ``current`` I (B, N) and a state to spikes z' (B, N) and the next state.

    Every operation is differentiable to any order and usable under ``torch.func``. The fused ``scan`` computes the
    same numbers over a whole sequence.
    """
    p = parameters
    z = spike(state, p)
    drive = current if p.recurrent is None else torch.addmm(current, z, p.recurrent.T)
    reset_spike = z.detach() if p.detach_reset else z
    kept = state.v
    if p.reset == "hard":
        kept = state.v * (1 - reset_spike)
    v = torch.addcmul(drive, p.alpha, kept)
    if p.reset == "soft":
        v = v - effective_threshold(state.a, p) * reset_spike
    a = None if p.rho is None or state.a is None else torch.lerp(z, state.a, p.rho)
    refractory = None
    if state.refractory is not None:
        crossed = (v - effective_threshold(a, p) > 0).detach()
        refractory = count_down(state.refractory, crossed, p.refractory)
    after = NeuronState(v, a, refractory)
    return spike(after, p), after
