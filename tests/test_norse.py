"""Adapters of Norse, on the networks that its users write: cells in a loop, and modules over time."""

import dataclasses

import norse.torch as norse
import pytest
import torch
from norse.torch.functional.izhikevich import accomodation, tonic_spiking
from norse.torch.functional.lif_adex import LIFAdExParameters
from norse.torch.functional.lif_ex import LIFExParameters
from torch import nn

from cases import normal
from contract import NUM_INPUTS, AdapterContract
from lsc_snn import gradient_profile, measure, stabilize
from lsc_snn.trace import trace


class Net(nn.Module):
    """Layers in a ``SequentialState`` with a leaky integrator on top; cells are looped over, sequences called once."""

    def __init__(self, parts, width, over_time):
        super().__init__()
        self.over_time = over_time
        readout = norse.LI() if over_time else norse.LICell()
        self.net = norse.SequentialState(*parts, nn.Linear(width, 3), readout)

    def forward(self, x):
        if self.over_time:
            return self.net(x)[0]
        state, out = None, []
        for row in x:
            y, state = self.net(row, state)
            out.append(y)
        return torch.stack(out)


def spikes(steps, batch, scale=1.0):
    return scale * (normal(steps, batch, NUM_INPUTS, seed=1) > 1).double()


class NorseContract(AdapterContract):
    """The contract for neurons with Norse's own constants, which fix their time radius: one sweep, to say so."""

    state: type
    over_time = False
    weighted = False
    scale = 1.0
    reachable = ()
    stable_width, stable_steps, stable_batch = 8, 4, 2
    stable_options = {"max_sweeps": 1}  # noqa: RUF012

    def inputs(self, steps, batch):
        return spikes(steps, batch, self.scale)

    def neuron(self, *sizes):
        return self.kind(*sizes)

    def model(self, layers, width):
        parts = []
        for i in range(layers):
            below = width if i else NUM_INPUTS
            parts += [self.neuron(below, width)] if self.weighted else [nn.Linear(below, width), self.neuron()]
        net = Net(parts, width, self.over_time)
        neurons = [part for part in parts if isinstance(part, self.kind)]
        # Norse keeps its parameters in a tuple; a user who learns them registers them.
        net.learnt = nn.ParameterList(p for neuron in neurons for p in neuron.p if isinstance(p, nn.Parameter))
        return net

    def one_step(self, module, arrived, memory):
        row = arrived[None] if self.over_time else arrived
        output, state = module(row, self.state(*memory))
        return output[0] if self.over_time else output, tuple(state)


class Reaching(NorseContract):
    """The contract where both targets can be reached: fast neurons, or learnt time constants; learnt thresholds."""

    parameters: type
    learnt = {"v_th": 1.0}  # noqa: RUF012
    fixed = {"tau_mem_inv": 600.0, "tau_syn_inv": 700.0}  # noqa: RUF012
    reachable = ("one", "half")
    stable_width, stable_steps, stable_batch = 32, 12, 8
    stable_options = {}  # noqa: RUF012

    def neuron(self, *sizes):
        learnt = {name: nn.Parameter(torch.tensor(value)) for name, value in self.learnt.items()}
        fixed = {name: torch.tensor(value) for name, value in self.fixed.items()}
        return self.kind(*sizes, p=self.parameters(**learnt, **fixed))


class TestLIFCell(NorseContract):
    kind, state = norse.LIFCell, norse.LIFFeedForwardState


class TestLIFBoxCell(NorseContract):
    kind, state = norse.LIFBoxCell, norse.LIFBoxFeedForwardState


class TestLIFExCell(NorseContract):
    kind, state = norse.LIFExCell, norse.LIFExFeedForwardState


class TestLIFAdExCell(NorseContract):
    kind, state = norse.LIFAdExCell, norse.LIFAdExFeedForwardState


class TestIAFCell(NorseContract):
    kind, state = norse.IAFCell, norse.IAFFeedForwardState


class TestLSNNCell(NorseContract):
    kind, state, latency = norse.LSNNCell, norse.LSNNFeedForwardState, 1


class TestLIF(NorseContract):
    kind, state, over_time = norse.LIF, norse.LIFFeedForwardState, True


class TestLSNN(NorseContract):
    kind, state, over_time, latency = norse.LSNN, norse.LSNNFeedForwardState, True, 1


class TestLIFExRecurrentCell(NorseContract):
    kind, state, weighted = norse.LIFExRecurrentCell, norse.LIFExState, True


class TestLIFAdExRecurrentCell(NorseContract):
    kind, state, weighted = norse.LIFAdExRecurrentCell, norse.LIFAdExState, True


