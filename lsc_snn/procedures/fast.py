"""The ``fast`` procedure: all knobs take a safeguarded secant step in log space, from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from lsc_snn._kept import restore, snapshot
from lsc_snn.knobs import Knob, Knobs, movable
from lsc_snn.measure import RadiusReport
from lsc_snn.procedures.coupling import Coupling
from lsc_snn.procedures.goal import FARTHEST, FULL, Dial, Effort, Goal
from lsc_snn.procedures.meter import Meter
from lsc_snn.procedures.secant import WAKE, RateDial, Secant

_PATIENCE, _RESTART = 4, 1 / 8
"""Sweeps in a row that bring a spiking layer on ready ground no nearer, before what is wrong in it, and in all above,
starts again at this share of the scale at which the layer was nearest."""
_CREEPING = 2 * _PATIENCE
"""As many for another layer near its targets: a gate that saturates follows its knob ever more slowly."""
_FAR = math.log(1.25)
"""Distance of a layer to its targets, in log, from which on they may lie at another scale: its radius rises with its
scale only until potentials leave the surrogate's window. A nearer one may be reached by chance."""
_LEAST_DAMPING = 1 / 4
"""Steps that a layer near its targets takes in the end, as a share of those that it took first."""
_ON_THE_WAY, _WHILE_STALLED = Effort(4, 32), Effort(8, 32)
"""How reports are measured that only lead on the way, and how while the layer that is next to be settled comes no
nearer: with a sharp surrogate few of the points lie in its window, and the mean radius of half of them may be 0.15 off.
With half of the products a radius comes out about 1 % low."""
_STALLED = 2
"""Sweeps in a row without progress from which on more points are measured."""
_ALIKE = 0.2
"""Relative difference up to which the radii of two layers are alike, as those of one kind and size."""
_HOLD = 0.8
"""Share of the tolerance within which a layer is left alone: what comes above may then count on it."""
_ARRIVING = ("encoder", "depth")
"""The kinds of transition whose knob is in front of the potentials."""
_HOPELESS = 4
"""Patiences in a row that bring all radii and rates together no nearer and settle no more layers, after which no more
is tried: a layer that oscillates needs three to be left where it was nearest."""


class Attempt:
    """What a layer has tried: how near it came to its goal, with which parameters, and the sweeps since then."""

    def __init__(self) -> None:
        self.error, self.failures = math.inf, 0
        self.damping = 1.0
        """Share of its steps that a layer takes."""
        self.restarted = False
        self.wrong: set[str] = set()
        """The kinds of its transitions that were not right where it came nearest."""
        self._first_error = math.inf
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        self._first: list[tuple[nn.Parameter, Tensor]] = []

    def note(self, error: float, wrong: set[str], knobs: Knobs) -> None:
        """Take note of how far the layer is from its goal, in log, and in which transitions, as its knobs are."""
        self.failures += 1
        if error < self.error or not self._kept:
            self._kept = snapshot(parameter for knob in knobs if knob for parameter in knob.parameters)
            self.error, self.wrong, self.failures = error, wrong, 0

    def back(self) -> None:
        """Return to the parameters that came nearest, and start counting anew."""
        restore(self._kept)
        self.failures = 0

    def start_again(self) -> None:
        """Return to the parameters that came nearest, and forget how near that was until the layer is given up."""
        self.back()
        if self.error < self._first_error:
            self._first_error, self._first = self.error, self._kept
        self.error, self._kept, self.damping = math.inf, [], 1.0

    def give_up(self) -> None:
        """Return to the parameters that came nearest, before or after the second start; there is no third."""
        restore(self._first if self._first_error < self.error else self._kept)
        self.failures, self.restarted = 0, True


