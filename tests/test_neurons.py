"""One step of LIF, ALIF and LSNN against the published equations, and under every way that torch differentiates."""

import itertools

import numpy as np
import pytest
import torch
from torch.func import jacfwd, jacrev, jvp, vmap

from cases import normal
from lsc_snn.layers import ALIF
from lsc_snn.neurons import RESETS, NeuronState, initial_state, spike
from reference import KINDS, NUM_UNITS, drive, make_layer, run_by_hand, run_by_steps, some_state

RULES = list(itertools.product(KINDS, [True, False], RESETS, [0, 2]))


@pytest.mark.parametrize(("kind", "recurrent", "reset", "refractory"), RULES)
def test_steps_follow_the_published_equations(kind, recurrent, reset, refractory):
    layer, values = make_layer(kind, recurrent=recurrent, reset=reset, refractory=refractory)
    x = drive(steps=20)
    z, states = run_by_steps(layer, x, layer.initial_state(3))
    expected_z, expected_v, expected_a = run_by_hand(layer, values, x)
    assert 0.05 < expected_z.mean() < 0.7
    np.testing.assert_array_equal(z.detach().numpy(), expected_z)
    np.testing.assert_allclose(torch.stack([s.v for s in states[1:]]).detach().numpy(), expected_v, atol=1e-12)
    if kind != "LIF":
        np.testing.assert_allclose(torch.stack([s.a for s in states[1:]]).detach().numpy(), expected_a, atol=1e-12)
    assert (states[-1].a is None) == (kind == "LIF")
    assert (states[-1].refractory is None) == (refractory == 0)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_follow_the_equations_from_any_state(kind, reset):
    layer, values = make_layer(kind, reset=reset, zero_diagonal=True)
    state = some_state(layer)
    assert 0 < spike(state, layer.neuron_parameters()).mean() < 1
    z, states = run_by_steps(layer, drive(), state)
    expected_z, expected_v, _ = run_by_hand(layer, values, drive(), state)
    np.testing.assert_array_equal(z.detach().numpy(), expected_z)
    np.testing.assert_allclose(states[-1].v.detach().numpy(), expected_v[-1], atol=1e-12)


@pytest.mark.parametrize("period", [1, 3])
def test_a_unit_under_constant_drive_spikes_once_a_period(period):
    layer = ALIF(1, 2, recurrent=False, refractory=period, reset="none")
    with torch.no_grad():
        layer.weight.fill_(5.0)
    z, _ = layer(torch.ones(12, 1, 1))
    expected = [float(t % (period + 1) == 0) for t in range(12)]
    assert z[:, 0, 0].tolist() == expected


def test_adaptation_lowers_the_rate_and_negative_beta_raises_it():
    rates = []
    for beta in (-2.0, 1e-6, 2.0):
        layer = ALIF(1, 1, recurrent=False, beta=beta, tau_adaptation=20.0, threshold=1.0)
        with torch.no_grad():
            layer.weight.fill_(0.3)
        rates.append(float(layer(torch.ones(100, 1, 1))[0].detach().mean()))
    assert rates[0] > 1.2 * rates[1] > 1.2 * 1.2 * rates[2] > 0


def test_the_state_at_rest_is_zero_and_has_the_parts_that_the_rules_need():
    lif, _ = make_layer("LIF")
    alif, _ = make_layer("ALIF", refractory=2)
    state = initial_state(3, lif.neuron_parameters())
    assert state.a is None
    assert state.refractory is None
    for part in (state.v, *initial_state(3, alif.neuron_parameters())):
        assert part.shape == (3, NUM_UNITS)
        assert part.dtype == torch.float64
        assert not part.any()