class TestLSNNRecurrentCell(NorseContract):
    kind, state, weighted, latency = norse.LSNNRecurrentCell, norse.LSNNState, True, 1


class TestLIFRecurrent(NorseContract):
    kind, state, weighted, over_time = norse.LIFRecurrent, norse.LIFState, True, True


class TestFastLIFRecurrentCell(Reaching):
    kind, state, weighted, parameters = norse.LIFRecurrentCell, norse.LIFState, True, norse.LIFParameters


class TestFastLSNNRecurrent(Reaching):
    kind, state, weighted, parameters = norse.LSNNRecurrent, norse.LSNNState, True, norse.LSNNParameters
    over_time, latency, scale = True, 1, 0.5
    fixed = Reaching.fixed | {"tau_adapt_inv": 600.0}


class TestLearntLIFCell(Reaching):
    kind, state, parameters = norse.LIFCell, norse.LIFFeedForwardState, norse.LIFParameters
    learnt = {"v_th": 1.0, "tau_mem_inv": 100.0, "tau_syn_inv": 800.0}  # noqa: RUF012
    fixed = {}  # noqa: RUF012
    scale = 0.3
    # At radius 1 a neuron without recurrent weights integrates nearly all that it gets, and fires much.
    stable_options = {"rate_band": (0.01, 0.8)}  # noqa: RUF012


class TestLearntLIFExCell(Reaching):
    kind, state, parameters = norse.LIFExCell, norse.LIFExFeedForwardState, LIFExParameters
    learnt = {"v_th": 1.0, "delta_T": 0.5, "tau_mem_inv": 100.0, "tau_syn_inv": 200.0}  # noqa: RUF012
    fixed = {}  # noqa: RUF012
    scale = 0.3
    stable_options = TestLearntLIFCell.stable_options


class TestLearntLIFAdExRecurrentCell(Reaching):
    kind, state, parameters = norse.LIFAdExRecurrentCell, norse.LIFAdExState, LIFAdExParameters
    weighted, scale, stable_width = True, 0.3, 64
    learnt = TestLearntLIFExCell.learnt | {"tau_ada_inv": 2.0, "adaptation_current": 4.0}
    fixed = {}  # noqa: RUF012
    stable_options = TestLearntLIFCell.stable_options


def weightless(kind, *args):
    return lambda over_time: Net([nn.Linear(NUM_INPUTS, 6), kind(*args)], 6, over_time)


def weighted(kind, *args):
    return lambda over_time: Net([kind(NUM_INPUTS, 6, *args)], 6, over_time)


PAIRS = {
    "LIF": (weightless(norse.LIFCell), weightless(norse.LIF), 0),
    "LIFEx": (weightless(norse.LIFExCell), weightless(norse.LIFEx), 0),
    "LIFAdEx": (weightless(norse.LIFAdExCell), weightless(norse.LIFAdEx), 0),
    "IAF": (weightless(norse.IAFCell), weightless(norse.IAF), 0),
    "LSNN": (weightless(norse.LSNNCell), weightless(norse.LSNN), 1),
    "Izhikevich": (weightless(norse.IzhikevichCell, tonic_spiking), weightless(norse.Izhikevich, tonic_spiking), 0),
    "LIFRecurrent": (weighted(norse.LIFRecurrentCell), weighted(norse.LIFRecurrent), 0),
    "LIFExRecurrent": (weighted(norse.LIFExRecurrentCell), weighted(norse.LIFExRecurrent), 0),
    "LIFAdExRecurrent": (weighted(norse.LIFAdExRecurrentCell), weighted(norse.LIFAdExRecurrent), 0),
    "LSNNRecurrent": (weighted(norse.LSNNRecurrentCell), weighted(norse.LSNNRecurrent), 1),
    "LIFRefracRecurrent": (weighted(norse.LIFRefracRecurrentCell), weighted(norse.LIFRefracRecurrent), 0),
    "IzhikevichRecurrent": (
        weighted(norse.IzhikevichRecurrentCell, tonic_spiking),
        weighted(norse.IzhikevichRecurrent, tonic_spiking),
        0,
    ),
}
LONE = {
    "LIFBox": (weightless(norse.LIFBoxCell), None, 0),
    "LIFRefrac": (weightless(norse.LIFRefracCell), None, 0),
    "LIFAdExRefrac": (weightless(norse.LIFAdExRefracCell), None, 0),
    "accomodation": (weightless(norse.IzhikevichCell, accomodation), None, 0),
    "LIFMC": (weighted(norse.LIFMCRecurrentCell), None, 0),
    "LIFMCRefrac": (weighted(norse.LIFMCRefracRecurrentCell), None, 1),
}


