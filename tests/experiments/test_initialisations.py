"""Theory on real initialisations: radii tend to 1 with width, and gradients of deep nets follow the mean field."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import lsc_snn as lsc
from lsc_snn import baselines
from lsc_snn._figure import style_of
from lsc_snn._initialisations_figure import Curve, Profile, initialisations_figure
from lsc_snn.experiments import figures, initialisations
from lsc_snn.experiments.initialisations import (
    ACTIVATIONS,
    WIDTHS,
    convergence_rate,
    deep_net,
    deep_profiles,
    expected_radii,
    expected_radius,
    largest_singular_value,
    layer_by_layer,
    radius_against_width,
)

SLOPES = {"ReLU": lambda h: (h > 0).double(), "sin": torch.cos, "cos": lambda h: -torch.sin(h)}
VARIANCES = {"PyTorch default": 1 / 3, "Glorot": 1.0, "He": 2.0}  # of a weight, times the width


def inputs_of(num_samples, width, seed=0):
    return torch.randn(num_samples, width, generator=torch.Generator().manual_seed(seed))


def mean_field_rate(activation, variance):
    """Change of log10 of the gradient norm per layer, in a wide net far from its input (Schoenholz et al. 2017)."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight = torch.exp(-z * z / 2)
    weight /= weight.sum()
    q = 1.0
    for _ in range(100):
        # ReLU has no fixed point, and needs none: its slope does not depend on the scale.
        q = float(variance * (weight * ACTIVATIONS[activation](math.sqrt(q) * z) ** 2).sum())
    return 0.5 * math.log10(variance * float((weight * SLOPES[activation](math.sqrt(q) * z) ** 2).sum()))


def measured_rate(logs):
    """Slope per layer of the log10 of gradient norms; negative where they vanish on the way down."""
    return (logs[-1] - logs[0]) / (1 - len(logs))


def theory_of(name, curve):
    widths = [int(width) for width in curve.x]
    return convergence_rate(curve._replace(mean=expected_radii(name, widths))).slope


# --- against width ---


@pytest.mark.parametrize("uniform", [False, True])
def test_expected_radius_is_that_of_random_matrices(uniform):
    """Dense eigenvalues of 400 matrices are the oracle; the formula is of leading order, and 6 % off here."""
    width, count = 64, 400
    generator = torch.Generator().manual_seed(0)
    if uniform:
        matrices = (torch.rand(count, width, width, generator=generator) - 0.5) * math.sqrt(12 / width)
    else:
        matrices = torch.randn(count, width, width, generator=generator) / math.sqrt(width)
    away = torch.linalg.eigvals(matrices).abs().amax(1).double() - 1
    error = 2 * float(away.std()) / math.sqrt(count)
    assert expected_radius(width) - 1 == pytest.approx(float(away.mean()), abs=error + 0.1 * float(away.mean()))


def test_expected_radius_falls_to_one():
    away = np.array([expected_radius(width) - 1 for width in WIDTHS])
    rates = np.diff(np.log2(away))
    assert (away > 0).all()
    assert (np.diff(rates) < 0).all()  # towards that of sqrt(log(n) / n)
    assert -0.5 < rates[-1] < -0.35


@pytest.mark.parametrize("name", ["Glorot", "He"])
def test_the_radius_tends_to_one_with_width(name):
    curve = radius_against_width(name, [64, 1024], num_seeds=2)
    slope, error = convergence_rate(curve)
    assert slope + 2 * error < 0
    assert slope == pytest.approx(theory_of(name, curve), abs=3 * error)


def test_an_orthogonal_matrix_has_radius_one():
    curve = radius_against_width("orthogonal", [256, 640], num_seeds=2)
    np.testing.assert_allclose(curve.mean, 1, atol=1e-4)
    assert (curve.std < 1e-4).all()


def test_the_singular_value_bounds_what_is_not_orthogonal():
    matrix = torch.diag(torch.tensor([1.0, 1.3, 0.9]))[:, [1, 2, 0]]
    assert largest_singular_value(matrix) == pytest.approx(1.3, rel=1e-5)
    assert largest_singular_value(0.5 * matrix) >= 0.65


