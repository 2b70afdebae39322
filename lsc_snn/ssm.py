"""State-space layers as pure functions: LRU and S5, their initialisation, discretisation, single step and scan.

Both are one diagonal linear system, which differs only in where its numbers come from::

    x' = lambda x + B u          state, complex, one number for each of P states
    y  = Re(C x') + D u          output, real

Sources: LRU, Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences", arXiv 2303.06349; S5,
Smith, Warrington and Linderman 2023, "Simplified State Space Layers for Sequence Modeling", arXiv 2208.04933.

Parameters are real tensors; a complex matrix is a real one with a last axis (Re, Im), so that every optimiser, file
format and ``.to(dtype)`` treats it as any other weight. Eigenvalues and gains are computed in float64, where they cost
nothing (P numbers), and rounded once.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Discretisation = Literal["zoh", "bilinear"]
DISCRETISATIONS: tuple[Discretisation, ...] = ("zoh", "bilinear")

MAX_MAGNITUDE = 1 - 1e-6
"""Largest magnitude of an eigenvalue: a memory of a million steps, and in float32 still 16 spacings away from 1."""
LOG_BOUND = 15.0
"""Parameters stored as logarithms act as if clamped to +-15, values 3e-7 to 3e6, between which nothing overflows."""
_LOG_CHUNK = 4
CHUNK = 2**_LOG_CHUNK
"""Steps in a chunk of ``linear_scan``. Measured on CPU: 8 is slower, 16 to 64 are equal."""


class DiagonalSystem(NamedTuple):
    """A discrete system of P states and N units, values and not raw parameters, laid out for real matrix products.

    ``eigenvalues`` lambda is complex (P,). ``input_weight`` (2P, N) holds the rows Re B, Im B of each state in turn,
    ``output_weight`` (N, 2P) the columns Re C, -Im C, and ``skip`` D is (N,).
    """

    eigenvalues: Tensor
    input_weight: Tensor
    output_weight: Tensor
    skip: Tensor


def step(inputs: Tensor, state: Tensor, system: DiagonalSystem) -> tuple[Tensor, Tensor]:
    """Advance by one step: ``inputs`` u (..., N) and a complex ``state`` (..., P) to the output (..., N) and x'."""
    state = torch.addcmul(_drive(inputs, system), system.eigenvalues, state)
    return _output(inputs, state, system), state


def scan(inputs: Tensor, state: Tensor, system: DiagonalSystem) -> tuple[Tensor, Tensor]:
    """Do all steps of a sequence: ``inputs`` (T, ..., N) to outputs (T, ..., N) and the states after them (T, ..., P).

    >>> from lsc_snn.ssm_layers import LRU
    >>> system = LRU(3, 4, generator=torch.Generator().manual_seed(0)).system()
    >>> outputs, states = scan(torch.ones(100, 2, 3), torch.zeros(2, 4, dtype=torch.complex64), system)
    >>> outputs.shape, states.shape
    (torch.Size([100, 2, 3]), torch.Size([100, 2, 4]))
    """
    states = linear_scan(system.eigenvalues, _drive(inputs, system), state)
    return _output(inputs, states, system), states


def _drive(inputs: Tensor, system: DiagonalSystem) -> Tensor:
    pairs = functional.linear(inputs, system.input_weight)
    return torch.view_as_complex(pairs.reshape(*pairs.shape[:-1], -1, 2))


def _output(inputs: Tensor, states: Tensor, system: DiagonalSystem) -> Tensor:
    output = functional.linear(torch.view_as_real(states).flatten(-2), system.output_weight)
    return torch.addcmul(output, system.skip, inputs)


