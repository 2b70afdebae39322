"""Neurons that the layers of the package lack and restored graphs have: without leak, with a current, of any shape."""

from itertools import pairwise

import nir
import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

import lsc_snn as lsc
from lsc_snn.nir import from_nir, interpret, to_nir
from lsc_snn.nir.synaptic import Synaptic
from lsc_snn.nir.units import Integrators, Units
from nir_cases import WEIGHT, alike, chain, ends, graph_of, quick_lif, recurrent, spikes, spiking

DT = 1e-3
ONES = np.ones(3)


def cuba(reset=0.0, shape=3, **changes):
    values = {"tau_syn": 3e-3, "tau_mem": 5e-3, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.06, "w_in": 1.5} | changes
    return alike(nir.CubaLIF, shape, v_reset=reset, **values)


def iaf(reset=0.0, r=0.7 / DT):
    return spiking(nir.IF, r=[r, 0.5 * r, r], v_threshold=0.8 * ONES, v_reset=reset * ONES)


BACK = np.array([[0.0, -0.3, 0.2], [0.4, 0.1, 0.0], [0.3, 0.3, -0.5]])
FOUND = {
    "IF": (chain([3], nir.Linear(WEIGHT), iaf()), "Units"),
    "IF with nothing in front": (chain([3], iaf()), "Units"),
    "a recurrent IF": (recurrent(BACK, iaf()), "Units"),
    "IF that resets elsewhere": (chain([3], nir.Affine(WEIGHT, ONES * 0.1), iaf(reset=-0.3)), "Units"),
    "LIF that resets elsewhere": (
        chain([3], nir.Linear(WEIGHT), quick_lif(v_leak=-0.1, v_reset=0.2)), "LIF"
    ),
    "a recurrent LIF that resets elsewhere": (recurrent(BACK, quick_lif(v_reset=-0.4)), "Units"),
    "a CubaLIF that resets elsewhere": (chain([3], nir.Linear(WEIGHT), cuba(reset=-0.02)), "Synaptic"),
    "a recurrent CubaLIF": (recurrent(BACK, cuba()), "Synaptic"),
    "a recurrent CubaLIF that resets elsewhere": (recurrent(BACK, cuba(reset=-0.02, v_leak=0.01)), "Synaptic"),
    "a LIF of another r behind a convolution": (
        chain(
            (1, 3),
            nir.Conv1d(3, np.full((2, 1, 1), 0.5), 1, 0, 1, 1, np.zeros(2)),
            alike(nir.LIF, (2, 3), tau=4e-3, r=3, v_leak=0, v_threshold=0.2, v_reset=0),
            out=(2, 3),
        ), "Units"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOUND)
def test_neurons_of_nodes_give_the_spikes_of_the_interpreter(kind):
    graph, layer = FOUND[kind]
    shape = tuple(graph.nodes["input"].input_type["input"])
    sample = spikes(12, 60, 4, *shape).double()
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    assert 0.02 < expected.mean() < 0.9
    restored = from_nir(graph, dt=DT, dtype=torch.float64)
    assert type(list(restored.layers.values())[-1]).__name__ == layer
    np.testing.assert_array_equal(restored(sample).detach().numpy(), expected)
    if "CubaLIF that resets elsewhere" not in kind:
        again = to_nir(restored, dt=DT, sample=sample)
        np.testing.assert_array_equal(interpret(again, sample.numpy(), dt=DT).outputs["output"], expected)
        return
    with pytest.raises(
        ValueError, match=r"layer 'layers\.(n1|lif)': expected membranes without .* a recurrence of their own"
    ):
        to_nir(restored, dt=DT, sample=sample)


@pytest.mark.parametrize("front", [nir.Affine(WEIGHT, ONES), None])
def test_an_integrator_without_leak_is_a_readout(front):
    graph = chain([3], *([] if front is None else [front]), nir.I(0.6 * ONES / DT))
    sample = spikes(13, 20, 2, 3).double()
    restored = from_nir(graph, dt=DT, dtype=torch.float64)
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    np.testing.assert_allclose(restored(sample).detach().numpy(), expected, atol=1e-12)
    assert expected[-1].min() > 1
    again = to_nir(restored, dt=DT, sample=sample)
    np.testing.assert_allclose(interpret(again, sample.numpy(), dt=DT).outputs["output"], expected, atol=1e-12)


@pytest.mark.skipif(not hasattr(nir, "CubaLI"), reason="CubaLI came with nir 1.0.8")
def test_a_current_based_integrator():
    graph = chain([3], nir.Linear(WEIGHT), nir.CubaLI(3e-3 * ONES, 5e-3 * ONES, ONES, 0 * ONES, w_in=1.5 * ONES))
    sample = spikes(14, 20, 2, 3).double()
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    np.testing.assert_allclose(from_nir(graph, dt=DT, dtype=torch.float64)(sample).detach().numpy(), expected)


def test_recurrent_synaptic_neurons_of_snntorch_make_the_round_trip():
    torch.manual_seed(0)
    alpha, beta = torch.linspace(0.3, 0.6, 3), torch.linspace(0.7, 0.9, 3)
    neurons = snn.RSynaptic(alpha, beta, linear_features=3).double()
    sample = spikes(15, 60, 3, 3).double()
    graph = to_nir(neurons, dt=DT, sample=sample)
    restored = from_nir(graph, dt=DT, dtype=torch.float64)
    layer = list(restored.layers.values())[-1]
    assert isinstance(layer, Synaptic)
    assert layer.neurons.reset == "soft"
    for got, expected in (
        (layer.gamma, alpha), (layer.neurons.alpha, beta), (layer.recurrent_weight, neurons.recurrent.weight)
    ):  # fmt: skip
        torch.testing.assert_close(got, expected.double(), rtol=1e-6, atol=1e-7)
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    assert expected.any()
    np.testing.assert_array_equal(restored(sample).detach().numpy(), expected)


def test_recurrent_current_based_neurons_of_norse_make_the_round_trip():
    torch.manual_seed(0)
    neurons = norse.LIFRecurrent(5, 4, p=norse.LIFParameters(v_th=torch.as_tensor(0.2)))
    sample = spikes(16, 60, 3, 5).double()
    graph = to_nir(neurons, dt=DT, sample=sample)
    restored = from_nir(graph, dt=DT, dtype=torch.float64)
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    assert expected.any()
    np.testing.assert_array_equal(restored(sample).detach().numpy(), expected)
    assert isinstance(list(restored.layers.values())[-1], Synaptic)


def test_neurons_without_a_leak_keep_everything_whatever_is_trained():
    layer = Units((3,), leaky=False)
    assert torch.equal(layer.alpha, torch.ones(3))
    assert [name for name, _ in layer.named_parameters()] == ["threshold_raw"]
    potential, _ = Integrators((3,), leaky=False)(torch.full((4, 1, 3), 0.25))
    assert potential[:, 0, 0].tolist() == [0.25, 0.5, 0.75, 1.0]


def test_a_recurrent_synaptic_layer_is_measured_and_stabilised_and_takes_events():
    torch.manual_seed(0)
    neurons = snn.RSynaptic(0.5, 0.9, linear_features=24)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.neurons, self.readout = nn.Linear(20, 24), neurons, lsc.LI(24, 4)

        def forward(self, x):
            (spk, syn, mem), out = self.neurons.reset_mem(), []
            for step in x:
                spk, syn, mem = self.neurons(self.fc(step), spk, syn, mem)
                out.append(spk)
            return self.readout(torch.stack(out))[0]

    sample = spikes(17, 30, 8, 20)
    model = from_nir(to_nir(Recurrent(), dt=DT, sample=sample), dt=DT)
    profile = lsc.gradient_profile(model, sample)
    assert profile.shape == (30, 1)
    assert (profile[:-1] > 0).all()
    result = lsc.stabilize(model, sample, target="half", generator=torch.Generator().manual_seed(0))
    assert result.converged, str(result)
    events = lsc.EventBatch.from_dense(sample)
    torch.testing.assert_close(model(events), model(sample))
    with pytest.raises(ValueError, match=r"inputs: expected shape \(time steps, batch, 24\)"):
        next(module for module in model.modules() if isinstance(module, Synaptic))(sample)


class Images(nn.Module):
    """Two convolutions with neurons between, as of a user of snnTorch."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.Conv2d(4, 4, 3, padding=1)
        self.one = snn.Leaky(beta=0.8, threshold=0.3, init_hidden=True)
        self.two = snn.Leaky(beta=0.8, threshold=0.3, init_hidden=True)
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        self.one.reset_mem()
        self.two.reset_mem()
        return torch.stack([self.fc(self.two(self.conv2(self.one(self.conv1(step)))).flatten(1)) for step in x])


def off_target(report):
    radii = [report.time, report.depth, torch.as_tensor([report.encoder])]
    return float((torch.cat(radii) - 0.5).abs().sum())


@pytest.mark.parametrize(("procedure", "sweeps", "left"), [("fast", 30, 0.2), ("gradient", 6, 0.9)])
def test_neurons_behind_convolutions_are_measured_and_stabilised(procedure, sweeps, left):
    torch.manual_seed(0)
    sample = spikes(18, 12, 3, 2, 8, 8)
    model = from_nir(to_nir(Images(), dt=DT, sample=sample), dt=DT)
    power, exact = (lsc.measure(model, sample, method=method) for method in ("power", "exact"))
    torch.testing.assert_close(power.depth, exact.depth, rtol=0.1, atol=0.02)
    profile = lsc.gradient_profile(model, sample)
    assert profile.shape == (12, 2)
    assert (profile > 0).all()
    result = lsc.stabilize(model, sample, target="half", procedure=procedure, max_sweeps=sweeps)
    assert off_target(result.after) < left * off_target(result.before)
    assert result.converged == (procedure == "fast")


def test_names_that_modules_cannot_have_or_share():
    names = ["items", "a.b", "a.c", "a_b", "training"]
    nodes = {name: nir.Linear(WEIGHT) for name in names}
    graph = graph_of(ends([3]) | nodes, pairwise(["input", *names, "output"]))
    restored, sample = from_nir(graph, dt=DT, dtype=torch.float64), spikes(19, 3, 2, 3).double()
    assert len(restored.layers) == 5
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    np.testing.assert_allclose(restored(sample).detach().numpy(), expected)


def test_what_is_added_takes_no_name_of_another_node():
    integrator = nir.I(0.6 * ONES / DT)
    graph = chain([3], integrator, nir.Linear(WEIGHT * 0.1))
    graph.nodes["n0_weights"] = graph.nodes.pop("n1")
    graph.edges = [tuple("n0_weights" if end == "n1" else end for end in edge) for edge in graph.edges]
    restored, sample = from_nir(graph, dt=DT, dtype=torch.float64), spikes(20, 30, 2, 3).double()
    assert list(restored.layers) == ["n0_weights_", "n0", "n0_weights"]
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    np.testing.assert_allclose(restored(sample).detach().numpy(), expected)


def test_a_synaptic_neuron_has_the_radii_that_it_had_in_snntorch():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.one = nn.Linear(12, 24), snn.Synaptic(0.5, 0.8, threshold=0.3, init_hidden=True)
            self.fc2, self.two = nn.Linear(24, 24), snn.Synaptic(0.5, 0.7, threshold=0.3, init_hidden=True)

        def forward(self, x):
            self.one.reset_mem()
            self.two.reset_mem()
            return torch.stack([self.two(self.fc2(self.one(self.fc1(step)))) for step in x])

    torch.manual_seed(0)
    model, sample = Two(), spikes(21, 20, 4, 12)
    restored = from_nir(to_nir(model, dt=DT, sample=sample), dt=DT)
    ours, theirs = lsc.measure(restored, sample), lsc.measure(model, sample)
    torch.testing.assert_close(ours.time, theirs.time, rtol=1e-3, atol=1e-3)
    assert ours.names == ("layers.one", "layers.two")


def test_shapes_of_synaptic_neurons_come_back_and_go_out_again():
    node = cuba(shape=(2, 3))
    conv = nir.Conv1d(3, np.full((2, 1, 1), 0.5), 1, 0, 1, 1, np.zeros(2))
    graph, sample = chain((1, 3), conv, node, out=(2, 3)), spikes(22, 40, 2, 1, 3).double()
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    assert 0.02 < expected.mean() < 0.9
    restored = from_nir(graph, dt=DT, dtype=torch.float64)
    np.testing.assert_array_equal(restored(sample).detach().numpy(), expected)
    again = to_nir(restored, dt=DT, sample=sample)
    np.testing.assert_array_equal(interpret(again, sample.numpy(), dt=DT).outputs["output"], expected)
