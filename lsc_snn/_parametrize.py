"""Raw parameters and the values they stand for: any real raw value, so any optimiser step, gives a valid neuron."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

TAU_MIN, TAU_MAX = 0.1, 1e4
"""Bounds of a time constant in steps. At 0.1 a decay is 5e-5, no memory; at 1e4 float32 still tells it from 1."""
_LOW, _HIGH = math.exp(-1 / TAU_MIN), math.exp(-1 / TAU_MAX)
POSITIVE_MIN = 1e-6
"""Floor of a positive value (threshold, adaptation strength), in its own unit."""


def decay(raw: Tensor) -> Tensor:
    """Return the decay per step exp(-1/tau) of a raw value: a sigmoid between the decays of TAU_MIN and TAU_MAX."""
    return _LOW + (_HIGH - _LOW) * torch.sigmoid(raw)


def raw_decay(value: Tensor) -> Tensor:
    """Return the raw value of a decay, after clamping it inside the bounds, where its gradient does not vanish."""
    share = (value.double() - _LOW) / (_HIGH - _LOW)
    return torch.logit(share.clamp(1e-6, 1 - 1e-6)).to(value.dtype)


def positive(raw: Tensor) -> Tensor:
    """Return the positive value of a raw value: softplus, with a floor."""
    return POSITIVE_MIN + functional.softplus(raw)


def raw_positive(value: Tensor) -> Tensor:
    """Return the raw value of a positive value, by the inverse of softplus."""
    above = (value.double() - POSITIVE_MIN).clamp(min=1e-12)
    return (above + torch.log(-torch.expm1(-above))).to(value.dtype)
