"""Graphs as layers: round trips of our own, graphs of snnTorch and Norse, and what no layer does, named."""

import nir
import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

import lsc_snn as lsc
from lsc_snn.nir import from_nir, interpret, read_graph, to_nir, write_graph
from lsc_snn.nir.restore import Layers
from lsc_snn.nir.units import Integrators, Units
from nir_cases import WEIGHT, alike, any_network, chain, ends, graph_of, network, quick_lif, recurrent, spikes, spiking

DT = 1e-3


def values(layer):
    """Return what a layer computes with, by name."""
    names = ("weight", "bias", "alpha", "threshold", "rho", "beta", "recurrent_weight")
    found = {name: getattr(layer, name, None) for name in names}
    return {name: value.detach().numpy() for name, value in found.items() if value is not None and value.any()}


def assert_alike(one, two, tolerance):
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@any_network
def test_a_round_trip_keeps_parameters_and_every_spike(seed, kind, recurrent):
    neuron, reset = kind
    options = {"tau": torch.linspace(0.5, 30, 16), "threshold": torch.linspace(0.5, 1.5, 16)}
    model = network(neuron, seed % 1000, recurrent=recurrent, reset=reset, bias=True, **options)
    with torch.no_grad():
        for layer in model.layers:
            layer.bias.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    restored = from_nir(to_nir(model, dt=DT), dt=DT, dtype=torch.float64)
    assert list(restored.layers) == ["layers_0", "layers_1", "readout"]
    signal = sample = spikes(seed, 40, 3, 12).double()
    for ours, theirs in zip(model.layers, restored.layers.values(), strict=False):
        assert type(theirs) is (lsc.LIF if neuron == "LIF" else lsc.ALIF)
        assert theirs.reset == reset
        assert_alike(values(ours), values(theirs), 1e-9)
        signal = ours(signal)[0]
        assert signal.any()
    assert_alike(values(model.readout), values(restored.layers["readout"]), 1e-9)
    torch.testing.assert_close(restored(sample), model(sample), rtol=0, atol=1e-9)
    restored_layers = list(restored.layers.values())
    assert torch.equal(restored_layers[1](restored_layers[0](sample)[0])[0], signal)


@pytest.mark.parametrize(("neuron", "reset"), [("LIF", "hard"), ("LIF", "soft"), ("ALIF", "soft")])
def test_a_round_trip_by_a_file_keeps_float32(tmp_path, neuron, reset):
    model = network(neuron, reset=reset).float()
    write_graph(tmp_path / "net.nir", to_nir(model, dt=DT))
    restored = from_nir(read_graph(tmp_path / "net.nir"), dt=DT)
    for ours, theirs in zip([*model.layers, model.readout], restored.layers.values(), strict=True):
        assert theirs.weight.dtype == torch.float32
        assert_alike(values(ours), values(theirs), 1e-6)
        assert torch.equal(theirs.weight, ours.weight)
    sample = spikes(1, 40, 3, 12)
    ours, theirs = model.layers[0](sample)[0], next(iter(restored.layers.values()))(sample)[0]
    assert torch.equal(ours, theirs)


def test_unit_resistance_comes_back_as_the_same_layers():
    model = network(reset="hard", tau=torch.linspace(2, 20, 16))
    restored = from_nir(to_nir(model, dt=DT, unit_r=True), dt=DT, dtype=torch.float64)
    for ours, theirs in zip(model.layers, restored.layers.values(), strict=False):
        assert_alike(values(ours), values(theirs), 1e-9)


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.one, self.two = nn.Linear(10, 10), lsc.ALIF(10, 10), lsc.LIF(10, 10, reset="hard")
        self.readout = lsc.LI(10, 3)

    def forward(self, x):
        first, _ = self.one(self.fc(x))
        second, _ = self.two(first)
        return self.readout(first + second)[0]


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.AvgPool2d(2), nn.Linear(16, 5)
        self.lif = snn.Leaky(beta=0.8, threshold=0.2, init_hidden=True)
        self.two = snn.Synaptic(alpha=0.5, beta=0.8, threshold=0.2, reset_mechanism="zero", reset_delay=False)

    def forward(self, x):
        self.lif.reset_mem()
        state, out = (), []
        for step in x:
            spk, *state = self.two(self.fc(self.pool(self.lif(self.conv(step))).flatten(1)), *state)
            out.append(spk)
        return torch.stack(out)


