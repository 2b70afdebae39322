"""Layers over whole sequences: state, parametrisation, events, readout and bad arguments."""

import math
import re

import numpy as np
import pytest
import torch

from cases import normal, seeded
from lsc_snn import ALIF, LI, LIF, LSNN, EventBatch, _parametrize
from lsc_snn.neurons import RESETS
from reference import KINDS, NUM_INPUTS, NUM_UNITS, drive, make_layer, run_by_hand


@pytest.mark.parametrize("refractory", [0, 2])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_follows_the_published_equations(kind, reset, refractory, device):
    layer, values = make_layer(kind, reset=reset, refractory=refractory)
    z, state = layer.to(device)(drive(30).to(device))
    expected_z, expected_v, expected_a = run_by_hand(layer.cpu(), values, drive(30))
    np.testing.assert_array_equal(z.detach().cpu().numpy(), expected_z)
    np.testing.assert_allclose(state.v.detach().cpu().numpy(), expected_v[-1], atol=1e-12)
    if kind != "LIF":
        np.testing.assert_allclose(state.a.detach().cpu().numpy(), expected_a[-1], atol=1e-12)


@pytest.mark.parametrize("cut", [1, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_passed_state_continues_the_sequence(kind, cut):
    layer, _ = make_layer(kind, refractory=2)
    whole, end = layer(drive())
    first, state = layer(drive()[:cut])
    second, final = layer(drive()[cut:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    for part, expected in zip(final, end, strict=True):
        if part is not None:
            torch.testing.assert_close(part, expected, rtol=0, atol=1e-13)
    gradients = [torch.autograd.grad(s.v.sum(), layer.weight, retain_graph=True)[0] for s in (final, end)]
    torch.testing.assert_close(*gradients)  # through the state too


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("make", [*KINDS.values(), LI], ids=[*KINDS, "LI"])
def test_events_give_the_outputs_and_gradients_of_the_dense_tensor(make, counted, device):
    active = torch.rand(12, 4, 30, generator=seeded(2)) < 0.1
    x = (active * torch.randint(1, 4 if counted else 2, active.shape, generator=seeded(3))).double().to(device)
    layer = make(
        30, 8, bias=True, generator=seeded(1), dtype=torch.float64, **({} if make is LI else {"threshold": 0.3})
    )
    layer = layer.to(device)
    dense, _ = layer(x)
    sparse, _ = layer(EventBatch.from_dense(x))
    assert dense.any()
    torch.testing.assert_close(sparse, dense)
    upstream = normal(*dense.shape, seed=4, device=device)
    for ours, oracle in zip(
        torch.autograd.grad((sparse * upstream).sum(), list(layer.parameters())),
        torch.autograd.grad((dense * upstream).sum(), list(layer.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, oracle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_round_trip_through_the_raw_parameters(dtype):
    tau = torch.tensor([0.5, 1.0, 20.0, 1000.0], dtype=dtype)
    values = torch.tensor([1e-3, 0.1, 1.0, 50.0], dtype=dtype)
    layer = ALIF(2, 4, tau=tau, threshold=values, tau_adaptation=tau.flip(0), beta=-values, dtype=dtype)
    relative = 1e-3 if dtype == torch.float32 else 1e-9  # of tau: 1 - alpha is what float32 resolves least
    torch.testing.assert_close(-1 / torch.log(layer.alpha), tau, rtol=relative, atol=0)
    torch.testing.assert_close(-1 / torch.log(layer.rho), tau.flip(0), rtol=relative, atol=0)
    torch.testing.assert_close(layer.threshold, values, rtol=1e-4, atol=0)
    torch.testing.assert_close(layer.beta, -values, rtol=1e-4, atol=0)


def test_the_bounds_of_tau_and_of_positive_values_round_trip():
    taus = torch.tensor([_parametrize.TAU_MIN, _parametrize.TAU_MAX], dtype=torch.float64)
    alpha = _parametrize.decay(_parametrize.raw_decay(torch.exp(-1 / taus)))
    torch.testing.assert_close(alpha, torch.exp(-1 / taus), rtol=0, atol=2e-6)
    small = torch.tensor([2e-6, 1e-3, 1e3], dtype=torch.float64)
    torch.testing.assert_close(_parametrize.positive(_parametrize.raw_positive(small)), small, rtol=1e-6, atol=0)
    below = _parametrize.positive(_parametrize.raw_positive(torch.tensor([0.0, 1e-9])))
    assert bool((below >= _parametrize.POSITIVE_MIN).all())
    assert bool(torch.isfinite(_parametrize.raw_positive(torch.tensor([0.0, 1e-9]))).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_a_layer_stays_valid_after_absurd_optimiser_steps(raw, dtype):
    layer = ALIF(3, 4, dtype=dtype, beta=torch.tensor([-1.0, 0.0, 1.0, 2.0]), generator=seeded())
    with torch.no_grad():
        for parameter in (layer.alpha_raw, layer.rho_raw, layer.threshold_raw, layer.beta_raw):
            parameter.fill_(raw)
    for decay in (layer.alpha, layer.rho):
        assert bool(((decay > 0) & (decay < 1)).all())
    assert bool((layer.threshold > 0).all())
    assert torch.isfinite(layer.threshold).all()
    assert layer.beta.sign().tolist() == [-1, 0, 1, 1]
    z, state = layer(normal(50, 2, 3, dtype=dtype))
    state.v.sum().backward()
    for tensor in (z, *state[:2], *(p.grad for p in layer.parameters())):
        assert torch.isfinite(tensor).all()


def test_an_optimiser_moves_every_parameter():
    layer, _ = make_layer("ALIF", detach_reset=False)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    z, state = layer(drive(30))
    (z.sum() + state.v.sum()).backward()
    optimiser.step()
    assert {name for name, p in layer.named_parameters() if not torch.equal(p, before[name])} == set(before)
    assert set(before) == {
        "weight", "bias", "alpha_raw", "threshold_raw", "rho_raw", "beta_raw", "recurrent_raw"
    }  # fmt: skip


def test_zero_diagonal_stays_zero_and_has_no_gradient():
    layer, _ = make_layer("LIF", zero_diagonal=True)
    assert not layer.recurrent_weight.diagonal().any()
    layer(drive(30))[1].v.sum().backward()
    gradient = layer.recurrent_raw.grad
    assert not gradient.diagonal().any()
    assert gradient.any()
    assert make_layer("LIF", zero_diagonal=False)[0].recurrent_weight.diagonal().all()
    assert make_layer("LIF", recurrent=False)[0].recurrent_weight is None


def test_lsnn_is_lif_and_alif_side_by_side():
    layer = LSNN(3, 5, num_adaptive=2, beta=torch.tensor([9.0, 9.0, 9.0, 1.0, -2.0]))
    assert layer.beta.tolist() == pytest.approx([0, 0, 0, 1, -2])
    assert layer.num_adaptive == 2
    assert LSNN(3, 5).num_adaptive == 2
    assert LSNN(3, 5, num_adaptive=0).beta.tolist() == [0] * 5
    assert LSNN(3, 5, num_adaptive=5, beta=1.5).beta.tolist() == pytest.approx([1.5] * 5)
    with torch.no_grad():
        layer.beta_raw.fill_(3.0)
    assert layer.beta[:3].tolist() == [0, 0, 0], "an optimiser does not switch adaptation on"


def test_weights_come_from_the_generator_alone_and_have_unit_fan_in_variance():
    state = torch.get_rng_state()
    first, second = (ALIF(400, 300, generator=seeded(5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.recurrent_raw, second.recurrent_raw)
    assert float(first.weight.detach().std()) == pytest.approx(1 / math.sqrt(400), rel=0.02)
    assert float(first.recurrent_raw.detach().std()) == pytest.approx(1 / math.sqrt(300), rel=0.02)


def test_layers_load_their_own_state_dict():
    layer, _ = make_layer("LSNN")
    other = LSNN(NUM_INPUTS, NUM_UNITS, bias=True, dtype=torch.float64, surrogate=layer.surrogate)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(drive())[0], layer(drive())[0])


def test_li_follows_its_equation_and_continues():
    tau = torch.tensor([2.0, 5.0], dtype=torch.float64)
    readout = LI(NUM_INPUTS, 2, tau=tau, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        readout.bias.copy_(torch.tensor([0.5, -0.5]))
    x, v, expected = drive(), np.zeros((3, 2)), []
    weight, bias = readout.weight.detach().numpy(), readout.bias.detach().numpy()
    for current in x.numpy():
        v = np.exp(-1 / tau.numpy()) * v + current @ weight.T + bias
        expected.append(v)
    output, final = readout(x)
    np.testing.assert_allclose(output.detach().numpy(), np.stack(expected), atol=1e-12)
    assert torch.equal(final, output[-1])
    _, half = readout(x[:4])
    torch.testing.assert_close(readout(x[4:], half)[0], output[4:])
    stepped, memory = readout.step(x[0], readout.initial_state(3))
    torch.testing.assert_close(stepped, output[0])
    assert torch.equal(stepped, memory)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tau": 0.01}, ValueError, "tau: expected a time constant in steps, from 0.1 to 10000, got 0.01"),
        ({"tau": -1.0}, ValueError, "tau: expected a time constant"),
        ({"tau": math.nan}, ValueError, "tau: expected finite values, got nan"),
        ({"tau": torch.ones(3)}, ValueError, "tau: expected a number or one value for each of 4 units"),
        ({"tau": torch.ones(4, 1)}, ValueError, "tau: expected a number or one value for each of 4 units"),
        ({"tau_adaptation": 1e6}, ValueError, "tau_adaptation: expected a time constant"),
        ({"threshold": 0.0}, ValueError, "threshold: expected positive values, got 0.0"),
        ({"threshold": math.inf}, ValueError, "threshold: expected finite values, got inf"),
        ({"beta": math.nan}, ValueError, "beta: expected finite values, got nan"),
        (
            {"reset": "sof"},
            ValueError,
            "reset: expected one of 'soft', 'hard', 'none', got 'sof'; did you mean 'soft'?",
        ),
        ({"surrogate": "tri"}, ValueError, "surrogate: expected one of"),
        ({"refractory": -1}, ValueError, "refractory: expected an integer >= 0, got -1"),
        ({"refractory": 1.5}, TypeError, "refractory: expected an integer, got float"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        ALIF(3, 4, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LIF(0, 4), ValueError, "num_inputs: expected an integer >= 1, got 0"),
        (lambda: LIF(3, 4.0), TypeError, "num_units: expected an integer, got float"),
        (lambda: LSNN(3, -2), ValueError, "num_units: expected an integer >= 1, got -2"),
        (lambda: LSNN(3, 4, num_adaptive=5), ValueError, "num_adaptive: expected at most num_units = 4, got 5"),
        (lambda: LSNN(3, 4, num_adaptive=-1), ValueError, "num_adaptive: expected an integer >= 0, got -1"),
        (lambda: LSNN(3, 4, num_adaptive=0.5), TypeError, "num_adaptive: expected an integer, got float"),
        (lambda: LIF(3, 4, beta=1.0), TypeError, "beta: LIF does not adapt; use ALIF or LSNN"),
        (lambda: LIF(3, 4, tau_adaptation=9.0), TypeError, "tau_adaptation: LIF does not adapt"),
        (lambda: LI(3, 4, tau=0.0), ValueError, "tau: expected a time constant"),
    ],
)
def test_bad_sizes_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


@pytest.mark.parametrize("layer", [ALIF(5, 4), LI(5, 4)], ids=["ALIF", "LI"])
@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(9, 5), ValueError, "inputs: expected shape (time steps, batch, 5), got (9, 5)"),
        (torch.zeros(9, 2, 4), ValueError, "inputs: expected shape (time steps, batch, 5), got (9, 2, 4)"),
        (torch.zeros(0, 2, 5), ValueError, "inputs: expected shape (time steps, batch, 5) without empty axes"),
        (torch.zeros(9, 0, 5), ValueError, "inputs: expected shape (time steps, batch, 5) without empty axes"),
        (
            torch.zeros(9, 2, 5, dtype=torch.int64),
            TypeError,
            "inputs: expected a floating-point tensor, got torch.int64",
        ),
        (torch.zeros(9, 2, 5, dtype=torch.float64), TypeError, "inputs: expected the layer's dtype torch.float32, got"),
        (torch.zeros(9, 2, 5, device="meta"), ValueError, "inputs: expected the layer's device cpu, got meta"),
        ([[[0.0] * 5]], TypeError, "inputs: expected a tensor (time steps, batch, 5) or an EventBatch, got list"),
        (EventBatch.from_dense(torch.ones(3, 2, 4)), ValueError, "inputs: expected shape (time steps, batch, 5)"),
    ],
)
def test_bad_inputs_are_named(layer, inputs, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        layer(inputs)
    assert "\n" not in str(caught.value)


def test_states_of_another_layer_or_batch_are_refused():
    x, alif, lif, resting = torch.zeros(3, 2, 5), ALIF(5, 4), LIF(5, 4), ALIF(5, 4, refractory=1)
    for layer, state, name in (
        (alif, alif.initial_state(1), "state.v"),
        (alif, lif.initial_state(2), "state.a"),
        (lif, alif.initial_state(2), "state.a"),
        (resting, alif.initial_state(2), "state.refractory"),
        (alif, alif.initial_state(2)._replace(v=torch.zeros(2, 4, dtype=torch.float64)), "state.v"),
        (LI(5, 4), torch.zeros(1, 4), "state"),
    ):
        with pytest.raises(ValueError, match=rf"^{re.escape(name)}: expected .*; start from layer.initial_state"):
            layer(x, state)
