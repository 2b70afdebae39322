"""What the procedures promise beside convergence: descent without knobs, knobs that cannot, floors, restarts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import lsc_snn as lsc
from cases import normal, seeded
from lsc_snn.adapters import Knobs, StepAdapter, multiplied
from lsc_snn.adapters.own import SpikingAdapter
from lsc_snn.knobs import Knob
from lsc_snn.procedures.fast import Fast, run
from lsc_snn.procedures.goal import FULL, Effort, Goal


class Cell(nn.Module):
    """A leak and a recurrent matrix; ``leak`` is a constant."""

    def __init__(self, size, leak=0.0):
        super().__init__()
        self.leak = leak
        self.weight = nn.Parameter(normal(size, size, seed=1) / size**0.5)
        self.recurrent = nn.Parameter(normal(size, size, seed=2) / size**0.5)

    def forward(self, x, state):
        state = self.leak * state + torch.tanh(x @ self.weight.T + state @ self.recurrent.T)
        return state, state


class CellAdapter(StepAdapter):
    def __init__(self, with_knobs=True):
        self.with_knobs = with_knobs

    def unpack(self, module, x, state):
        return x, (state,)

    def step(self, module, x, memory):
        output, state = module(x, memory[0])
        return output, (state,)

    def pack(self, module, output, memory):
        return output, memory[0]

    def knobs(self, module):
        if not self.with_knobs:
            return Knobs(depth=multiplied([]), time=None)
        return Knobs(depth=multiplied([module.weight]), time=multiplied([module.recurrent]))


class Net(nn.Module):
    def __init__(self, *cells):
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, x):
        states, outputs = [torch.zeros_like(x[0])] * len(self.cells), []
        for signal in x:
            for index, cell in enumerate(self.cells):
                signal, states[index] = cell(signal, states[index])
            outputs.append(signal)
        return torch.stack(outputs)


@pytest.mark.usefixtures("registry")
def test_descent_reaches_the_target_where_no_knob_is_known():
    lsc.register_adapter(Cell, CellAdapter(with_knobs=False))
    model, x = Net(Cell(12), Cell(12)), normal(15, 16, 12, seed=3)
    by_knobs = lsc.stabilize(model, x, target="half")
    assert not by_knobs.converged
    assert all("no parameter of the layer moves it" in reason for reason in by_knobs.reasons)
    result = lsc.stabilize(model, x, target="half", procedure="gradient", max_sweeps=200)
    assert result.converged
    exact = lsc.measure(model, x, method="exact")
    for radii in (exact.time, exact.depth, torch.tensor([exact.encoder])):
        assert float((radii - 0.5).abs().max()) < 0.06


@pytest.mark.usefixtures("registry")
def test_descent_leaves_gradients_frozen_parameters_and_the_random_state_alone():
    lsc.register_adapter(Cell, CellAdapter(with_knobs=False))
    model = Net(Cell(6))
    model.cells[0].recurrent.requires_grad_(False)
    model.cells[0].weight.grad = torch.ones(6, 6, dtype=torch.float64)
    frozen, state = model.cells[0].recurrent.clone(), torch.get_rng_state()
    lsc.stabilize(model, normal(9, 4, 6), target="half", procedure="gradient", max_sweeps=3)
    assert torch.equal(model.cells[0].recurrent, frozen)
    assert torch.equal(model.cells[0].weight.grad, torch.ones(6, 6, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("registry")
def test_what_cannot_be_reached_does_not_keep_the_rest_from_its_target():
    lsc.register_adapter(Cell, CellAdapter())
    model = Net(Cell(12, leak=0.9), Cell(12))
    result = lsc.stabilize(model, normal(15, 16, 12, seed=3), target="half")
    assert not result.converged
    assert result.sweeps < 50
    assert len(result.reasons) == 1
    assert result.reasons[0].startswith("cells.0: time radius")


class Dummy:
    """A knob that remembers its factors, and turns a parameter that is 1 at first."""

    def __init__(self, floor=0.0):
        self.factors = []
        self.value = nn.Parameter(torch.ones(1))
        self.knob = Knob((self.value,), self.turn, floor)

    @torch.no_grad()
    def turn(self, factor):
        self.factors.append(factor)
        self.value.mul_(factor)


def report(time, depth, rate):
    return lsc.RadiusReport(("a",), torch.tensor([time]), torch.tensor([]), depth, math.nan, torch.tensor([rate]))


def fast(depth, time, threshold=None):
    knobs = Knobs(depth.knob, time.knob, threshold)
    return Fast(Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), (knobs,), None))


def failing(procedure, rate, sweeps=6):
    """Sweep on radii, right in time, of which none in depth is nearer to the target 1/2 than the first."""
    for index in range(sweeps):
        assert procedure.sweep(report(0.5, 1.0 + 0.9 * (index % 2), rate))


def test_a_spiking_layer_that_keeps_failing_starts_again_at_a_small_scale_and_another_does_not():
    for rate, restarts in ((0.1, True), (math.nan, False)):
        depth, time = Dummy(), Dummy()
        failing(fast(depth, time), rate)
        assert (1 / 8 in depth.factors) is restarts
        if restarts:
            assert (depth.value.item(), time.value.item()) == (1 / 8, 1.0)  # of where it was nearest; time is right


def above_a_layer_that_is_right(depth, threshold):
    """Return a procedure, and how to sweep on the radius and the rate of a second layer with these knobs."""
    still, time = Dummy(), Dummy()
    knobs = (Knobs(still.knob, time.knob), Knobs(depth, time.knob, threshold.knob))
    procedure = Fast(Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), knobs, None))

    def sweep(radius, rate):
        half, rates = torch.tensor([0.5, 0.5]), torch.tensor([0.1, rate])
        return procedure.sweep(lsc.RadiusReport(("a", "b"), half, torch.tensor([radius]), 0.5, math.nan, rates))

    return sweep


def test_a_threshold_goes_with_the_weights_before_it_as_long_as_the_radius_follows():
    depth, threshold = Dummy(), Dummy()
    sweep = above_a_layer_that_is_right(depth.knob, threshold)
    sweep(0.25, 0.1)
    sweep(0.40, 0.1)
    assert threshold.value.item() == pytest.approx(depth.value.item())
    together = threshold.value.item()
    sweep(0.40, 0.1)  # a short step: the reading may stay
    assert threshold.value.item() > together
    depth, threshold = Dummy(), Dummy()
    sweep = above_a_layer_that_is_right(depth.knob, threshold)
    sweep(0.25, 0.1)
    sweep(0.25, 0.1)
    assert depth.factors == pytest.approx([2.0, 2.0 ** (1 / 0.7)])
    assert threshold.factors == pytest.approx([2.0])


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


def test_the_threshold_of_the_first_layer_does_not_go_with_its_weights():
    depth, time, threshold = Dummy(), Dummy(), Dummy()
    fast(depth, time, threshold.knob).sweep(report(0.5, 0.25, 0.1))
    assert (depth.factors, threshold.factors) == (pytest.approx([2.0]), [])


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
    assert procedure.is_done(report(0.5, 2.0, 0.1))


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
    assert float(reports[-1][0].encoder) == pytest.approx(0.5, abs=0.05)


def test_distance_is_the_sum_in_log_and_what_cannot_be_helped_hides_nothing():
    goal = Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), (Knobs(*(Dummy().knob for _ in range(3))),), None)

    def distance(time, depth, rate):
        found = report(time, depth, rate)
        return goal.distance(found, goal.dials(found))

    assert distance(0.5, 0.5, 0.1) == pytest.approx(0.0, abs=1e-6)
    assert distance(1.0, 0.25, 0.1) == pytest.approx(2 * math.log(2), rel=1e-5)
    assert distance(0.5, 0.5, 1.0) == pytest.approx(math.log(2), rel=1e-5)
    dead = distance(0.5, 0.0, 0.1)
    assert dead == pytest.approx(math.log(1e4), rel=1e-5)
    assert dead < distance(0.7, 0.0, 0.1) < math.inf
    assert distance(math.inf, 0.5, 0.1) == distance(math.nan, 0.5, 0.1) == math.inf


def test_a_radius_is_not_pushed_below_its_floor():
    depth, time = Dummy(), Dummy(floor=0.9)
    procedure = fast(depth, time)
    assert procedure.is_done(report(0.945, 0.5, 0.1))
    procedure.sweep(report(1.2, 0.5, 0.1))
    assert time.factors == pytest.approx([0.945 / 1.2], rel=1e-5)


def test_a_radius_below_what_its_floor_allows_is_left_there_not_raised():
    depth, time = Dummy(), Dummy(floor=0.9)
    procedure = fast(depth, time)
    assert procedure.is_done(report(0.8, 0.5, 0.1))
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


def test_a_feed_forward_model_aims_at_one_by_name_and_at_what_is_asked_by_numbers():
    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)).double()
    x = normal(32, 16, seed=5)
    assert lsc.stabilize(net, x).target == lsc.Target.one()
    assert lsc.stabilize(net, x, target=(0.5, 0.5)).target == lsc.Target(0.5, 0.5)


def test_balanced_takes_the_steps_of_the_grid_whatever_the_order_of_the_axes():
    gru = nn.GRU(6, 6, batch_first=True)
    x = torch.rand(4, 20, 6, generator=seeded())
    assert lsc.stabilize(gru, x, target="balanced", max_sweeps=1).target == lsc.Target.balanced(20, 1)


@pytest.mark.parametrize(
    ("ends", "scale"), [(["good", "worse but reached"], 2), (["good", "bad"], 1), (["bad", "good"], 2)]
)
def test_an_end_within_reach_is_kept_and_any_other_gives_way_to_the_nearest_seen(monkeypatch, ends, scale):
    layer, x = lsc.LIF(6, 6, generator=seeded()), torch.ones(9, 2, 6)
    before = layer.weight.detach().clone()
    reports = {
        "good": report(0.5, 0.6, 0.1),
        "worse but reached": report(0.549, 0.549, 0.1),
        "bad": report(0.45, 0.0, 0.1),
    }

    def run(goal, measure, max_sweeps):
        for index, name in enumerate(ends):
            with torch.no_grad():
                layer.weight.copy_((1 + index) * before)
            yield reports[name], goal.dials(reports[name])

    monkeypatch.setattr("lsc_snn.procedures.fast.run", run)
    lsc.stabilize(layer, x)
    assert torch.equal(layer.weight, scale * before)


def test_a_silent_layer_that_nothing_wakes_does_not_undo_what_was_reached():
    generator = seeded()
    net = lsc.LIF(8, 8, threshold=1e3, surrogate=lsc.surrogate.FastSigmoid(sharpness=1e-4), generator=generator)
    net.threshold_raw.requires_grad_(False)
    result = lsc.stabilize(net, torch.rand(12, 4, 8, generator=generator), target="half", max_sweeps=20)
    assert float(result.after.rates) == 0
    assert not result.converged
    assert abs(float(result.after.encoder) - 0.5) < 0.05
    assert abs(float(result.after.time) - 0.5) < 0.05
