"""Models as graphs: the same spikes, all of them, in the interpreter; and what NIR cannot say, refused by name."""

import functools
import subprocess
import sys

import nir
import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from norse.torch.functional.reset import reset_subtract
from torch import nn

import lsc_snn as lsc
from data_dir import data_dir
from lsc_snn.datasets import read_shd
from lsc_snn.nir import interpret, to_nir

DT = 1e-4


def spikes(seed, *shape, rate=0.4):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def network(neuron="LIF", seed=0, **layer):
    config = lsc.NetworkConfig(12, 5, num_layers=2, num_units=16, neuron=neuron, dropout=0.3, layer=layer)
    return lsc.Network(config, seed=seed).double().eval()


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


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    neuron=st.sampled_from(["LIF", "ALIF", "LSNN"]),
    recurrent=st.booleans(),
    reset=st.sampled_from(["soft", "hard", "none"]),
)
def test_every_spike_of_every_layer(seed, neuron, recurrent, reset):
    if neuron != "LIF" and reset == "hard":
        reset = "soft"
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


class Loop(nn.Module):
    """A user's own loop over time, with normalisation and dropout on the way."""

    def __init__(self, make):
        super().__init__()
        self.fc1, self.norm, self.one = nn.Linear(10, 8), nn.BatchNorm1d(8), make(8)
        self.drop, self.fc2, self.two = nn.Dropout(0.5), nn.Linear(8, 4), make(4)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.3, 0.3)
            self.norm.running_var.uniform_(0.3, 2)

    def call(self, neuron, signal, state):
        if type(neuron).__module__.startswith("norse"):
            return neuron(signal, state)
        returned = neuron(signal, *(state or ()))
        return returned[0], returned if isinstance(neuron, snn.RLeaky | snn.RSynaptic) else returned[1:]

    def forward(self, x):
        one = two = None
        out = []
        for t in range(x.size(0)):
            z, one = self.call(self.one, self.norm(self.fc1(x[t])), one)
            z, two = self.call(self.two, self.fc2(self.drop(z)), two)
            out.append(z)
        return torch.stack(out, dim=0)


NOW = {"reset_mechanism": "zero", "reset_delay": False}
PEERS = {
    "Leaky": lambda n: snn.Leaky(beta=torch.linspace(0.2, 0.95, n), threshold=torch.linspace(0.2, 0.6, n)),
    "Leaky, zero": lambda n: snn.Leaky(beta=0.8, threshold=0.3, reset_mechanism="zero"),
    "Leaky, zero, in the same step": lambda n: snn.Leaky(beta=0.8, threshold=0.3, **NOW),
    "Leaky, none": lambda n: snn.Leaky(beta=0.8, threshold=0.3, reset_mechanism="none"),
    "Leaky without leak": lambda n: snn.Leaky(beta=1.0, threshold=0.5),
    "Synaptic": lambda n: snn.Synaptic(alpha=0.5, beta=0.8, threshold=0.5),
    "Synaptic, zero, in the same step": lambda n: snn.Synaptic(alpha=0.5, beta=0.8, threshold=0.5, **NOW),
    "RLeaky": lambda n: snn.RLeaky(beta=0.8, threshold=0.4, linear_features=n),
    "RLeaky, zero, in the same step": lambda n: snn.RLeaky(beta=0.8, threshold=0.4, linear_features=n, **NOW),
    "RLeaky, one to one": lambda n: snn.RLeaky(beta=0.8, threshold=0.4, all_to_all=False, V=torch.linspace(-1, 1, n)),
    "RSynaptic": lambda n: snn.RSynaptic(alpha=0.5, beta=0.8, threshold=0.4, linear_features=n),
    "LIFBoxCell": lambda n: norse.LIFBoxCell(norse.LIFBoxParameters(v_th=torch.tensor(0.1), v_leak=torch.tensor(0.02))),
    "LIFBoxCell, subtract": lambda n: norse.LIFBoxCell(
        norse.LIFBoxParameters(v_th=torch.full((n,), 0.1), reset_method=reset_subtract)
    ),
    "LIFCell": lambda n: norse.LIFCell(norse.LIFParameters(v_th=torch.tensor(0.2))),
    "LIFRecurrentCell": lambda n: norse.LIFRecurrentCell(n, n, p=norse.LIFParameters(v_th=torch.tensor(0.1))),
    "IAFCell": lambda n: norse.IAFCell(),
    "LIBoxCell": lambda n: norse.LIBoxCell(),
    "LICell": lambda n: norse.LICell(),
}


