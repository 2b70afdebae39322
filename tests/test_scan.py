"""The fused scan gives the numbers and the gradients of the loop over single steps."""

import itertools

import pytest
import torch

from cases import normal
from lsc_snn.neurons import RESETS, NeuronState
from reference import KINDS, NUM_UNITS, drive, make_layer, run_by_steps, some_state

RULES = list(itertools.product(KINDS, [True, False], RESETS, [True, False], [0, 2]))


def on(device, state):
    """Return a state on a device, its differentiable parts leaves."""
    v, a, refractory = (None if part is None else part.to(device) for part in state)
    return NeuronState(v.requires_grad_(), a if a is None else a.requires_grad_(), refractory)


def weighted(z, final):
    """Return a scalar that depends on every output, each entry with a weight of its own."""
    parts = [z, final.v] if final.a is None else [z, final.v, final.a]
    return sum((part * normal(*part.shape, seed=7, device=part.device)).sum() for part in parts)


def leaves_of(layer, x, state):
    return [x, *(part for part in state[:2] if part is not None), *layer.parameters()]


@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize(("kind", "recurrent", "reset", "detach_reset", "refractory"), RULES)
def test_scan_is_the_loop_over_steps(kind, recurrent, reset, detach_reset, refractory, steps, device):
    layer, _ = make_layer(
        kind,
        recurrent=recurrent,
        reset=reset,
        detach_reset=detach_reset,
        refractory=refractory,
        zero_diagonal=detach_reset,
    )
    layer, x = layer.to(device), drive(steps).to(device).requires_grad_()
    state = on(device, some_state(layer))
    z, final, after = layer.run(x, state)
    expected_z, states = run_by_steps(layer, x, state)
    assert z.any()
    torch.testing.assert_close(z, expected_z, rtol=0, atol=0)
    for index, part in enumerate(final):
        assert (part is None) == (states[-1][index] is None)
        if part is not None:
            torch.testing.assert_close(part, states[-1][index])
            torch.testing.assert_close(after[index], torch.stack([s[index] for s in states[1:]]).detach())
            assert not after[index].requires_grad
    leaves = leaves_of(layer, x, state)
    gradients = torch.autograd.grad(weighted(z, final), leaves)
    expected = torch.autograd.grad(weighted(expected_z, states[-1]), leaves, materialize_grads=True)
    for gradient, oracle in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, oracle, rtol=1e-9, atol=1e-11)
    assert all(bool(oracle.any()) for oracle in (expected[0], expected[1])), "the comparison is not between zeros"


@pytest.mark.parametrize("part", ["z", "v", "a"])
def test_gradients_of_one_output_alone(part):
    layer, _ = make_layer("ALIF", detach_reset=False)
    x, state = drive().requires_grad_(), on("cpu", some_state(layer))
    z, final = layer(x, state)
    expected_z, states = run_by_steps(layer, x, state)
    leaves = leaves_of(layer, x, state)
    outputs = {"z": z, "v": final.v, "a": final.a}[part], {"z": expected_z, "v": states[-1].v, "a": states[-1].a}[part]
    ours, oracle = (torch.autograd.grad((out**2).sum() + out.sum(), leaves) for out in outputs)
    for gradient, expected in zip(ours, oracle, strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("frozen", ["alpha_raw", "threshold_raw", "rho_raw", "beta_raw", "recurrent_raw", "weight"])
def test_frozen_parameters_leave_the_other_gradients_as_they_are(frozen):
    layer, _ = make_layer("ALIF")
    free = {name: p for name, p in layer.named_parameters() if name != frozen}
    oracle = torch.autograd.grad(weighted(*layer(drive())), list(free.values()))
    getattr(layer, frozen).requires_grad_(False)
    for gradient, expected in zip(
        torch.autograd.grad(weighted(*layer(drive())), list(free.values())), oracle, strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_single_precision_agrees_with_double(dtype, device):
    exact, _ = make_layer("ALIF")
    layer, _ = make_layer("ALIF", dtype=dtype)
    with torch.no_grad():
        for ours, theirs in zip(layer.parameters(), exact.parameters(), strict=True):
            ours.copy_(theirs)
    z, final = layer.to(device)(drive().to(device, dtype))
    expected_z, expected = exact(drive())
    assert z.dtype == final.v.dtype == final.a.dtype == dtype
    assert torch.equal(z.cpu().double(), expected_z)
    torch.testing.assert_close(final.v.cpu().double(), expected.v, rtol=1e-5, atol=1e-5)


def test_scan_leaves_its_arguments_as_they_were():
    layer, _ = make_layer("LSNN", refractory=2)
    x, state = drive(), some_state(layer)
    kept = [part.clone() for part in (x, *state)]
    z, final = layer(x.requires_grad_(), state)
    spikes = z.detach().clone()
    weighted(z, final).backward()
    assert all(torch.equal(part, before) for part, before in zip((x, *state), kept, strict=True))
    assert torch.equal(z, spikes), "nor does the backward pass write over the output"
    first = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    z, final = layer(x, state)
    loss = weighted(z, final)
    loss.backward(retain_graph=True)
    loss.backward()
    for gradient, p in zip(first, layer.parameters(), strict=True):
        torch.testing.assert_close(p.grad, 2 * gradient)


@pytest.mark.parametrize("wanted", ["x", "weight", "alpha_raw", "recurrent_raw"])
def test_a_second_derivative_is_refused_not_wrong(wanted):
    layer, _ = make_layer("LIF")
    x = drive().requires_grad_()
    (gradient,) = torch.autograd.grad(weighted(*layer(x)), x, create_graph=True)
    (plain,) = torch.autograd.grad(weighted(*layer(x)), x)
    torch.testing.assert_close(gradient, plain)
    with pytest.raises(RuntimeError, match=r"scan: expected one derivative, got a second; loop over lsc_snn\.neurons"):
        torch.autograd.grad(gradient.sum(), x if wanted == "x" else getattr(layer, wanted))


def test_every_unit_of_the_test_layers_spikes():
    layer, _ = make_layer("LSNN")
    rates = layer(drive(40))[0].mean((0, 1))
    assert rates.shape == (NUM_UNITS,)
    assert bool((rates > 0).all())
