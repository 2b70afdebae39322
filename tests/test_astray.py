"""A spiking layer whose radii few points carry: not believed, brought to a smaller scale, or back where it was."""

import math
from dataclasses import replace

import pytest
import torch

import lsc_snn as lsc
from fast_cases import Dummy, fast, report
from lsc_snn.knobs import Knobs
from lsc_snn.procedures.fast import run
from lsc_snn.procedures.goal import FULL, Goal
from lsc_snn.procedures.secant import WAKE


def rough(time, depth, rate, error=0.5):
    """Return a report whose depth radius few points carry; errors are those of spiking layers alone."""
    return replace(report(time, depth, rate), errors={} if math.isnan(rate) else {("encoder", "a"): error})


def test_a_layer_that_goes_astray_goes_back_to_where_it_was_nearest_and_stays_once_no_way_is_left():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    procedure.sweep(report(0.5, 0.2, 0.1))
    assert depth.value.item() > 1
    procedure.sweep(rough(0.5, 0.45, 0.1))  # nearer, if it were to be believed
    assert (depth.value.item(), threshold.value.item()) == (1.0, 1.0)
    procedure.sweep(report(0.5, 0.2, 0.1))  # now weights and threshold together
    assert threshold.value.item() == pytest.approx(depth.value.item()) != 1.0
    procedure.sweep(rough(0.5, 0.45, 0.1))
    assert (depth.value.item(), threshold.value.item()) == (1.0, 1.0)
    assert procedure.badness(report(0.5, 0.2, 0.1)) <= 1  # nothing is left to be done about it


@pytest.mark.parametrize(("between", "left"), [((0.2, 0.2), True), ((0.2, 0.3, 0.3), False)])
def test_a_layer_that_goes_astray_again_goes_on_only_if_it_has_come_nearer_since(between, left):
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    procedure.sweep(report(0.5, 0.2, 0.1))
    procedure.sweep(rough(0.5, 0.45, 0.1))
    for radius in between:  # the last time it has not followed, so that the weights go alone once more
        procedure.sweep(report(0.5, radius, 0.1))
    assert depth.factors[-1] != pytest.approx(threshold.factors[-1])
    procedure.sweep(rough(0.5, 0.45, 0.1))
    assert (procedure.badness(report(0.5, 0.2, 0.1)) <= 1) is left


def test_a_rough_radius_below_its_target_is_brought_to_a_smaller_scale_and_a_silent_one_is_not():
    for rate, factor in ((0.1, WAKE), (math.nan, 2.0)):
        depth, time = Dummy(), Dummy()
        fast(depth, time).sweep(rough(0.5, 0.25, rate))
        assert depth.factors == pytest.approx([factor])


def test_a_rough_radius_at_its_target_is_not_there_and_of_a_layer_without_spikes_it_is():
    for rate, there in ((0.1, False), (math.nan, True)):
        depth, time = Dummy(), Dummy()
        procedure = fast(depth, time)
        assert (procedure.badness(rough(0.5, 0.5, rate)) <= 1) is there
        procedure.sweep(rough(0.5, 0.5, rate))
        assert (procedure.held == 1) is there
        goal = Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), (Knobs(depth.knob, time.knob),), None)
        reasons = goal.reasons(rough(0.5, 0.5, rate))
        assert not reasons if there else "few points" in reasons[0]


def test_a_layer_that_wakes_up_rough_is_not_given_up():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    procedure.sweep(report(0.5, 0.0, 0.0))
    procedure.sweep(rough(0.5, 0.2, 0.1))
    assert procedure.badness(report(0.5, 0.2, 0.1)) > 1
    assert depth.factors == pytest.approx([WAKE])


def test_a_rough_radius_above_its_target_is_brought_down_no_farther():
    depth, time = Dummy(), Dummy()
    fast(depth, time).sweep(rough(0.5, 1.0, 0.1))
    assert depth.factors == pytest.approx([0.5])


def test_nothing_is_read_from_a_move_away_from_a_restart_an_overflow_or_a_rough_radius():
    """The radius rises where the scale has fallen, which is no sign that the threshold should have stayed."""
    for before in ([0.1, 0.01] * 3, [math.inf], [0.2]):
        depth, time, threshold = Dummy(), Dummy(), Dummy()
        procedure = fast(depth, time, threshold.knob)
        for index, radius in enumerate(before):
            make = rough if len(before) == 1 else report
            procedure.sweep(make(0.5, radius, 0.05 * 1.25**index))
        assert depth.factors[-1] < 1
        assert threshold.factors[-1] == pytest.approx(depth.factors[-1])
        turned = len(threshold.factors)
        procedure.sweep(report(0.5, 0.45, 0.1))
        assert threshold.factors[turned:] in ([], [pytest.approx(depth.factors[-1])])


def test_a_rough_state_is_not_gone_back_to():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    procedure.sweep(rough(0.5, 0.45, 0.1, 0.26))  # nearer than any that follows
    procedure.sweep(report(0.5, 0.1, 0.1))
    smooth = depth.factors[0]
    procedure.sweep(rough(0.5, 0.45, 0.1, 0.26))
    assert depth.value.item() == pytest.approx(smooth)


def test_a_layer_that_goes_astray_again_and_again_is_given_up():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    procedure.sweep(report(0.5, 0.2, 0.1))
    for _ in range(2):
        procedure.sweep(rough(0.5, 0.2, 0.1))
    assert procedure.badness(report(0.5, 0.2, 0.1)) <= 1


def test_a_layer_goes_astray_by_a_full_report_alone():
    """Of fewer points, fewer carry a radius: the same layer would seem to."""
    depth, time = Dummy(), Dummy()
    goal = Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), (Knobs(depth.knob, time.knob),), None)

    class FakeMeter:
        def report(self, effort=FULL, earlier=None, held=0):
            return rough(0.5, 0.1 * depth.value.item(), 0.1, 0.2 if effort == FULL else 0.28)

        def refined(self):
            return self.report()

    last = list(run(goal, FakeMeter(), 20))[-1]
    assert last.report.encoder == pytest.approx(0.5, abs=0.05)


def test_a_run_that_gives_a_layer_up_ends_with_all_others_where_they_should_be():
    """Seen nearest in all radii together was an earlier state: it is not gone back to."""
    first, second, time = Dummy(), Dummy(), Dummy()
    layers = (Knobs(first.knob, time.knob), Knobs(second.knob, time.knob))
    goal = Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), layers, None)

    class FakeMeter:
        def report(self, effort=FULL, earlier=None, held=0):
            scale, above = first.value.item(), second.value.item()
            radius = min(0.2 * scale, 0.25)
            depth = torch.tensor([0.6 * above])
            errors = {("encoder", "a"): 0.5 if scale > 1.5 else 0.0}
            rates = torch.tensor([0.6 if scale == 1 and above < 1 else 0.1, 0.1])  # nothing can be done about it
            half = torch.tensor([0.5, 0.5])
            return lsc.RadiusReport(("a", "b"), half, depth, radius, math.nan, rates, errors)

        def refined(self):
            return self.report()

    for max_sweeps in (50, 4):  # whether it comes to its end by itself, or is cut off there
        last = list(run(goal, FakeMeter(), max_sweeps))[-1]
        assert last.badness <= 1
        assert not last.report.means("encoder")[0].rough
        assert float(last.report.depth[0]) == pytest.approx(0.5, abs=0.05)
