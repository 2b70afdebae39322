"""How far a knob is turned: secant steps in log space, and the threshold's way to a rate at which radii respond."""

from __future__ import annotations

import math

MAX_STEP = math.log(3.0)
"""Largest change of a knob in one sweep. At 4, layers whose input still grows overshoot into a scale at which few
potentials lie in the surrogate's window, and radii are rough."""
_SHORT_STEP = math.log(1.5)
"""The same after a reading that went the other way: past the scale at which most potentials lie in the window, or where
so few do that the radius is rough, a long step leads away."""
_SLOPES = (0.7, 2.0)
"""Bounds of the secant slope d log radius / d log knob. The paper's multiplicative rule is slope 1 throughout."""
_IDLE = 3, 0.3, 0.05
"""A knob is stuck after so many moves in a row, each larger than this in log, with a slope below this."""
WAKE = 0.25
"""Factor on the threshold of a silent layer, whose rate gives no slope; and on the scale of one whose radius is 0."""
_COLLAPSE = 0.1
"""Share of the lowest wanted rate below which a layer that had been above the highest counts as silenced."""
_LEAST = 1e-3
"""A rate below this is as good as silence, however low the band begins: few potentials come near the threshold."""
_COMFORT = 4
"""Moves of a rate that lies within its band, and not in the inner part, once all below has settled."""


class Secant:
    """One knob's memory: where it was, what it read, and the slope between the last two readings."""

    def __init__(self, sign: float = 1.0) -> None:
        self._sign, self._slope = sign, 1.0
        self._last: float | None = None
        self._moved = 0.0
        self._idle = 0
        self._alone = True

    @property
    def stuck(self) -> bool:
        """Whether the reading has not followed large moves: something else holds it."""
        return self._idle >= _IDLE[0]

    def step(
        self,
        reading: float,
        goal: float,
        damping: float = 1.0,
        known: float | None = None,
        longest: float = MAX_STEP,
    ) -> float:
        """Return the change of the log knob that should bring the log ``reading`` to ``goal``, or a share of it.

        Where the change is ``known`` from elsewhere it is taken. From the reading after it, which other knobs moved as
        well, nothing follows.
        """
        if self._last is not None and self._alone and abs(self._moved) > 1e-3:
            slope = self._sign * (reading - self._last) / self._moved
            self._idle = self._idle + 1 if abs(self._moved) > _IDLE[1] and abs(slope) < _IDLE[2] else 0
            # A reading also moves with the other knobs: half of the old slope is kept, and bounds hold it positive.
            self._slope = min(max(0.5 * (self._slope + slope), _SLOPES[0]), _SLOPES[1])
            longest = min(_SHORT_STEP, longest) if slope < 0 else longest
        wanted = self._sign * (goal - reading) / self._slope
        step = damping * (min(max(wanted, -longest), longest) if known is None else known)
        self._last, self._moved, self._alone = reading, step, known is None
        return step

    def forget(self) -> None:
        """Drop the last reading, after a move that says nothing about the slope."""
        self._last = None


class RateDial:
    """Brings a firing rate into the inner part of its band by the threshold.

    The inner part, from twice the lower edge to half the upper one, is where radii respond: in a layer near half of all
    steps most units are always on or always off, few are near the threshold, and the surrogate sees almost nothing.
    A rate within the band is moved so far a few times and no more: with an input of bursts, however settled, it may
    never get there, while threshold and weights grow in turn until few potentials lie in the surrogate's window.

    A strongly recurrent layer is bistable, silent or self-sustained: where a higher threshold has silenced it, the
    step is taken back, shorter ones are tried, and none where one of these has silenced it, too.
    """

    def __init__(self, band: tuple[float, float]) -> None:
        low, high = max(band[0], min(_LEAST, band[1] / 4)), band[1]
        self._least = low
        self._low, self._high = min(2 * low, high), max(0.5 * high, low)
        self._aim = math.sqrt(self._low * self._high)
        self._secant = Secant(-1.0)
        self._moved = 0.0
        self._bistable, self._longest = False, MAX_STEP
        self._band, self._comfort = band, _COMFORT

    def wants(self, rate: float) -> bool:
        """Say whether a rate is to be moved."""
        if self._comfort == 0 and self._inside(rate):
            return False
        return rate < self._low or (rate > self._high and not self._bistable)

    def fires(self, rate: float) -> bool:
        """Say whether a rate is as high as the band, and told from silence: potentials then reach the threshold."""
        return rate >= self._least

    def _inside(self, rate: float) -> bool:
        return rate > 0 and self._band[0] <= rate <= self._band[1]

    def step(self, rate: float, *, ready: bool = True, near: bool = False) -> float:
        """Return the change of the log threshold for a rate; 0 for none.

        ``ready``: all below the layer has settled; ``near``: its radii are near their targets, where a rate at the low
        end of its band does no harm, and a move would.
        """
        if not self.wants(rate) or (near and self._inside(rate) and rate < self._low):
            self._moved = 0.0
            return 0.0
        if ready and self._inside(rate):
            self._comfort -= 1
        if self._moved > 0 and rate < _COLLAPSE * self._low:
            self._bistable, self._longest = self._longest < MAX_STEP, _SHORT_STEP
            self._moved = -self._moved
        elif rate > 0:
            # Just inside the edge, a fifth of the way to the middle in log: rates also follow the other knobs.
            edge = self._low if rate < self._low else self._high
            goal = 0.8 * math.log(edge) + 0.2 * math.log(self._aim)
            self._moved = self._secant.step(math.log(rate), goal, longest=self._longest)
            return self._moved
        else:
            self._moved = math.log(WAKE)
        self._secant.forget()
        return self._moved

    def accept(self) -> None:
        """From now on leave any rate within the band where it is."""
        self._comfort = 0

    def forget(self) -> None:
        """Drop the last move, after the threshold was put elsewhere."""
        self._moved = 0.0
        self._secant.forget()