@pytest.mark.parametrize(("kind", "shape"), [(Skip, (10,)), (Convolutional, (2, 8, 8))])
def test_branches_and_shapes_come_back_and_go_out_again(kind, shape):
    torch.manual_seed(0)
    sample = spikes(2, 20, 3, *shape).double()
    graph = to_nir(kind().double(), dt=DT, sample=sample)
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    assert expected.std() > 0
    restored = from_nir(graph, dt=DT, dtype=torch.float64)
    np.testing.assert_allclose(restored(sample).detach().numpy(), expected, atol=1e-9)
    again = to_nir(restored, dt=DT, sample=sample)
    np.testing.assert_allclose(interpret(again, sample.numpy(), dt=DT).outputs["output"], expected, atol=1e-9)
    assert isinstance(restored, Layers)


def test_restored_layers_are_measured_and_take_events():
    model = network("ALIF").float()
    restored = from_nir(to_nir(model, dt=DT), dt=DT)
    sample = spikes(3, 30, 4, 12)
    ours, theirs = lsc.measure(model, sample), lsc.measure(restored, sample)
    torch.testing.assert_close(torch.as_tensor(theirs.time), torch.as_tensor(ours.time), rtol=1e-3, atol=1e-4)
    events = lsc.EventBatch.from_dense(sample)
    torch.testing.assert_close(restored(events), restored(sample))


def test_layers_without_weights_are_measured_and_check_their_input():
    units = Units((6,), tau=5.0)
    model = Layers({"fc": nn.Linear(6, 6), "u": units}, {"fc": ["in"], "u": ["fc"]}, ["u"])
    report = lsc.measure(model, spikes(4, 20, 2, 6))
    assert report.time[0] == pytest.approx(float(units.alpha[0].detach()), abs=1e-3)
    for layer in (Units((2, 3)), Integrators((2, 3))):
        with pytest.raises(ValueError, match=r"inputs: expected shape \(time steps, batch, 2, 3\)"):
            layer(torch.zeros(5, 1, 3, 2))
        output, final = layer(torch.ones(5, 1, 2, 3))
        again, _ = layer(torch.ones(5, 1, 2, 3), final)
        assert output.shape == again.shape == (5, 1, 2, 3)


# Graphs of others.


def as_snntorch_writes(seed=0, bias=False, units=4, outputs=3):
    """Return the graph of Linear, RLeaky, Linear, Synaptic as snntorch.export_nir 1.0 writes it: flat, in float64."""
    generator = np.random.default_rng(seed)
    ones = np.ones(units)
    tau = 1e-4 / (1 - np.linspace(0.6, 0.9, units))
    lif = {"tau": tau, "r": tau / 1e-4, "v_leak": 0 * ones, "v_threshold": 0.5 * ones}
    two = np.full(outputs, 5e-4)
    cuba = {"tau_syn": two, "tau_mem": two, "r": two / 1e-4, "v_leak": 0 * two, "v_threshold": 0 * two + 0.4}
    nodes = {
        "input": nir.Input(input_type={"input": np.array([5])}),
        "0": nir.Affine(generator.normal(size=(units, 5)).astype(np.float32), np.zeros(units, np.float32)),
        "1.lif": spiking(nir.LIF, v_reset=np.zeros(units), **lif),
        "1.w_rec": nir.Affine(
            generator.normal(size=(units, units)).astype(np.float32),
            np.float32(0.3 * bias) * np.ones(units, np.float32),
        ),
        "2": nir.Affine(generator.normal(size=(outputs, units)).astype(np.float32), np.zeros(outputs, np.float32)),
        "3": spiking(nir.CubaLIF, v_reset=np.zeros(outputs), **cuba, w_in=two / 1e-4),
        "output": nir.Output(output_type={"output": np.array([outputs])}),
    }
    edges = [
        ("2", "3"), ("1.w_rec", "1.lif"), ("input", "0"), ("1.lif", "1.w_rec"), ("0", "1.lif"), ("1.lif", "2"),
        ("3", "output"),
    ]  # fmt: skip
    return nir.NIRGraph(nodes=nodes, edges=edges)


def test_a_graph_as_snntorch_writes_it():
    graph, sample = as_snntorch_writes(), spikes(5, 40, 3, 5).double()
    restored = from_nir(graph, dt=1e-4, dtype=torch.float64)
    assert [(name, type(layer).__name__) for name, layer in restored.layers.items()] == [
        ("1", "LIF"), ("2", "Linear"), ("3", "Synaptic")
    ]  # fmt: skip
    np.testing.assert_array_equal(restored.layers["1"].weight.detach().numpy(), graph.nodes["0"].weight)
    np.testing.assert_allclose(restored.layers["1"].alpha.detach().numpy(), np.linspace(0.6, 0.9, 4))
    expected = interpret(graph, sample.numpy(), dt=1e-4).outputs["output"]
    np.testing.assert_array_equal(restored(sample).detach().numpy(), expected)
    assert expected.any()


