"""What the fast procedure does with what it reads: restarts, floors, thresholds along, where it ends."""

import math
from dataclasses import replace

import pytest
import torch

import lsc_snn as lsc
from cases import seeded
from fast_cases import Dummy, above_a_layer_that_is_right, failing, fast, report
from lsc_snn.adapters.own import SpikingAdapter
from lsc_snn.knobs import Knobs
from lsc_snn.procedures.fast import run
from lsc_snn.procedures.goal import FARTHEST, FULL, Effort, Goal
from lsc_snn.procedures.sweep import Fast


def test_a_spiking_layer_that_keeps_failing_starts_again_at_a_small_scale_and_another_does_not():
    for rate, restarts in ((0.1, True), (math.nan, False)):
        depth, time = Dummy(), Dummy()
        failing(fast(depth, time), rate)
        assert (1 / 8 in depth.factors) is restarts
        if restarts:
            assert (depth.value.item(), time.value.item()) == (1 / 8, 1.0)  # of where it was nearest; time is right


def test_a_threshold_goes_with_the_weights_before_it_as_long_as_the_radius_follows():
    depth, threshold = Dummy(), Dummy()
    sweep = above_a_layer_that_is_right(depth.knob, threshold)
    sweep(0.25, 0.1)
    sweep(0.43, 0.1)
    assert threshold.value.item() == pytest.approx(depth.value.item())
    together = threshold.value.item()
    sweep(0.431, 0.1)  # a short step: the reading may nearly stay
    assert threshold.value.item() > together
    depth, threshold = Dummy(), Dummy()
    sweep = above_a_layer_that_is_right(depth.knob, threshold)
    sweep(0.25, 0.1)
    sweep(0.25, 0.1)
    assert depth.factors == pytest.approx([2.0, 2.0 ** (1 / 0.7)])
    assert threshold.value.item() == pytest.approx(1.0)  # where it would be, had the weights gone alone


def test_the_threshold_of_the_first_layer_catches_up_where_weights_alone_do_not_raise_the_radius():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    procedure.sweep(report(0.5, 0.25, 0.1))
    assert threshold.value.item() == 1.0
    procedure.sweep(report(0.5, 0.24, 0.2))
    assert threshold.value.item() == pytest.approx(depth.value.item())


def test_the_nearer_a_radius_is_the_less_its_threshold_catches_up():
    for radius, far in ((0.1, True), (0.44, False)):
        depth, time, threshold = Dummy(), Dummy(), Dummy()
        procedure = fast(depth, time, threshold.knob)
        procedure.sweep(report(0.5, radius / 1.01, 0.1))
        alone = math.log(depth.value.item())
        procedure._companions[0].note(1.0, False, radius, 0.1, 0.0)
        procedure.sweep(report(0.5, radius, 0.1))
        along = math.log(depth.value.item()) - alone
        caught_up = math.log(threshold.value.item()) - along
        assert caught_up == pytest.approx(1.0 + alone if far else 2 * math.log(0.5 / radius), rel=1e-4)


def test_a_knob_that_takes_the_threshold_along_by_itself_does_so_once():
    layers = [lsc.LIF(8, 8, generator=seeded(index)) for index in range(2)]

    def scales():
        return torch.stack([layers[1].weight.detach().norm(), layers[1].neuron_parameters().threshold.detach().mean()])

    before = scales()
    knobs = tuple(SpikingAdapter().knobs(layer) for layer in layers)
    procedure = Fast(Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), knobs, None))
    half, rates = torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.1])
    procedure.sweep(lsc.RadiusReport(("a", "b"), half, torch.tensor([1.45]), 0.5, math.nan, rates))
    torch.testing.assert_close(scales() / before, torch.full((2,), 0.5 / 1.45))


@pytest.mark.parametrize(("rate", "bounded"), [(0.005, False), (0.1, True)])
def test_a_threshold_stays_where_few_reach_it_and_in_front_of_a_bounded_potential(rate, bounded):
    depth, threshold = Dummy(), Dummy()
    sweep = above_a_layer_that_is_right(replace(depth.knob, bounded=bounded), threshold)
    sweep(0.25, rate)
    assert depth.factors == pytest.approx([2.0])
    assert threshold.factors == pytest.approx([] if bounded else [1 / 3])  # of a low rate, to mend that alone