def test_products_find_the_eigenvalue_at_the_edge():
    """The number of products that ``radius_against_width`` takes leaves no bias that shows in |radius - 1|."""
    power = radius_against_width("Glorot", [384], num_seeds=2)
    exact = []
    for seed in range(int(power.nets[0])):
        model = nn.Sequential(nn.Linear(16, 384), nn.Tanh(), nn.Linear(384, 384))
        baselines.glorot(model, generator=torch.Generator().manual_seed(seed))
        exact.append(float(torch.linalg.eigvals(model[2].weight.detach()).abs().max()))
    assert power.mean[0] == pytest.approx(np.mean(exact), abs=5e-4)


# --- layer by layer ---


@pytest.mark.parametrize(
    ("activation", "arm"),
    [
        ("ReLU", "PyTorch default"),
        ("ReLU", "Glorot"),
        ("ReLU", "He"),
        ("sin", "PyTorch default"),
        ("sin", "He"),
        ("cos", "PyTorch default"),
        ("cos", "Glorot"),
        ("cos", "He"),
    ],
)
def test_gradients_change_as_the_mean_field_says(activation, arm):
    inputs = inputs_of(32, 128)
    logs = lsc.gradient_profile(deep_net(activation, arm, 30, 128, seed=0), inputs)[0].log10().tolist()
    expected = mean_field_rate(activation, VARIANCES[arm])
    assert measured_rate(logs[10:]) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lsc_brings_every_radius_to_one_and_the_gradient_through(activation):
    model = deep_net(activation, "PyTorch default", num_layers=8, width=64, seed=0)
    seen, unseen = inputs_of(64, 64), inputs_of(64, 64, seed=1)
    before = lsc.gradient_profile(model, unseen)[0].log10().tolist()
    result = lsc.stabilize(model, seen, target="one", tolerance=0.02)
    radii, after = layer_by_layer(model, unseen)
    assert result.converged
    np.testing.assert_allclose(radii, 1, atol=0.05)
    assert abs(measured_rate(after)) < 0.06
    assert measured_rate(before) < -0.2


def test_profiles_are_those_of_every_net():
    profiles = deep_profiles("sin", num_layers=3, width=16, num_seeds=2, num_samples=4, arms=["He"])
    nets = []
    for seed in range(2):
        unseen = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(seed))[1]
        nets.append(layer_by_layer(deep_net("sin", "He", 3, 16, seed), unseen))
    radii, gradients = (np.array(values) for values in zip(*nets, strict=True))
    for curve, values, layers in zip(profiles["He"], (radii, gradients), ([2, 3], [1, 2, 3]), strict=True):
        assert curve.x.tolist() == layers
        np.testing.assert_allclose(curve.mean, values.mean(0))
        np.testing.assert_allclose(curve.std, np.abs(values[0] - values[1]) / math.sqrt(2), atol=1e-12)
        assert curve.nets.tolist() == [2] * len(layers)


