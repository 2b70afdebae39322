"""What the procedures promise beside convergence: descent without knobs, knobs that cannot, the nearest state kept."""

import pytest
import torch
from torch import nn

import lsc_snn as lsc
from cases import normal, seeded
from fast_cases import report
from lsc_snn.adapters import Knobs, StepAdapter, multiplied


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
            yield goal.sighting(reports[name])

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