def built(make, over_time=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(over_time).double()


@pytest.mark.parametrize(("make", "latency"), [pytest.param(v[0], v[2], id=k) for k, v in (PAIRS | LONE).items()])
def test_an_input_reaches_the_output_after_the_latency_of_the_neuron(make, latency):
    (layer,) = trace(built(make), spikes(8, 3), num_times=3).layers
    assert len(layer.later) == latency
    at_once = dataclasses.replace(layer, later=()).depth().to_dense()
    assert bool(at_once.any()) is (latency == 0)
    assert bool(layer.depth().to_dense().any())


@pytest.mark.parametrize(("cell", "sequence"), [pytest.param(*v[:2], id=k) for k, v in PAIRS.items()])
def test_a_module_over_time_is_its_cell_in_a_loop(cell, sequence):
    one, other, x = built(cell), built(sequence, True), spikes(8, 3)
    other.load_state_dict(one.state_dict())
    reports = [measure(model, x, method="exact") for model in (one, other)]
    for mine, expected in zip(*(report.entries() for report in reports), strict=True):
        assert mine[2] == pytest.approx(expected[2])
    torch.testing.assert_close(reports[0].rates, reports[1].rates)
    profile = gradient_profile(one, x)
    torch.testing.assert_close(profile, gradient_profile(other, x))
    assert bool((profile[:-1] > 0).all())  # the last memory of a neuron that keeps no spike goes nowhere


def test_the_time_radius_of_a_leaky_neuron_by_hand():
    # One step: i <- i + x, v <- 0.9 v + 0.1 i, a spike z resets v to 0 and passes 1 / (1 + |v - 1|)^2; i <- 0.8 i.
    x = 6 * spikes(20, 3)
    v, i, radii, spiked = torch.zeros(3, NUM_INPUTS), torch.zeros(3, NUM_INPUTS), [], 0
    for row in x:
        i = i + row
        v = 0.9 * v + 0.1 * i
        z = (v > 1).double()
        slope = 0.9 * (1 - z - v / (1 + (v - 1).abs()) ** 2)
        radii.append(slope.abs().amax(1).clamp(min=0.8))
        v, i, spiked = (1 - z) * v, 0.8 * i, spiked + z.sum()
    for neuron, over_time in ((norse.LIFCell(), False), (norse.LIF(), True)):
        report = measure(Net([neuron], NUM_INPUTS, over_time).double(), x, num_times=20, method="exact")
        assert report.time.tolist() == pytest.approx([float(torch.stack(radii).mean())], rel=1e-6)
        assert float(report.rates[0]) == pytest.approx(float(spiked) / x.numel())
    assert spiked > 10


def test_a_leak_that_nothing_moves_is_the_reason_and_recurrent_weights_survive():
    x = spikes(6, 4).float()
    for neuron, leak in ((norse.LIFRecurrentCell(NUM_INPUTS, 8), 0.9), (norse.LSNNRecurrentCell(NUM_INPUTS, 8), 1)):
        before = neuron.recurrent_weights.detach().norm()
        result = stabilize(Net([neuron], 8, False), x, target="half", rate_band=(0, 1))
        assert not result.converged
        (reason,) = [reason for reason in result.reasons if "time" in reason]
        assert reason.endswith(f"target 0.5: not reached: a leak that no parameter moves alone gives about {leak}")
        assert float(result.after.time[0]) == pytest.approx(leak, abs=0.1)
        assert neuron.recurrent_weights.norm() > 1e-3 * before
    plain = stabilize(Net([nn.Linear(NUM_INPUTS, 8), norse.LIFCell()], 8, False), x, target="half", max_sweeps=1)
    assert any("time" in r and r.endswith("no parameter of the layer moves it") for r in plain.reasons)


def test_parameters_that_only_the_neuron_holds_are_restored_on_an_error():
    rate = nn.Parameter(torch.tensor(100.0))
    model = Net([norse.LIFCell(p=norse.LIFParameters(tau_mem_inv=rate))], NUM_INPUTS, False)
    seen = []

    def call(net, x):
        seen.append(rate.item())
        if len(seen) == 4:
            raise KeyboardInterrupt
        return net(x)

    assert rate not in set(model.parameters())
    with pytest.raises(KeyboardInterrupt):
        stabilize(model, spikes(6, 3).float(), call=call)
    assert seen[-1] != 100
    assert rate.item() == 100