def test_a_recurrent_bias_of_snntorch_counts_from_the_first_step_on():
    graph, sample = as_snntorch_writes(bias=True), spikes(6, 40, 3, 5).double()
    beta = torch.linspace(0.6, 0.9, 4)
    reference = snn.RLeaky(beta=beta, threshold=0.5, linear_features=4, reset_mechanism="zero", reset_delay=False)
    with torch.no_grad():
        reference.recurrent.weight.copy_(torch.as_tensor(graph.nodes["1.w_rec"].weight))
        reference.recurrent.bias.fill_(0.3)
    spk, mem = reference.reset_mem()
    layer, expected = from_nir(graph, dt=1e-4).layers["1"], []
    for step in sample.float():
        spk, mem = reference(step @ torch.as_tensor(graph.nodes["0"].weight).T, spk, mem)
        expected.append(spk)
    assert torch.equal(layer(sample.float())[0], torch.stack(expected))


@pytest.mark.skipif(tuple(map(int, nir.version.split("."))) < (1, 0, 6), reason="snnTorch 1.0 writes v_reset")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["Leaky", "RLeaky", "Synaptic"])
def test_graphs_that_snntorch_wrote(kind):
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(0)

    def make(size):
        options = {"threshold": torch.full((size,), 0.3), "beta": torch.full((size,), 0.9)}
        options |= {"linear_features": size} if kind == "RLeaky" else {}
        options |= {"alpha": torch.full((size,), 0.5)} if kind == "Synaptic" else {}
        return getattr(snn, kind)(init_hidden=True, reset_mechanism="zero", reset_delay=False, **options)

    model = nn.Sequential(nn.Linear(5, 4), make(4), nn.Linear(4, 3), make(3))
    graph = export_to_nir(model, torch.zeros(1, 5), ignore_dims=[0])
    for module in (model[1], model[3]):
        module.reset_mem()
    sample = spikes(7, 40, 3, 5)
    expected = torch.stack([model(step) for step in sample])
    assert expected.any()
    assert torch.equal(from_nir(graph, dt=1e-4)(sample), expected)


@pytest.mark.skipif(nir.version != "1.0.4", reason="Norse 1.1 writes with nir 1.0.4 alone")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("batch", [(), (1,)])
@pytest.mark.parametrize("kind", ["LIFBoxCell", "LIBoxCell"])
def test_graphs_that_norse_wrote(kind, batch):
    torch.manual_seed(0)
    parameters = {"LIFBoxCell": norse.LIFBoxParameters(v_th=torch.tensor(0.1)), "LIBoxCell": norse.LIBoxParameters()}
    make = lambda: getattr(norse, kind)(parameters[kind])  # noqa: E731
    model = norse.SequentialState(nn.Linear(5, 4), make(), nn.Linear(4, 3), make())
    sample, state, expected = spikes(8, 40, 3, 5), None, []
    for step in sample:
        z, state = model(step, state)
        expected.append(z)
    graph = norse.to_nir(model, torch.zeros(*batch, 5), dt=1.0)
    got = from_nir(graph, dt=1e-3, reset="hard")(sample)
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=0 if kind == "LIFBoxCell" else 1e-6)
    assert got.any()
    with pytest.raises(ValueError, match=r"dt: expected at most .* 1e-05.*norse\.torch\.to_nir\(\.\.\., dt=1\)"):
        from_nir(norse.to_nir(model, torch.zeros(*batch, 5)), dt=1e-3, reset="hard")


def test_a_lif_that_does_not_say_its_reset():
    node = quick_lif(v_reset=None)  # as in a file of nir 1.0.4
    graph, sample = chain([3], nir.Linear(WEIGHT), node), spikes(9, 30, 2, 3).double()
    with pytest.raises(ValueError, match=r"node 'n1': expected v_reset, got a LIF without.*reset='soft' or 'hard'"):
        from_nir(graph, dt=DT)
    subtracted = from_nir(graph, dt=DT, reset="soft", dtype=torch.float64)(sample).detach().numpy()
    np.testing.assert_array_equal(subtracted, interpret(graph, sample.numpy(), dt=DT).outputs["output"])
    node.v_reset = np.zeros(3)
    zeroed = from_nir(graph, dt=DT, dtype=torch.float64)(sample).detach().numpy()
    np.testing.assert_array_equal(zeroed, interpret(graph, sample.numpy(), dt=DT).outputs["output"])
    assert (zeroed != subtracted).any()