def test_the_threshold_of_the_first_layer_goes_with_its_weights_down_alone():
    for radius, factors in ((0.25, []), (1.0, [0.5])):
        depth, time, threshold = Dummy(), Dummy(), Dummy()
        fast(depth, time, threshold.knob).sweep(report(0.5, radius, 0.1))
        assert depth.factors == pytest.approx([0.5 / radius])
        assert threshold.factors == pytest.approx(factors)


def test_a_radius_that_stays_while_the_threshold_also_turns_for_the_rate_changes_no_way():
    depth, threshold = Dummy(), Dummy()
    sweep = above_a_layer_that_is_right(depth.knob, threshold)
    sweep(0.25, 0.4)  # too often active: the threshold rises with the weights, and for the rate
    assert threshold.factors[0] > 1
    sweep(0.25, 0.1)
    assert threshold.factors[-1] == pytest.approx(depth.factors[-1])
    assert threshold.factors[-1] > 1


def test_a_radius_that_the_other_knob_held_in_place_changes_no_way():
    """The slopes foretell that depth stays while the time knob turns too: that is no sign that it does not follow."""
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    slopes = torch.tensor([[0.55, -0.75], [0.94, 1.0]])
    radii = torch.tensor([0.5, 1.6]).log()
    before = torch.zeros(2)
    for _ in range(5):
        procedure.sweep(report(*radii.exp().flip(0).tolist(), 0.1))
        turned = torch.cat([depth.value, time.value]).detach().log()
        radii, before = radii + slopes @ (turned - before), turned
    assert not procedure._companions[0]._alone


def test_a_layer_that_was_led_away_for_its_rate_is_not_led_the_same_way_again():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    procedure.sweep(report(0.5, 0.6, 0.3))
    turned = len(threshold.factors)
    assert turned
    for _ in range(5):  # no nearer: back to where it was
        procedure.sweep(report(0.5, 0.62, 0.2))
    before = len(threshold.factors)
    procedure.sweep(report(0.5, 0.44, 0.3))  # upwards the threshold does not go along
    assert len(threshold.factors) == before


def test_a_layer_near_its_targets_keeps_a_low_rate_within_the_band():
    for radius, moves in ((0.45, False), (0.1, True)):
        depth, time, threshold = Dummy(), Dummy(), Dummy()
        fast(depth, time, threshold.knob).sweep(report(0.5, radius, 0.015))
        assert bool(threshold.factors) is moves


def test_the_threshold_of_a_layer_that_was_given_up_stays():
    still, threshold, time = Dummy(), Dummy(), Dummy()
    knobs = (Knobs(still.knob, time.knob), Knobs(Dummy().knob, time.knob, threshold.knob))
    procedure = Fast(Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), knobs, None))
    procedure._given_up.add(1)
    half, rates = torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.7])
    procedure.sweep(lsc.RadiusReport(("a", "b"), half, torch.tensor([0.5]), 0.8, math.nan, rates))
    assert still.factors
    assert not threshold.factors


def test_a_restart_takes_the_threshold_of_a_spiking_layer_along():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    for index in range(6):  # a rate that rises: it is not because of the threshold that the radius does not follow
        procedure.sweep(report(0.5, 0.1 - 0.09 * (index % 2), 0.05 * 1.25**index))
    assert (depth.factors[-1], threshold.factors[-1]) == pytest.approx((1 / 8, 1 / 8))


def test_knobs_that_move_the_radii_of_each_other_are_turned_together():
    """A layer like Norse's LIF near 1: steps for each radius alone run in a circle."""
    slopes = torch.tensor([[0.55, -0.75], [0.94, 1.0]])
    for both in (True, False):
        depth, time = Dummy(), Dummy()
        procedure, radii = fast(depth, time), torch.tensor([0.2, 0.9])
        if not both:
            procedure._couplings[0].steps = lambda readings, goals: None
        first, sweeps = radii.log(), 0
        while procedure.badness(report(float(radii[1]), float(radii[0]), math.nan)) > 1 and sweeps < 30:
            procedure.sweep(report(float(radii[1]), float(radii[0]), math.nan))
            turned = torch.cat([depth.value, time.value]).detach().log()
            radii, sweeps = (first + slopes @ turned).exp(), sweeps + 1
        assert sweeps <= 6 if both else sweeps > 10


def test_a_layer_that_comes_nearer_is_not_started_again():
    depth, time = Dummy(), Dummy()
    procedure = fast(depth, time)
    for index in range(20):
        procedure.sweep(report(0.5, 5.0 * 0.9**index, 0.1))
    assert 1 / 8 not in depth.factors


