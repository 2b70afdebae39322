"""A network is its layers in a row; its configuration is checked."""

import dataclasses
import json
import re

import pytest
import torch

from cases import normal
from lsc_snn import (
    ALIF,
    LI,
    LIF,
    LSNN,
    EventBatch,
    Network,
    NetworkConfig,
    gradient_profile,
    measure,
    stabilize,
)
from lsc_snn.baselines import lsuv, orthogonal


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
        ({"neuron": "alif"}, ValueError, "neuron: expected one of 'LIF', 'ALIF', 'LSNN', 'GRU', 'LSTM', "),
        ({"readout_tau": -1.0}, ValueError, "readout_tau: expected a finite number above 0, got -1.0"),
        ({"layer": {"thresold": 1}}, TypeError, "layer: expected options of ALIF, got 'thresold'; did you mean"),
        ({"neuron": "LIF", "layer": {"beta": 1}}, TypeError, "layer: expected options of LIF, got 'beta'"),
        ({"neuron": "GRU", "layer": {"recurrent": False}}, TypeError, "layer: expected options of GRU, got 'recur"),
        ({"neuron": "GRU", "layer": {"bias": 1}}, TypeError, "bias: expected True or False, got int"),
        ({"neuron": "RNN", "layer": {"nonlinearity": "sin"}}, ValueError, "nonlinearity: expected one of 'tanh'"),
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


# --- layers of torch.nn and state-space blocks ---

OTHERS = ("GRU", "LSTM", "RNN", "LRU", "S5")


def events(*, lengths=None, density=0.15):
    dense = (torch.rand(24, 6, 6, generator=torch.Generator().manual_seed(3)) < density).float()
    if lengths is not None:
        lengths = torch.tensor(lengths)
        dense = dense * (torch.arange(24)[:, None] < lengths)[:, :, None]
    return EventBatch.from_dense(dense, lengths=lengths)


@pytest.mark.parametrize("tau", [10.0, None])
@pytest.mark.parametrize("neuron", OTHERS)
def test_events_and_dense_input_agree_for_every_kind(neuron, tau):
    network = Network(small(neuron=neuron, num_layers=3, readout_tau=tau), seed=1)
    batch = events()
    torch.testing.assert_close(network(batch), network(batch.to_dense()))
    assert isinstance(network.readout, LI if tau else torch.nn.Linear)