@pytest.mark.parametrize("kind", PEERS)
def test_models_of_peers_in_their_own_loop(kind):
    torch.manual_seed(0)
    model, sample = Loop(PEERS[kind]).eval(), spikes(4, 40, 3, 10)
    graph = to_nir(model, dt=DT, sample=sample)
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    expected = model(sample).detach().numpy()
    assert got.std() > 0
    if kind.startswith("LI"):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    if not kind.startswith(("LIBox", "LICell")):
        np.testing.assert_array_equal(got, expected)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(36, 5)
        self.lif = snn.Leaky(beta=0.8, threshold=0.2, init_hidden=True)
        self.readout = snn.Leaky(beta=0.9, reset_mechanism="none")

    def forward(self, x):
        self.lif.reset_mem()
        mem, out = self.readout.reset_mem(), []
        for step in x:
            hidden = self.pool(self.lif(self.norm(self.conv(step))))
            _, mem = self.readout(F.dropout(self.fc(hidden.flatten(1)), 0.5, self.training), mem)
            out.append(mem)
        return torch.stack(out)


def test_convolution_pooling_flattening_and_a_potential_for_readout():
    torch.manual_seed(1)
    model, sample = Convolutional().eval(), spikes(5, 12, 3, 2, 8, 8)
    graph = to_nir(model, dt=DT, sample=sample)
    kinds = [type(graph.nodes[name]).__name__ for name in ("conv", "pool", "pool_flatten", "fc", "readout")]
    assert kinds == ["Conv2d", "AvgPool2d", "Flatten", "Affine", "LI"]
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_allclose(got, model(sample).detach().numpy(), atol=1e-5)


class Feedback(nn.Module):
    """A recurrence that the user wired."""

    def __init__(self):
        super().__init__()
        self.fc, self.rec, self.lif = nn.Linear(10, 8), nn.Linear(8, 8), snn.Leaky(beta=0.8, threshold=0.3)

    def forward(self, x):
        mem, spk, out = self.lif.reset_mem(), torch.zeros(x.shape[1], 8, dtype=x.dtype), []
        for step in x.unbind(0):
            spk, mem = self.lif(self.fc(step) + self.rec(spk), mem)
            out.append(spk)
        return torch.stack(out).sum(0)  # not the sequence itself


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.readout = lsc.ALIF(10, 10), lsc.LIF(10, 10, reset="hard"), lsc.LI(10, 3)

    def forward(self, x):
        first, _ = self.one(x)
        second, _ = self.two(first)
        return self.readout(first + second)[0]


@pytest.mark.parametrize("kind", [Feedback, Skip])
def test_branches_and_loops_of_the_users(kind):
    torch.manual_seed(2)
    model, sample = kind().eval(), spikes(6, 30, 2, 10)
    got = interpret(to_nir(model, dt=DT, sample=sample), sample.double().numpy(), dt=DT).outputs["output"]
    got = got.sum(0) if kind is Feedback else got
    np.testing.assert_allclose(got, model(sample).detach().numpy(), atol=1e-5)
    assert got.std() > 0


def test_a_sequential_of_anything():
    torch.manual_seed(3)
    lif = norse.LIFCell(norse.LIFParameters(v_th=torch.tensor(0.05)))
    model = nn.Sequential(
        lsc.ALIF(10, 6), nn.Dropout(), nn.Linear(6, 5), snn.RLeaky(beta=0.8, linear_features=5, threshold=0.3), lif
    )
    graph = to_nir(model, dt=DT, sample=spikes(7, 30, 2, 10))
    assert [name for name in graph.nodes if not name.endswith("weights")] == [
        "input", "layer_0", "layer_2", "layer_3", "layer_4", "output"
    ]  # fmt: skip


def test_a_call_for_an_unusual_forward():
    torch.manual_seed(4)
    model = nn.ModuleDict({"fc": nn.Linear(10, 4), "lif": snn.Leaky(beta=0.7, threshold=0.2, init_hidden=True)})
    call = lambda model, x: torch.stack([model["lif"](model["fc"](step)) for step in x])  # noqa: E731
    assert list(to_nir(model, dt=DT, sample=spikes(8, 9, 2, 10), call=call).nodes) == ["input", "fc", "lif", "output"]


class Hidden(nn.Module):
    """A forward that does between its layers what is no module."""

    def __init__(self, between):
        super().__init__()
        self.fc, self.lif, self.between = nn.Linear(10, 6), lsc.LIF(6, 4, recurrent=False), between

    def forward(self, x):
        return self.lif(self.between(self.fc(x)))[0]


