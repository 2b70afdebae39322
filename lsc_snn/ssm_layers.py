"""State-space layers LRU and S5, time first: (T, B, N) to (T, B, N), and the residual block around either.

Real inputs and outputs; the state is complex, (B, P). A layer returns its output and its final state, and accepts a
state, like the spiking layers. The equations stand in ``lsc_snn.ssm``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from lsc_snn import _checks, ssm
from lsc_snn.layers import _check_state
from lsc_snn.ssm import DiagonalSystem, Discretisation


def _check_inputs(inputs: Tensor, num_units: int, like: Tensor) -> None:
    """Raise unless inputs are finite (T, B, num_units) of the dtype and on the device of ``like``."""
    layout = f"(time steps, batch, {num_units})"
    _checks.check_float("inputs", inputs)
    _checks.check_rank("inputs", inputs, 3, layout)
    if inputs.shape[-1] != num_units:
        raise ValueError(f"inputs: expected shape {layout}, got {tuple(inputs.shape)}; project it to {num_units} units")
    for kind, error, expected, got in (
        ("dtype", TypeError, like.dtype, inputs.dtype),
        ("device", ValueError, like.device, inputs.device),
    ):
        if expected != got:
            raise error(
                f"inputs: expected the layer's {kind} {expected}, got {got}; convert one of them with .to({kind})"
            )
    if not bool(torch.isfinite(inputs.sum())):  # 40 times faster than asking each; finite ones may overflow it, though
        _checks.check_finite("inputs", inputs)


def _check_numbers(name: str, *values: float) -> None:
    for value in values:
        if not _checks.is_number(value):
            raise TypeError(f"{name}: expected numbers, got {type(value).__name__}; pass an int or a float")


class StateSpaceLayer(nn.Module, ABC):
    """What LRU and S5 share; use one of those.

    ``B`` (P, N, 2) and ``C`` (N, P, 2), with (Re, Im) on the last axis, and ``D`` (N,) are the parameters that move the
    depth transition; ``scale_eigenvalues`` moves the time transition.
    """

    B: nn.Parameter
    C: nn.Parameter
    D: nn.Parameter

    def __init__(
        self, num_units: int, num_states: int, *, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        for name, size in (("num_units", num_units), ("num_states", num_states)):
            _checks.check_count(name, size)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}; the state is complex")
        self.num_units, self.num_states = num_units, num_states
        self.B = nn.Parameter(torch.empty(num_states, num_units, 2, device=device, dtype=dtype))
        self.C = nn.Parameter(torch.empty(num_units, num_states, 2, device=device, dtype=dtype))
        self.D = nn.Parameter(torch.empty(num_units, device=device, dtype=dtype))

    @abstractmethod
    def system(self) -> DiagonalSystem:
        """Return the values of the layer's parameters, differentiable, as the pure steps take them."""

    @abstractmethod
    def scale_eigenvalues(self, factor: float) -> None:
        """Multiply the magnitude of every discrete eigenvalue by a positive factor, in place; angles stay.

        A magnitude stops at ``ssm.MAX_MAGNITUDE``, just below 1. Gradients and other parameters are left alone.
        Raises TypeError or ValueError for a factor that is no positive finite number.
        """

    @property
    def eigenvalues(self) -> Tensor:
        """Discrete eigenvalues lambda, complex (P,); their largest magnitude is the radius of the time transition."""
        return self.system().eigenvalues

    def initial_state(self, batch_size: int) -> Tensor:
        """Return the state at rest, complex zeros (B, P)."""
        return self.D.new_zeros(batch_size, self.num_states, dtype=self.D.dtype.to_complex())

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run a sequence (T, B, N); return the outputs (T, B, N) and the final state (B, P).

        Raises ValueError or TypeError for a wrong rank, size, type or device, values that are not finite, an empty
        batch, zero time steps, and a state of another layer or batch size.
        """
        outputs, final, _ = self.run(inputs, state)
        return outputs, final

    def run(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Do as ``forward``, and also return the states after every step, complex (T, B, P)."""
        _check_inputs(inputs, self.num_units, self.D)
        rest = self.initial_state(inputs.shape[1])
        if state is None:
            state = rest
        else:
            _check_state("state", state, rest)
            _checks.check_finite("state", state)
        outputs, states = ssm.scan(inputs, state, self.system())
        return outputs, states[-1].clone(), states  # a clone: a carried state must not keep all others in memory

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one step: inputs (B, N) and a state to outputs (B, N) and the next state.

        In a loop of many steps call ``system()`` once, and ``ssm.step`` with it.
        """
        return ssm.step(inputs, state, self.system())

    def extra_repr(self) -> str:
        """Return the sizes, for ``print(layer)``."""
        return f"{self.num_units}, {self.num_states}"


class LRU(StateSpaceLayer):
    """Linear Recurrent Unit (Orvieto et al. 2023, arXiv 2303.06349).

    x' = lambda x + gamma B u,  y = Re(C x') + D u,  with lambda = exp(-exp(nu_log) + i exp(theta_log)) and
    gamma = exp(gamma_log).

    gamma starts at sqrt(1 - |lambda|^2) and is learned, as in the paper. Were it recomputed from lambda, every move of
    the time transition would move the depth transition too; so ``scale_eigenvalues`` leaves it.

    Args, all keyword but the sizes:
        num_units, num_states: sizes N and P.
        r_min, r_max: radii of the ring on which the eigenvalues start, 0 <= r_min < r_max <= 1.
        max_phase: largest angle at the start, in radians per step, above 0 and up to 2 pi.
        generator: source of the initial weights, as in the paper N(0, 1/(2N)) for Re and Im of B, N(0, 1/P) for those
            of C, N(0, 1) for D; torch's global one if None.

    >>> layer = LRU(8, 16, r_min=0.9, r_max=0.999, generator=torch.Generator().manual_seed(0))
    >>> outputs, state = layer(torch.zeros(10, 2, 8))
    >>> outputs.shape, state.shape, state.dtype
    (torch.Size([10, 2, 8]), torch.Size([2, 16]), torch.complex64)
    """

    def __init__(
        self,
        num_units: int,
        num_states: int,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_units, num_states, device=device, dtype=dtype)
        _check_numbers("r_min, r_max", r_min, r_max)
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"r_min, r_max: expected 0 <= r_min < r_max <= 1, got {r_min} and {r_max}; choose others")
        _checks.check_positive("max_phase", max_phase)
        if max_phase > 2 * math.pi:
            raise ValueError(f"max_phase: expected at most 2 pi radians, got {max_phase}; a larger angle wraps around")
        logs = ssm.lru_ring(num_states, r_min, r_max, max_phase, generator, self.D)
        self.nu_log, self.theta_log, self.gamma_log = map(nn.Parameter, logs)
        nn.init.normal_(self.B, std=1 / math.sqrt(2 * num_units), generator=generator)
        nn.init.normal_(self.C, std=1 / math.sqrt(num_states), generator=generator)
        nn.init.normal_(self.D, generator=generator)

    def system(self) -> DiagonalSystem:
        """Return the values of the layer's parameters, differentiable, as the pure steps take them."""
        return ssm.lru_system(self.nu_log, self.theta_log, self.gamma_log, self.B, self.C, self.D)

    @torch.no_grad()
    def scale_eigenvalues(self, factor: float) -> None:
        """Multiply the magnitudes by a factor, up to ``ssm.MAX_MAGNITUDE``; angles and gamma stay."""
        _checks.check_positive("factor", factor)
        self.nu_log.copy_(ssm.lru_scaled(self.nu_log, factor))


