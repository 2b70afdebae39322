"""Whether the threshold of a layer goes along with the weights in front of it."""

from __future__ import annotations

import math
from typing import NamedTuple

_FOLLOWS = 0.2
"""Slope of a log radius in the log weights from which on it follows them."""
_LEAST_MOVE, _STILL = 0.3, 0.01
"""Moves shorter than this in log do not tell, unless the slope is below that: by chance it is not."""
_SAME_RATE = math.log(1.2)
"""Rise of a rate with the weights, in log, up to which a threshold that went along has done its part."""
_MOST_CHANGES = 4
"""Changes of way after which a layer stays with the last: the radius follows none."""


class _Move(NamedTuple):
    step: float
    along: bool
    radius: float
    rate: float
    threshold: float
    """By how much the log threshold was turned in the same sweep."""

    @property
    def clean(self) -> bool:
        """Whether the threshold has done nothing but go along, or stay."""
        return abs(self.threshold - self.step * self.along) < 1e-6


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
        self._went_alone = False
        self._changes = 0
        self._last: _Move | None = None

    def goes(self, step: float) -> bool:
        """Say whether the threshold goes along with a turn of the weights."""
        return not self._alone and not (step > 0 and self._alone_up)

    def note(self, step: float, along: bool, radius: float, rate: float, threshold: float) -> None:
        """Take note of a move of the weights, radius and rate before it, and the whole move of the threshold."""
        self._went_alone = not along
        before, self._last = self._last, _Move(step, along, radius, rate, threshold)
        if before is not None and before.along == along and before.clean and self._last.clean:
            # One move, in steps too short to tell.
            self._last = before._replace(step=before.step + step, threshold=before.threshold + threshold)

    def forget(self) -> None:
        """Drop the last move."""
        self._last = None

    def go_along(self) -> bool:
        """Let the threshold go along from now on; return whether the weights had gone alone when they last moved."""
        went_alone, self._went_alone = self._went_alone, False
        self._alone = self._alone_up = False
        return went_alone

    def judge(self, radius: float, rate: float) -> float:
        """Change the way if the radius did not follow the last move; return what the log threshold has to make up for.

        That is the move which the threshold would have made, had the weights gone the other way.
        """
        last = self._last
        if last is None or self._changes >= _MOST_CHANGES or not last.step:
            return 0.0
        if not all(0 < value < math.inf for value in (radius, last.radius, rate, last.rate)):
            self._last = None
            return 0.0
        slope = math.log(radius / last.radius) / last.step
        if abs(last.step) < _LEAST_MOVE and abs(slope) > _STILL:
            return 0.0
        self._last = None
        rise = math.log(rate / last.rate) * math.copysign(1.0, last.step)
        # Something else may have moved it: what raised the rate, or a threshold that turned for that.
        other = rise > _SAME_RATE or not last.clean if last.along else abs(last.threshold) >= abs(last.step)
        if slope >= _FOLLOWS or other:
            return 0.0
        self._changes += 1
        self._alone, self._alone_up = last.along, False
        return -last.step if last.along else last.step - last.threshold
