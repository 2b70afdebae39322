"""Path counts against exact integers, sums against direct recursions, rates and bounds as properties."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import normal
from lsc_snn import theory
from lsc_snn.theory import PascalRNN, Target

radii = st.floats(0.01, 2.0)
PAIRS = [(1.0, 1.0), (0.5, 0.5), (0.9, 0.1), (0.3, 0.4), (1.2, 0.7)]


def log_integer(n):
    """Logarithm of a Python integer of any size, to rounding error."""
    shift = max(0, n.bit_length() - 64)
    return math.log(n >> shift) + shift * math.log(2)


# Targets


def test_named_targets():
    assert Target.one() == Target(time=1.0, depth=1.0)
    assert Target.half() == Target(time=0.5, depth=0.5)
    assert Target.balanced(num_steps=300, num_layers=100) == Target(time=0.75, depth=0.25)


def test_parse():
    assert Target.parse("one", 90, 10) == Target.one()
    assert Target.parse("half", 90, 10) == Target.half()
    assert Target.parse("balanced", 90, 10) == Target.balanced(90, 10)
    assert Target.parse((1, 0.25), 90, 10) == Target.parse([np.float32(1), 0.25], 90, 10) == Target(1.0, 0.25)
    assert Target.parse(Target.half(), 90, 10) == Target.half()
    assert type(Target.parse((1, 2), 90, 10).time) is float


@pytest.mark.parametrize("bad", [0.0, -0.5, math.nan, math.inf, 2.0001])
@pytest.mark.parametrize("field", ["time", "depth"])
def test_target_refuses_other_numbers(field, bad):
    with pytest.raises(ValueError, match=f"target {field}: expected a .* got {bad}"):
        Target(**{"time": 0.5, "depth": 0.5, field: bad})


@pytest.mark.parametrize("bad", ["0.5", None, True, 1j])
def test_target_refuses_other_types(bad):
    with pytest.raises(TypeError, match="target depth: expected a number, got"):
        Target(0.5, bad)


def test_parse_refuses():
    with pytest.raises(ValueError, match=r"target: expected one of .* got 'haff'; did you mean 'half'\?"):
        Target.parse("haff", 90, 10)
    with pytest.raises(ValueError, match=r"expected a pair \(time, depth\), got 3 values"):
        Target.parse((0.5, 0.5, 0.5), 90, 10)
    with pytest.raises(ValueError, match="target time: expected a radius"):
        Target.parse((3.0, 0.5), 90, 10)
    with pytest.raises(TypeError, match="target: expected a name, a pair or a Target, got float"):
        Target.parse(0.5, 90, 10)
    with pytest.raises(ValueError, match="num_layers: expected an integer >= 1, got 0"):
        Target.parse("balanced", 90, 0)


# Path counts and sums


@pytest.mark.parametrize("dl", [1, 2, 3, 10, 15, 16, 17, 99, 100, 1000])
@pytest.mark.parametrize("dt", [1, 2, 14, 15, 16, 99, 1000, 9999, 10_000, 1_000_000])
def test_path_count_is_precise(dt, dl):
    exact = log_integer(math.comb(dt + dl, dl))
    assert float(theory.log_path_count(dt, dl)) == pytest.approx(exact, rel=1e-13)
    assert float(theory.log_path_count(dl, dt)) == pytest.approx(exact, rel=1e-13)


def test_path_count_on_a_grid():
    dt, dl = np.arange(60)[:, None], np.arange(40)
    counts = theory.log_path_count(dt, dl)
    assert counts.shape == (60, 40)
    assert (counts[0] == 0).all()
    assert (counts[:, 0] == 0).all()
    exact = [[math.comb(i + j, j) for j in range(40)] for i in range(60)]
    np.testing.assert_allclose(np.exp(counts), np.array(exact, dtype=float), rtol=1e-12)


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_path_count_obeys_the_recursion(dt, dl):
    """C(n, dl) = C(n - 1, dl) + C(n - 1, dl - 1), as a path's last step goes through time or through depth."""
    parts = np.logaddexp(theory.log_path_count(dt - 1, dl), theory.log_path_count(dt, dl - 1))
    assert float(theory.log_path_count(dt, dl)) == pytest.approx(float(parts), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_path_sum_is_the_sum_over_paths(a, b):
    """Against the recursion over the grid, in exact fractions."""
    size, grid = 30, {}
    for i in range(size):
        for j in range(size):
            through_time = Fraction(a) * grid[i - 1, j] if i else Fraction(0)
            through_depth = Fraction(b) * grid[i, j - 1] if j else Fraction(0)
            grid[i, j] = through_time + through_depth if i or j else Fraction(1)
    expected = [[float(grid[i, j]) for j in range(size)] for i in range(size)]
    actual = np.exp(theory.log_path_sum((a, b), np.arange(size)[:, None], np.arange(size)))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@given(radii, radii, st.integers(1, 10_000), st.integers(1, 100))
def test_path_sum_is_finite_on_large_grids(a, b, dt, dl):
    exact = dt * math.log(a) + dl * math.log(b) + log_integer(math.comb(dt + dl, dl))
    scale = dt * abs(math.log(a)) + dl * abs(math.log(b)) + 1
    assert abs(float(theory.log_path_sum((a, b), dt, dl)) - exact) <= 1e-13 * scale


def test_largest_grid():
    gradient = PascalRNN(1.0, 1.0, num_layers=100).log_input_output_gradient(10_000)
    assert float(gradient) == pytest.approx(log_integer(math.comb(10_099, 99)), rel=1e-13)
    half = PascalRNN(0.5, 0.5, num_layers=100).log_input_output_gradient(10_000)
    assert float(half) == pytest.approx(log_integer(math.comb(10_099, 99)) - 10_100 * math.log(2), rel=1e-13)


# Bounds, the critical line, growth


@given(radii, radii, st.integers(0, 10_000), st.integers(0, 100))
def test_path_sum_is_below_its_bound(a, b, dt, dl):
    bound = float(theory.log_path_bound((a, b), dt, dl))
    assert float(theory.log_path_sum((a, b), dt, dl)) <= bound + 1e-9
    assert bound == pytest.approx((dt + dl) * math.log(a + b))


@given(st.floats(0.01, 0.99), st.floats(0.01, 1.0))
def test_no_path_sum_passes_1_up_to_the_critical_line(a, fraction):
    b = fraction * (1 - a)
    sums = theory.log_path_sum((a, b), np.arange(200)[:, None], np.arange(100))
    assert sums.max() <= 1e-12
    assert theory.log_sum_over_time((a, b), num_layers=50) <= 1e-12


@given(st.floats(0.05, 0.95), st.floats(1.01, 1.05))
def test_path_sums_explode_above_the_critical_line(a, excess):
    b = excess - a
    steps = np.array([2000, 4000])
    dt = np.rint(theory.direction(a, b) * steps).astype(int)
    shorter, longer = theory.log_path_sum((a, b), dt, steps - dt)
    assert longer > shorter > 0


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_growth_rate_is_the_measured_slope(a, b):
    """Per step of the path, in the direction of largest growth; any other direction grows more slowly."""

    def slope(fraction, n=200_000):
        ends = [(round(fraction * m), m - round(fraction * m)) for m in (n, 2 * n)]
        low, high = (float(theory.log_path_sum((a, b), *end)) for end in ends)
        return (high - low) / n

    p = theory.direction(a, b)
    assert slope(p) == pytest.approx(theory.growth_rate(a, b), abs=1e-5)
    assert theory.growth_rate(a, b) == pytest.approx(math.log(a + b), abs=1e-15)
    assert max(slope(p - 0.05), slope(p + 0.05)) < slope(p) - 1e-3


@given(radii, radii, st.integers(1, 300))
def test_paths_of_one_length_sum_to_the_bound(a, b, n):
    """The binomial theorem: the sum over all nodes at distance n is (a + b)^n."""
    dt = np.arange(n + 1)
    total = np.logaddexp.reduce(theory.log_path_sum((a, b), dt, n - dt))
    assert float(total) == pytest.approx(float(theory.log_path_bound((a, b), n, 0)), abs=1e-10)


def test_balanced_peaks_at_the_corner():
    """Among pairs on the critical line, T / (T + L) carries most gradient from corner to corner."""
    a = np.linspace(0.01, 0.99, 99)
    sums = [float(theory.log_path_sum((float(x), float(1 - x)), 90, 10)) for x in a]
    assert a[int(np.argmax(sums))] == pytest.approx(Target.balanced(90, 10).time)


# PascalRNN


def test_known_gradients():
    explosive, stable = PascalRNN(1, 1, num_layers=10), PascalRNN(0.5, 0.5, num_layers=10)
    assert float(explosive.input_output_gradient(99)) == pytest.approx(3.9e12, rel=0.01)
    assert float(explosive.input_output_gradient(99)) == pytest.approx(math.comb(108, 99), rel=1e-12)
    every_delay = explosive.input_output_gradient(np.arange(100)).sum()
    assert every_delay == pytest.approx(4.3e13, rel=0.01)
    assert every_delay == pytest.approx(math.comb(109, 10), rel=1e-12)
    gradients = stable.input_output_gradient(np.arange(2000))
    assert round(float(gradients.max()), 3) == 0.093
    assert gradients.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("num_layers", [1, 2, 10])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.3, 0.4), (0.8, 0.3)])