REFUSED = {
    "refractory": (lsc.LIF(10, 4, refractory=2), r"layer 'layer': expected refractory=0, got 2; .*train without"),
    "hard ALIF": (lsc.ALIF(10, 4, reset="hard"), r"layer 'layer': expected reset='soft' or 'none'.*approximate=True"),
    "LRU": (lsc.LRU(10, 4), r"layer 'layer': expected a layer that NIR can express, got LRU; .*complex.*ONNX"),
    "S5": (nn.Sequential(lsc.S5(10, 4)), r"layer '0': expected .*, got S5;"),
    "GRU": (nn.GRU(10, 4), r"layer 'layer': expected .*, got GRU; NIR has no gates"),
    "MaxPool2d": (nn.Sequential(nn.Conv1d(10, 4, 1), nn.MaxPool2d(2)), r"layer '1': expected .*got MaxPool2d; use Avg"),
    "LayerNorm": (nn.Sequential(nn.Linear(10, 4), nn.LayerNorm(4)), r"layer '1': expected .*got LayerNorm; use LIF"),
    "BatchNorm alone": (nn.Sequential(nn.BatchNorm1d(10)), r"layer '0': expected a Linear or Conv in front"),
    "reset": (
        nn.Sequential(nn.Linear(10, 4), snn.Leaky(beta=0.9, reset_delay=False)),
        r"layer '1': expected a reset that NIR has, got reset_mechanism='subtract' with reset_delay=False; use",
    ),
    "dropped input": (
        nn.Sequential(nn.Linear(10, 4), snn.Synaptic(alpha=0.5, beta=0.9, reset_mechanism="zero")),
        r"layer '1': expected a reset that NIR has, got reset_mechanism='zero' with reset_delay=True; use",
    ),
    "Alpha": (nn.Sequential(snn.Alpha(alpha=0.9, beta=0.8)), r"layer '0': expected Leaky, RLeaky.*, got Alpha;"),
    "LSNN of Norse": (nn.Sequential(norse.LSNNCell()), r"layer '0': expected LIFBox.*, got LSNNCell; .*lsc_snn.ALIF"),
    "a function": (Hidden(torch.relu), r"layer 'lif': expected what other modules hand up.*, got the output of 'relu'"),
    "a constant": (Hidden(lambda x: x + 1), r"layer 'lif': .*got the output of 'an addition of a constant'"),
    "noise": (Hidden(torch.rand_like), r"layer 'lif': .*got the output of 'rand_like'"),
    "shift": (Hidden(lambda x: x.roll(1, 0)), r"layer 'lif': .*got the output of 'roll'"),
    "a function inside": (Hidden(nn.Tanh()), r"layer 'between': expected .*got Tanh"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_nir_cannot_say_is_named(kind):
    model, message = REFUSED[kind]
    sample = spikes(9, 6, 2, 10, 3) if kind == "MaxPool2d" else spikes(9, 20, 2, 10)
    with pytest.raises(ValueError, match=message):
        to_nir(model, dt=DT, sample=sample)


class Late(nn.Module):
    """Hands the spikes of two steps before on; and one that multiplies what it keeps, which no tensor shows."""

    def __init__(self, hidden):
        super().__init__()
        self.fc, self.lif, self.top = nn.Linear(10, 6), snn.Leaky(beta=0.8, threshold=0.2), nn.Linear(6, 2)
        self.hidden = hidden

    def forward(self, x):
        mem, out, past = self.lif.reset_mem(), [], [torch.zeros(x.shape[1], 6, dtype=x.dtype)] * 2
        for step in x:
            spk, mem = self.lif(self.fc(step), mem * 0.5 if self.hidden else mem)
            past.append(spk)
            out.append(self.top(spk if self.hidden else past[-3]))
        return torch.stack(out)


def test_an_order_that_nir_has_not_and_what_cannot_be_seen_are_refused():
    sample = spikes(10, 12, 2, 10)
    with pytest.raises(ValueError, match=r"layer 'top': expected the output of 'lif' of the same time step or the one"):
        to_nir(Late(hidden=False), dt=DT, sample=sample)
    with pytest.raises(ValueError, match=r"model: expected a graph that gives what the model gives, got \d+ of 48"):
        to_nir(Late(hidden=True), dt=DT, sample=sample)


@pytest.mark.parametrize("dt", [0.0, -1e-3, float("nan"), float("inf")])
def test_a_bad_time_step(dt):
    with pytest.raises(ValueError, match="dt: expected a finite number above 0"):
        to_nir(lsc.LIF(3, 2), dt=dt)


def test_bad_models_and_samples():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got str"):
        to_nir("model", dt=DT)
    with pytest.raises(
        ValueError, match=r"sample: expected an input \(T, B, \.\.\.\) of this model.*, got None; pass one"
    ):
        to_nir(Skip(), dt=DT)
    for sample, error in ((torch.zeros(3, 10), ValueError), (torch.ones(2, 2, 10, dtype=torch.long), TypeError)):
        with pytest.raises(error, match="sample: expected"):
            to_nir(Skip(), dt=DT, sample=sample)
    broken = lsc.LIF(3, 2)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="parameter weight: expected finite values"):
        to_nir(broken, dt=DT)


def test_nir_is_imported_on_demand_alone():
    code = "import sys, lsc_snn; assert 'nir' not in sys.modules; lsc_snn.to_nir; assert 'nir' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'to_nirr'"):
        lsc.to_nirr  # noqa: B018