class S5(StateSpaceLayer):
    """Simplified state-space layer S5 (Smith et al. 2023, arXiv 2208.04933), one HiPPO-N block.

    dx/dt = lambda_c x + B u,  y = 2 Re(C x) + D u,  lambda_c = -exp(rate_log) + i omega, discretised with a step of
    exp(step_log) for each state. The P states are one of each conjugate pair of a real system of size 2P.

    Re(lambda_c) is negative whatever an optimiser does; the paper's code clips it at -1e-4 instead.

    Args, all keyword but the sizes:
        num_units, num_states: sizes N and P.
        discretisation: "zoh" (zero-order hold) or "bilinear".
        dt_min, dt_max: steps start log-uniform in [dt_min, dt_max], in time units of HiPPO, whose states decay by
            exp(-1/2) in one; learnable.
        generator: source of the initial weights, N(0, 1/N) for B and N(0, 1/(2P)) for C before they are brought into
            the eigenbasis, N(0, 1) for D; torch's global one if None.

    >>> layer = S5(8, 16, generator=torch.Generator().manual_seed(0))
    >>> outputs, state = layer(torch.zeros(10, 2, 8))
    >>> outputs.shape, state.shape, state.dtype
    (torch.Size([10, 2, 8]), torch.Size([2, 16]), torch.complex64)
    """

    def __init__(
        self,
        num_units: int,
        num_states: int,
        *,
        discretisation: Discretisation = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_units, num_states, device=device, dtype=dtype)
        _checks.check_in("discretisation", discretisation, ssm.DISCRETISATIONS)
        _check_numbers("dt_min, dt_max", dt_min, dt_max)
        if not 0 < dt_min <= dt_max < math.inf:
            raise ValueError(f"dt_min, dt_max: expected 0 < dt_min <= dt_max, got {dt_min} and {dt_max}; choose others")
        self.discretisation = discretisation
        continuous, vectors = (value.to(self.D.device) for value in ssm.hippo_normal(num_states))
        self.rate_log = nn.Parameter(torch.log(-continuous.real).to(self.D.dtype))
        self.omega = nn.Parameter(continuous.imag.to(self.D.dtype))
        low, high = math.log(dt_min), math.log(dt_max)
        self.step_log = nn.Parameter(
            low + (high - low) * torch.rand(num_states, generator=generator, device=device, dtype=self.D.dtype)
        )
        real_b = torch.empty(2 * num_states, num_units, device=device, dtype=torch.float64)
        real_c = torch.empty(num_units, 2 * num_states, device=device, dtype=torch.float64)
        nn.init.normal_(real_b, std=1 / math.sqrt(num_units), generator=generator)
        nn.init.normal_(real_c, std=1 / math.sqrt(2 * num_states), generator=generator)
        with torch.no_grad():
            self.B.copy_(torch.view_as_real(vectors.mH @ real_b.to(vectors.dtype)))
            self.C.copy_(torch.view_as_real(real_c.to(vectors.dtype) @ vectors))
        nn.init.normal_(self.D, generator=generator)

    def system(self) -> DiagonalSystem:
        """Return the values of the layer's parameters, differentiable, as the pure steps take them."""
        return ssm.s5_system(self.rate_log, self.omega, self.step_log, self.B, self.C, self.D, self.discretisation)

    @torch.no_grad()
    def scale_eigenvalues(self, factor: float) -> None:
        """Multiply the discrete magnitudes by a factor, up to ``ssm.MAX_MAGNITUDE``; angles and steps stay.

        Moves rate_log; for "bilinear", where both parts of lambda_c set a magnitude, omega too. The input gain of the
        discretisation follows.
        """
        _checks.check_positive("factor", factor)
        rate_log, omega = ssm.s5_scaled(self.rate_log, self.omega, self.step_log, factor, self.discretisation)
        self.rate_log.copy_(rate_log)
        self.omega.copy_(omega)

    def extra_repr(self) -> str:
        """Return the sizes and the discretisation, for ``print(layer)``."""
        return f"{super().extra_repr()}, discretisation={self.discretisation!r}"