def test_sum_over_all_delays(a, b, num_layers):
    total = PascalRNN(a, b, num_layers).input_output_gradient(np.arange(3000)).sum()
    assert math.log(total) == pytest.approx(theory.log_sum_over_time((a, b), num_layers), abs=1e-11)
    assert math.log(total) == pytest.approx(num_layers * math.log(b / (1 - a)), abs=1e-11)


def test_sum_over_all_delays_diverges():
    assert theory.log_sum_over_time(Target.one(), 3) == math.inf


@pytest.mark.parametrize("shape", [(1,), (2,), (13,), (16, 3)])
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_forward_is_the_recursion(a, b, shape):
    x, num_layers = normal(*shape), 4
    y = {(t, 0): x[t] for t in range(len(x))}
    for layer in range(1, num_layers + 1):
        for t in range(len(x)):
            y[t, layer] = a * y.get((t - 1, layer), 0) + b * y[t, layer - 1]
    expected = torch.stack([y[t, num_layers] for t in range(len(x))])
    torch.testing.assert_close(PascalRNN(a, b, num_layers)(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_autograd_is_the_formula(a, b, device):
    network, x = PascalRNN(a, b, num_layers=10), normal(100, device=device).requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[-1], x)
    expected = network.input_output_gradient(np.arange(100)[::-1])
    np.testing.assert_allclose(gradient.cpu().numpy(), expected, rtol=1e-11)


def test_large_networks_run():
    x = torch.zeros(10_000, dtype=torch.float64)
    x[0] = 1
    y = PascalRNN(0.99, 0.01, num_layers=100)(x)
    np.testing.assert_allclose(y[-1].item(), PascalRNN(0.99, 0.01, 100).input_output_gradient(9999), rtol=1e-10)
    assert PascalRNN(2.0, 2.0, 100).input_output_gradient(10_000) == math.inf


# Bad arguments


@pytest.mark.parametrize("call", [theory.log_path_count, lambda dt, dl: theory.log_path_sum((0.5, 0.5), dt, dl)])
def test_bad_counts(call):
    with pytest.raises(ValueError, match="dl: expected integers >= 0, got -1"):
        call(3, [1, -1])
    with pytest.raises(TypeError, match="dt: expected integers, got float64"):
        call(0.5, 1)


@pytest.mark.parametrize(
    "call",
    [
        theory.growth_rate,
        theory.direction,
        lambda a, b: theory.log_path_sum((a, b), 1, 1),
        lambda a, b: theory.log_path_bound((a, b), 1, 1),
        lambda a, b: theory.log_sum_over_time((a, b), 1),
        lambda a, b: PascalRNN(a, b, 1),
    ],
)
def test_bad_radii(call):
    with pytest.raises(ValueError, match="a: expected a finite number above 0, got 0"):
        call(0, 1)
    with pytest.raises(ValueError, match="b: expected a finite number above 0, got nan"):
        call(1, math.nan)
    with pytest.raises(TypeError, match="a: expected a number, got str"):
        call("1", 1)


@pytest.mark.parametrize("pair", ["half", (0.5,), 0.5])
def test_bad_pair(pair):
    with pytest.raises(TypeError, match=r"target: expected a Target or a pair \(a, b\), got"):
        theory.log_path_sum(pair, 1, 1)


def test_bad_network():
    with pytest.raises(ValueError, match="num_layers: expected an integer >= 1, got 0"):
        PascalRNN(1, 1, num_layers=0)
    network = PascalRNN(1, 1, num_layers=2)
    with pytest.raises(TypeError, match=r"x: expected a floating-point tensor, got torch.int64"):
        network(torch.arange(3))
    for x in (torch.zeros(0), torch.zeros(())):
        with pytest.raises(ValueError, match=r"x: expected shape \(T, ...\) with T >= 1"):
            network(x)