# What importers make of it. Norse ignores r; snnTorch imports a recurrent graph by nirtorch.load alone.

OLD = pytest.mark.skipif(nir.version != "1.0.4", reason="nirtorch.load works with nir 1.0.4 alone")
DEPRECATED = pytest.mark.filterwarnings("ignore:nirtorch.load is being deprecated:DeprecationWarning")


def stepped(imported, sample):
    state, out = None, []
    for step in sample:
        z, state = imported(step, state)
        out.append(z)
    return torch.stack(out).detach().numpy()


def stack(recurrent):
    options = {"reset": "hard", "recurrent": recurrent, "tau": torch.linspace(2, 20, 8)}
    generator = torch.Generator().manual_seed(5)
    return nn.Sequential(lsc.LIF(10, 8, generator=generator, **options), lsc.LIF(8, 8, generator=generator, **options))


@OLD
@DEPRECATED
@pytest.mark.parametrize("recurrent", [True, False])
def test_norse_gives_the_same_spikes(recurrent):
    model, sample = stack(recurrent), spikes(11, 40, 3, 10)
    graph = to_nir(model, dt=DT, unit_r=True)
    expected = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(stepped(norse.from_nir(graph, dt=DT), sample), expected)
    assert expected.any()


@OLD
@DEPRECATED
@pytest.mark.parametrize("recurrent", [True, False])
def test_snntorch_gives_the_same_spikes(recurrent):
    import nirtorch
    from snntorch.import_nir import _nir_to_snntorch_module

    model, sample = stack(recurrent), spikes(12, 40, 3, 10)
    graph = to_nir(model, dt=DT)
    for layer in ("layer_0", "layer_1"):  # it takes one threshold for all neurons, exactly
        node = graph.nodes[layer].nodes["lif"] if recurrent else graph.nodes[layer]
        node.v_threshold = np.ones_like(node.v_threshold)
    expected = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    imported = nirtorch.load(graph, functools.partial(_nir_to_snntorch_module, init_hidden=True))
    np.testing.assert_array_equal(stepped(imported, sample), expected)
    assert expected.any()


class Narrow(nn.Module):
    """A forward that makes a float32 tensor whatever the type of the model."""

    def __init__(self):
        super().__init__()
        self.fc, self.rec, self.lif = nn.Linear(10, 8), nn.Linear(8, 8), snn.Leaky(beta=0.8, threshold=0.3)

    def forward(self, x):
        mem, spk, out = self.lif.reset_mem(), torch.zeros(x.shape[1], 8, dtype=torch.float32), []
        for step in x:
            spk, mem = self.lif(self.fc(step) + self.rec(spk), mem)
            out.append(spk)
        return torch.stack(out)


