"""Neurons of which a user's forward takes the potential: readouts at the top, layers without spikes below others."""

import itertools
import math

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import nn

from cases import seeded
from lsc_snn import gradient_profile, measure, stabilize
from lsc_snn.trace import trace

SIZES = (12, 16, 8, 4)
STEPS, BATCH = 9, 3


class Tutorial(nn.Module):
    """Three neurons in a loop over time; ``take`` makes the output of spikes and potentials (T, ...) of all layers."""

    def __init__(self, take, neuron=snn.Leaky, last=None, **options):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(SIZES))
        options = {"beta": 0.9, "learn_beta": True} | options
        self.neurons = nn.ModuleList(neuron(**options) for _ in self.linears)
        if last is not None:
            self.neurons[-1] = last
        self.take = take

    def forward(self, x):
        states = [neuron.reset_mem() for neuron in self.neurons]
        states = [state if isinstance(state, tuple) else (state,) for state in states]
        spikes, potentials = [[] for _ in states], [[] for _ in states]
        for signal in x:
            for index, (linear, neuron) in enumerate(zip(self.linears, self.neurons, strict=True)):
                signal, *states[index] = neuron(linear(signal), *states[index])
                spikes[index].append(signal)
                potentials[index].append(states[index][-1])
        return self.take([torch.stack(s) for s in spikes], [torch.stack(v) for v in potentials])


def inputs(steps=STEPS, batch=BATCH):
    return 3 * torch.rand(steps, batch, SIZES[0], generator=seeded(1))


LAST = {
    "all steps": lambda s, v: v[-1],
    "summed": lambda s, v: v[-1].sum(0),
    "last step": lambda s, v: v[-1][-1],
    "in a dict": lambda s, v: {"potential": v[-1], "rate": s[-1].detach().mean()},
    "with all below": lambda s, v: (v[-1], s[:-1], v[:-1]),
}


@pytest.mark.parametrize("take", LAST.values(), ids=LAST)
@pytest.mark.parametrize("neuron", [snn.Leaky, snn.Synaptic])
def test_the_last_potential_is_a_readout(take, neuron):
    options = {"alpha": 0.8} if neuron is snn.Synaptic else {}
    model, x = Tutorial(take, neuron, **options), inputs()
    grid = trace(model, x, num_times=3)
    assert [layer.name for layer in grid.layers] == ["neurons.0", "neurons.1"]
    assert grid.decoder.name == "neurons.2"
    # The reset passes no gradient: what is left is the weight.
    weight = model.linears[2].weight.detach()
    torch.testing.assert_close(grid.decoder.transition().to_dense()[0], weight)
    assert {id(p) for p in grid.decoder.knob.parameters} == {id(p) for p in model.linears[2].parameters()}


LAYERS = {
    "spikes": lambda s, v: s[-1],
    "both": lambda s, v: (s[-1], v[-1]),
    "potentials first": lambda s, v: (v[-1], s[-1]),
    "neither": lambda s, v: s[0],
}


@pytest.mark.parametrize("take", LAYERS.values(), ids=LAYERS)
def test_where_spikes_are_taken_it_is_a_layer(take):
    report = measure(Tutorial(take), inputs())
    assert report.names == ("neurons.0", "neurons.1", "neurons.2")
    assert not report.rates.isnan().any()
    assert math.isnan(report.decoder) or report.decoder == pytest.approx(1)


def test_a_readout_has_no_rate_and_no_time_radius_to_reach():
    fixed = snn.Leaky(beta=0.95, reset_mechanism="none")
    model, x = Tutorial(lambda s, v: v[-1], last=fixed, learn_threshold=True), inputs(20, 16)
    result = stabilize(model, x, target="half")
    assert result.converged, str(result)
    assert result.after.decoder == pytest.approx(1, abs=0.05)
    assert len(result.after.rates) == 2
    assert gradient_profile(model, x).shape == (20, 2)
    other = Tutorial(lambda s, v: s[-1], last=snn.Leaky(beta=0.95))
    assert any("neurons.2: time" in reason for reason in stabilize(other, x, max_sweeps=1).reasons)