class Fast:
    """One run of the procedure: ``sweep`` takes a report of the model as it is and turns its knobs."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._secants: dict[tuple[str, int], Secant] = {}
        self._couplings = [Coupling() for _ in goal.knobs]
        self._rates = [RateDial(goal.rate_band) for _ in goal.knobs]
        self._attempts = [Attempt() for _ in goal.knobs]
        self._given_up: set[int] = set()
        self._along: set[int] = set()
        """Layers whose threshold went with the weights before it when these were last turned."""
        self._apart: set[int] = set()
        """Layers whose radius does not follow if weights and threshold go together."""
        self._first: list[Dial] = []
        """The dials of the first report."""
        self._turned: dict[tuple[str, int], float] = {}
        """The log of the factor by which the last sweep turned each knob."""
        self.held = 0
        """Layers, from the input up, that the last sweep left alone."""
        self.stalled = False
        """Whether the layer that is next to be settled has come no nearer for some sweeps."""

    @property
    def settled(self) -> int:
        """Layers among the held ones that are where they should be."""
        return self.held - sum(layer < self.held for layer in self._given_up)

    def sweep(self, report: RadiusReport) -> bool:
        """Turn the knobs once; return whether anything moved."""
        moved = self._sweep(report)
        still = set(range(len(self._couplings))) - {index for _, index in self._turned}
        for index in still:  # what its radii do until it is turned again, others have done
            self._couplings[index].forget()
        return moved

    def _sweep(self, report: RadiusReport) -> bool:
        """Go through the layers.

        From the input up, a layer that is where it should be is held, as long as all below it are: radii of a layer
        depend on what is below, so that a held one stays, and the layers above settle one after the other.
        """
        moved, held, self.stalled = False, True, False
        dials, self.held = self._free(report), len(report.names)
        self._first = self._first or self._goal.dials(report)
        self._turned.clear()
        for index, rate in enumerate(report.rates.tolist()):
            mine = [dial for dial in dials if dial.layer == index and movable(dial.knob)]
            attempt = self._attempts[index]
            if held and self._is_right(index, rate, mine):
                attempt.failures = 0
            elif held and index not in self._given_up:
                held, self.held = False, index
                wrong = {dial.kind for dial in mine if self._is_wrong(dial)}
                attempt.note(self._error(index, rate, mine), wrong, self._goal.knobs[index])
                self.stalled = attempt.failures >= _STALLED
                if attempt.failures > _patience(rate) and (moved := self._try_otherwise(index, dials, rate)):
                    return moved
            if not held and index not in self._given_up:
                moved |= self._turn_layer(index, rate, mine)
            if rate == 0 and moved:
                # Nothing arrives above a silent layer: readings there mean nothing, if it may still wake.
                self._follow(index, report)
                return moved
        for dial in dials:
            if dial.kind == "decoder":
                moved |= self._turn(dial, math.nan)
        return moved

    def _is_right(self, index: int, rate: float, dials: list[Dial]) -> bool:
        if self._rate_error(index, rate):
            return False
        return all(dial.error <= _HOLD * self._goal.tolerance for dial in dials)

    def _is_wrong(self, dial: Dial) -> bool:
        return not dial.error <= self._goal.tolerance  # a radius that is NaN is wrong, too

    def _error(self, index: int, rate: float, dials: list[Dial]) -> float:
        """Return how far a layer is from its goal, in log."""
        errors = [
            abs(math.log(dial.radius / dial.target)) if 0 < dial.radius < math.inf else math.inf for dial in dials
        ]
        return max([*errors, self._rate_error(index, rate)])

    def _rate_error(self, index: int, rate: float) -> float:
        """Return how far a rate is outside its band, in log, if a threshold may still mend that."""
        mended = movable(self._goal.knobs[index].threshold) and self._rates[index].wants(rate)
        return abs(self._goal.rate_excess(rate)) if mended else 0.0

    def _try_otherwise(self, lowest: int, dials: list[Dial], rate: float) -> bool:
        """Do something else with a layer that comes no nearer; return whether anything moved.

        One that is near oscillates: it goes back, and on in shorter steps, and is left there if that does not help.
        What is wrong in another, and in all above it, goes to a small scale, from which radii rise again: there all
        potentials lie in the surrogate's window, and a radius follows its knob. At a large scale few do, and the mean
        radius jumps with every change of a spike. What fails even then is left where it was nearest, and what stands
        above gets no second start of its own. A layer without spikes has no such window: where it is far, it goes on.
        """
        attempt = self._attempts[lowest]
        near = attempt.error <= _FAR
        if math.isnan(rate) and not near:
            return False
        damped, given_up = near and attempt.damping > _LEAST_DAMPING, near or attempt.restarted
        layers = [lowest]
        if not near:
            layers = [layer for layer in range(lowest, len(self._attempts)) if layer not in self._given_up]
        for layer in layers:
            if damped:
                self._attempts[layer].back()
            elif given_up:
                self._attempts[layer].give_up()
            else:
                self._attempts[layer].start_again()
            self._forget(layer)
        if damped:
            attempt.damping /= 2
            self._rates[lowest].accept()  # or the way back would lead on the same way again
            return True
        if given_up:
            self._given_up.add(lowest)
            return True
        attempt.restarted = True
        mine = [dial for dial in dials if dial.layer == lowest]
        # The layer is back where it was nearest, which these radii are not of; those of layers above are all there is.
        wrong = [dial for dial in mine if dial.kind in attempt.wrong] or mine
        wrong += [dial for dial in dials if dial.layer > lowest and dial.layer in layers and self._is_wrong(dial)]
        turned = [dial for dial in wrong if dial.kind != "decoder" and movable(dial.knob)]
        for dial in turned:
            if dial.knob is not None:
                dial.knob.turn(_RESTART)
                self._take_along(dial, math.log(_RESTART))
        return bool(turned)

    def is_done(self, report: RadiusReport) -> bool:
        """Say whether a report is at the goal, in all that a knob still moves."""
        return self._goal.badness(report, [dial for dial in self._free(report) if movable(dial.knob)]) <= 1

    def _free(self, report: RadiusReport) -> list[Dial]:
        """Return the dials of no given up layer whose knobs are not stuck, no target below what these knobs leave."""
        stuck = {key for key, secant in self._secants.items() if secant.stuck}
        dials = [dial for dial in self._goal.dials(report) if dial.layer not in self._given_up]
        dials = [dial for dial in dials if (dial.kind, dial.layer) not in stuck]
        return [dial._replace(target=dial.attainable) for dial in dials]

    def _turn_layer(self, index: int, rate: float, dials: list[Dial]) -> bool:
        """Turn the knobs of a layer: those of its two radii together, unless the threshold has turned for the rate."""
        coupling, known = self._couplings[index], None
        near = bool(dials) and self._error(index, math.nan, dials) <= _FAR
        for_rate = self._turn_threshold(index, rate, near)
        both = len(dials) == 2 and all(0 < dial.radius < math.inf for dial in dials)
        if both:
            depth, time = dials
            known = coupling.steps(
                (math.log(depth.radius), math.log(time.radius)), (math.log(depth.target), math.log(time.target))
            )
        moved = for_rate
        for place, dial in enumerate(dials):
            moved |= self._turn(dial, rate, None if known is None or for_rate else known[place])
        if both and not for_rate:
            coupling.note((self._turned.get((depth.kind, index), 0.0), self._turned.get((time.kind, index), 0.0)))
        else:
            coupling.forget()
        return moved

    def _turn(self, dial: Dial, rate: float, known: float | None = None) -> bool:
        if dial.knob is None or not movable(dial.knob):
            return False
        key = (dial.kind, dial.layer)
        secant = self._secants.setdefault(key, Secant())
        if 0 < dial.radius < math.inf:
            damping = 1.0 if dial.kind == "decoder" else self._attempts[dial.layer].damping
            step = secant.step(math.log(dial.radius), math.log(dial.target), damping, known)
            if not secant.followed:
                self._set_apart(dial)
        elif rate == 0 and dial.radius == 0:
            secant.forget()
            return False  # the threshold is what moves
        else:
            # Dead though it spikes (all potentials lie outside the surrogate's window) or overflowing: a smaller scale.
            secant.forget()
            step = math.log(WAKE)
            self._set_apart(dial)
        self._put(dial.knob, key, step)
        if dial.kind in _ARRIVING:
            self._along.discard(dial.layer)
            if self._rates[dial.layer].fires(rate):
                self._take_along(dial, step)
        return True

    def _set_apart(self, dial: Dial) -> None:
        """From now on turn no threshold along, if that was the last move and the radius of this dial did not follow."""
        if dial.kind in _ARRIVING:
            self._apart |= self._along & {dial.layer}

    def _take_along(self, dial: Dial, step: float) -> None:
        """Turn the threshold of a layer as its input weights were turned.

        Potentials then keep their place between rest and threshold, and the layer its rate: weights alone would fill or
        empty the surrogate's window while they change the radius, and the threshold would follow for many sweeps. Not
        where that window is as wide as the threshold is high (sinabs): the radius would stay. And not up in the first
        layer, whose input may come in bursts of counts: the larger both, the fewer potentials lie in the window.
        """
        if dial.kind not in _ARRIVING or dial.knob is None or dial.knob.bounded or dial.layer in self._apart:
            return
        if dial.kind == "encoder" and step > 0:
            return
        threshold, name = self._goal.knobs[dial.layer].threshold, ("threshold", dial.layer)
        if threshold is not None and movable(threshold) and math.exp(step) >= dial.knob.carries:
            if name not in self._turned:  # else the radius also follows a turn for the rate
                self._along.add(dial.layer)
            self._put(threshold, name, step)

    def _turn_threshold(self, index: int, rate: float, near: bool) -> bool:
        knob = self._goal.knobs[index].threshold
        dial, ready = self._rates[index], index == self.held
        step = dial.step(rate, ready=ready, near=near) if knob is not None and movable(knob) else 0.0
        if knob is not None and step:
            self._put(knob, ("threshold", index), step)
        return step != 0

    def _put(self, knob: Knob, name: tuple[str, int], step: float) -> None:
        knob.turn(math.exp(step))
        self._turned[name] = self._turned.get(name, 0.0) + step

    def _follow(self, silent: int, report: RadiusReport) -> None:
        """Turn the knobs of silent layers above a silent one as those of that one, if their radii were alike at first.

        They would need the same turns, one layer after the other.
        """
        for index in range(silent + 1, len(self._attempts)):
            if index not in self._given_up and report.rates[index] == 0 and self._alike(silent, index):
                self._forget(index)
                for kind, knob in zip(Knobs._fields, self._goal.knobs[index], strict=True):
                    step = self._turned.get((kind, silent), 0.0)
                    if knob is not None and movable(knob) and step:
                        knob.turn(math.exp(step))

    def _alike(self, one: int, other: int) -> bool:
        """Say whether two layers had about the same radii in the beginning."""
        first, second = ({dial.kind: dial.radius for dial in self._first if dial.layer == at} for at in (one, other))
        same = (abs(first[kind] - second[kind]) <= _ALIKE * first[kind] < math.inf for kind in first.keys() & second)
        return first.keys() == second.keys() and all(same)

    def _forget(self, layer: int) -> None:
        """Drop what a layer's knobs remember, after a move of which they do not know."""
        self._rates[layer].forget()
        self._couplings[layer].forget()
        self._secants = {key: secant for key, secant in self._secants.items() if key[1] != layer}


