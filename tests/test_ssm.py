"""State-space functions: the scan against powers and loops, both initialisations, both discretisations."""

import math
import re

import numpy as np
import pytest
import torch

from cases import normal, seeded
from lsc_snn import ssm

COMPLEX = torch.complex128
LENGTHS = [1, 2, 15, 16, 17, 32, 33, 47, 48, 50, 255, 256, 257, 545, 1000]
"""Around one chunk, where the plain loop ends (32), and where a second level (512 and more) begins."""


def case(steps, *trailing, dtype=COMPLEX, magnitude=0.97, seed=0, device="cpu"):
    """Return a decay (the last trailing size,), a drive and a state that is not at rest."""
    decay = normal(trailing[-1], seed=seed, dtype=dtype)
    decay = decay / decay.abs() * torch.linspace(0.1, magnitude, trailing[-1])
    drive, state = (normal(*shape, seed=seed + 1, dtype=dtype) for shape in ((steps, *trailing), trailing))
    return decay.to(device, dtype), drive.to(device), state.to(device)


def by_loop(decay, drive, state):
    states = []
    for b in drive:
        state = decay * state + b
        states.append(state)
    return torch.stack(states)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float32, torch.float64])
@pytest.mark.parametrize("steps", LENGTHS)
def test_the_scan_is_the_loop(steps, dtype, device):
    decay, drive, state = case(steps, 2, 5, dtype=dtype, device=device)
    tolerance = 1e-5 if dtype in (torch.complex64, torch.float32) else 1e-10
    states = ssm.linear_scan(decay, drive, state)
    assert states.dtype == dtype
    torch.testing.assert_close(states, by_loop(decay, drive, state), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps", [7, 40, 530])
def test_the_scan_is_the_sum_over_powers(steps):
    decay, drive, state = case(steps, 3)
    power = np.arange(steps)[:, None] - np.arange(steps)
    kernel = np.where(power >= 0, decay.numpy()[:, None, None] ** power.clip(0), 0)
    expected = np.einsum("pts,sp->tp", kernel, drive.numpy())
    expected += decay.numpy() ** np.arange(1, steps + 1)[:, None] * state.numpy()
    np.testing.assert_allclose(ssm.linear_scan(decay, drive, state).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("magnitude", [0.99, ssm.MAX_MAGNITUDE])
def test_single_precision_stays_near_the_exact_states_over_long_times(magnitude):
    # Squared in float32, a power of 16,000 would be off by a part in a thousand, and so would a state that it carries.
    decay = torch.polar(torch.full((3,), magnitude), torch.tensor([0.0, 0.3, 2.0]))
    drive = normal(20_000, 3, dtype=torch.complex64) + 1
    exact = by_loop(decay.to(COMPLEX), drive.to(COMPLEX), torch.zeros(3, dtype=COMPLEX))
    states = ssm.linear_scan(decay, drive, torch.zeros(3, dtype=torch.complex64))
    error = (states.to(COMPLEX) - exact).abs().amax(0) / exact.abs().amax(0)
    assert bool((error < 5e-6).all()), error


@pytest.mark.parametrize("theta", [0.0, 1.0, math.pi])
def test_states_stay_finite_and_bounded_over_a_hundred_thousand_steps(theta):
    magnitude = torch.tensor([0.0, 1e-30, 0.5, 0.999, ssm.MAX_MAGNITUDE])
    decay = torch.polar(magnitude, torch.full_like(magnitude, theta)).requires_grad_()
    states = ssm.linear_scan(decay, torch.ones(100_000, 1, 5, dtype=torch.complex64), torch.zeros(5).to(decay.dtype))
    bound = ((1 - magnitude.double() ** 100_000) / (1 - magnitude.double())).clamp(max=1e5)
    assert torch.isfinite(states).all()
    assert bool((states.abs().double() <= bound * (1 + 1e-4)).all())
    (gradient,) = torch.autograd.grad(states.abs().mean(), decay)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 35])