def test_a_potential_below_a_layer_is_what_the_layer_gets():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = snn.Leaky(beta=0.9), snn.Leaky(beta=0.9)
            self.linear = nn.Linear(12, 4)

        def forward(self, x):
            v, w, spikes = self.first.reset_mem(), self.second.reset_mem(), []
            for step in x:
                _, v = self.first(step, v)
                spike, w = self.second(self.linear(v), w)
                spikes.append(spike)
            return torch.stack(spikes)

    model, x = Between(), inputs()
    grid = trace(model, x, num_times=2)
    first, second = grid.layers
    assert math.isnan(first.rate)
    assert 0 <= second.rate <= 1
    torch.testing.assert_close(first.depth().to_dense(), torch.eye(12).expand(2 * BATCH, -1, -1))
    slope = torch.autograd.functional.jacobian(
        lambda v: second.step(model.linear(v), tuple(m[:1] for m in second.memory))[0][0],
        first.step(first.arrived, first.memory)[0][:1].detach(),
    )[:, 0]
    torch.testing.assert_close(second.depth().to_dense()[0], slope)
    assert bool(second.depth().to_dense().any())


@pytest.mark.parametrize("spikes_too", [False, True])
def test_a_potential_that_is_fed_back_is_part_of_the_time_transition(spikes_too):
    class Looped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.back, self.again = (nn.Linear(size, 6) for size in (12, 6, 6))
            self.lif = snn.Leaky(beta=0.9, reset_mechanism="none")

        def forward(self, x):
            v, spike, spikes = x.new_zeros(x.shape[1], 6), x.new_zeros(x.shape[1], 6), []
            for step in x:
                drive = self.again(spike) if spikes_too else 0
                spike, v = self.lif(self.first(step) + self.back(v) + drive, v)
                spikes.append(spike)
            return torch.stack(spikes)

    model, x = Looped(), inputs()
    (layer,) = trace(model, x, num_times=2).layers
    back, again = model.back.weight.detach(), model.again.weight.detach()
    slope = layer.depth().to_dense()[0] @ torch.linalg.pinv(model.first.weight.detach())
    leak = 0.9 * torch.eye(6) + back
    if spikes_too:  # of (v, z): v' = leak v + again z and z' = slope v'
        rows = torch.cat([leak, again], 1)
        leak = torch.cat([rows, slope @ rows])
    radius = torch.linalg.eigvals(leak).abs().max()
    found = torch.linalg.eigvals(layer.time().to_dense()[0]).abs().max()
    assert float(found) == pytest.approx(float(radius), rel=1e-4)
    moved = {id(p) for p in layer.knobs.time.parameters}
    assert moved == {id(p) for m in ([model.back, model.again] if spikes_too else [model.back]) for p in m.parameters()}


def test_a_lone_neuron_is_a_layer():
    class Lone(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.lif = nn.Linear(12, 5), snn.Leaky(beta=0.9)

        def forward(self, x):
            v, potentials = self.lif.reset_mem(), []
            for step in x:
                v = self.lif(self.linear(step), v)[1]
                potentials.append(v)
            return torch.stack(potentials)

    report = measure(Lone(), inputs())
    assert report.names == ("lif",)
    assert report.time.tolist() == pytest.approx([0.9])
    assert report.rates.isnan().all()
    assert report.decoder == pytest.approx(1)
    assert gradient_profile(Lone(), inputs()).shape == (STEPS, 1)


def test_potentials_kept_inside(monkeypatch):
    monkeypatch.setattr(snn.SpikingNeuron, "instances", [])
    neurons = [snn.Leaky(0.9, init_hidden=True), snn.Leaky(0.9, init_hidden=True, output=True)]
    model = nn.Sequential(nn.Linear(12, 8), neurons[0], nn.Linear(8, 4), neurons[1])

    def call(model, x):
        utils.reset(model)
        return torch.stack([model(step)[1] for step in x])

    grid = trace(model, inputs(), call=call)
    assert ([layer.name for layer in grid.layers], grid.decoder.name) == (["1"], "3")
    torch.testing.assert_close(grid.decoder.transition().to_dense()[0], model[2].weight.detach())


def test_potentials_of_norse():
    norse = pytest.importorskip("norse.torch")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linears = nn.ModuleList([nn.Linear(12, 8), nn.Linear(8, 4)])
            self.cells = nn.ModuleList([norse.LIFCell(), norse.LIFCell()])

        def forward(self, x):
            one = two = None
            potentials = []
            for step in x:
                spikes, one = self.cells[0](self.linears[0](step), one)
                _, two = self.cells[1](self.linears[1](spikes), two)
                potentials.append(two.v)
            return torch.stack(potentials), two

    model = Net()
    grid = trace(model, inputs(), num_times=2)
    assert ([layer.name for layer in grid.layers], grid.decoder.name) == (["cells.0"], "cells.1")
    # The current of a step moves the potential of the next, by dt / tau_mem = 0.1 of it, but for the reset.
    ratio = grid.decoder.transition().to_dense()[0] / model.linears[1].weight.detach()
    torch.testing.assert_close(ratio, ratio[:, :1].expand(-1, 8))
    assert bool(((ratio > 0.09) & (ratio < 0.11)).all())