def linear_scan(decay: Tensor, drive: Tensor, state: Tensor) -> Tensor:
    """Return all states x_t = a x_{t-1} + b_t of a diagonal recurrence whose decay does not depend on time.

    Args: ``decay`` a, broadcastable to (..., P), |a| <= 1; ``drive`` b (T, ..., P); ``state`` x_0 (..., P); complex or
    real, of one dtype. Returns (T, ..., P). Raises TypeError for unlike dtypes, ValueError for zero time steps.

    Time is cut into chunks of 16 steps. First every chunk's end is computed from rest, all chunks at once; then the
    ends are scanned the same way with decay a^16; last, every chunk runs from the true end of the one before. That is
    two updates per entry at each level, hence linear work and 32 log16(T) sequential operations. Nothing is ever
    divided by a power of a, which would overflow. Powers are formed in float64: squaring doubles a relative error.

    Differentiable to any order and under ``torch.func`` reverse mode; the gradient is the same scan backwards in time.
    For forward mode, loop over ``step``.

    >>> linear_scan(torch.tensor([0.5]), torch.ones(4, 1), torch.zeros(1)).flatten()
    tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    if not decay.dtype == drive.dtype == state.dtype:
        raise TypeError(
            f"linear_scan: expected one dtype, got {decay.dtype}, {drive.dtype}, {state.dtype}; convert with .to(dtype)"
        )
    if drive.dim() < 1 or len(drive) < 1:
        raise ValueError(f"drive: expected at least one time step, (T, ..., P), got shape {tuple(drive.shape)}")
    trailing = drive.shape[1:]
    states: Tensor = _LinearScan.apply(decay.expand(trailing), drive, state.expand(trailing), False)  # type: ignore[no-untyped-call]
    return states


class _LinearScan(torch.autograd.Function):
    """The scan with decay and state of the drive's trailing shape; ``backwards`` runs from the last step to the first.

    Written out because it keeps only the states for the backward pass and writes them in place: measured with its
    gradient on CPU it takes half the time of the same chunks as differentiable operations.
    """

    @staticmethod
    def forward(decay: Tensor, drive: Tensor, state: Tensor, backwards: bool) -> Tensor:
        flat = drive.reshape(len(drive), -1)
        states = torch.empty_like(flat)
        decay = decay.reshape(-1)
        _fill(states, flat, state.reshape(-1), decay, _widened(decay), backwards)
        return states.view(drive.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        decay, _, state, ctx.backwards = inputs
        ctx.save_for_backward(decay, state, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        decay, state, states = ctx.saved_tensors
        adjoint = decay.conj().resolve_conj()
        of_drive = _LinearScan.apply(adjoint, gradient, torch.zeros_like(state), not ctx.backwards)  # type: ignore[no-untyped-call]
        first = of_drive[-1 if ctx.backwards else 0]
        of_decay = None
        if ctx.needs_input_grad[0]:
            before, after = (states[1:], of_drive[:-1]) if ctx.backwards else (states[:-1], of_drive[1:])
            of_decay = state.conj() * first
            if len(before):  # by pieces: one product over all steps would wait for fresh memory
                for x, g in zip(before.chunk(CHUNK), after.chunk(CHUNK), strict=True):
                    of_decay = of_decay + torch.linalg.vecdot(x, g, dim=0)
        return of_decay, of_drive, adjoint * first, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], decay: Tensor, drive: Tensor, state: Tensor, backwards: bool
    ) -> tuple[Tensor, int]:
        """Take the mapped axis as one more trailing axis, the first."""
        size, tensors = info.batch_size, []
        for tensor, dim, front in ((decay, in_dims[0], 0), (drive, in_dims[1], 1), (state, in_dims[2], 0)):
            if dim is None:
                tensor = tensor.unsqueeze(front)
                tensors.append(tensor.expand(*tensor.shape[:front], size, *tensor.shape[front + 1 :]))
            else:
                tensors.append(tensor.movedim(dim, front))
        return _LinearScan.apply(*tensors, backwards), 1  # type: ignore[no-untyped-call]


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def _fill(out: Tensor, drive: Tensor, state: Tensor, decay: Tensor, wide_decay: Tensor, backwards: bool) -> None:
    """Write the states (T, M) of a drive (T, M) into ``out``; ``wide_decay`` is the decay in double precision."""
    steps = len(drive)
    order = -1 if backwards else 1
    if steps <= 2 * CHUNK:
        for b, x in list(zip(drive.unbind(0), out.unbind(0), strict=True))[::order]:
            state = torch.addcmul(b, decay, state, out=x)
        return

    chunks = steps // CHUNK
    whole = slice(steps - chunks * CHUNK, steps) if backwards else slice(chunks * CHUNK)
    drives = drive[whole].view(chunks, CHUNK, -1).unbind(1)[::order]
    states = out[whole].view(chunks, CHUNK, -1).unbind(1)[::order]

    ends = drives[0].clone()
    for b in drives[1:]:
        torch.addcmul(b, decay, ends, out=ends)
    for _ in range(_LOG_CHUNK):
        wide_decay = wide_decay * wide_decay
    carried = torch.empty_like(ends)
    _fill(carried, ends, state, wide_decay.to(decay.dtype), wide_decay, backwards)

    starts = [carried[1:], state[None]] if backwards else [state[None], carried[:-1]]
    x = torch.cat(starts)
    for b, into in zip(drives, states, strict=True):
        x = torch.addcmul(b, decay, x, out=into)

    if chunks * CHUNK < steps:  # fewer than CHUNK steps are left: a plain loop
        rest = slice(whole.start) if backwards else slice(whole.stop, steps)
        _fill(out[rest], drive[rest], carried[0 if backwards else -1], decay, wide_decay, backwards)


def lru_eigenvalues(nu_log: Tensor, theta_log: Tensor) -> Tensor:
    """Return lambda = exp(-exp(nu_log) + i exp(theta_log)), complex128 (P,), of a magnitude up to MAX_MAGNITUDE."""
    return _capped(torch.exp(torch.complex(-_bounded_exp(nu_log), _bounded_exp(theta_log))))


def lru_system(nu_log: Tensor, theta_log: Tensor, gamma_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> DiagonalSystem:
    """Return the system of an LRU: eigenvalues as above, input matrix exp(gamma_log) B, output matrix C, skip D.

    ``nu_log``, ``theta_log`` and ``gamma_log`` are (P,), ``B`` (P, N, 2), ``C`` (N, P, 2), ``D`` (N,).
    """
    return _system(lru_eigenvalues(nu_log, theta_log), _bounded_exp(gamma_log), B, C, D)


def lru_ring(
    num_states: int, r_min: float, r_max: float, max_phase: float, generator: torch.Generator | None, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return nu_log, theta_log, gamma_log (P,) of eigenvalues uniform on a ring, of the device and dtype of ``like``.

    The squared magnitude is uniform in [r_min^2, r_max^2], the angle in [0, max_phase] radians, and
    gamma = sqrt(1 - |lambda|^2), with which white noise gives every state the variance of its input.

    >>> nu_log, theta_log, gamma_log = lru_ring(4, 0.9, 0.99, 3.0, None, torch.zeros(()))
    >>> magnitudes = lru_eigenvalues(nu_log, theta_log).abs()
    >>> bool(((magnitudes > 0.9) & (magnitudes < 0.99)).all())
    True
    """
    uniform = torch.rand(2, num_states, generator=generator, device=like.device, dtype=torch.float64)
    squared = (r_min**2 + (r_max**2 - r_min**2) * uniform[0]).clamp(max=MAX_MAGNITUDE**2)
    nu_log, theta_log, gamma_log = (
        value.clamp(-LOG_BOUND, LOG_BOUND).to(like.dtype)
        for value in (
            torch.log(-0.5 * torch.log(squared)),
            torch.log(max_phase * uniform[1]),
            0.5 * torch.log1p(-squared),
        )
    )
    return nu_log, theta_log, gamma_log


