"""Integers against a slow oracle that steps one unit at a time in Python's own, and against the float network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_snn import EventBatch, Network, NetworkConfig
from lsc_snn.fixed_point import NumberFormat, quantise, scales_of, simulate

FINE = NumberFormat(weight_bits=28, potential_bits=32, decay="multiply", decay_bits=30)


def make(neuron="LIF", seed=0, readout_tau=10.0, num_layers=2, **layer):
    options = {"threshold": 0.6, "bias": True, **layer}
    if neuron != "LIF":
        options |= {"tau_adaptation": 8.0, "beta": 0.7}
    config = NetworkConfig(6, 3, num_layers, 5, neuron=neuron, readout_tau=readout_tau, layer=options)
    network = Network(config, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.05, generator=generator)
            elif parameter.ndim == 1:  # units of different thresholds and time constants
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network


def make_inputs(seed=0, steps=25, batch=3):
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randint(0, 3, (steps, batch, 6), generator=generator).double()


def decayed(v, stored, number_format):
    if number_format.decay == "multiply":
        return (v * stored + 2 ** (number_format.decay_bits - 1)) // 2**number_format.decay_bits
    lost = v // 2**stored
    return v - (1 if number_format.decay == "xylo" and lost == 0 and v > 0 else lost)


def oracle(network, sample):
    """Step one sample, a list of lists of int, through a network in integers; return spikes and potentials."""
    number_format, signal, all_spikes = network.format, sample, []
    low, high = -(2 ** (number_format.potential_bits - 1)), 2 ** (number_format.potential_bits - 1) - 1
    for layer in network.layers:
        weight, units = layer.weight.tolist(), range(len(layer.weight))
        recurrent = None if layer.recurrent is None else layer.recurrent.tolist()
        v, z, b, wait = ([0] * len(units) for _ in range(4))
        out, gain = [], 2**layer.scale.shift
        for x in signal:
            v_next, z_next, b_next = [0] * len(units), [0] * len(units), [0] * len(units)
            for n in units:
                total = sum(w * value for w, value in zip(weight[n], x, strict=True))
                if recurrent is not None:
                    total += sum(w * value for w, value in zip(recurrent[n], z, strict=True))
                kept = 0 if layer.reset == "hard" and z[n] else v[n]
                total = decayed(kept, int(layer.decay[n]), number_format) + total * gain + int(layer.bias[n])
                if layer.reset == "soft" and z[n]:
                    total -= int(layer.threshold[n]) + b[n]
                v_next[n] = min(max(total, low), high)
                if layer.threshold is None:
                    continue
                if layer.jump is not None:
                    b_next[n] = decayed(b[n], int(layer.adaptation_decay[n]), number_format) + int(layer.jump[n]) * z[n]
                    b_next[n] = min(max(b_next[n], low), high)
                wait[n] = max(wait[n] - 1, 0)
                if v_next[n] > int(layer.threshold[n]) + b_next[n] and wait[n] == 0:
                    z_next[n] = 1
                    wait[n] = layer.refractory + 1
            v, z, b = v_next, z_next, b_next
            out.append(v if layer.threshold is None else z)
        signal = out
        if layer.threshold is not None:
            all_spikes.append(out)
    return all_spikes, signal


KINDS = [
    {"neuron": "LIF", "reset": "soft"},
    {"neuron": "LIF", "reset": "hard"},
    {"neuron": "LIF", "reset": "none"},
    {"neuron": "LIF", "recurrent": False},
    {"neuron": "LIF", "refractory": 2, "zero_diagonal": True},
    {"neuron": "ALIF", "reset": "soft"},
    {"neuron": "ALIF", "reset": "hard"},
    {"neuron": "LSNN", "recurrent": False},
    {"neuron": "LIF", "readout_tau": None},
]
FORMATS = [
    NumberFormat(weight_bits=4, potential_bits=10),
    NumberFormat(weight_bits=8, potential_bits=16, decay="xylo", per_channel=True),
    NumberFormat(weight_bits=6, potential_bits=14, decay="multiply", power_of_two=True),
]


@pytest.mark.parametrize("number_format", FORMATS, ids=lambda f: f"{f.weight_bits}-{f.decay}")
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: "-".join(map(str, k.values())))
def test_it_is_what_python_integers_give(kind, number_format):
    network, inputs = make(**kind), make_inputs(batch=2)
    integers = quantise(network, number_format, scales_of(network, inputs, number_format))
    run = simulate(integers, inputs)
    assert run.spikes[0].any()
    for sample in range(inputs.shape[1]):
        spikes, potentials = oracle(integers, inputs[:, sample].long().tolist())
        for got, expected in zip(run.spikes, spikes, strict=True):
            assert got[:, sample].long().tolist() == expected
        assert run.potentials[:, sample].tolist() == potentials


def test_potentials_saturate_as_in_the_oracle():
    network, inputs = make(reset="none", recurrent=False), make_inputs(batch=1)
    number_format = NumberFormat(weight_bits=6, potential_bits=8)
    integers = quantise(network, number_format, scales_of(network, inputs / 10, number_format))
    run = simulate(integers, inputs)
    assert run.saturated[0] > 0
    assert [z[:, 0].long().tolist() for z in run.spikes] == oracle(integers, inputs[:, 0].long().tolist())[0]


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(KINDS), st.integers(0, 1000))
def test_with_many_bits_it_is_the_float_network(kind, seed):
    network, inputs = make(seed=seed, **kind), make_inputs(seed)
    run = simulate(quantise(network, FINE, scales_of(network, inputs, FINE)), inputs)
    signal = inputs
    for layer, spikes in zip(network.layers, run.spikes, strict=True):
        signal = layer(signal)[0]
        assert torch.equal(signal.bool(), spikes)
    output = network(inputs).detach()
    unit = scales_of(network, inputs, FINE)[-1].potential
    assert torch.allclose(run.potentials * unit, output, atol=1e-5 * float(output.abs().max()))


def test_spikes_approach_those_of_float_as_bits_grow():
    inputs, wrong = make_inputs(steps=60, batch=8), []
    for bits in (3, 6, 12, 24):
        count = 0
        for seed in range(6):
            network = make(seed=seed)
            number_format = NumberFormat(bits, 32, decay="multiply", decay_bits=min(bits, 30))
            run = simulate(quantise(network, number_format, scales_of(network, inputs, number_format)), inputs)
            count += int((network.layers[0](inputs)[0].bool() != run.spikes[0]).sum())
        wrong.append(count)
    assert wrong[0] > wrong[1] > wrong[2] >= wrong[3] == 0


def test_events_and_dense_inputs_give_the_same():
    network, inputs = make(), make_inputs()
    number_format = NumberFormat()
    integers = quantise(network, number_format, scales_of(network, inputs, number_format))
    dense, events = simulate(integers, inputs), simulate(integers, EventBatch.from_dense(inputs))
    assert all(torch.equal(a, b) for a, b in zip(dense.spikes, events.spikes, strict=True))
    assert torch.equal(dense.potentials, events.potentials)


def test_bad_inputs():
    network, inputs = make(), make_inputs()
    integers = quantise(network, FINE, scales_of(network, inputs, FINE))
    with pytest.raises(ValueError, match="inputs: expected whole numbers"):
        simulate(integers, inputs + 0.5)
    with pytest.raises(ValueError, match="inputs: expected 6 units, got 5"):
        simulate(integers, inputs[..., :5])
    with pytest.raises(ValueError, match=r"inputs: expected sums below 2\^53"):
        simulate(integers, inputs * 2.0**30)
    with pytest.raises(ValueError, match="inputs: expected whole numbers"):
        simulate(integers, EventBatch.from_dense(inputs / 2))
