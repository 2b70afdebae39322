"""One sweep of the ``fast`` procedure: all knobs take a safeguarded secant step in log space, from one report."""

from __future__ import annotations

import math

from lsc_snn.knobs import Knob, Knobs, movable
from lsc_snn.measure import RadiusReport
from lsc_snn.procedures.attempt import Attempt
from lsc_snn.procedures.companion import Companion
from lsc_snn.procedures.coupling import Coupling
from lsc_snn.procedures.goal import Dial, Goal
from lsc_snn.procedures.secant import MAX_STEP, WAKE, RateDial, Secant

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
_STALLED = 2
"""Sweeps in a row without progress from which on more points are measured."""
_ALIKE = 0.2
"""Relative difference up to which the radii of two layers are alike, as those of one kind and size."""
_HOLD = 0.8
"""Share of the tolerance within which a layer is left alone: what comes above may then count on it."""
_NEARER = 0.8
"""Share of an error below which a layer has come nearer since."""
_WAKING = 0.4
"""Share of the way to its target, in log, that the weights of a silent layer may go at once: far below the threshold a
radius rises with their square or somewhat faster."""
_ARRIVING = ("encoder", "depth")
"""The kinds of transition whose knob is in front of the potentials."""
_CATCHING_UP = 2.0
"""By how much at most a threshold catches up with weights that had gone alone, or the other way round, in multiples of
the distance of the radius to its target."""