def test_a_forward_that_insists_on_float32():
    torch.manual_seed(6)
    model, sample = Narrow().eval(), spikes(13, 30, 2, 10)
    got = interpret(to_nir(model, dt=DT, sample=sample), sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(got, model(sample).detach().numpy())
    assert torch.get_default_dtype() == torch.float32


def test_an_event_batch_is_a_sample_too():
    model, sample = network("ALIF"), spikes(14, 20, 2, 12)
    graph = to_nir(model, dt=DT, sample=lsc.EventBatch.from_dense(sample))
    assert_same(model, graph, sample)


def test_the_potential_of_a_neuron_that_resets_to_zero_is_refused():
    torch.manual_seed(7)
    model, sample = Convolutional().eval(), spikes(15, 8, 2, 2, 8, 8)
    model.readout = snn.Leaky(beta=0.9, threshold=0.1)  # subtracts: its potential is that of the composition
    got = interpret(to_nir(model, dt=DT, sample=sample), sample.double().numpy(), dt=DT).outputs["output"]
    with torch.no_grad():
        np.testing.assert_allclose(got, model(sample).numpy(), atol=1e-5)
    model.readout = snn.Leaky(beta=0.9, reset_mechanism="zero")
    with pytest.raises(
        ValueError, match=r"layer 'readout': expected spikes, of a neuron with reset 'zero'.*reset 'none'"
    ):
        to_nir(model, dt=DT, sample=sample)


def test_a_hidden_state_with_a_graph_is_refused():
    model = nn.Sequential(nn.Linear(10, 4), snn.Leaky(beta=0.9, init_hidden=True))
    model(spikes(16, 2, 10))
    with pytest.raises(
        ValueError, match="model: expected no hidden state that carries a graph, got one; call its reset"
    ):
        to_nir(model, dt=DT, sample=spikes(16, 4, 2, 10))


def test_names_stay_apart():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.input, self.a_b = lsc.LIF(4, 4), nn.Linear(4, 4)
            self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
            self.output = lsc.LI(4, 2)

        def forward(self, x):
            return self.output(self.a["b"](self.a_b(self.input(x)[0])))[0]

    names = list(to_nir(Named(), dt=DT, sample=spikes(17, 9, 2, 4)).nodes)
    assert names == ["input", "input__weights", "input_", "a_b", "a_b_", "output__weights", "output_", "output"]


def test_a_constant_current_in_a_loop_with_nothing_in_front():
    torch.manual_seed(8)
    model, sample = snn.RLeaky(beta=0.8, linear_features=4, threshold=0.5), spikes(18, 30, 2, 4)
    graph = to_nir(model, dt=DT, sample=sample)
    assert list(graph.nodes) == ["input", "layer", "layer_bias", "output"]
    spk, mem, expected = *model.reset_mem(), []
    for step in sample:
        spk, mem = model(step, spk, mem)
        expected.append(spk)
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(got, torch.stack(expected).detach().numpy())


class Reused(nn.Module):
    """A pool, a Linear and a dropout that come twice in every step; a layer of neurons that does not."""

    def __init__(self, twice):
        super().__init__()
        self.conv, self.pool, self.drop = nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2), nn.Dropout(0.5)
        self.fc, self.twice = nn.Linear(4, 4), twice
        self.one, self.two = (snn.Leaky(beta=0.8, threshold=0.1) for _ in range(2))

    def forward(self, x):
        first, second, out = self.one.reset_mem(), self.two.reset_mem(), []
        for step in x:
            spk, first = self.one(self.pool(self.conv(self.drop(step))), first)
            hidden = self.fc(self.fc(self.drop(self.pool(spk).flatten(1))))
            spk, second = self.two(hidden, second)
            if self.twice:
                spk, second = self.two(spk, second)
            out.append(spk)
        return torch.stack(out).mean(0)


def test_a_module_that_comes_twice_in_a_step():
    torch.manual_seed(9)
    model, sample = Reused(twice=False).eval(), spikes(19, 20, 3, 1, 8, 8)
    graph = to_nir(model, dt=DT, sample=sample)
    assert list(graph.nodes)[1:-1] == ["conv", "pool", "one", "pool_1", "pool_1_flatten", "fc", "fc_1", "two"]
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"].mean(0)
    np.testing.assert_allclose(got, model(sample).detach().numpy(), atol=1e-6)
    assert got.std() > 0
    with pytest.raises(ValueError, match=r"layer 'two': expected one call for each time step of neurons, got more"):
        to_nir(Reused(twice=True), dt=DT, sample=sample)


class Merged(nn.Module):
    """Time and batch as one batch where nothing has a memory."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.lif = (
            nn.Conv2d(1, 2, 3),
            nn.BatchNorm2d(2),
            lsc.LIF(72, 5, reset="hard", threshold=0.2),
        )

    def forward(self, x):
        merged = self.norm(self.conv(x.flatten(0, 1)))
        return self.lif(merged.view(*x.shape[:2], *merged.shape[1:]).flatten(2))[0]


def test_time_and_batch_merged():
    torch.manual_seed(10)
    model, sample = Merged().eval(), spikes(20, 20, 3, 1, 8, 8)
    graph = to_nir(model, dt=DT, sample=sample)
    assert list(graph.nodes) == ["input", "conv", "norm_flatten", "lif_weights", "lif", "output"]
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(got, model(sample).detach().numpy())
    assert got.any()