class SSMBlock(nn.Module):
    """Residual block around a state-space layer: y = residual_scale x + GLU(W gelu(ssm(norm(x))) + b).

    ``norm`` is a LayerNorm, ``gate`` the linear map W, b to 2N, and GLU(a, b) = a sigmoid(b). ``residual_scale`` is a
    learnable number that starts at 1, the usual block; without it no knob could bring the radius of the depth
    transition, that of the identity plus a branch, below about 1.

    Args: ``ssm``, an LRU or S5, whose sizes, device and dtype the block takes; ``dropout``, probability with which an
    entry of the branch is dropped in training; ``generator``, source of W ~ N(0, 1/N).

    >>> block = SSMBlock(LRU(8, 16))
    >>> outputs, state = block(torch.zeros(10, 2, 8))
    >>> outputs.shape, state.shape
    (torch.Size([10, 2, 8]), torch.Size([2, 16]))
    """

    def __init__(self, ssm: StateSpaceLayer, *, dropout: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not isinstance(ssm, StateSpaceLayer):
            raise TypeError(f"ssm: expected an LRU or S5 layer, got {type(ssm).__name__}")
        _check_numbers("dropout", dropout)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}; choose 0 for none")
        like, num_units = ssm.D, ssm.num_units
        self.norm = nn.LayerNorm(num_units, device=like.device, dtype=like.dtype)
        self.ssm = ssm
        sizes = {"in_features": num_units, "out_features": 2 * num_units, "device": like.device, "dtype": like.dtype}
        self.gate: nn.Linear = nn.utils.skip_init(nn.Linear, **sizes)  # type: ignore[no-untyped-call]
        nn.init.normal_(self.gate.weight, std=1 / math.sqrt(num_units), generator=generator)
        nn.init.zeros_(self.gate.bias)
        self.dropout = nn.Dropout(dropout)
        self.residual_scale = nn.Parameter(like.new_ones(()))

    def initial_state(self, batch_size: int) -> Tensor:
        """Return the state at rest of the layer inside, complex zeros (B, P)."""
        return self.ssm.initial_state(batch_size)

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run a sequence (T, B, N); return the outputs (T, B, N) and the final state (B, P). Raises as a layer does."""
        _check_inputs(inputs, self.ssm.num_units, self.ssm.D)
        outputs, final = self.ssm(self.norm(inputs), state)
        return self._merge(inputs, outputs), final

    def run(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Do as ``forward``, and also return the states after every step, complex (T, B, P)."""
        _check_inputs(inputs, self.ssm.num_units, self.ssm.D)
        outputs, final, states = self.ssm.run(self.norm(inputs), state)
        return self._merge(inputs, outputs), final, states

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one step: inputs (B, N) and a state to outputs (B, N) and the next state."""
        outputs, state = self.ssm.step(self.norm(inputs), state)
        return self._merge(inputs, outputs), state

    def _merge(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        branch: Tensor = self.dropout(functional.glu(self.gate(functional.gelu(outputs)), dim=-1))
        return torch.addcmul(branch, self.residual_scale, inputs)