def test_a_rest_and_a_resistance_of_any_size_are_taken_over():
    node = quick_lif(v_leak=-0.2, v_threshold=0.1, r=2.5, v_reset=-0.2)
    graph, sample = chain([3], nir.Linear(WEIGHT), node), spikes(10, 30, 2, 3).double()
    restored = from_nir(graph, dt=DT, dtype=torch.float64)
    np.testing.assert_allclose(restored.layers["n1"].threshold.detach().numpy(), 0.3)
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(restored(sample).detach().numpy(), expected)
    assert 0 < expected.mean() < 1


def test_a_subgraph_that_is_no_composition_is_opened():
    inner = chain([3], nir.Linear(WEIGHT), nir.LI(np.full(3, 2e-3), np.full(3, 2.0), np.zeros(3)))
    graph, sample = chain([3], inner, nir.Affine(WEIGHT, np.ones(3))), spikes(11, 10, 2, 3).double()
    restored = from_nir(graph, dt=DT, dtype=torch.float64)
    assert list(restored.layers) == ["n0_n1", "n1"]
    expected = interpret(graph, sample.numpy(), dt=DT).outputs["output"]
    np.testing.assert_allclose(restored(sample).detach().numpy(), expected, atol=1e-12)


def changed(**nodes):
    """Return the graph of an ALIF with nodes of its composition replaced."""
    graph = to_nir(lsc.ALIF(3, 3, recurrent=False, dtype=torch.float64), dt=DT)
    graph.nodes["layer"].nodes |= nodes
    return graph


def looped():
    graph = chain([3], quick_lif(), quick_lif())
    graph.edges.append(("n1", "n0"))
    return graph


ONES = np.ones(3)
UNSUPPORTED = {
    "Delay": (chain([3], nir.Delay(ONES * DT)), r"node 'n0': expected IF, .*, got Delay; no layer"),
    "Scale": (chain([3], nir.Scale(ONES)), r"node 'n0': .*got Scale"),
    "Threshold": (chain([3], nir.Threshold(ONES)), r"node 'n0': .*got Threshold"),
    "leak of LI": (chain([3], nir.LI(ONES, ONES, ONES)), r"node 'n0': expected v_leak of 0, got 1"),
    "a loop of two": (looped(), r"graph: expected no loop but that of a neuron.*n0"),
    "a recurrent LI": (
        recurrent(WEIGHT, nir.LI(ONES, ONES, 0 * ONES)), r"node 'lif': expected a recurrence of spiking neurons"
    ),
    "a recurrence of channels": (
        graph_of(
            {
                **ends([2, 3]),
                "n": alike(nir.LIF, (2, 3), tau=1, r=1, v_leak=0, v_threshold=1, v_reset=0),
                "w": nir.Linear(WEIGHT),
            },
            [("input", "n"), ("n", "w"), ("w", "n"), ("n", "output")],
        ),
        r"node 'n': expected a vector of recurrent neurons, got shape \(2, 3\)",
    ),
    "an input that does not count": (
        chain([3], alike(nir.IF, 3, r=-1, v_threshold=1, v_reset=0)),
        r"node 'n0': expected an input that counts, r > 0, got"
    ),
    "a reset to no rest behind a convolution": (
        chain(
            (1, 3),
            nir.Conv1d(3, np.ones((1, 1, 1)), 1, 0, 1, 1, np.zeros(1)),
            alike(nir.LIF, (1, 3), tau=1, r=1, v_leak=0, v_threshold=1, v_reset=0.5),
        ),
        r"node 'n1': expected a reset to rest, or the threshold to be subtracted",
    ),
    "another digit": (
        changed(digit_3=nir.Threshold(ONES)), r"node 'layer': expected a composition as lsc_snn\.to_nir writes it"
    ),
    "another adaptation": (changed(a_now=nir.LI(ONES, ONES, 0 * ONES)), r"node 'layer': expected a composition as"),
    "a slow neuron": (
        chain([3], nir.LI(ONES * 1e3, ONES * 1e6, 0 * ONES)), r"node 'n0': expected decays per step between"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_no_layer_does_is_named(kind):
    graph, message = UNSUPPORTED[kind]
    with pytest.raises(ValueError, match=message):
        from_nir(graph, dt=DT)


def test_bad_arguments():
    graph = to_nir(lsc.LIF(3, 2, reset="hard"), dt=DT)
    with pytest.raises(ValueError, match=r"dt: expected at most .*; use a smaller dt"):
        from_nir(graph, dt=1.0)
    with pytest.raises(ValueError, match="dt: expected a finite number above 0, got -1"):
        from_nir(graph, dt=-1)
    with pytest.raises(ValueError, match="reset: expected one of 'hard', 'soft', got 'zero'"):
        from_nir(graph, dt=DT, reset="zero")
    with pytest.raises(TypeError, match=r"dtype: expected a floating-point torch.dtype, got torch.int32"):
        from_nir(graph, dt=DT, dtype=torch.int32)
