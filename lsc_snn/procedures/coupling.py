"""How far both knobs of a layer are turned together, where each of them also moves the radius of the other."""

from __future__ import annotations

import math

from lsc_snn.procedures.secant import MAX_STEP

Pair = tuple[float, float]
"""Of the depth and of the time transition."""

_LEAST_MOVE = 1e-2
"""Moves shorter than this in log tell little about slopes."""
_FORETOLD = 0.5
"""Share of a change by which the slopes may have missed it and are still believed."""
_LEAST_DETERMINANT = 0.1
_LONGEST = 1.5
"""Longest step, in multiples of the distance of the radii to their goals: where a reading hardly follows, the step that
the slopes ask for leads far past the place at which it follows again."""


class Coupling:
    """The slopes of both log radii in both log knobs, learnt from every move (Broyden 1965, Math. Comp. 19:577).

    Weights that arrive also raise the time radius of a neuron that is reset, and one that decays more slowly hands less
    of its input up. Steps for each radius alone then chase one another in a circle, which this matrix knows.
    """

    def __init__(self) -> None:
        self._slopes = [[1.0, 0.0], [0.0, 1.0]]
        self._last: Pair | None = None
        self._moves: Pair = (0.0, 0.0)
        self._believed = False

    def steps(self, readings: Pair, goals: Pair) -> Pair | None:
        """Return the changes of the log knobs that should bring both log radii to their goals, or a share of both.

        None where the slopes did not foretell the last change, say that the knobs can hardly be told apart, or that a
        radius falls as its own knob rises: past the scale at which it is largest, a step by them leads away.
        """
        self._learn(readings)
        (a, b), (c, d) = self._slopes
        determinant = a * d - b * c
        if not self._believed or min(a, d) <= 0 or determinant < _LEAST_DETERMINANT:
            return None
        x, y = (goal - reading for goal, reading in zip(goals, readings, strict=True))
        depth, time = (d * x - b * y) / determinant, (a * y - c * x) / determinant
        # As a whole: a step that is cut for one knob alone leads elsewhere.
        share = min(1.0, _share(_LONGEST * math.hypot(x, y), math.hypot(depth, time)), _share(MAX_STEP, depth, time))
        return share * depth, share * time

    def note(self, moves: Pair) -> None:
        """Take note of how far the log knobs were turned after the last readings."""
        self._moves = moves

    def forget(self) -> None:
        """Drop the last readings, after a move that these knobs did not make."""
        self._last, self._believed = None, False

    def _learn(self, readings: Pair) -> None:
        last, self._last = self._last, readings
        length = math.hypot(*self._moves)
        if last is None or length < _LEAST_MOVE:
            return
        changes = [now - before for now, before in zip(readings, last, strict=True)]
        depth, time = self._moves
        misses = [change - a * depth - b * time for change, (a, b) in zip(changes, self._slopes, strict=True)]
        self._believed = math.hypot(*misses) <= _FORETOLD * math.hypot(*changes)
        for row, miss in zip(self._slopes, misses, strict=True):
            row[0] += miss * depth / length**2
            row[1] += miss * time / length**2


def _share(longest: float, *steps: float) -> float:
    return longest / max(longest, *map(abs, steps)) if longest else 0.0