class Fast:
    """One run of the procedure: ``sweep`` takes a report of the model as it is and turns its knobs."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._secants: dict[tuple[str, int], Secant] = {}
        self._couplings = [Coupling() for _ in goal.knobs]
        self._rates = [RateDial(goal.rate_band) for _ in goal.knobs]
        self._attempts = [Attempt() for _ in goal.knobs]
        self._given_up: set[int] = set()
        self._companions = [Companion(first=index == 0) for index in range(len(goal.knobs))]
        self._first: list[Dial] = []
        """The dials of the first report."""
        self._turned: dict[tuple[str, int], float] = {}
        """The log of the factor by which the last sweep turned each knob."""
        self.held = 0
        """Layers, from the input up, that the last sweep left alone."""
        self.doubt = False
        """Whether it is for a full report to say that a layer has gone astray: the fewer points, the fewer carry it."""
        self.stalled = False
        """Whether the layer that is next to be settled has come no nearer for some sweeps."""

    @property
    def settled(self) -> int:
        """Layers among the held ones that are where they should be."""
        return self.held - sum(layer < self.held for layer in self._given_up)

    def sweep(self, report: RadiusReport, full: bool = True) -> bool:
        """Turn the knobs once; return whether anything moved.

        Of a report that is not ``full`` it may turn nothing and be in ``doubt``: the full one is to be swept on.
        """
        self.doubt = False
        moved = self._sweep(report, full)
        if self.doubt:
            return False
        still = set(range(len(self._couplings))) - {index for _, index in self._turned}
        for index in still:  # what its radii do until it is turned again, others have done
            self._couplings[index].forget()
            self._companions[index].forget()
        return moved

    def _sweep(self, report: RadiusReport, full: bool) -> bool:
        """Go through the layers.

        From the input up, a layer that is where it should be is held, as long as all below it are: radii of a layer
        depend on what is below, so that a held one stays, and the layers above settle one after the other.
        """
        moved, held, self.stalled = False, True, False
        dials, self.held = self.free(report), len(report.names)
        self._first = self._first or self._goal.dials(report)
        self._turned.clear()
        for index, rate in enumerate(report.rates.tolist()):
            mine = [dial for dial in dials if dial.layer == index]
            attempt = self._attempts[index]
            if held and self._is_right(index, rate, mine):
                attempt.failures = 0
            elif held and index not in self._given_up:
                held, self.held = False, index
                wrong = {dial.kind for dial in mine if self._is_wrong(dial)}
                if attempt.smooth and self._is_astray(index, rate, mine):
                    self.doubt = not full
                    return full and self._turn_back(index)
                smooth = self._is_smooth(index, rate, mine)
                attempt.note(self._error(index, rate, mine), wrong, smooth, self._goal.knobs[index])
                self.stalled = attempt.failures >= _STALLED
                if attempt.failures > patience(rate) and (moved := self._try_otherwise(index, dials, rate)):
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
        if self._rate_error(index, rate) or any(dial.rough for dial in dials):
            return False
        return all(dial.error <= _HOLD * self._goal.tolerance for dial in dials)

    def _is_wrong(self, dial: Dial) -> bool:
        return dial.rough or not dial.error <= self._goal.tolerance  # a radius that is NaN is wrong, too

    def _error(self, index: int, rate: float, dials: list[Dial]) -> float:
        """Return how far a layer is from its goal, in log."""
        return max([*(dial.distance for dial in dials), self._rate_error(index, rate)])

    def _rate_error(self, index: int, rate: float) -> float:
        """Return how far a rate is outside its band, in log, if a threshold may still mend that."""
        mended = movable(self._goal.knobs[index].threshold) and self._rates[index].wants(rate)
        return abs(self._goal.rate_excess(rate)) if mended else 0.0

    def _is_astray(self, index: int, rate: float, dials: list[Dial]) -> bool:
        """Say whether a layer spikes while few points carry its radii: most potentials lie outside the window."""
        return self._rates[index].fires(rate) and any(dial.rough for dial in dials)

    def _is_smooth(self, index: int, rate: float, dials: list[Dial]) -> bool:
        """Say whether a layer spikes and many points carry its radii."""
        return self._rates[index].fires(rate) and all(0 < dial.radius < math.inf and not dial.rough for dial in dials)

    def _turn_back(self, index: int) -> bool:
        """Go back to where a layer was nearest while it was smooth; return True.

        If its weights last went alone it goes on from there with its threshold along, unless it has come no nearer
        since it last did. Else it is left there: a larger scale makes its radius but rougher, and shorter steps or a
        second start would lead to the same scale.
        """
        self._forget(index)
        attempt = self._attempts[index]
        if attempt.error < _NEARER * attempt.strayed and self._companions[index].go_along():
            attempt.strayed = attempt.error
            attempt.back()
        else:
            attempt.give_up()
            self._given_up.add(index)
        return True

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
        turned = [dial for dial in wrong if dial.kind != "decoder"]
        for dial in turned:
            if dial.knob is not None:
                dial.knob.turn(_RESTART)
                if dial.kind in _ARRIVING:
                    self._accompany(dial, math.inf, math.log(_RESTART))
                    self._companions[dial.layer].forget()  # what it noted is not of where the layer is
        return bool(turned)

    def badness(self, report: RadiusReport) -> float:
        """Return the worst violation in all that a knob still moves, as ``Goal.badness``; above 1 if any is rough."""
        dials = self.free(report)
        wanted = [dial.wants(rate) for dial, rate in zip(self._rates, report.rates.tolist(), strict=True)]
        left = self._given_up | {layer for layer, wants in enumerate(wanted) if not wants}
        return max(self._goal.badness(report, dials, left), *(1 + dial.doubt for dial in dials if dial.rough), 0.0)

    def free(self, report: RadiusReport) -> list[Dial]:
        """Return the dials that a knob still moves: those of no given up layer whose knobs are not stuck.

        No target is below what these knobs leave.
        """
        stuck = {key for key, secant in self._secants.items() if secant.stuck}
        dials = [dial for dial in self._goal.movable_dials(report) if dial.layer not in self._given_up]
        return [dial for dial in dials if (dial.kind, dial.layer) not in stuck]

    def _turn_layer(self, index: int, rate: float, dials: list[Dial]) -> bool:
        """Turn the knobs of a layer: those of its two radii together, unless the threshold has turned for the rate."""
        coupling, known = self._couplings[index], None
        near = bool(dials) and self._error(index, math.nan, dials) <= _FAR
        for_rate = self._turn_threshold(index, rate, near)
        both = len(dials) == 2 and all(0 < dial.radius < math.inf and not dial.rough for dial in dials)
        if both:
            depth, time = dials
            known = coupling.steps(
                (math.log(depth.radius), math.log(time.radius)), (math.log(depth.target), math.log(time.target))
            )
        moved = for_rate
        for place, dial in enumerate(dials):
            moved |= self._turn(dial, rate, None if known is None or for_rate else known[place])
        weights, decays = (self._turned.get((kind, index), 0.0) for kind in ("depth" if index else "encoder", "time"))
        if both and self._turned.get(("threshold", index), 0.0) in (0.0, weights):
            coupling.note((weights, decays))
        else:
            coupling.forget()
        if abs(decays) > abs(weights):
            self._companions[index].forget()  # those may have held the radius where it is
        return moved

    def _turn(self, dial: Dial, rate: float, known: float | None = None) -> bool:
        if dial.knob is None:
            return False
        key = (dial.kind, dial.layer)
        secant = self._secants.setdefault(key, Secant())
        astray = dial.rough and self._is_astray(dial.layer, rate, [dial]) and dial.radius < dial.target
        if 0 < dial.radius < math.inf and not astray:
            damping = 1.0 if dial.kind == "decoder" else self._attempts[dial.layer].damping
            reading, goal = math.log(dial.radius), math.log(dial.target)
            step = secant.step(reading, goal, damping, known, self._longest(dial, rate))
            if dial.kind in _ARRIVING:
                self._make_up(dial, rate)
        elif rate == 0 and dial.radius == 0:
            secant.forget()
            return False  # the threshold is what moves
        else:
            # Overflowing, or dead or nearly so though it spikes (most potentials lie outside the surrogate's window): a
            # smaller scale.
            secant.forget()
            step = math.log(WAKE)
        self._put(dial.knob, key, step)
        if dial.kind in _ARRIVING:
            self._accompany(dial, rate, step)
            if dial.rough or not 0 < dial.radius < math.inf:
                self._companions[dial.layer].forget()
        return True

    def _longest(self, dial: Dial, rate: float) -> float:
        """Return how far a knob may be turned at once: farther where weights alone have to wake a silent layer."""
        silent = rate == 0 and dial.kind in _ARRIVING and not movable(self._goal.knobs[dial.layer].threshold)
        return max(MAX_STEP, _WAKING * dial.distance) if silent else MAX_STEP

    def _make_up(self, dial: Dial, rate: float) -> None:
        """Turn the threshold to where it would be, had it gone the other way with the weights, if that was wrong.

        The nearer the radius is to its target, the less far.
        """
        threshold, name = self._goal.knobs[dial.layer].threshold, ("threshold", dial.layer)
        companion = self._companions[dial.layer]
        if dial.rough or not self._is_wrong(dial):
            companion.forget()
        elif threshold is not None:
            due = companion.judge(dial.radius, rate)
            due = math.copysign(min(abs(due), _CATCHING_UP * dial.distance), due)
            further = due - self._turned.get(name, 0.0)  # the rate may have turned it already
            if due * further > 0:
                self._put(threshold, name, further)

    def _accompany(self, dial: Dial, rate: float, step: float) -> None:
        """Turn the threshold as the weights in front were turned, if there is one to turn and it should be."""
        threshold, companion = self._goal.knobs[dial.layer].threshold, self._companions[dial.layer]
        if threshold is None or not movable(threshold) or not self._can_accompany(dial, rate, step):
            companion.forget()
            return
        along = companion.goes(step)
        if along:
            self._put(threshold, ("threshold", dial.layer), step)
        companion.note(step, along, dial.radius, rate, self._turned.get(("threshold", dial.layer), 0.0))

    def _can_accompany(self, dial: Dial, rate: float, step: float) -> bool:
        """Say whether potentials grow with the weights in front, reach the threshold, and do not yet take it along."""
        if dial.knob is None or dial.knob.bounded:
            return False
        return self._rates[dial.layer].fires(rate) and math.exp(step) >= dial.knob.carries

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
        self._companions[layer].forget()
        self._secants = {key: secant for key, secant in self._secants.items() if key[1] != layer}


def patience(rate: float) -> int:
    """Return after how many sweeps that bring a layer of this rate (NaN: without spikes) no nearer it is helped."""
    return _CREEPING if math.isnan(rate) else _PATIENCE
