"""The six spike functions against their written formulas, in every way that torch differentiates."""

import math

import numpy as np
import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

from cases import normal
from lsc_snn import surrogate as surrogates
from lsc_snn.surrogate import SURROGATES

NAMES = sorted(SURROGATES)
HALF_TYPES = [torch.float16, torch.bfloat16, torch.float32]


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


# The documented formulas, written in NumPy a second time.
FORMULAS = {
    "triangular": lambda x, g, s: g * np.maximum(0, 1 - s * np.abs(x)),
    "rectangular": lambda x, g, s: g * (s * np.abs(x) < 0.5),
    "exponential": lambda x, g, s: g * np.exp(-2 * s * np.abs(x)),
    "gaussian": lambda x, g, s: g * np.exp(-np.pi * (s * x) ** 2),
    "sigmoid": lambda x, g, s: 4 * g * sigmoid(4 * s * x) * (1 - sigmoid(4 * s * x)),
    "fast_sigmoid": lambda x, g, s: g / (1 + 2 * s * np.abs(x)) ** 2,
}


@pytest.fixture(params=NAMES)
def surrogate(request):
    return SURROGATES[request.param](dampening=0.4, sharpness=1.7)


def points(n=40, device="cpu"):
    """Points off the kinks of every shape, where the derivative has a derivative."""
    return (0.7 * normal(n, seed=3)).to(device)


def formula(surrogate, x):
    values = FORMULAS[surrogate.name](x.cpu().numpy(), surrogate.dampening, surrogate.sharpness)
    return torch.as_tensor(values, device=x.device)


def slope(surrogate, x, step=1e-6):
    """Central difference of the formula."""
    return (formula(surrogate, x + step) - formula(surrogate, x - step)) / (2 * step)


def test_spike_is_strictly_above_threshold(surrogate, device):
    x = torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 1.0], device=device)
    for dtype in (*HALF_TYPES, torch.float64):
        spike = surrogate(x.to(dtype))
        assert spike.dtype == dtype
        assert spike.tolist() == (x.to(dtype) > 0).double().tolist()
    assert surrogate(x).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("dampening", [0.3, 1.0])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("name", NAMES)