def lru_scaled(nu_log: Tensor, factor: float) -> Tensor:
    """Return the nu_log whose eigenvalues have ``factor`` times the magnitude, at most MAX_MAGNITUDE."""
    decay = _bounded_exp(nu_log) - math.log(factor)
    return torch.log(decay.clamp(min=-math.log(MAX_MAGNITUDE))).to(nu_log.dtype)


def hippo_normal(num_states: int) -> tuple[Tensor, Tensor]:
    """Return half of the eigenvalues (P,) of HiPPO-N of size 2P and their unit eigenvectors (2P, P), in complex128.

    HiPPO-N is the normal part of HiPPO-LegS: -1/2 on the diagonal, -+ sqrt((n + 1/2)(k + 1/2)) below and above it. Its
    eigenvalues are -1/2 +- i omega; those with omega > 0 are kept, the others and their vectors are their conjugates.

    >>> hippo_normal(1)[0]
    tensor([-0.5000+0.8660j], dtype=torch.complex128)
    """
    root = torch.sqrt(torch.arange(2 * num_states, dtype=torch.float64) + 0.5)
    below = torch.tril(torch.outer(root, root), -1)
    # The skew part over i is Hermitian: eigenvalues exactly real, vectors exactly orthogonal.
    omega, vectors = torch.linalg.eigh(1j * (below - below.T))
    return torch.complex(torch.full_like(omega, -0.5), omega)[num_states:], vectors[:, num_states:]