@pytest.mark.parametrize("neuron", ["GRU", "LSTM", "RNN"])
def test_layers_of_torch_are_those_of_torch(neuron):
    """The same numbers as torch's stacked module with these parameters, which start as torch starts them."""
    network = Network(small(neuron=neuron, num_layers=2, readout_tau=None), seed=1)
    stacked = getattr(torch.nn, neuron)(6, 8, num_layers=2)
    inner = [network.layers[0].layer, network.layers[1]]
    with torch.no_grad():
        for index, layer in enumerate(inner):
            for name, parameter in layer.named_parameters():
                getattr(stacked, name.replace("_l0", f"_l{index}")).copy_(parameter)
        expected = torch.nn.functional.linear(stacked(events().to_dense())[0], network.readout.weight)
        torch.testing.assert_close(network(events()), expected + network.readout.bias)
    bound = 1 / 8**0.5
    weights = torch.cat([parameter.detach().flatten() for layer in inner for parameter in layer.parameters()])
    assert 0.9 * bound < float(weights.abs().max()) <= bound
    assert float(weights.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize("neuron", ["ALIF", "LSNN", *OTHERS])
def test_a_sequence_in_two_parts_is_the_whole(neuron):
    """The states that ``run`` returns are all that a network carries from step to step."""
    network = Network(small(neuron=neuron, num_layers=2), seed=1)
    x = events().to_dense()
    first, states = network.run(x[:9])
    second, last = network.run(x[9:], states)
    whole, final = network.run(x)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(torch.utils._pytree.tree_leaves(last), torch.utils._pytree.tree_leaves(final))


@pytest.mark.parametrize("neuron", OTHERS)
def test_the_seed_alone_fixes_weights_of_every_kind(neuron):
    state = torch.get_rng_state()
    first, second, other = (Network(small(neuron=neuron), seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("neuron", OTHERS)
def test_events_and_dense_input_measure_alike(neuron):
    """Where all steps are valid; the first layer is one row, its encoder a part of the way from the input."""
    network = Network(small(neuron=neuron, num_layers=2), seed=1)
    ours, dense = (measure(network, batch) for batch in (events(), events().to_dense()))
    assert ours.names == ("layers.0", "layers.1")
    assert ours.encoder == pytest.approx(dense.encoder, rel=1e-6)
    torch.testing.assert_close((ours.time, ours.depth), (dense.time, dense.depth))
    profiles = [gradient_profile(network, batch) for batch in (events(), events().to_dense())]
    torch.testing.assert_close(*profiles)
    assert profiles[0].shape == (24, 2)


def test_steps_beyond_the_end_are_not_measured():
    network = Network(small(neuron="GRU"), seed=1)
    lengths = [12, 24, 7, 24, 3, 20]
    alone = [measure(network, events(lengths=lengths).select(torch.tensor([i])), num_times=3) for i in (0, 2, 4)]
    cut = [
        measure(network, events(lengths=lengths).select(torch.tensor([i])).to_dense()[: lengths[i]], num_times=3)
        for i in (0, 2, 4)
    ]
    for ours, expected in zip(alone, cut, strict=True):
        assert ours.time.tolist() == pytest.approx(expected.time.tolist(), rel=1e-5)


@pytest.mark.parametrize("neuron", ["LRU", "S5"])
def test_the_encoder_is_part_of_the_first_depth_transition(neuron):
    """d y_1 / d x, exactly, against autograd through the module's own step at rest."""
    network = Network(small(neuron=neuron, num_layers=1, num_units=6), seed=1).double()
    x = events().to_dense().double()[:1, :1]
    got = measure(network, x, method="exact", num_times=1).encoder
    first = network.layers[0].eval()

    def through(step):
        return first(step[None, None])[0][0, 0]

    matrix = torch.autograd.functional.jacobian(through, x[0, 0])
    assert got == pytest.approx(float(torch.linalg.eigvals(matrix).abs().max()), rel=1e-6)


@pytest.mark.parametrize("target", ["half", "one"])
@pytest.mark.parametrize("neuron", OTHERS)
def test_every_kind_is_stabilised_on_events(neuron, target):
    network = Network(NetworkConfig(20, 4, num_layers=2, num_units=24, neuron=neuron, readout_tau=None), seed=1)
    dense = (torch.rand(20, 8, 20, generator=torch.Generator().manual_seed(3)) < 0.1).float()
    result = stabilize(network, EventBatch.from_dense(dense), target=target)
    assert result.converged, result.reasons


@pytest.mark.parametrize("neuron", OTHERS)
def test_every_kind_is_initialised_on_events(neuron):
    report = lsuv(Network(small(neuron=neuron), seed=1), events(density=0.4))
    assert report.converged
    assert orthogonal(Network(small(neuron=neuron), seed=1)).parameters


@pytest.mark.parametrize("neuron", ["LRU", "S5"])
def test_dropout_of_a_block_is_inside_its_branch(neuron):
    network = Network(small(neuron=neuron, dropout=0.5), seed=1)
    assert [block.dropout.p for block in (network.layers[0].layer, network.layers[1])] == [0.5, 0.5]
    seen = []
    network.dropout.register_forward_hook(lambda *_: seen.append(True))
    network(events())
    assert seen == []


@pytest.mark.parametrize("neuron", ["LIF", *OTHERS])
def test_autocast_leaves_the_states_of_our_own_layers_alone(neuron):
    network = Network(small(neuron=neuron), seed=1)
    expected, states = network.run(events())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, after = network.run(events())
    torch.testing.assert_close(got.float(), expected, rtol=0.1, atol=0.1)
    if neuron in ("LIF", "LRU", "S5"):
        leaves = torch.utils._pytree.tree_leaves((states, after))
        assert {leaf.dtype for leaf in leaves if leaf is not None} <= {torch.float32, torch.complex64}