@pytest.mark.parametrize(("nearest", "scale"), [(0.8, 1 / 8), (3.0, 1.0)])
def test_a_layer_that_stays_far_after_a_second_start_is_left_where_it_was_nearest(nearest, scale):
    """That is after the second start, if it came nearer there than 1.0, the best of the first."""
    depth, time = Dummy(), Dummy()
    procedure = fast(depth, time)
    failing(procedure, 0.1)
    assert depth.value.item() == 1 / 8
    for index in range(6):
        assert procedure.sweep(report(0.5, (nearest, 5.0, 4.0)[min(index, 1 + index % 2)], 0.1))
    assert depth.value.item() == pytest.approx(scale)
    assert not procedure.sweep(report(0.5, 2.0, 0.1))
    assert procedure.badness(report(0.5, 2.0, 0.1)) <= 1


def test_a_layer_that_oscillates_near_its_targets_takes_shorter_steps_and_is_left_where_it_was_nearest():
    depth, time = Dummy(), Dummy()
    procedure = fast(depth, time)
    steps, sweeps = [], 0
    while procedure.sweep(report(0.5, 0.56 if sweeps == 0 else (0.61, 0.4)[sweeps % 2], 0.1)):
        steps.append(abs(math.log(depth.factors[-1])))
        sweeps += 1
    assert 1 / 8 not in depth.factors + time.factors
    assert max(steps[-5:]) < 0.5 * max(steps[1:5])
    assert depth.value.item() == 1.0
    assert sweeps == 3 * 5 + 1


def test_what_stands_above_a_layer_that_was_given_up_gets_no_second_start():
    knobs = [Dummy() for _ in range(4)]
    layers = tuple(Knobs(depth.knob, time.knob) for depth, time in (knobs[:2], knobs[2:]))
    goal = Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), layers, None)
    procedure, sweeps = Fast(goal), 0

    def far(index):
        radius = 1.0 + 0.9 * (index % 2)
        return lsc.RadiusReport(
            ("a", "b"), torch.tensor([0.5, 0.5]), torch.tensor([radius]), radius, math.nan, torch.tensor([0.1, 0.1])
        )

    while procedure.sweep(far(sweeps)):
        sweeps += 1
    assert sweeps < 20
    assert [knob.factors.count(1 / 8) for knob in knobs] == [1, 0, 1, 0]  # time radii are right


@pytest.mark.parametrize(("second", "third", "follows"), [(0.02, 0.021, True), (0.02, 0.03, False)])
def test_layers_above_a_silent_one_follow_it_if_they_were_alike(second, third, follows):
    """Else each would wait for the one below to be awake, and then need the same turns."""
    knobs = [[Dummy() for _ in range(3)] for _ in range(3)]
    goal = Goal(
        lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), tuple(Knobs(*(dummy.knob for dummy in layer)) for layer in knobs), None
    )
    procedure = Fast(goal)

    def silent(first, rates):
        """Return a report of three layers."""
        depth, time = torch.tensor([second, third]), torch.full((3,), 0.8)
        return lsc.RadiusReport(("a", "b", "c"), time, depth, first, math.nan, torch.tensor(rates))

    assert procedure.sweep(silent(0.1, [0.0, 0.0, 0.0]))  # the first is not like the second
    assert not any(dummy.factors for layer in knobs[1:] for dummy in layer)
    assert procedure.sweep(silent(0.5, [0.1, 0.0, 0.0]))
    assert all(dummy.factors for dummy in knobs[1])
    assert [dummy.factors == other.factors for dummy, other in zip(knobs[1], knobs[2], strict=True)] == 3 * [follows]
    moves = [len(dummy.factors) for dummy in knobs[2]]
    assert procedure.sweep(silent(0.5, [0.1, 0.0, 0.1]))  # the third is awake, and waits until it can be read
    assert [len(dummy.factors) for dummy in knobs[2]] == moves


def test_a_threshold_that_was_put_back_is_not_taken_for_one_that_silenced_its_layer():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    procedure = fast(depth, time, threshold.knob)
    for index in range(6):  # too often active, and no nearer: the threshold rises until the layer starts again
        procedure.sweep(report(0.5, 1.0 + 0.9 * (index % 2), 0.9))
    assert 1 / 8 in depth.factors
    raised = threshold.value.item()
    procedure.sweep(report(0.5, 0.4, 0.0))  # silent at the small scale
    assert threshold.value.item() == pytest.approx(raised / 4)
    procedure.sweep(report(0.5, 0.4, 0.9))
    assert threshold.factors[-1] > 1


