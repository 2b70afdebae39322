"""What a procedure has to reach: a target for each transition, a band for each rate, and the knobs for both."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lsc_snn.grid import Grid
from lsc_snn.knobs import Knob, Knobs, movable
from lsc_snn.measure import Mean, RadiusReport
from lsc_snn.theory import Target

_SILENT = 1e-4
"""A rate below this share of the lowest wanted counts as this share of it."""
Distance = tuple[float, float]
"""How many transitions are dead, and the sum in log of how far the others and the rates are from where they should be.
Of two, the one with fewer dead transitions is the smaller."""
FARTHEST: Distance = (math.inf, math.inf)
_ABOVE_FLOOR = 1.05
"""A radius that cannot fall to its target goes this near to its floor, or stays where it is if it is nearer or below:
recurrent weights would just vanish, or grow without end."""


class Effort(NamedTuple):
    """How closely a report is measured: time steps of each sample, and products for each radius."""

    num_times: int
    num_matvecs: int


FULL = Effort(8, 64)
"""That of ``measure``."""


class Dial(NamedTuple):
    """One transition, the radius that it should have, and the knob that moves it (None: nothing does)."""

    kind: str
    """encoder, depth, time or decoder."""
    layer: int
    """Index of its layer; L for the decoder."""
    name: str
    radius: float
    target: float
    knob: Knob | None
    doubt: float = 0.0
    """Two relative standard errors of a radius that few points carry; 0 of any other."""

    @property
    def rough(self) -> bool:
        """Whether few points carry the radius."""
        return self.doubt > 0

    @property
    def error(self) -> float:
        """|radius - target|."""
        return abs(self.radius - self.target)

    @property
    def distance(self) -> float:
        """How far, in log, the radius may be from its target; infinite where it is dead or has overflowed."""
        if not 0 < self.radius < math.inf:
            return math.inf
        return abs(math.log(self.radius / self.target)) + self.doubt

    @property
    def attainable(self) -> float:
        """The target, or where a floor lies above it, 1.05 floors, or the radius itself if that is lower."""
        floor = 0.0 if self.knob is None else _ABOVE_FLOOR * self.knob.floor
        return max(self.target, min(self.radius, floor))


class Sighting(NamedTuple):
    """A report on the way of a procedure, and how far from the goal it is."""

    report: RadiusReport
    distance: Distance
    badness: float
    """At most 1 where a procedure has come to its end: all that it can help is where it should be."""


@dataclass(frozen=True)
class Goal:
    """Targets, tolerance and rate band of one call of stabilize, with the knobs of the model's layers.

    The encoder counts as a depth transition: of the L depth edges on a path from the input to layer L it is the first.
    The decoder's target is 1.
    """

    target: Target
    tolerance: float
    rate_band: tuple[float, float]
    knobs: tuple[Knobs, ...]
    decoder: Knob | None

    def dials(self, report: RadiusReport) -> list[Dial]:
        """Return every transition of a report with its target and knob."""
        dials = []
        times = report.means("time")
        for index, mean in enumerate(report.means("encoder", "depth")):
            name, knobs, kind = report.names[index], self.knobs[index], "depth" if index else "encoder"
            dials.append(Dial(kind, index, name, mean.radius, self.target.depth, knobs.depth, _doubt(mean)))
            if times:
                time = times[index]
                dials.append(Dial("time", index, name, time.radius, self.target.time, knobs.time, _doubt(time)))
        for mean in report.means("decoder"):
            dials.append(Dial("decoder", len(report.names), "output", mean.radius, 1.0, self.decoder))
        return dials

    def movable_dials(self, report: RadiusReport) -> list[Dial]:
        """Return those of the dials that a knob moves, no target below what it can give."""
        return [dial._replace(target=dial.attainable) for dial in self.dials(report) if movable(dial.knob)]

    def rate_excess(self, rate: float) -> float:
        """Return by what factor, in log, a rate lies outside the band: negative below, positive above, 0 inside.

        It is 0 for NaN, the rate of a layer without spikes, and finite for a silent one, or nothing else would count.
        """
        low, high = self.rate_band
        if low <= rate <= high or math.isnan(rate):
            return 0.0
        return math.log(rate / high) if rate > high else math.log(max(rate / low, _SILENT))

    def badness(self, report: RadiusReport, dials: Iterable[Dial], left: Collection[int] = ()) -> float:
        """Return the worst violation in units of what is allowed: of given dials, and of rates that a threshold moves.

        It is at most 1 where what these dials stand for is reached. One that nothing moves should not be among them: it
        would hide what happens to the others. Nor do the rates of layers that are ``left`` as they are count.
        """
        radii = max((dial.error / self.tolerance for dial in dials), default=0.0)
        rates = [value for layer, value in enumerate(self._movable_excess(report)) if layer not in left]
        worst = max((1 + value for value in rates if value), default=0.0)
        return math.inf if math.isnan(radii) else max(radii, worst)

    def distance(self, report: RadiusReport, dials: Iterable[Dial]) -> Distance:
        """Return the distance from the goal, of given dials and of rates that a threshold moves.

        What cannot be helped does not hide the others, as it would in ``badness``. It is ``FARTHEST`` where a radius
        overflows.
        """
        dials = list(dials)
        if not all(dial.radius < math.inf for dial in dials):
            return FARTHEST
        errors = [dial.distance for dial in dials if dial.radius]
        return len(dials) - len(errors), sum(errors) + sum(self._movable_excess(report))

    def _movable_excess(self, report: RadiusReport) -> list[float]:
        """Return how far, in log, the rate of each layer lies outside the band, if a threshold could bring it back."""
        rates = zip(report.rates.tolist(), self.knobs, strict=True)
        return [abs(self.rate_excess(rate)) if movable(knobs.threshold) else 0.0 for rate, knobs in rates]

    def sighting(self, report: RadiusReport) -> Sighting:
        """Return a report with its distance and badness in every dial."""
        dials = [dial._replace(doubt=0.0) for dial in self.dials(report)]  # it may be of a single step, of few points
        return Sighting(report, self.distance(report, dials), self.badness(report, dials))

    def reasons(self, report: RadiusReport) -> tuple[str, ...]:
        """Return a line for each transition and rate that is not where it should be, and why."""
        lines = []
        for dial in self.dials(report):
            reached = dial.error <= self.tolerance
            if dial.rough or not reached:
                why = "" if reached else _why(dial)
                if dial.rough:
                    few = "a mean that few points carry: at most of them no potential lies in the surrogate's window"
                    why = f"{why}; {few}" if why else few
                lines.append(f"{dial.name}: {dial.kind} radius {dial.radius:.3g}, target {dial.target:.3g}: {why}")
        low, high = self.rate_band
        for name, rate, knobs in zip(report.names, report.rates.tolist(), self.knobs, strict=True):
            if self.rate_excess(rate):
                why = "not reached" if movable(knobs.threshold) else "no threshold that may be moved"
                lines.append(f"{name}: firing rate {rate:.3g} outside {low:g} to {high:g} per step: {why}")
        return tuple(lines)


def _doubt(mean: Mean) -> float:
    return 2 * mean.error if mean.rough else 0.0


def _why(dial: Dial) -> str:
    if dial.knob is None and dial.kind == "decoder":
        return "nothing that may be moved acts between the last layer and the output"
    if dial.knob is None:
        return "no parameter of the layer moves it"
    if not movable(dial.knob):
        return "all parameters that move it are frozen"
    if dial.target < min(dial.knob.floor, dial.radius):
        return f"not reached: a leak that no parameter moves alone gives about {dial.knob.floor:.3g}"
    return "not reached"


def knobs_of(grid: Grid) -> tuple[tuple[Knobs, ...], Knob | None]:
    """Return the knobs of the layers of a grid, and that of the decoder.

    Raises ValueError where two layers share a parameter: turning one would turn the other.
    """
    named = [(layer.name, knob) for layer in grid.layers for knob in layer.knobs]
    decoder = None
    if grid.decoder is not None:
        decoder = grid.decoder.knob
        named.append((grid.decoder.name, decoder))
    owner: dict[int, str] = {}
    for name, knob in named:
        for parameter in () if knob is None else knob.parameters:
            other = owner.setdefault(id(parameter), name)
            if other != name:
                raise ValueError(
                    f"model: expected parameters of its own in every layer, got one shared by {other!r} and {name!r}; "
                    "untie them (or give one layer a copy) to stabilise"
                )
    return tuple(layer.knobs for layer in grid.layers), decoder
