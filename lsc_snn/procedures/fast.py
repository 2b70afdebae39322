"""The ``fast`` procedure: every knob takes a safeguarded secant step in log space, all of them from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lsc_snn.measure import RadiusReport
from lsc_snn.procedures.goal import Dial, Goal, movable

_MAX_STEP = math.log(4.0)
"""Largest change of a knob in one sweep."""
_SLOPES = (0.7, 2.0)
"""Bounds of the secant slope d log radius / d log knob. A multiplicative rule, as the paper's, is slope 1 throughout."""
_INSIDE = math.log(1.3)
"""How far inside the band a rate is brought when it has left it."""
_WAKE = 0.25
"""Factor on the threshold of a silent layer, whose rate gives no slope."""


class Secant:
    """One knob's memory: where it was, what it read, and the slope between the last two readings."""

    def __init__(self, slope: float) -> None:
        self._sign = math.copysign(1.0, slope)
        self._slope = abs(slope)
        self._last: tuple[float, float] | None = None
        self._moved = 0.0

    def step(self, reading: float, goal: float) -> float:
        """Return the change of the log knob that should bring the log ``reading`` to ``goal``."""
        if self._last is not None and abs(self._moved) > 1e-3:
            slope = self._sign * (reading - self._last[0]) / self._moved
            # A reading also moves with the other knobs: half of the old slope is kept, and bounds hold it positive.
            self._slope = min(max(0.5 * (self._slope + slope), _SLOPES[0]), _SLOPES[1])
        step = min(max(self._sign * (goal - reading) / self._slope, -_MAX_STEP), _MAX_STEP)
        self._last, self._moved = (reading, goal), step
        return step

    def forget(self) -> None:
        """Drop the last reading, after a move that says nothing about the slope."""
        self._last = None


class Fast:
    """One run of the procedure: ``sweep`` takes a report of the model as it is and turns its knobs."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._secants: dict[tuple[str, int], Secant] = {}
        self._thresholds: dict[int, ThresholdDial] = {}

    def sweep(self, report: RadiusReport) -> bool:
        """Turn the knobs once; return whether anything moved."""
        moved = False
        silent_below = False
        dials = self._goal.dials(report)
        for index, rate in enumerate(report.rates.tolist()):
            if silent_below:
                break  # nothing arrives here yet: its readings mean nothing
            moved |= self._turn_threshold(index, rate)
            for dial in dials:
                if dial.layer == index:
                    moved |= self._turn(dial, rate)
            silent_below = rate == 0
        if not silent_below:
            for dial in dials:
                if dial.kind == "decoder":
                    moved |= self._turn(dial, 1.0)
        return moved

    def _turn(self, dial: Dial, rate: float) -> bool:
        if dial.knob is None or not movable(dial.knob):
            return False
        secant = self._secants.setdefault((dial.kind, dial.layer), Secant(1.0))
        if not 0 < dial.radius < math.inf:
            secant.forget()
            if dial.radius == 0 and rate == 0:
                return False  # silent: the threshold is what moves
            # Dead though it spikes: every potential lies outside the surrogate's window; a smaller scale brings it in.
            dial.knob.turn(_WAKE)
            return True
        dial.knob.turn(math.exp(secant.step(math.log(dial.radius), math.log(dial.target))))
        return True

    def _turn_threshold(self, index: int, rate: float) -> bool:
        knob = self._goal.knobs[index].threshold
        if knob is None or not movable(knob):
            return False
        dial = self._thresholds.setdefault(index, ThresholdDial(self._goal.rate_band))
        step = dial.step(rate)
        if step:
            knob.turn(math.exp(step))
        return step != 0


class ThresholdDial:
    """Brings a firing rate well inside its band by the threshold, without losing a layer between silence and saturation.

    A strongly recurrent layer is bistable: a little more threshold and it falls silent. So the dial remembers the last
    threshold at which the layer was alive, returns half-way to it on silence, and then stops short of that point.
    """

    def __init__(self, band: tuple[float, float]) -> None:
        low, high = band
        self._comfort = (min(2 * low, high), max(0.5 * high, low))
        self._secant = Secant(-1.0)
        self._step = 0.0
        self._alive = False
        self._timid = 0

    def step(self, rate: float) -> float:
        if rate <= 0:
            self._secant.forget()
            if self._alive and self._step > 0:  # our own last step silenced it
                self._step, self._timid = -self._step, 5
            else:
                self._step = math.log(_WAKE)
            return self._step
        self._alive = True
        low, high = self._comfort
        if low <= rate <= high or (self._timid and rate > high):
            self._timid = max(self._timid - 1, 0)
            self._secant.forget()
            self._step = 0.0
            return 0.0
        goal = math.log(low) + _INSIDE if rate < low else math.log(high) - _INSIDE
        self._step = self._secant.step(math.log(rate), goal)
        return self._step


def run(goal: Goal, reports: Iterator[RadiusReport], max_sweeps: int) -> Iterator[RadiusReport]:
    """Sweep until the goal is reached, no knob moves, or ``max_sweeps`` are spent; yield a report before every sweep.

    ``reports`` measures the model anew at each ``next``.
    """
    procedure = Fast(goal)
    for _ in range(max_sweeps):
        report = next(reports)
        yield report
        if goal.badness(report) <= 1 or not procedure.sweep(report):
            return
    yield next(reports)
