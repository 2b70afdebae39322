"""A network is its layers in a row; its configuration is checked."""

import dataclasses
import json
import re

import pytest
import torch

from cases import normal
from lsc_snn import ALIF, LI, LIF, LSNN, EventBatch, Network, NetworkConfig


def small(**options):
    return NetworkConfig(**({"num_inputs": 6, "num_classes": 3, "num_units": 8} | options))


@pytest.mark.parametrize(("neuron", "kind"), [("LIF", LIF), ("ALIF", ALIF), ("LSNN", LSNN)])
def test_a_network_is_its_layers_in_a_row(neuron, kind, device):
    network = Network(small(neuron=neuron, num_layers=3, layer={"threshold": 0.5}), seed=1).to(device)
    assert [type(layer) for layer in network.layers] == [kind] * 3
    assert isinstance(network.readout, LI)
    x = 2 * normal(20, 4, 6, dtype=torch.float32, device=device)
    signal = x
    for layer in network.layers:
        signal, _ = layer(signal)
    assert signal.any()
    output = network(x)
    assert output.shape == (20, 4, 3)
    assert torch.equal(output, network.readout(signal)[0])


def test_events_and_dense_input_agree():
    network = Network(small(layer={"threshold": 0.3}))
    x = (normal(20, 4, 6, dtype=torch.float32) > 0.8).float()
    torch.testing.assert_close(network(EventBatch.from_dense(x)), network(x))


def test_the_seed_fixes_every_weight_and_nothing_else_does():
    state = torch.get_rng_state()
    first, second, other = (Network(small(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.layers[1].weight, other.layers[1].weight)
    assert not torch.equal(first.layers[0].recurrent_raw, first.layers[1].recurrent_raw)


def test_dropout_acts_between_layers_in_training_alone():
    network = Network(small(dropout=0.9, layer={"threshold": 0.1}))
    x = 2 * normal(20, 4, 6, dtype=torch.float32)
    seen = []
    network.layers[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(x)
    network.eval()
    network(x)
    spikes = network.layers[0](x)[0]
    assert torch.equal(seen[1], spikes)
    assert float(seen[0].count_nonzero() / spikes.count_nonzero()) < 0.3


def test_layer_options_reach_every_layer():
    network = Network(
        small(num_layers=2, readout_tau=5.0, layer={"recurrent": False, "reset": "hard", "refractory": 2})
    )
    assert all(layer.recurrent_raw is None for layer in network.layers)
    assert all((layer.reset, layer.refractory) == ("hard", 2) for layer in network.layers)
    expected = torch.full((3,), 5.0)
    torch.testing.assert_close(-1 / torch.log(network.readout.alpha), expected, rtol=1e-4, atol=0)


def test_a_configuration_survives_json():
    config = small(neuron="LSNN", layer={"num_adaptive": 3})
    assert NetworkConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_inputs": 0}, ValueError, "num_inputs: expected an integer >= 1, got 0"),
        ({"num_layers": 1.5}, TypeError, "num_layers: expected an integer, got float"),
        ({"num_units": True}, TypeError, "num_units: expected an integer, got bool"),
        ({"neuron": "alif"}, ValueError, "neuron: expected one of 'LIF', 'ALIF', 'LSNN', got 'alif'"),
        ({"dropout": 1.0}, ValueError, "dropout: expected a probability from 0 to below 1, got 1.0"),
        ({"dropout": float("nan")}, ValueError, "dropout: expected a probability"),
    ],
)
def test_bad_configurations_are_named(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        small(**options)


def test_bad_layer_options_are_named_by_the_layer():
    with pytest.raises(ValueError, match="tau: expected a time constant in steps"):
        Network(small(layer={"tau": -1.0}))
    with pytest.raises(ValueError, match="inputs: expected shape"):
        Network(small())(torch.zeros(5, 2, 7))
