"""snnTorch and Norse: their neurons as graphs, and what they make of graphs of ours."""

import functools

import nir
import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
from norse.torch.functional.reset import reset_subtract
from torch import nn

import lsc_snn as lsc
from lsc_snn.nir import interpret, to_nir
from nir_cases import spikes

DT = 1e-4


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