def discretise(continuous: Tensor, step_size: Tensor, discretisation: Discretisation) -> tuple[Tensor, Tensor]:
    """Return the discrete eigenvalues and input gains, complex (P,), of dx/dt = continuous x + B u.

    With z = continuous * step_size, where Re z < 0: zero-order hold, exact for an input that is constant during a step,
    is lambda = exp(z) and gain (exp(z) - 1) / continuous; bilinear is (1 + z/2) / (1 - z/2) and step_size / (1 - z/2).

    >>> decay, gain = discretise(torch.tensor([-1 + 0j]), torch.tensor([0.1]), "bilinear")
    >>> decay.real, gain.real
    (tensor([0.9048]), tensor([0.0952]))
    """
    z = continuous * step_size
    if discretisation == "zoh":
        return torch.exp(z), torch.expm1(z) / continuous
    return (1 + z / 2) / (1 - z / 2), step_size / (1 - z / 2)


def s5_eigenvalues(
    rate_log: Tensor, omega: Tensor, step_log: Tensor, discretisation: Discretisation
) -> tuple[Tensor, Tensor]:
    """Return the discrete eigenvalues and input gains, complex128 (P,), of an S5 layer.

    The continuous eigenvalue is -exp(rate_log) + i omega, in 1/time unit, whose real part is negative whatever an
    optimiser does to rate_log; the authors' code keeps the real part itself and clips it at -1e-4. The step is
    exp(step_log) time units. The magnitude is at most MAX_MAGNITUDE.
    """
    continuous = torch.complex(-_bounded_exp(rate_log), omega.double())
    eigenvalues, gains = discretise(continuous, _bounded_exp(step_log), discretisation)
    return _capped(eigenvalues), gains


def s5_system(
    rate_log: Tensor,
    omega: Tensor,
    step_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    discretisation: Discretisation,
) -> DiagonalSystem:
    """Return the system of an S5 layer, whose P states stand for 2P in conjugate pairs: y = 2 Re(C x) + D u.

    ``rate_log``, ``omega``, ``step_log`` are (P,); ``B`` (P, N, 2) and ``C`` (N, P, 2), in the eigenbasis; ``D`` (N,).
    """
    return _system(*s5_eigenvalues(rate_log, omega, step_log, discretisation), B, 2 * C, D)


def s5_scaled(
    rate_log: Tensor, omega: Tensor, step_log: Tensor, factor: float, discretisation: Discretisation
) -> tuple[Tensor, Tensor]:
    """Return the rate_log and omega whose discrete eigenvalues have ``factor`` times the magnitude, and their angle."""
    step_size = _bounded_exp(step_log)
    if discretisation == "zoh":  # |lambda| = exp(-rate step), and omega alone sets the angle
        least = -math.log(MAX_MAGNITUDE) / step_size
        rate = torch.maximum(_bounded_exp(rate_log) - math.log(factor) / step_size, least)
        return torch.log(rate).to(rate_log.dtype), omega
    scaled = _capped(factor * s5_eigenvalues(rate_log, omega, step_log, discretisation)[0])
    scale = 2 / (step_size * (1 + scaled).abs().square())  # continuous = 2 / step (scaled - 1) / (scaled + 1)
    rate = scale * (1 - scaled.abs().square())
    return torch.log(rate).to(rate_log.dtype), (scale * 2 * scaled.imag).to(omega.dtype)


def _bounded_exp(log: Tensor) -> Tensor:
    return torch.exp(log.double().clamp(-LOG_BOUND, LOG_BOUND))


def _capped(eigenvalues: Tensor) -> Tensor:
    return eigenvalues * (MAX_MAGNITUDE / eigenvalues.abs().clamp(min=MAX_MAGNITUDE))


def _system(eigenvalues: Tensor, gains: Tensor, B: Tensor, C: Tensor, D: Tensor) -> DiagonalSystem:
    dtype = B.dtype.to_complex()
    driven = torch.view_as_real(gains.to(dtype)[:, None] * torch.view_as_complex(B))
    return DiagonalSystem(
        eigenvalues.to(dtype),
        driven.transpose(1, 2).flatten(0, 1),
        torch.view_as_real(torch.view_as_complex(C).conj().resolve_conj()).flatten(1),
        D,
    )
