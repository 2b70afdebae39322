"""Neurons composed of standard nodes: against the published step in float64, and what the composition rests on."""

import nir
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsc_snn import ALIF, LIF
from lsc_snn.neurons import step
from lsc_snn.nir import compose
from lsc_snn.nir.interpret import interpret

DT = 1e-3
T, B = 30, 2


def spikes_by_hand(layer, current):
    """Return the spikes (T, B, N) of a layer for its input current, by the pure step."""
    parameters = layer.neuron_parameters()
    state, spikes = layer.initial_state(current.shape[1]), []
    for now in current:
        z, state = step(now, state, parameters)
        spikes.append(z)
    return torch.stack(spikes).detach().numpy()


def array(value):
    return None if value is None else value.detach().numpy()


def composed(layer, **changes):
    values = {
        "reset": array(layer.threshold) if layer.reset == "soft" else None,
        "weight": array(layer.recurrent_weight),
        "rho": array(layer.rho),
        "beta": array(layer.beta),
    }
    return compose.composed("n", array(layer.alpha), array(layer.threshold), DT, **(values | changes))


def run(node, current, record=()):
    graph = nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type={"input": np.array(current.shape[2:])}),
            "n": node,
            "output": nir.Output(output_type={"output": np.array(current.shape[2:])}),
        },
        edges=[("input", "n"), ("n", "output")],
    )
    done = interpret(graph, current.numpy(), dt=DT, record=record)
    return (done.outputs["output"], *(done.signals[name] for name in record))


@given(
    seed=st.integers(0, 2**31),
    units=st.integers(1, 6),
    recurrent=st.booleans(),
    reset=st.sampled_from(["soft", "none"]),
    adaptive=st.booleans(),
)
def test_every_spike_is_that_of_the_step(seed, units, recurrent, reset, adaptive):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high: low + (high - low) * torch.rand(units, generator=generator, dtype=torch.float64)  # noqa: E731
    options = {"recurrent": recurrent, "reset": reset, "tau": draw(0.5, 20), "threshold": draw(0.2, 1.5)}
    if adaptive:
        options |= {"tau_adaptation": draw(0.5, 60), "beta": draw(-0.5, 2)}
    layer = (ALIF if adaptive else LIF)(1, units, generator=generator, dtype=torch.float64, **options)
    current = torch.randn(T, B, units, generator=generator, dtype=torch.float64)
    np.testing.assert_array_equal(run(composed(layer), current)[0], spikes_by_hand(layer, current))


def test_the_product_of_spike_and_adaptation_is_exact_to_its_last_digit():
    generator = torch.Generator().manual_seed(0)
    layer = ALIF(1, 50, recurrent=False, tau_adaptation=torch.linspace(1, 80, 50), beta=1.3, dtype=torch.float64)
    current = 3 * torch.rand(60, B, 50, generator=generator, dtype=torch.float64)
    z, a, product = run(composed(layer), current, record=("n.a_now", "n.reset_adapt"))
    assert 0.2 < z.mean() < 0.9
    assert a.max() > 0.8
    np.testing.assert_allclose(product, -1.3 * a * z, rtol=0, atol=1.3 * 2.0**-compose.BITS)


def test_a_potential_at_the_threshold_does_not_spike():
    layer = LIF(1, 1, recurrent=False, dtype=torch.float64)
    threshold = layer.threshold.detach()
    current = torch.stack([threshold, threshold * 0]).reshape(2, 1, 1)
    assert spikes_by_hand(layer, current).sum() == 0
    assert run(composed(layer), current)[0].sum() == 0
    above = torch.nextafter(current, current + 1)
    assert spikes_by_hand(layer, above).ravel().tolist() == run(composed(layer), above)[0].ravel().tolist() == [1, 0]


def test_a_hard_reset_is_one_node_and_a_recurrent_one_four():
    layer = LIF(1, 4, reset="hard", tau=torch.linspace(1, 9, 4), dtype=torch.float64)
    node = compose.hard("n", array(layer.alpha), array(layer.threshold), DT)
    looped = compose.recurrent(node, array(layer.recurrent_weight))
    assert sorted(looped.nodes) == ["input", "lif", "output", "w_rec"]
    assert looped.edges.index(("lif", "w_rec")) < looped.edges.index(("lif", "output"))
    current = torch.randn(T, B, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(run(looped, current)[0], spikes_by_hand(layer, current))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.999])
def test_eulers_rule_gives_the_decay_back(alpha):
    node = compose.integrator("n", np.array([alpha]), DT)
    assert 1 - DT / node.tau[0] == pytest.approx(alpha, abs=1e-15)
    assert DT / node.tau[0] * node.r[0] == pytest.approx(1, abs=1e-15)


def test_what_does_not_decay_is_an_integrator_without_leak():
    current = torch.ones(4, 1, 2, dtype=torch.float64) * 0.4
    node = compose.integrator("n", np.ones(2), DT)
    assert isinstance(node, nir.I)
    assert run(node, current)[0][:, 0, 0] == pytest.approx([0.4, 0.8, 1.2, 1.6])
    fires = compose.hard("n", np.ones(2), np.ones(2), DT)
    assert isinstance(fires, nir.IF)
    assert run(fires, current)[0][:, 0, 0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("alpha", [[-0.1, 0.5], [0.5, 1.0], [0.5, 1.2]])
def test_a_decay_that_no_time_constant_has_is_named(alpha):
    with pytest.raises(ValueError, match=r"fc: expected decays per step from 0 to below 1, got .*; .*smaller dt"):
        compose.integrator("fc", np.array(alpha), DT)


def test_a_synaptic_current_takes_input_and_recurrence():
    generator = torch.Generator().manual_seed(3)
    alpha, synapse, threshold = np.full(3, 0.9), np.full(3, 0.6), np.full(3, 0.8)
    weight = torch.randn(3, 3, generator=generator, dtype=torch.float64).numpy()
    current = torch.randn(T, B, 3, generator=generator, dtype=torch.float64)
    node = compose.composed("n", alpha, threshold, DT, reset=threshold, weight=weight, synapse=synapse)
    v = i = z = np.zeros((B, 3))
    for now, got in zip(current.numpy(), run(node, current)[0], strict=True):
        i = synapse * i + now + z @ weight.T
        v = alpha * v + i - threshold * z
        z = (v > threshold).astype(float)
        np.testing.assert_array_equal(got, z)
