"""Spectral radii against NumPy's eigenvalues, and their gradients against autograd through all of them."""

import math

import numpy as np
import pytest
import torch

from cases import normal, seeded
from lsc_snn import ALIF
from lsc_snn.spectral import NUM_MATVECS, Matrix, radius
from lsc_snn.surrogate import Gaussian, Triangular
from lsc_snn.trace import trace
from lsc_snn.transition import square
from reference import drive, make_layer, radii

METHODS = ["power", "exact"]

# (dampening, tau, beta, tau_adaptation, threshold): weakly and strongly adapting, slow and fast, all of them firing.
DRIVEN = [(1.0, 10.0, 1.8, 100.0, 1.0), (0.5, 20.0, 1.8, 50.0, 0.5), (1.0, 20.0, 1.0, 50.0, 1.0)]
# (alpha, rho, beta, gain, surrogate reaches every unit): shapes of the spectrum from a single outlier to a dense disc.
SHAPES = [
    (0.9, 0.99, 1.8, 2.0, False),
    (0.9, 0.99, 1.8, 6.0, False),
    (0.5, 0.5, 1.0, 2.0, False),
    (0.05, 0.95, 1.8, 2.0, True),
    (0.05, 0.5, 0.1, 2.0, True),
]


def driven_transition(units, batch, setting, seed=0):
    """Return the time transition of an ALIF layer at one recorded step of every sample."""
    dampening, tau, beta, tau_adaptation, threshold = setting
    layer = ALIF(
        40,
        units,
        tau=tau,
        beta=beta,
        tau_adaptation=tau_adaptation,
        threshold=threshold,
        surrogate=Triangular(dampening),
        generator=seeded(seed),
    )
    x = 3 * (torch.rand(40, batch, 40, generator=seeded(seed + 1)) < 0.3).float()
    grid = trace(layer, x, num_times=1)
    assert 0.05 < grid.layers[0].rate < 0.6
    return grid.layers[0].time()


def structured(units, batch, shape, seed=0):
    """Return matrices with the structure of ALIF time transitions at random potentials, (batch, 2 units, 2 units)."""
    alpha, rho, beta, gain, everywhere = shape
    weight = gain / math.sqrt(units) * normal(units, units, seed=seed, dtype=torch.float32)
    v = 0.7 * normal(batch, units, seed=seed + 1, dtype=torch.float32)
    psi = torch.full_like(v, 0.5) if everywhere else 0.5 * (1 - (v - 1).abs()).clamp(min=0)
    into_v = (weight - torch.eye(units)) * psi[:, None]
    top = torch.cat([alpha * torch.eye(units) + into_v, -beta * into_v], 2)
    diagonals = torch.diag_embed((1 - rho) * psi), torch.diag_embed(rho - (1 - rho) * beta * psi)
    return torch.cat([top, torch.cat(diagonals, 2)], 1)


def check_bias(operator, num_matvecs=None):
    """Check the promise of the default: mean bias at most 1 %, worst sample at most 3 %."""
    dense = operator.to_dense() if not isinstance(operator, torch.Tensor) else operator
    error = radius(operator, num_matvecs=num_matvecs).double() / radii(dense) - 1
    assert abs(float(error.mean())) <= 0.01
    assert float(error.abs().max()) <= 0.03


@pytest.mark.parametrize("setting", DRIVEN)
@pytest.mark.parametrize(("units", "batch"), [(64, 4), (64, 32), (256, 4)])
def test_power_is_within_its_promise_on_driven_alif_layers(units, batch, setting):
    check_bias(driven_transition(units, batch, setting))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("units", "batch"), [(64, 4), (64, 32), (256, 4)])
def test_power_is_within_its_promise_on_structured_matrices(units, batch, shape):
    check_bias(structured(units, batch, shape))


def test_power_is_within_its_promise_on_a_large_batch_of_a_wide_layer():
    check_bias(driven_transition(256, 32, DRIVEN[0]))


@pytest.mark.slow
@pytest.mark.parametrize("setting", DRIVEN)
def test_power_is_within_its_promise_at_512_units_and_batch_64(setting):
    check_bias(driven_transition(512, 64, setting))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_96_products_are_enough_for_large_structured_matrices(shape):
    """The default is not: where the spectrum fills a disc it is off by up to 5 % for a sample."""
    check_bias(structured(512, 8, shape), num_matvecs=96)