def test_a_net_repeats_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    one, other = (deep_net("cos", "PyTorch default", 2, 8, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one["0.weight"], deep_net("cos", "PyTorch default", 2, 8, seed=4).state_dict()["0.weight"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: radius_against_width("glorot", [8]), "did you mean 'Glorot'"),
        (lambda: radius_against_width("He", [8], num_seeds=1), "num_seeds: expected an integer >= 2, got 1"),
        (lambda: radius_against_width("He", [0]), "width: expected an integer >= 1, got 0"),
        (lambda: expected_radius(1), "width: expected an integer >= 2, got 1"),
        (lambda: deep_profiles("gelu"), "activation: expected"),
        (lambda: deep_profiles("sin", arms=["none"]), "arm: expected"),
        (lambda: deep_profiles("sin", num_layers=1), "num_layers: expected an integer >= 2, got 1"),
    ],
)
def test_bad_arguments_get_one_line(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- the figure ---


def made_up_curve(mean):
    mean = np.array(mean)
    return Curve(np.arange(1.0, len(mean) + 1), mean, 0.1 * np.ones_like(mean), np.full(len(mean), 2.0))


def test_the_figure_carries_its_numbers():
    radii = {"Glorot": made_up_curve([1.2, 1.1, 1.05]), "orthogonal": made_up_curve([1.0, 1.0, 1.0])}
    theory = {"Glorot": np.array([1.25, 1.15, 1.07])}
    first = Profile(made_up_curve([0.5, 0.4]), made_up_curve([-6.0, -3.0, 0.0]))
    last = Profile(made_up_curve([1.0, 0.9]), made_up_curve([-0.5, -0.2, 0.0]))
    left, above, _, below, _ = initialisations_figure(
        radii, theory, {name: {"start": first, "LSC": last} for name in ("sin", "cos")}
    ).axes

    def series(axes, label):
        return next(line for line in axes.lines if line.get_label() == label)

    np.testing.assert_allclose(series(left, "Glorot").get_xydata(), [(1, 1.2), (2, 1.1), (3, 1.05)])
    assert any(list(line.get_ydata()) == [1.25, 1.15, 1.07] for line in left.lines)
    assert {tuple(band) for band in left.collections[0].get_paths()[0].vertices.round(6)} >= {(1, 1.1), (1, 1.3)}
    np.testing.assert_allclose(series(above, "start (before)").get_ydata(), [0.5, 0.4])
    np.testing.assert_allclose(series(below, "LSC (after)").get_ydata(), [-0.5, -0.2, 0.0])
    assert above.get_title() == "sin: gradients span\n$10^{6.0}$ before, $10^{0.5}$ after LSC"
    assert series(above, "LSC (after)").get_color() == style_of("half").colour
    assert all(axes.get_ylabel() for axes in (left, above, below))


def test_figures_are_written(tmp_path, monkeypatch, capsys):
    profile = Profile(made_up_curve([1.1]), made_up_curve([-2.0, 0.0]))
    monkeypatch.setattr(initialisations, "WIDTHS", (16, 32))
    monkeypatch.setattr(initialisations, "radius_against_width", lambda *_, **__: made_up_curve([1.2, 1.1]))
    monkeypatch.setattr(initialisations, "deep_profiles", lambda _: {"He": profile, "LSC": profile})
    assert figures.main(["--folder", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"path_counts.png", "initialisations.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "He, ReLU, radius by width: 1: 1.2000 ± 0.1000, 2: 1.1000 ± 0.1000" in printed
    assert "|radius - 1| ~ width^(-1.00 ± " in printed
    assert "cos, LSC: radii 1.100 to 1.100, log10 of first by last gradient -2.00 ± 0.10" in printed


def test_one_figure_is_written_alone(tmp_path):
    assert figures.main(["--folder", str(tmp_path), "--only", "path_counts"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["path_counts.png"]


@pytest.mark.parametrize(
    ("options", "words"), [(["--folder", "none"], "--folder: expected a folder"), (["--threads", "0"], "at least 1")]
)
def test_bad_options_exit_with_a_line(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    with pytest.raises(SystemExit) as error:
        figures.main(options)
    assert error.value.code == 2
    assert words in capsys.readouterr().err


# --- in full ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Glorot", "He"])
def test_at_4096_units_the_radius_is_within_two_percent_of_one(name):
    curve = radius_against_width(name, [64, 512, 4096], num_seeds=2)
    slope, error = convergence_rate(curve)
    assert abs(curve.mean[-1] - 1) < 0.02
    assert slope + 3 * error < 0
    assert slope == pytest.approx(theory_of(name, curve), abs=3 * error)


@pytest.mark.slow
def test_at_4096_units_an_orthogonal_matrix_has_radius_one():
    np.testing.assert_allclose(radius_against_width("orthogonal", [4096], num_seeds=2).mean, 1, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lsc_on_30_layers_takes_orders_of_magnitude_from_the_spread(activation):
    model = deep_net(activation, "PyTorch default", num_layers=30, width=128, seed=0)
    seen, unseen = inputs_of(64, 128), inputs_of(64, 128, seed=1)
    _, before = layer_by_layer(model, unseen)
    assert lsc.stabilize(model, seen, target="one", tolerance=0.02).converged
    radii, after = layer_by_layer(model, unseen)
    np.testing.assert_allclose(radii, 1, atol=0.05)
    assert np.ptp(before) > 6
    assert np.ptp(after) < 1.2
