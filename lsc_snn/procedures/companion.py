"""Whether the threshold of a layer goes along with the weights in front of it."""

from __future__ import annotations

import math
from typing import NamedTuple

_FOLLOWS = 0.2
"""Slope of a log radius in the log weights from which on it follows them."""
_LEAST_MOVE = 0.3
"""Moves shorter than this in log do not tell."""
_SAME_RATE = math.log(1.2)
"""Rise of a rate, in log, up to which it counts as the same: a threshold that goes along leaves it where it is."""


class _Move(NamedTuple):
    step: float
    along: bool
    radius: float
    rate: float
    threshold: float
    """By how much the log threshold was turned in the same sweep."""


class Companion:
    """Chooses for one layer: both together, or the weights alone; the other way if the radius does not follow.

    Together, potentials keep their place between rest and threshold, and the layer its rate: weights alone would fill
    or empty the surrogate's window while they change the radius, and the threshold would follow for many sweeps. Not
    where that window is as wide as the threshold is high (sinabs): the radius would stay. The first layer tries its
    weights alone upwards: where its input comes in bursts of counts, the larger both are, the fewer potentials lie in
    the window.
    """

    def __init__(self, first: bool) -> None:
        self._alone_up, self._alone = first, False
        self._last: _Move | None = None

    def goes(self, step: float) -> bool:
        """Say whether the threshold goes along with a turn of the weights."""
        return not self._alone and not (step > 0 and self._alone_up)

    def note(self, step: float, along: bool, radius: float, rate: float, threshold: float) -> None:
        """Take note of a move of the weights, radius and rate before it, and the whole move of the threshold."""
        before, self._last = self._last, _Move(step, along, radius, rate, threshold)
        if before is not None and before.along == along:  # one move, in steps too short to tell
            self._last = before._replace(step=before.step + step, threshold=before.threshold + threshold)

    def forget(self) -> None:
        """Drop the last move."""
        self._last = None

    def change(self) -> bool:
        """Go along from now on; return whether that is another way."""
        alone = self._alone or self._alone_up
        self._alone = self._alone_up = False
        return alone

    def judge(self, radius: float, rate: float) -> float:
        """Change the way if the radius did not follow the last move; return what the log threshold has to make up for.

        That is the move which the threshold would have made, had the weights gone the other way.
        """
        last = self._last
        if last is None or abs(last.step) < _LEAST_MOVE:
            return 0.0
        self._last = None
        if min(radius, last.radius, rate, last.rate) <= 0:
            return 0.0
        if math.log(radius / last.radius) / last.step >= _FOLLOWS:
            return 0.0
        if not last.along:
            self._alone = self._alone_up = False
            return last.step - last.threshold
        rise = math.log(rate / last.rate) * math.copysign(1.0, last.step)
        if rise > _SAME_RATE or abs(last.threshold - last.step) > _LEAST_MOVE / 100:
            return 0.0  # something else moved the radius
        self._alone = True
        return -last.step
