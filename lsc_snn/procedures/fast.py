"""The ``fast`` procedure: sweeps on reports of one forward pass each, most of them rough, until the goal is reached."""

from __future__ import annotations

from collections.abc import Iterator

from lsc_snn.measure import RadiusReport
from lsc_snn.procedures.goal import FARTHEST, FULL, Effort, Goal, Sighting
from lsc_snn.procedures.meter import Meter
from lsc_snn.procedures.sweep import Fast, patience

_ON_THE_WAY, _WHILE_STALLED = Effort(4, 32), Effort(8, 32)
"""How reports are measured that only lead on the way, and how while the layer that is next to be settled comes no
nearer: with a sharp surrogate few of the points lie in its window, and the mean radius of half of them may be 0.15 off.
With half of the products a radius comes out about 1 % low."""
_HOPELESS = 4
"""Patiences in a row that bring all radii and rates together no nearer and settle no more layers, after which no more
is tried: a layer that oscillates needs three to be left where it was nearest."""


def run(goal: Goal, meter: Meter, max_sweeps: int) -> Iterator[Sighting]:
    """Sweep until the goal is reached, no knob moves, nothing has helped for long, or ``max_sweeps`` are spent.

    Yield what is seen before every sweep, and the last. Full are the first report, the last (unless nothing has
    helped), and any after one that found the goal not quite reached; others leave out what has not moved since the one
    before.
    """
    procedure = Fast(goal)

    def seen(report: RadiusReport) -> Sighting:
        return Sighting(report, goal.distance(report, goal.movable_dials(report)), procedure.badness(report))

    full, report = True, None
    nearest, settled, since = FARTHEST, 0, 0
    for index in range(max_sweeps):
        effort = FULL if full else _WHILE_STALLED if procedure.stalled else _ON_THE_WAY
        report = meter.report(effort, report, procedure.held)
        if not full and procedure.badness(report) <= 1:
            full, report = True, meter.refined()
        sighting = seen(report)
        yield sighting
        since = 0 if sighting.distance < nearest or procedure.settled > settled else since + 1
        nearest, settled = min(nearest, sighting.distance), max(settled, procedure.settled)
        if sighting.badness <= 1 or since >= _HOPELESS * max(map(patience, report.rates.tolist())):
            return
        moved = procedure.sweep(report, full)
        if procedure.doubt:
            report = meter.refined()
            moved = procedure.sweep(report)
        if not moved:
            if full:
                return
            full = True  # of this report, nothing is left to move: of a full one, perhaps
        else:
            full &= index > 0
    yield seen(meter.report())
