"""ONNX models against the networks they are of, run in onnxruntime with another batch size than they were made with."""

import numpy as np
import pytest
import torch
from torch import nn

import lsc_snn as lsc
from lsc_snn.network import Network, NetworkConfig
from lsc_snn.nir.synaptic import Synaptic
from lsc_snn.nir.units import Integrators, Units
from lsc_snn.onnx import Step, to_onnx

onnxruntime = pytest.importorskip("onnxruntime")
STEPS, BATCH, INPUTS = 25, 7, 6


def network(neuron, readout_tau=10.0, seed=0, **layer):
    config = NetworkConfig(INPUTS, 3, num_layers=2, num_units=8, neuron=neuron, readout_tau=readout_tau, layer=layer)
    return Network(config, seed=seed).eval()


def events(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(STEPS, BATCH, INPUTS, generator=generator) < 0.5).float()


def session_of(proto):
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def run(proto, inputs):
    session = session_of(proto)
    first, *rest = session.get_inputs()
    states = {state.name: np.zeros((inputs.shape[1], *state.shape[1:]), np.float32) for state in rest}
    outputs = []
    for step in inputs.numpy():
        output, *after = session.run(None, {first.name: step, **states})
        outputs.append(output)
        states = dict(zip(states, after, strict=True))
    return np.stack(outputs)


SPIKING = {
    "LIF": ("LIF", {}),
    "LIF, hard, bias": ("LIF", {"reset": "hard", "bias": True, "recurrent": False}),
    "ALIF, refractory": ("ALIF", {"refractory": 2}),
    "LSNN, no reset": ("LSNN", {"reset": "none", "zero_diagonal": True}),
}
OTHERS = {
    "GRU": ("GRU", {}),
    "LSTM": ("LSTM", {"bias": False}),
    "RNN": ("RNN", {"nonlinearity": "relu"}),
    "LRU": ("LRU", {}),
    "S5": ("S5", {"discretisation": "bilinear"}),
}
FAST = ("LIF, hard, bias", "GRU")


def cases(which):
    return [
        pytest.param(*case, id=name, marks=[] if name in FAST else pytest.mark.slow) for name, case in which.items()
    ]


@pytest.mark.parametrize(("neuron", "layer"), cases(SPIKING))
def test_every_spike_of_a_spiking_network(neuron, layer):
    model = network(neuron, readout_tau=None, threshold=0.4, **layer)
    model.readout = nn.Identity()  # the output is then the spikes of the last layer
    inputs = events()
    with torch.no_grad():
        expected = model(inputs).numpy()
    np.testing.assert_array_equal(run(to_onnx(model), inputs), expected)
    assert 0.01 < expected.mean() < 0.99


@pytest.mark.parametrize(("neuron", "layer"), cases(OTHERS))
def test_the_output_of_every_other_network(neuron, layer):
    model, inputs = network(neuron, **layer), events()
    with torch.no_grad():
        expected = model(inputs).numpy()
    np.testing.assert_allclose(run(to_onnx(model), inputs), expected, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("neuron", ["LIF", "ALIF", "LSNN", "GRU", "LSTM", "RNN", "LRU", "S5"])
def test_steps_are_the_sequence(neuron):
    model, inputs = network(neuron), events()
    step = Step(model)
    states, outputs = step.initial_state(BATCH), []
    with torch.no_grad():
        for x in inputs:
            output, *states = step(x, *states)
            outputs.append(output)
        torch.testing.assert_close(torch.stack(outputs), model(inputs), atol=1e-5, rtol=1e-4)
    assert len(states) == len(step.state_names) == len(set(step.state_names))


def test_names_and_free_batch_sizes_and_the_model_is_left_as_it_was():
    model = network("RNN").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    session = session_of(to_onnx(model))
    assert [x.name for x in session.get_inputs()] == ["input", "layer_0_h", "layer_1_h", "readout_v"]
    assert [x.name for x in session.get_outputs()] == ["output", "layer_0_h_next", "layer_1_h_next", "readout_v_next"]
    assert {x.shape[0] for x in [*session.get_inputs(), *session.get_outputs()]} == {"batch"}
    assert model.training
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_without_memory_is_one_map():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3)).eval()
    session, images = session_of(to_onnx(model, torch.rand(1, 1, 4, 4))), torch.rand(5, 1, 4, 4)
    (output,) = session.run(None, {"input": images.numpy()})
    np.testing.assert_allclose(output, model(images).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "sample", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2)), None, r"sample: expected an input \(B, \.\.\.\)"),
        (nn.Sequential(nn.Linear(3, 2)), torch.zeros(3), r"sample: expected shape \(B, \.\.\.\), got \(3,\)"),
        (
            nn.Sequential(lsc.LIF(3, 2)),
            torch.zeros(1, 3),
            r"layer '0': expected a Network.*got LIF inside a Sequential",
        ),
        (Units((4,)), None, r"layer 'model': expected .* one layer with weights, .*, got Units; .*to_nir"),
        (Integrators((4,), leaky=False), None, r"got Integrators; .*to_nir"),
        (nn.Sequential(nn.Linear(3, 4), Synaptic((4,))), None, r"layer '1': .*got Synaptic inside a Sequential"),
        (nn.GRU(3, 2, num_layers=2), None, r"model: expected GRU of one layer and direction"),
        (nn.LSTM(3, 2, bidirectional=True), None, r"model: expected LSTM of one layer and direction"),
    ],
)
def test_what_is_refused(model, sample, message):
    with pytest.raises(ValueError, match=message):
        to_onnx(model, sample)


def test_a_missing_package_names_the_extra(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"expected the package onnx, got none; pip install 'lsc-snn\[onnx\]'"):
        to_onnx(network("GRU"))