def test_derivative_is_the_formula(name, dampening, sharpness, device):
    f = SURROGATES[name](dampening, sharpness)
    x = torch.linspace(-3.1, 3.3, 1001, dtype=torch.float64, device=device)
    torch.testing.assert_close(f.derivative(x), formula(f, x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(f.derivative(x.float()).double(), formula(f, x.float().double()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dampening", "sharpness"), [(0.5, 1.0), (0.3, 4.0)])
def test_peak_is_dampening_and_area_is_dampening_over_sharpness(name, dampening, sharpness):
    f = SURROGATES[name](dampening, sharpness)
    # x = tan(angle) maps the whole line to a finite interval, so that no tail is cut off.
    angle = torch.linspace(-math.pi / 2, math.pi / 2, 400_001, dtype=torch.float64)[1:-1]
    area = torch.trapezoid(f.derivative(angle.tan()) / angle.cos() ** 2, angle)
    assert float(area) == pytest.approx(dampening / sharpness, rel=1e-4)
    assert float(f.derivative(torch.zeros((), dtype=torch.float64))) == dampening
    assert float(f.derivative(angle.tan()).max()) <= dampening


def test_backward(surrogate, device):
    x = points(device=device).requires_grad_()
    upstream = normal(40, seed=4, device=device)
    (actual,) = torch.autograd.grad(surrogate(x), x, upstream)
    torch.testing.assert_close(actual, upstream * formula(surrogate, x.detach()))


def test_torch_func(surrogate, device):
    x, tangent = points(device=device), normal(40, seed=4, device=device)
    expected = formula(surrogate, x)
    torch.testing.assert_close(jacrev(surrogate)(x), expected.diag())
    torch.testing.assert_close(jacfwd(surrogate)(x), expected.diag())
    torch.testing.assert_close(vjp(surrogate, x)[1](tangent)[0], tangent * expected)
    torch.testing.assert_close(jvp(surrogate, (x,), (tangent,)), (surrogate(x), tangent * expected))
    torch.testing.assert_close(vmap(grad(surrogate))(x), expected)
    torch.testing.assert_close(vmap(surrogate)(x.reshape(8, 5)), surrogate(x).reshape(8, 5))


def test_vmap_over_tangents_and_cotangents(surrogate):
    x, directions = points(6), normal(3, 6, seed=4)
    expected = directions * formula(surrogate, x)
    torch.testing.assert_close(vmap(lambda u: jvp(surrogate, (x,), (u,))[1])(directions), expected)
    torch.testing.assert_close(vmap(vjp(surrogate, x)[1])(directions)[0], expected)


def test_double_backward(surrogate):
    x, upstream = points().requires_grad_(), normal(40, seed=4).requires_grad_()
    second_upstream = normal(40, seed=5)
    (first,) = torch.autograd.grad(surrogate(x), x, upstream, create_graph=True)
    by_x, by_upstream = torch.autograd.grad(first, (x, upstream), second_upstream)
    expected = second_upstream * upstream.detach() * slope(surrogate, x.detach())
    torch.testing.assert_close(by_x, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(by_upstream, second_upstream * formula(surrogate, x.detach()))


@pytest.mark.parametrize("second", [grad(grad(lambda f, x: f(x), 1), 1), jacfwd(jacrev(lambda f, x: f(x), 1), 1)])
def test_second_derivative_in_torch_func(surrogate, second):
    x = points(12)
    actual = torch.stack([second(surrogate, entry) for entry in x])
    torch.testing.assert_close(actual, slope(surrogate, x), rtol=1e-6, atol=1e-8)
    reverse_over_forward = vmap(jacrev(jacfwd(surrogate)))(x)
    torch.testing.assert_close(reverse_over_forward, actual)


def test_gradcheck_of_the_derivative(surrogate):
    x = points(12).requires_grad_()
    assert torch.autograd.gradcheck(surrogate.derivative, (x,), check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("name", NAMES)
def test_no_overflow_far_from_threshold(name, sharpness, dtype, device):
    f = SURROGATES[name](0.5, sharpness)
    x = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype, device=device, requires_grad=True)
    (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(f.derivative(x).sum(), x)
    (through_first,) = torch.autograd.grad(first.sum(), x)
    assert first.dtype == dtype
    torch.testing.assert_close(first.detach().double(), formula_at(f, x), rtol=1e-2, atol=1e-6)
    assert torch.isfinite(second).all()
    assert second[[0, 2]].abs().max() < 1e-6
    torch.testing.assert_close(through_first, second)


def formula_at(surrogate, x):
    with np.errstate(over="ignore"):
        return formula(surrogate, x.detach().double())


def test_a_shape_of_ones_own():
    class Constant(surrogates.Surrogate):
        def derivative(self, x):
            return torch.full_like(x, self.dampening)

    x = points(5).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(Constant(0.3)(x).sum(), x)[0], torch.full((5,), 0.3).double())
    with pytest.raises(NotImplementedError, match="Surrogate: expected a derivative"):
        surrogates.Surrogate().derivative(x)


def test_get(surrogate):
    assert surrogates.get(surrogate) is surrogate
    assert surrogates.get(surrogate.name) == type(surrogate)()
    with pytest.raises(ValueError, match=r"surrogate: expected one of .* got 'triangle'; did you mean 'triangular'\?"):
        surrogates.get("triangle")
    with pytest.raises(TypeError, match="surrogate: expected a string, got int"):
        surrogates.get(3)


@pytest.mark.parametrize("field", ["dampening", "sharpness"])
@pytest.mark.parametrize(
    ("value", "error"), [(0.0, ValueError), (-1, ValueError), (math.nan, ValueError), ("1", TypeError)]
)
def test_bad_scales(surrogate, field, value, error):
    with pytest.raises(error, match=f"{field}: expected a"):
        type(surrogate)(**{field: value})


@pytest.mark.parametrize("x", [torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool), 0.5])
def test_bad_input(surrogate, x):
    with pytest.raises(TypeError, match="x: expected a"):
        surrogate(x)