def _patience(rate: float) -> int:
    return _CREEPING if math.isnan(rate) else _PATIENCE


def run(goal: Goal, meter: Meter, max_sweeps: int) -> Iterator[tuple[RadiusReport, list[Dial]]]:
    """Sweep until the goal is reached, no knob moves, nothing has helped for long, or ``max_sweeps`` are spent.

    Yield a report, with the dials that count, before every sweep, and the last. Full are the first report, the last
    (unless nothing has helped), and any after one that found the goal not quite reached; others leave out what has not
    moved since the one before.
    """
    procedure = Fast(goal)
    full, report = True, None
    nearest, settled, since = FARTHEST, 0, 0
    for index in range(max_sweeps):
        effort = FULL if full else _WHILE_STALLED if procedure.stalled else _ON_THE_WAY
        report = meter.report(effort, report, procedure.held)
        if not full and procedure.is_done(report):
            full, report = True, meter.refined()
        dials = goal.movable_dials(report)
        yield report, dials
        distance = goal.distance(report, dials)
        since = 0 if distance < nearest or procedure.settled > settled else since + 1
        nearest, settled = min(nearest, distance), max(settled, procedure.settled)
        if procedure.is_done(report) or since >= _HOPELESS * max(map(_patience, report.rates.tolist())):
            return
        if not procedure.sweep(report):
            if full:
                return
            full = True  # of this report, nothing is left to move: of a full one, perhaps
        else:
            full &= index > 0
    report = meter.report()
    yield report, goal.movable_dials(report)
