"""Random numbers as pure functions of counters: the same for a sample in whatever batch, order or process it is drawn.

Source: SplitMix64 of Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]

_GAMMA, _FIRST, _SECOND = (
    np.array(value, np.uint64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def hash_bits(key: Bits, counter: int | npt.NDArray[Any]) -> Bits:
    """Return output number ``counter`` (from 0) of the SplitMix64 generator with the initial state ``key``, uint64.

    Arrays are broadcast. What comes out is a key again, so that keys are made of several integers by nesting.

    >>> hash_bits(np.array([1234567], np.uint64), np.arange(2))
    array([6457827717110365317, 3203168211198807973], dtype=uint64)
    """
    bits: Bits = key + (np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)) * _GAMMA
    bits ^= bits >> np.uint64(30)
    bits *= _FIRST
    bits ^= bits >> np.uint64(27)
    bits *= _SECOND
    bits ^= bits >> np.uint64(31)
    return bits


def uniform(bits: Bits) -> npt.NDArray[np.float64]:
    """Return numbers uniform in [0, 1), multiples of 2^-32, from the upper halves of the bits.

    >>> uniform(np.array([0, 2**63], np.uint64))
    array([0. , 0.5])
    """
    return (bits >> np.uint64(32)).astype(np.float64) * 2.0**-32


def normal(bits: Bits) -> npt.NDArray[np.float64]:
    """Return standard normal numbers, at most 6.8 in size, by the transform of Box and Muller 1958.

    >>> normal(np.array([2**63], np.uint64)).round(4)
    array([1.1774])
    """
    radius = np.sqrt(-2 * np.log(uniform(bits) + 2.0**-33))
    lower = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32
    numbers: npt.NDArray[np.float64] = radius * np.cos(2 * np.pi * lower)
    return numbers
