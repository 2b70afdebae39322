"""How numbers are stored in integer hardware, and how they decay there.

A potential is a two's complement integer of b bits in a unit of its own; it saturates. A decay alpha takes one of three
forms, all in integers::

    shift      v' = v - (v >> k)                         alpha = 1 - 2^-k
    xylo       the same, but a v that is not 0 loses at least 1
    multiply   v' = (v m + 2^(d-1)) >> d                 alpha = m / 2^d

``>>`` is the arithmetic shift, which rounds down. So ``shift`` never lets a positive v below 2^k decay; ``xylo`` does
(rule of the Xylo chips, xylosim 0.1.3, ``XyloIAFNeuron.cpp``: ``dv = v >> dash``, and the sign of v where that is 0);
``multiply`` is of the kind that Loihi has, with d = 12 (Davies et al. 2018, "Loihi: a neuromorphic manycore processor
with on-chip learning", IEEE Micro 38).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lsc_snn import _checks

DecayRule = Literal["shift", "xylo", "multiply"]
DECAYS: tuple[DecayRule, ...] = ("shift", "xylo", "multiply")
SHIFT_MAX = 15
"""The largest k: Xylo stores it in 4 bits."""


@dataclass(frozen=True)
class NumberFormat:
    """Bits and rules of a chip; checked when it is made. Raises TypeError or ValueError for what it does not take.

    >>> NumberFormat(weight_bits=1)
    Traceback (most recent call last):
    ValueError: weight_bits: expected an integer >= 2, got 1; choose at least 2
    """

    weight_bits: int = 8
    """Bits of a weight, its sign included; the largest is 2^(n-1) - 1, and so is the smallest but for its sign."""
    potential_bits: int = 16
    """Bits of a potential, threshold, bias and adaptation, the sign included."""
    decay: DecayRule = "shift"
    """How potentials decay: see the text of this module."""
    decay_bits: int = 12
    """d of ``multiply``."""
    per_channel: bool = False
    """Whether each unit has a weight scale of its own (one for its input, recurrent weights), not each layer."""
    power_of_two: bool = False
    """Whether weight scales are powers of two, so that no chip has to multiply by them."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name, low, high in (("weight_bits", 2, 32), ("potential_bits", 2, 32), ("decay_bits", 1, 30)):
            value = getattr(self, name)
            _checks.check_count(name, value, minimum=low)
            if value > high:
                raise ValueError(f"{name}: expected {low} to {high} bits, got {value}; choose fewer")
        _checks.check_in("decay", self.decay, DECAYS)
        for name in ("per_channel", "power_of_two"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {type(getattr(self, name)).__name__}")

    @property
    def weight_max(self) -> int:
        """Largest weight."""
        return int(2 ** (self.weight_bits - 1) - 1)

    @property
    def potential_max(self) -> int:
        """Largest potential; the smallest is one below its negative."""
        return int(2 ** (self.potential_bits - 1) - 1)

    def saturate(self, values: Tensor) -> Tensor:
        """Return integers clipped to what a potential can hold.

        >>> NumberFormat(potential_bits=8).saturate(torch.tensor([-200, 5, 200]))
        tensor([-128,    5,  127])
        """
        return values.clamp(-self.potential_max - 1, self.potential_max)

    def stored_decay(self, alpha: Tensor) -> Tensor:
        """Return the integer, k or m, whose decay is nearest to each alpha in [0, 1): of k, on a logarithmic scale.

        k goes from 0, no memory, to ``SHIFT_MAX``; m from 0 to 2^d - 1.

        >>> NumberFormat().stored_decay(torch.tensor([0.0, 0.5, 0.9, 0.99]))
        tensor([0, 1, 3, 7])
        """
        exact = alpha.double()
        if self.decay == "multiply":
            return torch.round(exact * 2**self.decay_bits).clamp(0, 2**self.decay_bits - 1).long()
        return torch.round(-torch.log2(1 - exact)).clamp(0, SHIFT_MAX).long()

    def decay_value(self, stored: Tensor) -> Tensor:
        """Return the alpha of stored decays, float64.

        >>> NumberFormat().decay_value(torch.tensor([0, 1, 3]))
        tensor([0.0000, 0.5000, 0.8750], dtype=torch.float64)
        """
        if self.decay == "multiply":
            return stored.double() / 2.0**self.decay_bits
        return 1 - torch.exp2(-stored.double())

    def decayed(self, values: Tensor, stored: Tensor) -> Tensor:
        """Return integers after one step of decay; ``stored`` has one entry for each unit, the last axis.

        >>> values = torch.tensor([100, 3, -3])
        >>> [NumberFormat(decay=rule).decayed(values, torch.tensor([2, 2, 2])).tolist() for rule in ("shift", "xylo")]
        [[75, 3, -2], [75, 2, -2]]
        """
        if self.decay == "multiply":
            grown: Tensor = values * stored + 2 ** (self.decay_bits - 1)
            return grown.bitwise_right_shift(self.decay_bits)
        lost: Tensor = values >> stored
        if self.decay == "xylo":  # of a negative value, lost is never 0
            lost = torch.where((lost == 0) & (values > 0), torch.ones_like(lost), lost)
        return values - lost


def to_power_of_two(scales: Tensor) -> Tensor:
    """Return the smallest power of two that is not below each positive scale.

    >>> to_power_of_two(torch.tensor([0.3, 0.5, 3.0]))
    tensor([0.5000, 0.5000, 4.0000])
    """
    return torch.exp2(torch.ceil(torch.log2(scales)))


def whole_shift(ratio: Tensor) -> int:
    """Return the largest k >= 0 with 2^k not above any of the ratios, up to rounding errors."""
    return max(0, math.floor(math.log2(float(ratio.min())) + 1e-9))
