"""Knobs of Norse's neurons: their weights, and those constants in ``p`` that the user made an ``nn.Parameter``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn.knobs import Knob, movable, multiplied, together

_RATES = ("tau_mem_inv", "tau_syn_inv", "tau_adapt_inv", "tau_ada_inv")
"""Inverse time constants: what they belong to decays by 1 - dt rate in a step."""
_DRIVEN, _GAIN = "tau_ada_inv", "adaptation_current"
"""The rate of the adaptation that the potential drives (AdEx), and by how much it does."""
_UPSTROKE = "delta_T"
"""The range below an exponential neuron's threshold within which a potential grows by itself."""
_STEEPER = 1.5
"""Power of the factor of a time knob with which the range of an upstroke goes. With 1 the log radius of 256 units near
1/2 changes by 0.2 to 0.5 of the log factor only, which takes 7 to 10 sweeps, and with this one 5 to 7; with 2 a target
of 1 is overshot."""
_SLOWEST = 1 - 1e-6
"""Largest decay that a time knob sets."""


def depth(module: Any) -> Knob | None:
    """Return the knob of the input weights, or None where what stands in front is to be moved."""
    return multiplied([_parameter(module, "input_weights")])


def time(module: Any) -> Knob | None:
    """Return the knob of recurrent weights and decays; upwards decays go no farther than now, if weights can."""
    recurrent = multiplied([_parameter(module, "recurrent_weights")])
    # Slower neurons also hand less of their input up, so that depth and time radius could not both be large: where
    # recurrent weights can raise the radius, decays come back up to where they were, and no farther.
    kept = recurrent is not None and movable(recurrent)
    both = together(recurrent, *(_decays(level, module.dt, kept) for level in _levels(module.p)))
    return None if both is None else Knob(both.parameters, both.turn, _slowest_constant(module))


def threshold(module: Any) -> Knob | None:
    """Return the knob that multiplies the distance of the threshold from rest.

    The range of an exponential upstroke goes with it.
    """
    found = [(level, _parameter(level, "v_th")) for level in _levels(module.p) if _rest(level) is not None]
    levels = [(level, v_th) for level, v_th in found if v_th is not None]
    upstrokes = [_parameter(level, _UPSTROKE) for level, v_th in levels if v_th.requires_grad]
    moved = [v_th for _, v_th in levels] + [upstroke for upstroke in upstrokes if upstroke is not None]

    @torch.no_grad()
    def turn(factor: float) -> None:
        for level, v_th in levels:
            if v_th.requires_grad:
                rest = _rest(level)
                v_th.copy_(rest + factor * (v_th - rest))
                _scale(_parameter(level, _UPSTROKE), factor)

    return Knob(tuple(moved), turn) if moved else None


def _decays(level: Any, dt: float, kept: bool) -> Knob | None:
    """Return the knob that multiplies the decays 1 - dt rate of one level of parameters, and what goes with them.

    The range of an upstroke does, since a potential within it grows however much it leaks; up, no farther than the
    threshold is high. And the gain of a driven adaptation changes so that the potential adds as much to it in a step as
    before: it would oscillate otherwise, at a radius above the decays. Where decays are ``kept``, all this comes back
    up to where they are now, and no farther.
    """
    rates = list(_moved_rates(level))
    driven, gain, upstroke = (_parameter(level, name) for name in (_DRIVEN, _GAIN, _UPSTROKE))
    slowest = [_decay(rate, dt).abs() if kept else torch.full_like(_decay(rate, dt), _SLOWEST) for rate in rates]
    widest = upstroke.detach() / _height(level) if kept and upstroke is not None else 1.0

    @torch.no_grad()
    def turn(factor: float) -> None:
        if upstroke is not None and _is_free(upstroke):
            turned = factor**_STEEPER * upstroke
            upstroke.copy_(turned if factor < 1 else turned.minimum(widest * _height(level)).maximum(upstroke))
        for rate, most in zip(rates, slowest, strict=True):
            if not _is_free(rate):
                continue
            before, decay = rate.double(), _decay(rate, dt) * factor
            after = (1 - (decay if factor < 1 else decay.minimum(most).maximum(-most))) / dt
            rate.copy_(after)
            if rate is driven and gain is not None:
                change = before / after
                _scale(gain, change.to(gain.dtype) if change.shape == gain.shape else float(change.log().mean().exp()))

    goes_along = [upstroke, gain if driven is not None and driven.requires_grad else None]
    moved = [*rates, *(value for value in goes_along if value is not None)]
    return Knob(tuple(moved), turn) if moved else None


def _decay(rate: Tensor, dt: float) -> Tensor:
    return 1 - dt * rate.detach().double()


def _moved_rates(level: Any) -> Iterator[nn.Parameter]:
    """Yield the rates that are parameters, without that of an adaptation whose gain is fixed."""
    fixed_gain = hasattr(level, _GAIN) and not _is_free(getattr(level, _GAIN))
    for name in _RATES:
        rate = _parameter(level, name)
        if rate is not None and not (name == _DRIVEN and fixed_gain):
            yield rate


def _slowest_constant(module: Any) -> float:
    """Return the largest decay whose rate the time knob does not move; 0 without any."""
    levels = list(_levels(module.p))
    moved = {id(rate) for level in levels for rate in _moved_rates(level) if _is_free(rate)}
    rates = (getattr(level, name, None) for level in levels for name in _RATES)
    fixed = [rate for rate in rates if rate is not None and id(rate) not in moved]
    return max((float(torch.as_tensor(1 - module.dt * rate).detach().abs().max()) for rate in fixed), default=0.0)


def _rest(level: Any) -> Any:
    """Return the potential at rest; None for neurons without one (Izhikevich)."""
    return getattr(level, "v_leak", getattr(level, "v_reset", None))


def _height(level: Any) -> Any:
    """Return the distance of the threshold from rest: an upstroke of a wider range makes a neuron fire by itself."""
    return torch.as_tensor(level.v_th - _rest(level)).abs()


def _scale(parameter: nn.Parameter | None, factor: float | Tensor) -> None:
    if parameter is not None and _is_free(parameter):
        parameter.mul_(factor)


def _is_free(value: Any) -> bool:
    return isinstance(value, nn.Parameter) and value.requires_grad


def _parameter(module: Any, name: str) -> nn.Parameter | None:
    value = getattr(module, name, None)
    return value if isinstance(value, nn.Parameter) else None


def _levels(p: Any) -> Iterator[Any]:
    """Yield parameters of a neuron, and those that they hold, such as the LIF part of a refractory one."""
    yield p
    for inner in p.children() if isinstance(p, nn.Module) else p if isinstance(p, tuple) else ():
        if isinstance(inner, tuple | nn.Module):
            yield from _levels(inner)