def test_first_and_second_derivatives(steps, backwards):
    leaves = [tensor.requires_grad_() for tensor in case(steps, 2)]

    def scan(*tensors):
        return ssm._LinearScan.apply(*tensors, backwards)

    assert torch.autograd.gradcheck(scan, leaves)
    assert torch.autograd.gradgradcheck(scan, leaves)


@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64])
@pytest.mark.parametrize("steps", [33, 47, 545])
def test_gradients_are_those_of_the_loop(steps, dtype, device):
    tensors = case(steps, 2, 3, dtype=dtype, device=device)
    weight = normal(steps, 2, 3, seed=9, dtype=dtype, device=device)
    ours, oracle = (
        torch.autograd.grad((f(*leaves) * weight).abs().square().sum(), leaves)
        for f in (ssm.linear_scan, by_loop)
        for leaves in [[tensor.detach().requires_grad_() for tensor in tensors]]
    )
    for gradient, expected in zip(ours, oracle, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def test_the_scan_maps_and_differentiates_under_torch_func():
    decay, drive, state = case(40, 3)
    drives, states = torch.stack([drive, 2 * drive, -drive], 1), torch.stack([state, 0 * state, -state])
    mapped = torch.vmap(ssm.linear_scan, in_dims=(None, 1, 0))(decay, drives, states)
    decays = torch.stack([decay, decay / 2, 0 * decay], -1)
    mapped_decay = torch.vmap(ssm.linear_scan, in_dims=(1, None, None))(decays, drive, state)
    for i in range(3):
        torch.testing.assert_close(mapped[i], ssm.linear_scan(decay, drives[:, i], states[i]))
        torch.testing.assert_close(mapped_decay[i], ssm.linear_scan(decays[:, i], drive, state))
    real = [tensor.real.contiguous() for tensor in (decay, drive, state)]
    for argnum in range(3):
        jacobian = torch.func.jacrev(ssm.linear_scan, argnum)(*real)
        torch.testing.assert_close(jacobian, torch.func.jacrev(by_loop, argnum)(*real))


def test_the_scan_needs_no_gradient_of_a_fixed_decay_and_leaves_its_arguments():
    decay, drive, state = case(50, 2, 3)
    kept = [tensor.clone() for tensor in (decay, drive, state)]
    states = ssm.linear_scan(decay, drive.requires_grad_(), state)
    (gradient,) = torch.autograd.grad(states.real.sum(), drive)
    torch.testing.assert_close(gradient[-2], (1 + decay.conj()).expand(2, 3))
    assert all(torch.equal(a, b) for a, b in zip(kept, (decay, drive, state), strict=True))


@pytest.mark.parametrize(
    ("drive", "state", "error", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(2), ValueError, "drive: expected at least one time step, (T, ..., P), got"),
        (torch.tensor(1.0), torch.zeros(2), ValueError, "drive: expected at least one time step, (T, ..., P), got"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=COMPLEX), TypeError, "linear_scan: expected one dtype, got"),
    ],
)
def test_bad_arguments_of_the_scan_are_named(drive, state, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ssm.linear_scan(torch.ones(2), drive, state)


def test_ring_is_uniform_in_area_and_angle():
    count, r_min, r_max, max_phase = 20_000, 0.6, 0.95, 2.5
    nu_log, theta_log, gamma_log = ssm.lru_ring(count, r_min, r_max, max_phase, seeded(), torch.zeros(()).double())
    eigenvalues = ssm.lru_eigenvalues(nu_log, theta_log)
    area = (eigenvalues.abs().square() - r_min**2) / (r_max**2 - r_min**2)
    for share in (area, eigenvalues.angle() / max_phase):
        assert bool(((share > 0) & (share < 1)).all())
        distance = (share.sort().values - torch.linspace(0, 1, count)).abs().max()
        assert distance < 1.63 / math.sqrt(count), "Kolmogorov-Smirnov at 1 %"
    torch.testing.assert_close(torch.exp(gamma_log), torch.sqrt(1 - eigenvalues.abs().square()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_whole_disc_is_a_valid_ring(dtype):
    ring = ssm.lru_ring(50_000, 0.0, 1.0, 2 * math.pi, seeded(), torch.zeros((), dtype=dtype))
    assert all(torch.isfinite(log).all() and log.dtype == dtype for log in ring)
    assert float(ssm.lru_eigenvalues(*ring[:2]).abs().max()) <= ssm.MAX_MAGNITUDE * (1 + 1e-15)


def hippo_legs(size):
    """Return HiPPO-LegS as printed in the S4 paper (Gu et al. 2021, eq. 2), one entry at a time."""
    matrix = np.zeros((size, size))
    for n in range(size):
        for k in range(n):
            matrix[n, k] = -math.sqrt((2 * n + 1) * (2 * k + 1))
        matrix[n, n] = -(n + 1)
    return matrix


@pytest.mark.parametrize("num_states", [1, 2, 8, 64])
def test_hippo_normal_diagonalises_the_normal_part_of_hippo(num_states):
    size = 2 * num_states
    low_rank = np.sqrt(np.arange(size) + 0.5)
    normal_part = hippo_legs(size) + np.outer(low_rank, low_rank)
    eigenvalues, vectors = (tensor.numpy() for tensor in ssm.hippo_normal(num_states))
    np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-12)
    assert (eigenvalues.imag > 0).all()
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(num_states), atol=1e-12)
    half = vectors * eigenvalues @ vectors.conj().T
    np.testing.assert_allclose(half + half.conj(), normal_part, atol=1e-9 * size)


def continuous_case():
    return torch.complex(-torch.tensor([0.5, 1e-4, 3.0]).double(), torch.tensor([40.0, 0.0, -2.0]).double())


@pytest.mark.parametrize("step_size", [1e-4, 0.02, 1.0])
def test_zero_order_hold_is_the_matrix_exponential(step_size):
    continuous, step = continuous_case(), torch.tensor(step_size).double()
    eigenvalues, gains = ssm.discretise(continuous, step, "zoh")
    for rate, eigenvalue, gain in zip(continuous, eigenvalues, gains, strict=True):
        flow = torch.linalg.matrix_exp(torch.tensor([[rate, 1.0], [0.0, 0.0]], dtype=COMPLEX) * step)
        torch.testing.assert_close(torch.stack([eigenvalue, gain]), flow[0], rtol=1e-12, atol=0)


def test_bilinear_solves_the_trapezoidal_rule_and_is_of_third_order():
    continuous = continuous_case()
    errors = []
    for step_size in (0.002, 0.001):
        step = torch.tensor(step_size).double()
        eigenvalues, gains = ssm.discretise(continuous, step, "bilinear")
        x, u = normal(3, dtype=COMPLEX), normal(3, seed=1, dtype=COMPLEX)
        after = eigenvalues * x + gains * u
        torch.testing.assert_close(after, x + step * (continuous * (x + after) / 2 + u))
        exact = ssm.discretise(continuous, step, "zoh")[0]
        errors.append((eigenvalues - exact).abs()[[0, 2]])
    slopes = torch.log2(errors[0] / errors[1])
    assert bool(((slopes > 2.95) & (slopes < 3.05)).all()), slopes


@pytest.mark.parametrize("discretisation", ssm.DISCRETISATIONS)
def test_gradients_of_both_parametrisations(discretisation):
    B, C, D = normal(3, 2, 2), normal(2, 3, 2, seed=1), normal(2, seed=2)
    logs = [normal(3, seed=3 + i) - 1 for i in range(3)]
    inputs, state = normal(4, 1, 2, seed=7), normal(1, 3, seed=8, dtype=COMPLEX)

    def lru(*leaves):
        return ssm.scan(inputs, state, ssm.lru_system(*leaves))

    def s5(*leaves):
        return ssm.scan(inputs, state, ssm.s5_system(*leaves, discretisation))

    leaves = [tensor.requires_grad_() for tensor in (*logs, B, C, D)]
    assert torch.autograd.gradcheck(lru, leaves)
    assert torch.autograd.gradcheck(s5, leaves)