def test_power_converges_to_exact_as_products_grow():
    matrices = normal(40, 80, 80) / math.sqrt(80)
    expected = radii(matrices)
    worst = [
        float((radius(matrices, num_matvecs=count) / expected - 1).abs().mean()) for count in (4, 12, 24, 48, 64, 160)
    ]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] > 0.1
    assert worst[3] < 0.01
    assert worst[-1] < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_both_methods_are_exact_on_small_matrices(n, method, device):
    matrices = normal(5, n, n, device=device)
    found = radius(matrices, method=method)
    assert found.device.type == device
    expected = np.abs(np.linalg.eigvals(matrices.cpu().numpy())).max(1)
    np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(radius(matrices[0], method=method).cpu().numpy(), expected[:1], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_scale_passes_through_in_single_precision(scale, method):
    matrices = normal(5, 50, 50, dtype=torch.float32) / 7
    relative = radius(scale * matrices, method=method).double() / (scale * radii(matrices))
    torch.testing.assert_close(relative, torch.ones(5, dtype=torch.float64), rtol=0.01, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_complex_pairs_and_negative_eigenvalues(method):
    angle = 0.7
    rotation = 1.3 * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    padded = 0.1 * torch.eye(60)
    padded[:2, :2] = rotation
    basis = torch.linalg.qr(normal(60, 60, dtype=torch.float32)).Q
    assert float(radius(basis @ padded @ basis.T, method=method)) == pytest.approx(1.3, rel=1e-4)
    padded[:2, :2] = torch.tensor([[-1.5, 0.0], [0.0, 1.4]])
    assert float(radius(basis @ padded @ basis.T, method=method)) == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_zero_is_zero_and_not_finite_is_infinite(method):
    matrices = normal(5, 40, 40, dtype=torch.float32)
    matrices[0] = 0
    matrices[1, 3, 4], matrices[2, 0, 0], matrices[3, 5, 6] = math.nan, math.inf, -math.inf
    found = radius(matrices, method=method)
    assert found[:4].tolist() == [0, math.inf, math.inf, math.inf]
    assert float(found[4]) == pytest.approx(float(radii(matrices[4:])), rel=0.01)
    kept = matrices.clone().requires_grad_()
    graph = radius(kept, method=method, create_graph=True)
    assert torch.equal(graph.detach(), found)
    (gradient,) = torch.autograd.grad(graph[torch.isfinite(graph)].sum(), kept)
    assert torch.isfinite(gradient[[0, 4]]).all()
    assert gradient[4].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_few_active_units_of_a_large_norm(rank, dtype):
    """Rounding noise in the Krylov basis once gave radius 8 here instead of 0.3: rank 2 of 256, of a large norm."""
    matrices = torch.zeros(16, 256, 256, dtype=torch.float64)
    active = torch.arange(rank) * 50 + 3
    for seed, matrix in enumerate(matrices):
        matrix[active] = normal(rank, 256, seed=seed)
        matrix[active[:, None], active] = 0.3 * torch.linalg.qr(normal(rank, rank, seed=seed)).Q
    assert matrices[0].norm() > 10
    for transposed in (matrices, matrices.mT):
        found = radius(transposed.to(dtype)).tolist()
        assert found == pytest.approx([0.3] * 16, rel=1e-3 if dtype == torch.float32 else 1e-9)


def test_a_silent_surrogate_leaves_the_decays():
    """Where no unit is inside the surrogate's window the time transition is diagonal: the slowest decay."""
    layer = ALIF(3, 40, tau=5.0, tau_adaptation=30.0, threshold=100.0, generator=seeded())
    grid = trace(layer, torch.ones(10, 2, 3))
    for method in METHODS:
        found = radius(grid.layers[0].time(), method=method)
        torch.testing.assert_close(found, torch.full_like(found, math.exp(-1 / 30)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_nilpotent_operators_have_radius_zero(method):
    jordan = torch.diag(torch.ones(3, dtype=torch.float64), 1)
    square_zero = torch.zeros(50, 50, dtype=torch.float64)
    square_zero[:20, 20:] = normal(20, 30)
    for matrix in (jordan, square_zero):
        kept = matrix.clone().requires_grad_()
        found = radius(kept, method=method, create_graph=True)
        assert float(found.detach()) == pytest.approx(0, abs=1e-3)  # the fourth root of rounding
        assert torch.isfinite(torch.autograd.grad(found.sum(), kept)[0]).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_defective_eigenvalue_has_gradient_zero_not_infinite(method):
    matrix = torch.tensor([[0.5, 1.0], [0.0, 0.5]], dtype=torch.float64, requires_grad=True)
    found = radius(matrix, method=method, create_graph=True)
    assert float(found.detach()) == pytest.approx(0.5, abs=1e-6)
    assert torch.isfinite(torch.autograd.grad(found.sum(), matrix)[0]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2, 5, 20])
def test_gradients_in_the_entries_are_those_through_all_eigenvalues(n, method):
    ours = normal(6, n, n, seed=1).requires_grad_()
    oracle = ours.detach().clone().requires_grad_()
    weight = normal(6, seed=2)
    (radius(ours, method=method, create_graph=True) * weight).sum().backward()
    (torch.linalg.eigvals(oracle).abs().amax(1) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, oracle.grad, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_power_converges_too():
    ours, weight = (normal(6, 60, 60, seed=1) / 8).requires_grad_(), normal(6, seed=2)
    oracle = ours.detach().clone().requires_grad_()
    (torch.linalg.eigvals(oracle).abs().amax(1) * weight).sum().backward()
    errors = []
    for count in (50, 60, 100, 200):  # at 200 only rounding is left
        found = radius(ours, num_matvecs=count, create_graph=True)
        (gradient,) = torch.autograd.grad((found * weight).sum(), ours)
        errors.append(float((gradient - oracle.grad).norm() / oracle.grad.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9


@pytest.mark.parametrize("kind", ["LIF", "ALIF"])
@pytest.mark.parametrize("transition", ["time", "depth"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_the_parameters_of_a_layer_are_those_through_all_eigenvalues(method, transition, kind):
    # A wide surrogate, so that every unit is in its window: the decays of silent ones are one degenerate eigenvalue.
    layer, _ = make_layer(kind, detach_reset=False, surrogate=Gaussian(0.8, sharpness=0.4))
    grid = trace(layer, drive(12), num_times=2)
    operator = square(getattr(grid.layers[0], transition)(), seeded(1))
    parameters = dict(layer.named_parameters())
    found = radius(operator, method=method, create_graph=True)
    oracle = torch.linalg.eigvals(operator.to_dense(create_graph=True)).abs().amax(1)
    torch.testing.assert_close(found, oracle)
    weight = normal(6, seed=2)
    ours, expected = (
        torch.autograd.grad(
            (value * weight).sum(), list(parameters.values()), retain_graph=True, materialize_grads=True
        )
        for value in (found, oracle)
    )
    for gradient, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-8)
    moving = {name for name, wanted in zip(parameters, expected, strict=True) if wanted.any()}
    assert moving >= {"alpha_raw", "threshold_raw", "recurrent_raw"}


def test_results_repeat_and_follow_the_generator():
    matrices = normal(3, 100, 100, dtype=torch.float32)
    state = torch.get_rng_state()
    assert torch.equal(radius(matrices), radius(matrices))
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (radius(matrices, generator=seeded(seed), num_matvecs=8) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_default_takes_the_documented_number_of_products():
    class Counting(Matrix):
        count = 0

        def rmatvec(self, vectors, *, create_graph=False):
            self.count += 1
            return super().rmatvec(vectors, create_graph=create_graph)

        def matvec(self, vectors):
            self.count += 1
            return super().matvec(vectors)

    for asked, expected in ((None, NUM_MATVECS + 4), (5, 5 + 4), (100, 100 + 4)):
        operator = Counting(normal(2, 90, 90))
        radius(operator, num_matvecs=asked)
        assert operator.count == expected


def test_exact_draws_nothing():
    generator = seeded(3)
    state = generator.get_state()
    radius(normal(2, 8, 8), method="exact", generator=generator, create_graph=True)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("size", [128, 512])
def test_normal_operators_whose_eigenvalues_crowd_at_the_edge(size):
    orthogonal = torch.linalg.qr(normal(4, size, size)).Q
    torch.testing.assert_close(radius(orthogonal), torch.ones(4, dtype=torch.float64))
    nearly = orthogonal * (1 - 0.05 * torch.rand(size, generator=seeded(), dtype=torch.float64))
    exact = radius(nearly, method="exact")
    assert float(((radius(nearly) - exact) / exact).abs().max()) < 0.01
    symmetric = normal(4, size, size, seed=1)
    symmetric = symmetric + symmetric.mT
    exact = radius(symmetric, method="exact")
    assert float(((radius(symmetric) - exact) / exact).abs().max()) < 0.01


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"operator": torch.ones(2, 3)}, ValueError, "operator: expected square, got 2 x 3; take a square block"),
        ({"operator": torch.ones(3)}, ValueError, r"matrices: expected shape \(n, n\) or \(K, n, n\), got \(3,\)"),
        ({"operator": torch.ones(2, 2).long()}, TypeError, "matrices: expected a floating-point tensor"),
        ({"method": "pwer"}, ValueError, "method: expected one of 'power', 'exact', got 'pwer'; did you mean 'power'"),
        ({"num_matvecs": 0}, ValueError, "num_matvecs: expected an integer >= 1, got 0"),
        ({"num_matvecs": 2.0}, TypeError, "num_matvecs: expected an integer, got float"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        radius(**({"operator": torch.eye(2)} | arguments))
