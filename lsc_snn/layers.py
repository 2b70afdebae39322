"""Layers over the neuron steps, time first: (T, B, num_inputs) to (T, B, num_units).

Like ``torch.nn.LSTM``, a layer returns its output and its final state, and accepts a state. The first layer of a
network also takes an ``EventBatch``, whose input product is a sum over active channels; no dense tensor is built.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lsc_snn import _checks, _parametrize
from lsc_snn import surrogate as surrogates
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.neurons import RESETS, NeuronParameters, NeuronState, Reset, initial_state, step
from lsc_snn.scan import scan
from lsc_snn.surrogate import Surrogate


def _per_unit(name: str, value: float | Tensor, num_units: int, like: Tensor) -> Tensor:
    values = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if values.dim() > 1 or (values.dim() == 1 and len(values) != num_units):
        raise ValueError(
            f"{name}: expected a number or one value for each of {num_units} units, got shape {tuple(values.shape)}"
        )
    if not torch.isfinite(values).all():
        raise ValueError(f"{name}: expected finite values, got {value}")
    return values.expand(num_units).clone()


def _decay_of(name: str, tau: float | Tensor, num_units: int, like: Tensor) -> Tensor:
    values = _per_unit(name, tau, num_units, like)
    low, high = _parametrize.TAU_MIN, _parametrize.TAU_MAX
    if not bool(((values >= low) & (values <= high)).all()):
        raise ValueError(f"{name}: expected a time constant in steps, from {low} to {high:g}, got {tau}")
    return torch.exp(-1 / values)


def _check_state(name: str, got: Tensor | None, expected: Tensor | None) -> None:
    """Raise ValueError unless a part of a state is as in the state at rest: there or not, of that shape and device."""
    looks = [None if x is None else f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in (expected, got)]
    if looks[0] != looks[1]:
        raise ValueError(f"{name}: expected {looks[0]}, got {looks[1]}; start from layer.initial_state(batch size)")


class InputLayer(nn.Module):
    """What spiking layers and the readout share: input weights, bias, and the current that they make of an input."""

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        *,
        bias: bool,
        generator: torch.Generator | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        for name, size in (("num_inputs", num_inputs), ("num_units", num_units)):
            _checks.check_count(name, size)
        self.num_inputs, self.num_units = num_inputs, num_units
        self.weight = nn.Parameter(torch.empty(num_units, num_inputs, device=device, dtype=dtype))
        self.bias = nn.Parameter(self.weight.new_zeros(num_units)) if bias else None
        nn.init.normal_(self.weight, std=1 / math.sqrt(num_inputs), generator=generator)

    def current(self, inputs: Inputs) -> Tensor:
        """Return the input current W x + b, (..., num_units), of a dense input (..., num_inputs) or an EventBatch."""
        if isinstance(inputs, EventBatch):
            current: Tensor = inputs.project(self.weight)
            return current if self.bias is None else current + self.bias
        return functional.linear(inputs, self.weight, self.bias)

    def _check(self, inputs: Inputs) -> None:
        layout = f"(time steps, batch, {self.num_inputs})"
        if not isinstance(inputs, EventBatch):
            if not isinstance(inputs, Tensor):
                raise TypeError(f"inputs: expected a tensor {layout} or an EventBatch, got {type(inputs).__name__}")
            _checks.check_float("inputs", inputs)
            _checks.check_rank("inputs", inputs, 3, layout)
            if inputs.dtype != self.weight.dtype:
                raise TypeError(
                    f"inputs: expected the layer's dtype {self.weight.dtype}, got {inputs.dtype}; "
                    "convert one of them with .to(dtype)"
                )
        if inputs.shape[-1] != self.num_inputs:
            raise ValueError(f"inputs: expected shape {layout}, got {tuple(inputs.shape)}")
        if inputs.shape[0] < 1 or inputs.shape[1] < 1:
            raise ValueError(f"inputs: expected at least one time step and one sample, got {tuple(inputs.shape)}")
        if inputs.device != self.weight.device:
            raise ValueError(
                f"inputs: expected the layer's device {self.weight.device}, got {inputs.device}; "
                "move one of them with .to(device)"
            )

    def extra_repr(self) -> str:
        """Return the sizes, for ``print(layer)``."""
        return f"{self.num_inputs}, {self.num_units}"


class SpikingLayer(InputLayer):
    """What LIF, ALIF and LSNN share; use one of those. The equations stand in ``lsc_snn.neurons``.

    Parameters are stored raw and unbounded (``alpha_raw`` and so on); ``alpha``, ``rho``, ``threshold``, ``beta`` are
    the values that they stand for, which stay valid whatever an optimiser does to the raw ones.
    """

    beta_sign: Tensor

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        *,
        recurrent: bool = True,
        bias: bool = False,
        tau: float | Tensor = 10.0,
        threshold: float | Tensor = 1.0,
        tau_adaptation: float | Tensor | None = None,
        beta: float | Tensor | None = None,
        surrogate: str | Surrogate = "triangular",
        reset: Reset = "soft",
        detach_reset: bool = True,
        refractory: int = 0,
        zero_diagonal: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_inputs, num_units, bias=bias, generator=generator, device=device, dtype=dtype)
        like = self.weight
        self.surrogate = surrogates.get(surrogate)
        _checks.check_in("reset", reset, RESETS)
        self.reset = reset
        _checks.check_count("refractory", refractory, minimum=0)
        self.detach_reset, self.refractory, self.zero_diagonal = detach_reset, refractory, zero_diagonal

        thresholds = _per_unit("threshold", threshold, num_units, like)
        if not bool((thresholds > 0).all()):
            raise ValueError(f"threshold: expected positive values, got {threshold}")
        self.alpha_raw = nn.Parameter(_parametrize.raw_decay(_decay_of("tau", tau, num_units, like)))
        self.threshold_raw = nn.Parameter(_parametrize.raw_positive(thresholds))
        self.rho_raw = self.beta_raw = self.recurrent_raw = None
        if tau_adaptation is not None and beta is not None:
            rho = _decay_of("tau_adaptation", tau_adaptation, num_units, like)
            betas = _per_unit("beta", beta, num_units, like)
            self.rho_raw = nn.Parameter(_parametrize.raw_decay(rho))
            self.beta_raw = nn.Parameter(_parametrize.raw_positive(betas.abs()))
            # Signs are fixed: an adaptation that strengthens cannot turn into one that weakens; 0 means none at all.
            self.register_buffer("beta_sign", betas.sign())
        if recurrent:
            self.recurrent_raw = nn.Parameter(like.new_empty(num_units, num_units))
            nn.init.normal_(self.recurrent_raw, std=1 / math.sqrt(num_units), generator=generator)

    @property
    def alpha(self) -> Tensor:
        """Membrane decay per step, (N,)."""
        return _parametrize.decay(self.alpha_raw)

    @property
    def threshold(self) -> Tensor:
        """Threshold, (N,), in units of the membrane potential."""
        return _parametrize.positive(self.threshold_raw)

    @property
    def rho(self) -> Tensor | None:
        """Adaptation decay per step, (N,), or None."""
        return None if self.rho_raw is None else _parametrize.decay(self.rho_raw)

    @property
    def beta(self) -> Tensor | None:
        """Adaptation strength, (N,), in units of the membrane potential, or None."""
        return None if self.beta_raw is None else self.beta_sign * _parametrize.positive(self.beta_raw)

    @property
    def recurrent_weight(self) -> Tensor | None:
        """Recurrent matrix (to, from), (N, N), its diagonal zero if ``zero_diagonal``, or None."""
        if self.recurrent_raw is None or not self.zero_diagonal:
            return self.recurrent_raw
        return self.recurrent_raw - torch.diag(self.recurrent_raw.diagonal())

    def neuron_parameters(self) -> NeuronParameters:
        """Return the values of the layer's parameters, differentiable, as the pure steps take them."""
        return NeuronParameters(
            self.alpha,
            self.threshold,
            self.rho,
            self.beta,
            self.recurrent_weight,
            self.surrogate,
            self.reset,
            self.detach_reset,
            self.refractory,
        )

    def initial_state(self, batch_size: int) -> NeuronState:
        """Return the state at rest for ``batch_size`` samples."""
        return initial_state(batch_size, self.neuron_parameters())

    def forward(self, inputs: Inputs, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Run a sequence (T, B, num_inputs) or EventBatch; return the spikes (T, B, num_units) and the final state.

        Raises ValueError or TypeError for a wrong rank, size, type or device, an empty batch, zero time steps, and a
        state of another layer or batch size.
        """
        z, final, _ = self.run(inputs, state)
        return z, final

    def run(self, inputs: Inputs, state: NeuronState | None = None) -> tuple[Tensor, NeuronState, NeuronState]:
        """Do as ``forward``, and also return the states after every step: a NeuronState of (T, B, N) tensors."""
        self._check(inputs)
        parameters = self.neuron_parameters()
        rest = initial_state(inputs.shape[1], parameters)
        if state is None:
            state = rest
        for name, got, expected in zip(state._fields, state, rest, strict=True):
            _check_state(f"state.{name}", got, expected)
        return scan(self.current(inputs), state, parameters)

    def step(self, inputs: Tensor, state: NeuronState) -> tuple[Tensor, NeuronState]:
        """Advance by one step: inputs (B, num_inputs) and a state to spikes (B, num_units) and the next state."""
        return step(self.current(inputs), state, self.neuron_parameters())


class LIF(SpikingLayer):
    """Leaky integrate-and-fire: ``v' = alpha v + W x + b + W_rec z - reset``, ``z' = H(v' - threshold)``.

    Args, all keyword but the sizes:
        num_inputs, num_units: sizes.
        recurrent: whether spikes feed back through a matrix ``recurrent_weight``.
        bias: whether a constant current is added.
        tau: membrane time constant in steps, 0.1 to 10,000, a number or (N,); learnable.
        threshold: in units of the potential, positive, a number or (N,); learnable.
        surrogate: the spike's derivative, a name or an object of ``lsc_snn.surrogate``.
        reset: "soft" (subtract the threshold), "hard" (to zero) or "none".
        detach_reset: whether the spike inside the reset passes no gradient. It changes the time transition.
        refractory: steps after a spike in which a unit cannot spike.
        zero_diagonal: whether units do not feed themselves.
        generator: source of the initial weights, N(0, 1/fan-in); torch's global one if None.

    >>> layer = LIF(700, 64, generator=torch.Generator().manual_seed(0))
    >>> spikes, state = layer(torch.zeros(10, 2, 700))
    >>> spikes.shape, state.v.shape
    (torch.Size([10, 2, 64]), torch.Size([2, 64]))
    """

    def __init__(self, num_inputs: int, num_units: int, **options: Any) -> None:
        for name in ("tau_adaptation", "beta"):
            if name in options:
                raise TypeError(f"{name}: LIF does not adapt; use ALIF or LSNN")
        super().__init__(num_inputs, num_units, **options)


class ALIF(SpikingLayer):
    """Adaptive LIF: the threshold rises by ``beta a``, where ``a' = rho a + (1 - rho) z`` follows the unit's rate.

    Takes what LIF takes, and ``tau_adaptation`` (steps) and ``beta`` (units of the potential; a negative value lowers
    the threshold instead), numbers or (N,), both learnable; the sign of beta is not.

    >>> layer = ALIF(700, 64, tau_adaptation=50.0, beta=torch.linspace(-1, 1, 64))
    >>> layer.initial_state(2).a.shape
    torch.Size([2, 64])
    """

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        *,
        tau_adaptation: float | Tensor = 100.0,
        beta: float | Tensor = 1.8,
        **options: Any,
    ) -> None:
        super().__init__(num_inputs, num_units, tau_adaptation=tau_adaptation, beta=beta, **options)


class LSNN(ALIF):
    """A recurrent population of LIF and ALIF units (Bellec et al. 2018): the last ``num_adaptive`` units adapt.

    Takes what ALIF takes. The others have ``beta = 0``, fixed.

    >>> LSNN(700, 4, num_adaptive=2, beta=1.5).beta.detach()
    tensor([0.0000, 0.0000, 1.5000, 1.5000])
    """

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        *,
        num_adaptive: int | None = None,
        beta: float | Tensor = 1.8,
        **options: Any,
    ) -> None:
        _checks.check_count("num_units", num_units)
        adaptive = num_units // 2 if num_adaptive is None else num_adaptive
        _checks.check_count("num_adaptive", adaptive, minimum=0)
        if adaptive > num_units:
            raise ValueError(f"num_adaptive: expected at most num_units = {num_units}, got {adaptive}; choose fewer")
        betas = _per_unit("beta", beta, num_units, torch.empty(0, dtype=options.get("dtype")))
        betas[: num_units - adaptive] = 0
        super().__init__(num_inputs, num_units, beta=betas, **options)
        self.num_adaptive = adaptive


class LI(InputLayer):
    """Leaky-integrator readout, ``v' = alpha v + W x + b``, whose output is its potential v'.

    Args: ``num_inputs``, ``num_units`` (classes), ``tau`` in steps, ``bias``, ``generator``.

    >>> output, final = LI(64, 10)(torch.zeros(20, 2, 64))
    >>> output.shape, final.shape
    (torch.Size([20, 2, 10]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        *,
        tau: float | Tensor = 10.0,
        bias: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_inputs, num_units, bias=bias, generator=generator, device=device, dtype=dtype)
        self.alpha_raw = nn.Parameter(_parametrize.raw_decay(_decay_of("tau", tau, num_units, self.weight)))

    @property
    def alpha(self) -> Tensor:
        """Decay per step, (N,)."""
        return _parametrize.decay(self.alpha_raw)

    def initial_state(self, batch_size: int) -> Tensor:
        """Return the potential at rest, zeros (B, num_units)."""
        return self.weight.new_zeros(batch_size, self.num_units)

    def forward(self, inputs: Inputs, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run a sequence (T, B, num_inputs) or EventBatch; return potentials (T, B, num_units) and the last one."""
        self._check(inputs)
        current, alpha = self.current(inputs), self.alpha
        rest = self.initial_state(current.shape[1])
        v = rest if state is None else state
        _check_state("state", v, rest)
        potentials = []
        for drive in current.unbind(0):
            v = torch.addcmul(drive, alpha, v)
            potentials.append(v)
        return torch.stack(potentials), v

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one step: inputs (B, num_inputs) and the potential to the output and the next potential."""
        v = torch.addcmul(self.current(inputs), self.alpha, state)
        return v, v
