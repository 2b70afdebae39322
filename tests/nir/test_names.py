"""Names of nodes over round trips: a graph of a restored graph has the names of the first."""

import pytest
import snntorch as snn
import torch
from torch import nn

from lsc_snn import LIF, Network, NetworkConfig
from lsc_snn.nir import from_nir, to_nir
from lsc_snn.nir.restore import Layers
from lsc_snn.nir.synaptic import Synaptic
from lsc_snn.nir.units import Units

DT = 1e-4


@pytest.mark.parametrize(
    "model",
    [
        Network(NetworkConfig(4, 3, num_layers=2, num_units=5, neuron="LSNN"), seed=0),
        LIF(4, 3, reset="hard"),
        nn.Sequential(nn.Linear(4, 3), Synaptic((3,), recurrent=True)),
        nn.Sequential(nn.Linear(4, 3), Units((3,), leaky=False)),
    ],
    ids=["network", "layer", "synaptic", "integrate and fire"],
)
def test_names_stay_over_round_trips(model):
    sample = (torch.rand(20, 2, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    graphs = [to_nir(model, dt=DT, sample=sample)]
    for _ in range(2):
        graphs.append(to_nir(from_nir(graphs[-1], dt=DT), dt=DT, sample=sample))
    names = [set(graph.nodes) for graph in graphs]
    assert names[0] == names[1] == names[2]


def test_names_of_a_linear_beside_neurons_that_take_its_like():
    """A graph of snnTorch comes back with "x_weights" before "x", and goes out under these names."""
    layers = {"x_weights": nn.Linear(4, 3), "x": Units((3,)), "y_weights": nn.Linear(3, 3), "y": LIF(3, 3)}
    chain = Layers(layers, {"x_weights": ["in"], "x": ["x_weights"], "y_weights": ["x"], "y": ["y_weights"]}, ["y"])
    sample = (torch.rand(20, 2, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    graph = to_nir(chain, dt=DT, sample=sample)
    assert list(graph.nodes) == ["input", "x_weights", "x", "y_weights", "y_weights_", "y", "output"]
    torch.testing.assert_close(from_nir(graph, dt=DT)(sample), chain(sample))


def test_an_error_of_a_decay_names_the_layer():
    model = nn.Sequential(nn.Linear(4, 2), snn.Leaky(torch.tensor([1.0, 0.5]), init_hidden=True))
    with pytest.raises(ValueError, match=r"layer '1': membrane decay: expected decays per step from 0 to below 1"):
        to_nir(model, dt=DT, sample=torch.rand(5, 2, 4))