@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_time_jacobian_is_the_written_one(kind, reset, detach_reset):
    """d(v', a') / d(v, a) from the equations, differentiated on paper."""
    layer, values = make_layer(kind, reset=reset, detach_reset=detach_reset)
    state = NeuronState(*(None if part is None else part[:1] for part in some_state(layer)))
    current = drive(1, 1)[0]

    def after(v, a):
        new = layer.step(current, NeuronState(v[None], None if a is None else a[None], state.refractory))[1]
        return new.v[0] if a is None else torch.cat([new.v[0], new.a[0]])

    a = None if state.a is None else state.a[0]
    jacobian = jacrev(after, argnums=0 if a is None else (0, 1))(state.v[0], a)
    jacobian = jacobian if a is None else torch.cat(jacobian, 1)

    v, a_value = state.v[0].numpy(), np.zeros(NUM_UNITS) if a is None else a.numpy()
    alpha, threshold = np.exp(-1 / values["tau"]), values["threshold"]
    beta = values.get("beta", np.zeros(NUM_UNITS))
    rho = np.exp(-1 / values["tau_adaptation"]) if "beta" in values else np.zeros(NUM_UNITS)
    big_a = threshold + beta * a_value
    z, psi = (v > big_a).astype(float), 0.5 * np.exp(-np.pi * (v - big_a) ** 2)
    dv_dz = layer.recurrent_raw.detach().numpy().copy()  # by the spike before the step
    if not detach_reset:
        dv_dz -= np.diag({"soft": big_a, "hard": alpha * v, "none": np.zeros(NUM_UNITS)}[reset])
    leak = alpha * (1 - z) if reset == "hard" else alpha
    dv_da = -dv_dz * (psi * beta) - (np.diag(beta * z) if reset == "soft" else 0)
    expected = np.block(
        [
            [np.diag(leak) + dv_dz * psi, dv_da],
            [np.diag((1 - rho) * psi), np.diag(rho - (1 - rho) * psi * beta)],
        ]
    )
    if kind == "LIF":
        expected = expected[:NUM_UNITS, :NUM_UNITS]
    np.testing.assert_allclose(jacobian.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("refractory", [0, 2])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_step_works_under_torch_func(kind, reset, refractory):
    layer, _ = make_layer(kind, reset=reset, refractory=refractory, detach_reset=False)
    x, state, tangent = drive(1)[0], some_state(layer), normal(3, NUM_UNITS, seed=8)

    def next_v(v):
        return layer.step(x, state._replace(v=v))[1].v

    reverse, forward = jacrev(next_v)(state.v), jacfwd(next_v)(state.v)
    torch.testing.assert_close(forward, reverse)
    assert reverse.abs().sum() > 0
    _, pushed = jvp(next_v, (state.v,), (tangent,))
    torch.testing.assert_close(pushed, torch.einsum("abcd,cd->ab", reverse, tangent))

    def one_sample(current, *parts):
        one = NeuronState(*(None if part is None else part[None] for part in parts))
        return layer.step(current[None], one)[0][0]

    axes = tuple(None if part is None else 0 for part in state)
    torch.testing.assert_close(vmap(one_sample, in_dims=(0, *axes))(x, *state), layer.step(x, state)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_double_backward_is_the_slope_of_the_gradient(kind):
    layer, _ = make_layer(kind, detach_reset=False)
    x, state = drive(1)[0], some_state(layer)
    upstream = normal(3, NUM_UNITS, seed=8)

    def gradient(v):
        (g,) = torch.autograd.grad((layer.step(x, state._replace(v=v))[1].v * upstream).sum(), v, create_graph=True)
        return g

    v = state.v.clone().requires_grad_()
    direction = normal(3, NUM_UNITS, seed=9)
    (second,) = torch.autograd.grad((gradient(v) * direction).sum(), v)
    # H is symmetric here up to the reset's own jump, so compare H^T d by finite differences of g^T d, unit by unit.
    step = 1e-6
    expected = torch.zeros_like(v)
    for index in np.ndindex(*v.shape):
        unit = torch.zeros_like(v)
        unit[index] = step
        up, down = ((gradient((v.detach() + s * unit).requires_grad_()) * direction).sum() for s in (1, -1))
        expected[index] = (up - down) / (2 * step)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(second, expected.detach(), rtol=1e-5, atol=1e-7)
