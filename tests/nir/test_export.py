"""Networks of ours as graphs: the same spikes, all of them, in the interpreter, and the values that say so."""

import subprocess
import sys

import nir
import numpy as np
import pytest
import torch

import lsc_snn as lsc
from data_dir import data_dir
from lsc_snn.datasets import read_shd
from lsc_snn.nir import interpret, to_nir
from nir_cases import any_network, network, spikes

DT = 1e-4


def trains(model, sample):
    """Return the spikes of every layer of a Network, and its output."""
    signal, found = sample.double(), []
    for layer in model.layers:
        signal, _ = layer(signal)
        found.append(signal.detach().numpy())
    return found, model(sample.double()).detach().numpy()


def assert_same(model, graph, sample, dt=DT):
    names = [f"layers_{index}" for index in range(len(model.layers))]
    recorded = [
        name if not isinstance(graph.nodes[name], nir.NIRGraph) else f"{name}.{inner}"
        for name in names
        for inner in [next((key for key in ("spike", "lif") if key in getattr(graph.nodes[name], "nodes", ())), "")]
    ]
    done = interpret(graph, sample.double().numpy(), dt=dt, record=recorded)
    expected, output = trains(model, sample)
    for name, train in zip(recorded, expected, strict=True):
        np.testing.assert_array_equal(done.signals[name], train)
    np.testing.assert_allclose(done.outputs["output"], output, atol=1e-9)
    return expected


@any_network
def test_every_spike_of_every_layer(seed, kind, recurrent):
    neuron, reset = kind
    model = network(neuron, seed % 1000, recurrent=recurrent, reset=reset, tau=torch.linspace(1, 30, 16), bias=True)
    sample = spikes(seed, 40, 3, 12)
    expected = assert_same(model, to_nir(model, dt=DT, sample=sample), sample)
    assert all(train.any() for train in expected)


@pytest.mark.parametrize(("neuron", "reset"), [("LIF", "soft"), ("LIF", "hard"), ("ALIF", "soft")])
def test_every_spike_on_recorded_speech(neuron, reset):
    dataset = read_shd(data_dir("spoken_digits") / "test.h5", bin_ms=8)
    sample = dataset.batch(list(range(0, 400, 50)))[0].to_dense()
    config = lsc.NetworkConfig(700, 10, num_layers=2, num_units=48, neuron=neuron, layer={"reset": reset})
    model = lsc.Network(config, seed=1).double().eval()
    expected = assert_same(model, to_nir(model, dt=DT, sample=sample), sample)
    assert all(0.005 < train.mean() < 0.6 for train in expected)


@pytest.mark.slow
@pytest.mark.parametrize(("neuron", "reset"), [("LIF", "hard"), ("LIF", "soft"), ("ALIF", "soft")])
def test_every_spike_of_a_stabilised_network_on_recorded_speech(neuron, reset):
    folder = data_dir("spoken_digits")
    batch = read_shd(folder / "train.h5", bin_ms=8).batch(list(range(0, 1000, 32)))[0]
    config = lsc.NetworkConfig(700, 10, num_layers=2, num_units=128, neuron=neuron, layer={"reset": reset})
    model = lsc.Network(config, seed=1).eval()
    lsc.stabilize(model, batch, target="half", generator=torch.Generator().manual_seed(0))
    sample = read_shd(folder / "test.h5", bin_ms=8).batch(list(range(0, 400, 8)))[0].to_dense()
    assert sample.shape[1:] == (50, 700)
    graph = to_nir(model, dt=DT, sample=sample[:, :8])  # in float32, as users have it
    network = model.double()
    expected = assert_same(network, to_nir(network, dt=DT, sample=sample[:, :8]), sample)
    assert all(0.005 < train.mean() < 0.6 for train in expected)
    # The file of the float32 network holds its very weights: the same spikes.
    assert_same(network, graph, sample)


def test_an_event_batch_is_a_sample_too():
    model, sample = network("ALIF"), spikes(14, 20, 2, 12)
    graph = to_nir(model, dt=DT, sample=lsc.EventBatch.from_dense(sample))
    assert_same(model, graph, sample)


def test_the_time_step_sets_the_unit_and_nothing_else():
    model, sample = network(reset="hard"), spikes(0, 30, 2, 12)
    for dt in (1e-4, 1.0):
        graph = to_nir(model, dt=dt)
        node = graph.nodes["layers_0"].nodes["lif"]
        np.testing.assert_allclose(1 - dt / node.tau, model.layers[0].alpha.detach().numpy(), atol=1e-15)
        np.testing.assert_allclose(node.r * dt / node.tau, 1, atol=1e-15)
        assert_same(model, graph, sample, dt)


def test_a_float32_model_keeps_its_weights_and_gets_exact_time_constants():
    model = network(reset="hard").float()
    graph = to_nir(model, dt=DT)
    weights = graph.nodes["layers_0_weights"].weight
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, model.layers[0].weight.detach().numpy())
    assert graph.nodes["layers_0"].nodes["lif"].tau.dtype == np.float64


def test_the_model_is_left_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    to_nir(model, dt=DT)
    assert model.training
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_approximation_is_lif_nodes_alone_with_the_mean_adaptation():
    model, sample = network("ALIF", beta=1.5), spikes(1, 50, 4, 12)
    graph = to_nir(model, dt=DT, sample=sample, approximate=True)
    rates = trains(model, sample)[0]
    for index, layer in enumerate(model.layers):
        node = graph.nodes[f"layers_{index}"].nodes["lif"]
        expected = layer.threshold.detach().numpy() + 1.5 * rates[index].mean((0, 1))
        np.testing.assert_allclose(node.v_threshold, expected, rtol=1e-7)
        assert {type(inner) for inner in graph.nodes[f"layers_{index}"].nodes.values()} == {
            nir.Input, nir.LIF, nir.Linear, nir.Output
        }  # fmt: skip


@pytest.mark.parametrize("recurrent", [True, False])
def test_unit_resistance_says_the_same(recurrent):
    model = network(reset="hard", recurrent=recurrent, tau=torch.linspace(2, 20, 16))
    graph, sample = to_nir(model, dt=DT, unit_r=True), spikes(2, 40, 2, 12)
    node = graph.nodes["layers_1"].nodes["lif"] if recurrent else graph.nodes["layers_1"]
    np.testing.assert_array_equal(node.r, 1)
    assert_same(model, graph, sample)


def test_nir_is_imported_on_demand_alone():
    code = "import sys, lsc_snn; assert 'nir' not in sys.modules; lsc_snn.to_nir; assert 'nir' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'to_nirr'"):
        lsc.to_nirr  # noqa: B018
