"""Figures carry the numbers that they are given, and can be seen."""

import io
import math
import sys

import numpy as np
import pytest
import torch
from matplotlib import colors, image
from matplotlib.figure import Figure

from lsc_snn import RadiusReport, plots
from lsc_snn.theory import Target

NAN, INF = math.nan, math.inf


def report(time, depth, encoder=0.5, decoder=1.0):
    names = tuple(f"layers.{index}" for index in range(len(time)))
    rates = torch.full((len(time),), 0.1)
    return RadiusReport(names, torch.tensor(time), torch.tensor(depth), encoder, decoder, rates)


BEFORE = report([1.5, 0.9, 0.0], [0.02, INF], encoder=3.0, decoder=NAN)
AFTER = report([0.51, 0.5, 0.4], [0.5, 0.46], encoder=0.52, decoder=1.0)


def pixels(figure):
    return image.imread(io.BytesIO(plots.to_png(figure, dpi=60)))[..., :3]


def texts(figure):
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes), *legends]


def series(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


FIGURES = {
    "radii": lambda: plots.radii_figure(BEFORE, AFTER, target=Target.half()),
    "one report": lambda: plots.radii_figure(BEFORE),
    "gradient": lambda: plots.gradient_figure({"a": np.geomspace(1, 1e6, 12).reshape(6, 2), "b": np.ones((6, 2))}),
    "measure": lambda: plots.measure_figure(AFTER, torch.ones(6, 3)),
    "training": lambda: plots.training_figure({"half": [2.0, 1.0]}, {"half": [0.1, 0.5, 0.9]}),
    "paths": lambda: plots.path_count_figure(30, 10),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_seen(name):
    figure = FIGURES[name]()
    seen = pixels(figure)
    height, width = seen.shape[:2]
    assert isinstance(figure, Figure)
    assert seen.std() > 0.02
    assert min(seen[: height // 2].std(), seen[height // 2 :].std(), seen[:, : width // 2].std()) > 0.02
    assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)


def test_radii_are_where_the_report_says():
    time, depth = plots.radii_figure(BEFORE, AFTER, target=Target.half(), tolerance=0.05).axes
    np.testing.assert_allclose(series(time, "before").get_ydata(), [1.5, 0.9, NAN])
    np.testing.assert_allclose(series(time, "after").get_ydata(), [0.51, 0.5, 0.4])
    np.testing.assert_allclose(series(depth, "after").get_ydata(), [0.52, 0.5, 0.46, 1.0])
    assert series(time, "after").get_markerfacecolor() != series(time, "before").get_markerfacecolor()
    assert [label.get_text() for label in depth.get_xticklabels()] == ["encoder", "layers.1", "layers.2", "decoder"]


def test_dead_and_infinite_radii_are_marked_at_the_edges():
    figure = plots.radii_figure(BEFORE, AFTER)
    time, depth = figure.axes
    assert series(time, "before: dead (0)").get_xdata().tolist() == [2]
    assert series(depth, "before: infinite").get_xdata().tolist() == [2]
    assert series(time, "before: dead (0)").get_ydata()[0] < 0.1
    assert series(depth, "before: infinite").get_ydata()[0] > 0.9
    assert {"before", "after", "before: dead (0)", "before: infinite"} <= set(texts(figure))


def test_target_line_and_band_are_those_of_each_transition():
    _, depth = plots.radii_figure(BEFORE, AFTER, target=Target(time=0.9, depth=0.3), tolerance=0.1).axes
    lines = depth.collections[0].get_segments()
    assert [segment[0][1] for segment in lines] == pytest.approx([0.3, 0.3, 0.3, 1.0])
    bands = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in depth.patches]
    np.testing.assert_allclose(bands, [(0.2, 0.4)] * 3 + [(0.9, 1.1)])


def test_the_title_counts_the_radii_on_target():
    title = plots.radii_figure(AFTER, AFTER, target=Target.half(), tolerance=0.05).get_suptitle()
    assert title == "Of 7 radii, 6 before and 6 after lie within 0.05 of the target"


def test_limits_show_every_radius_on_both_panels():
    time, depth = plots.radii_figure(BEFORE, AFTER).axes
    assert time.get_ylim() == depth.get_ylim()
    low, high = depth.get_ylim()
    assert low < 0.02
    assert high > 3


PROFILE = np.array([[1.0, 0.0], [1e3, NAN], [1e-2, INF], [10.0, 1e5]])


def test_heat_map_carries_the_logarithms_time_to_the_right_and_depth_upwards():
    axes = plots.new_figure(4, 3).subplots()
    mesh = plots.draw_gradient_heat_map(axes, torch.from_numpy(PROFILE), (-2.0, 5.0))
    shown = mesh.get_array().reshape(2, 4)
    np.testing.assert_allclose(shown[0], [0, 3, -2, 1])
    assert shown[1, 0] < -2
    assert shown.mask[1].tolist() == [False, True, True, False]
    assert shown[1, 3] == 5
    assert mesh.get_clim() == (-2.0, 5.0)


def test_dead_and_non_finite_gradients_have_their_own_colours():
    axes = plots.new_figure(4, 3).subplots()
    mesh = plots.draw_gradient_heat_map(axes, PROFILE, (-2.0, 5.0))
    painted = [colors.to_hex(colour) for colour in mesh.to_rgba(mesh.get_array()).reshape(-1, 4)]
    dead, broken = painted[4], painted[5:7]
    assert dead == plots.DEAD_COLOUR
    assert set(broken) == {plots.NON_FINITE_COLOUR}
    assert not {plots.DEAD_COLOUR, plots.NON_FINITE_COLOUR} & {*painted[:4], painted[7]}


def test_values_beyond_the_scale_take_its_end_colours_and_not_that_of_the_dead():
    axes = plots.new_figure(4, 3).subplots()
    mesh = plots.draw_gradient_heat_map(axes, np.array([[1e-9], [1e9]]), (-2.0, 2.0))
    assert mesh.get_array().ravel().tolist() == [-2.0, 2.0]


def test_arms_share_one_scale_and_the_legend_names_what_is_special():
    figure = plots.gradient_figure({"untreated": PROFILE, "half": np.full((4, 2), 1e-4)})
    clims = {axes.collections[0].get_clim() for axes in figure.axes[:2]}
    assert clims == {(-4.0, 5.0)}
    assert {"dead (0)", "NaN or infinite"} <= set(texts(figure))
    assert any("12 % are dead, 25 % are NaN or infinite" in text for text in texts(figure))


@pytest.mark.parametrize(("value", "word"), [(0.0, "dead"), (NAN, "NaN or infinite"), (INF, "NaN or infinite")])
def test_a_profile_without_any_gradient_is_drawn(value, word):
    figure = plots.gradient_figure({"arm": np.full((5, 2), value)})
    assert f"arm: all gradients are {word}" in texts(figure)
    assert pixels(figure).std() > 0.02


@pytest.mark.parametrize("profile", [np.ones(3), np.ones((0, 2)), np.array([[-1.0]])])
def test_what_is_no_profile_is_refused(profile):
    axes = plots.new_figure(4, 3).subplots()
    with pytest.raises(ValueError, match="profile: expected gradient norms"):
        plots.draw_gradient_heat_map(axes, profile, (0.0, 1.0))


def test_no_arm_is_refused():
    with pytest.raises(ValueError, match="at least one arm"):
        plots.gradient_figure({})


def test_curves_carry_loss_from_epoch_one_and_accuracy_from_epoch_zero():
    loss = {"untreated": [2.3, NAN], "half": [2.0, 1.0]}
    accuracy = {"untreated": [0.1, 0.1, 0.2], "half": [0.1, 0.5, 0.9]}
    left, right = plots.training_figure(loss, accuracy).axes
    assert series(left, "half").get_xydata().tolist() == [[1, 2.0], [2, 1.0]]
    np.testing.assert_allclose(series(left, "untreated").get_ydata(), [2.3, NAN])
    np.testing.assert_allclose(series(right, "half").get_xydata(), [[0, 10], [1, 50], [2, 90]])
    assert right.get_title() == "Best validation accuracy is\n20 % (untreated), 90 % (half)"


def test_arms_differ_in_colour_marker_and_line():
    styles = [plots.style_of(arm) for arm in ("untreated", "one", "half", "balanced")]
    for looks in zip(*styles, strict=True):
        assert len(set(looks)) == len(styles)
    assert plots.style_of("0.9,0.1", 0) != plots.style_of("0.8,0.2", 1)


def test_bars_carry_the_test_accuracies_and_chance():
    axes = plots.new_figure(4, 3).subplots()
    plots.draw_test_accuracy(axes, {"untreated": 0.125, "half": 0.9}, chance=0.1)
    assert [bar.get_height() for bar in axes.patches] == [12.5, 90.0]
    assert axes.lines[0].get_ydata() == [10.0, 10.0]
    assert axes.get_title() == "half is best\non the test samples"


def test_a_tie_has_no_winner():
    axes = plots.new_figure(4, 3).subplots()
    plots.draw_test_accuracy(axes, {"one": 0.9, "half": 0.9}, chance=0.1)
    assert axes.get_title() == "No arm alone is best\non the test samples"


def test_path_sums_are_exact_counts_of_paths():
    steps, layers = 12, 4
    a, b = 0.75, 0.25
    figure = plots.path_count_figure(steps, layers)
    maps = [axes.collections[0].get_array().reshape(layers + 1, steps + 1) for axes in figure.axes[:3]]
    for shown, (time, depth) in zip(maps, ((1, 1), (0.5, 0.5), (a, b)), strict=True):
        expected = [
            [math.log10(time**i * depth**j * math.comb(i + j, j)) for i in range(steps + 1)] for j in range(layers + 1)
        ]
        np.testing.assert_allclose(shown, expected, atol=1e-12)
    assert len({axes.collections[0].get_clim() for axes in figure.axes[:3]}) == 1
    assert figure.axes[0].get_title() == f"At 1, the sum over paths reaches $10^{{{math.log10(math.comb(16, 4)):.1f}}}$"


def test_growth_follows_the_steepest_direction_and_the_critical_line_is_a_plus_b_equal_one():
    figure = plots.path_count_figure(12, 4)
    growth, plane = (next(axes for axes in figure.axes if word in axes.get_title()) for word in ("explodes", "a + b"))
    np.testing.assert_allclose(
        series(growth, "1").get_xydata(), [(n, math.log10(math.comb(2 * n, n))) for n in range(1, 5)]
    )
    np.testing.assert_allclose(
        series(growth, "1/2").get_ydata(), [math.log10(math.comb(2 * n, n) / 4**n) for n in range(1, 5)]
    )
    line = plane.collections[1].get_paths()[0].vertices
    assert len(line) > 10
    np.testing.assert_allclose(line.sum(1), 1, atol=1e-4)
    marked = {tuple(marker.get_xydata()[0]) for marker in plane.lines}
    assert marked == {(1.0, 1.0), (0.5, 0.5), (0.75, 0.25)}


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"lsc-snn\[cli\]"):
        plots.radii_figure(AFTER)


def test_a_rough_radius_is_not_counted_as_reached():
    rates = torch.tensor([0.1])
    smooth = RadiusReport(("a",), torch.tensor([0.5]), torch.tensor([]), 0.5, 1.0, rates)
    rough = RadiusReport(("a",), torch.tensor([0.5]), torch.tensor([]), 0.5, 1.0, rates, {("encoder", "a"): 0.3})
    assert plots.count_reached(smooth, Target.half(), 0.05) == (3, 3)
    assert plots.count_reached(rough, Target.half(), 0.05) == (2, 3)