def test_a_run_ends_on_a_full_report():
    """Nothing moves a rate that is too low: on the way radii seem right, and a full report says that they are not."""
    depth, time, efforts = Dummy(), Dummy(), []
    goal = Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), (Knobs(depth.knob, time.knob),), None)

    class FakeMeter:
        def report(self, effort=FULL, earlier=None, held=0):
            efforts.append(effort)
            full = effort == FULL
            return report(0.5, (0.62 if full else 0.5) * depth.value.item() ** full, 0.001)

        def refined(self):
            return self.report()

    reports = list(run(goal, FakeMeter(), 20))
    assert efforts[0] == efforts[-1] == FULL
    assert Effort(4, 32) in efforts
    assert depth.value.item() == pytest.approx(0.5 / 0.62, rel=0.1)
    assert float(reports[-1].report.encoder) == pytest.approx(0.5, abs=0.05)


def test_a_run_that_nothing_has_helped_for_long_ends():
    depth, time = Dummy(), Dummy()
    goal = Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), (Knobs(depth.knob, time.knob),), None)

    class FakeMeter:
        count = -1

        def report(self, effort=FULL, earlier=None, held=0):
            self.count += 1
            return report(0.5, 3.0 + 0.3 * min(self.count, 1 + self.count % 2), math.nan)  # nearest at first

    assert len(list(run(goal, FakeMeter(), 50))) == 1 + 32


def test_distance_is_the_sum_in_log_and_what_cannot_be_helped_hides_nothing():
    goal = Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), (Knobs(*(Dummy().knob for _ in range(3))),), None)

    def distance(time, depth, rate):
        found = report(time, depth, rate)
        return goal.distance(found, goal.dials(found))

    assert distance(0.5, 0.5, 0.1) == pytest.approx((0, 0.0), abs=1e-6)
    assert distance(1.0, 0.25, 0.1) == pytest.approx((0, 2 * math.log(2)), rel=1e-5)
    assert distance(0.5, 0.5, 1.0) == pytest.approx((0, math.log(2)), rel=1e-5)
    assert distance(0.5, 1e-9, 0.1) < distance(0.7, 1e-9, 0.1) < distance(0.5, 0.0, 0.1) < distance(0.7, 0.0, 0.1)
    assert distance(1e-9, 1e-9, 1.0) < distance(0.5, 0.0, 0.1)  # no gain elsewhere outweighs a layer that has died
    assert distance(0.5, 1e-12, 0.1) > distance(0.5, 1e-11, 0.1)  # and every step on the way back counts
    assert distance(math.inf, 0.5, 0.1) == distance(math.nan, 0.5, 0.1) == FARTHEST


def test_a_radius_is_not_pushed_below_its_floor():
    depth, time = Dummy(), Dummy(floor=0.9)
    procedure = fast(depth, time)
    assert procedure.badness(report(0.945, 0.5, 0.1)) <= 1
    procedure.sweep(report(1.2, 0.5, 0.1))
    assert time.factors == pytest.approx([0.945 / 1.2], rel=1e-5)


def test_a_radius_below_what_its_floor_allows_is_left_there_not_raised():
    depth, time = Dummy(), Dummy(floor=0.9)
    procedure = fast(depth, time)
    assert procedure.badness(report(0.8, 0.5, 0.1)) <= 1
    assert not procedure.sweep(report(0.8, 0.5, 0.1))
    assert time.factors == []
    procedure.sweep(report(0.3, 0.5, 0.1))  # below the target too
    assert time.factors == pytest.approx([0.5 / 0.3], rel=1e-5)


def test_a_rate_that_no_knob_moves_holds_nothing_up():
    depth, time = Dummy(), Dummy()
    assert not fast(depth, time).sweep(report(0.5, 0.5, 0.6))
    threshold = Dummy()
    assert fast(depth, time, threshold.knob).sweep(report(0.5, 0.5, 0.6))
    assert threshold.factors[0] > 1


def test_weights_that_have_to_wake_a_silent_layer_alone_go_farther_at_once():
    for rate, threshold, factor in (
        (0.0, False, 100**0.4),
        (0.0, True, 3.0),
        (0.1, False, 3.0),
        (math.nan, False, 3.0),
    ):
        depth, time, other = Dummy(), Dummy(), Dummy()
        fast(depth, time, other.knob if threshold else None).sweep(report(0.5, 0.005, rate))
        assert depth.factors == pytest.approx([factor])
