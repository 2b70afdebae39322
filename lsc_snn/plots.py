"""Figures: radii against their targets, the gradient over time and depth, training curves, and the theory.

``draw_*`` draws on Axes that are given; ``*_figure`` makes a Figure. None of it touches pyplot or its global state, so
it works without a display and inside other figures. Titles say what is seen, in words made from the numbers shown.
Colours are those of Okabe and Ito, with a marker of their own for each arm, and viridis: safe for the colour-blind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lsc_snn._figure import TEXT_SIZE, TITLE_SIZE, new_figure, style_of, to_png
from lsc_snn._path_count_figure import path_count_figure
from lsc_snn.measure import RadiusReport
from lsc_snn.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure, SubFigure

    Canvas = Figure | SubFigure

Floats = npt.NDArray[np.float64]
Limits = tuple[float, float]

__all__ = [
    # measured
    "radii_figure",
    "draw_radii",
    "gradient_figure",
    "measure_figure",
    "draw_gradient_heat_map",
    "heat_limits",
    "training_figure",
    "draw_curves",
    "draw_test_accuracy",
    # theory
    "path_count_figure",
    # any figure
    "new_figure",
    "style_of",
    "to_png",
]

DEAD_COLOUR = "#d9d9d9"
NON_FINITE_COLOUR = "#000000"


# --- radii ---


def wanted_radius(kind: str, target: Target) -> float:
    """Return what a transition should have: the target's time or depth radius, and always 1 for the decoder.

    >>> wanted_radius("decoder", Target.half()), wanted_radius("time", Target.half())
    (1.0, 0.5)
    """
    return {"time": target.time, "decoder": 1.0}.get(kind, target.depth)


def count_reached(report: RadiusReport, target: Target, tolerance: float) -> tuple[int, int]:
    """Return how many transitions are within ``tolerance`` of their radius, none of them rough, and of how many."""
    kinds = ("encoder", "time", "depth", "decoder")
    found = [(mean, wanted_radius(kind, target)) for kind in kinds for mean in report.means(kind)]
    return sum(not mean.rough and abs(mean.radius - wanted) <= tolerance for mean, wanted in found), len(found)


def radius_limits(reports: Iterable[RadiusReport], target: Target | None = None) -> Limits:
    """Return limits of a log axis that show every radius (but 0, NaN and inf) and the target, two decades at least.

    >>> import torch
    >>> one = torch.ones(1)
    >>> radius_limits([RadiusReport(("a",), time=one, depth=one[1:], encoder=2.0, decoder=1.0, rates=one)])
    (0.1, 10.0)
    """
    radii = [value for report in reports for *_, value in report.entries() if 0 < value < math.inf]
    shown = [1.0, *radii, *([] if target is None else [target.time, target.depth])]
    return min(0.1, min(shown) / 2), max(10.0, max(shown) * 2)


def draw_radii(
    axes: Axes,
    reports: Mapping[str, RadiusReport],
    *,
    kinds: Sequence[str],
    target: Target | None = None,
    tolerance: float = 0.05,
    limits: Limits | None = None,
) -> None:
    """Draw the radii of the transitions of some ``kinds`` ("time"; "encoder", "depth", "decoder"), one series a report.

    ``reports`` maps a label ("before", "after") to a report of the same network; the last one is drawn filled. Lines
    and bands show the ``target`` and its ``tolerance``. A dead transition (radius 0) has a cross at the lower edge, one
    that is infinite a cross at the upper edge; one that is NaN is left out. ``limits`` of the axis are those of
    ``radius_limits`` by default.
    """
    chosen = {
        label: {(kind, name): value for kind, name, value in report.entries() if kind in kinds}
        for label, report in reports.items()
    }
    keys = list(dict.fromkeys(key for rows in chosen.values() for key in rows))
    names = [name if kind in ("time", "depth") else kind for kind, name in keys]
    x = np.arange(len(names))
    if target is not None:
        _draw_targets(axes, [wanted_radius(kind, target) for kind, _ in keys], tolerance)
    for position, (label, rows) in enumerate(chosen.items()):
        values = np.array([rows.get(key, math.nan) for key in keys])
        filled = position == len(chosen) - 1
        style = style_of("half" if filled else "untreated")
        shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        face = style.colour if filled else "white"
        axes.plot(x, shown, style.marker, label=label, color=style.colour, mfc=face, ms=7, zorder=3)
        for height, where, word in ((0.03, values == 0, "dead (0)"), (0.97, np.isposinf(values), "infinite")):
            if where.any():
                axes.plot(
                    x[where], np.full(where.sum(), height), "x", transform=axes.get_xaxis_transform(),
                    color=style.colour, ms=8 if filled else 11, mew=2, label=f"{label}: {word}",
                )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(*(limits or radius_limits(reports.values(), target)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    rotation = 0 if max(map(len, names), default=0) <= 6 else 30 if len(names) <= 12 else 90
    axes.set_xticks(x, names, rotation=rotation)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("transition, from the input up", fontsize=TEXT_SIZE)
    axes.set_ylabel("spectral radius (no unit)", fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(axis="y", alpha=0.25)


def _draw_targets(axes: Axes, wanted: Sequence[float], tolerance: float) -> None:
    x = np.arange(len(wanted))
    low = np.maximum(np.asarray(wanted) - tolerance, 1e-3)
    high = np.asarray(wanted) + tolerance
    axes.bar(x, high - low, 1.0, bottom=low, color="#f0e442", alpha=0.7, zorder=1, label=f"target ± {tolerance:g}")
    axes.hlines(wanted, x - 0.5, x + 0.5, color="#8a7f00", lw=1.2, zorder=2)


def radii_sentence(reports: Mapping[str, RadiusReport], target: Target, tolerance: float) -> str:
    """Return in words how many radii of each report lie within ``tolerance`` of the target."""
    counts = {label: count_reached(report, target, tolerance) for label, report in reports.items()}
    total = next(iter(counts.values()))[1]
    parts = " and ".join(f"{reached} {label}" for label, (reached, _) in counts.items())
    return f"of {total} radii, {parts} lie within {tolerance:g} of the target"


def draw_radii_pair(
    figure: Canvas, reports: Mapping[str, RadiusReport], *, target: Target | None = None, tolerance: float = 0.05
) -> None:
    """Draw the radii through time (left) and depth (right) on a Figure or SubFigure, with one legend below."""
    panels = figure.subplots(1, 2, sharey=True)
    handles: dict[str, Any] = {}
    for axes, title, kinds in zip(panels, ("time", "depth"), (("time",), ("encoder", "depth", "decoder")), strict=True):
        draw_radii(axes, reports, kinds=kinds, target=target, tolerance=tolerance)
        axes.set_title(f"through {title}", fontsize=TITLE_SIZE)
        axes.label_outer()
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=TEXT_SIZE,
        frameon=False,
    )  # fmt: skip


def radii_figure(
    before: RadiusReport, after: RadiusReport | None = None, *, target: Target | None = None, tolerance: float = 0.05
) -> Figure:
    """Return a Figure of the radii through time (left) and through depth (right), before and, if given, after.

    >>> import torch
    >>> one = torch.ones(2)
    >>> report = RadiusReport(("a", "b"), time=one, depth=one[1:], encoder=1.0, decoder=1.0, rates=one)
    >>> radii_figure(report, target=Target.one()).get_suptitle()
    'Of 5 radii, 5 measured lie within 0.05 of the target'
    """
    reports = {"measured": before} if after is None else {"before": before, "after": after}
    figure = new_figure(10, 4.2)
    draw_radii_pair(figure, reports, target=target, tolerance=tolerance)
    title = _span_sentence(before) if target is None else radii_sentence(reports, target, tolerance)
    figure.suptitle(title[0].upper() + title[1:], fontsize=TITLE_SIZE + 1)
    return figure


def _span_sentence(report: RadiusReport) -> str:
    values = [value for *_, value in report.entries()]
    alive = [value for value in values if 0 < value < math.inf]
    dead = f", dead ones: {values.count(0.0)} of {len(values)}" if 0.0 in values else ""
    if not alive:
        return f"no radius is positive and finite{dead}"
    return f"the radii of {len(report.names)} layers span {min(alive):.2g} to {max(alive):.2g}{dead}"


# --- gradients over time and depth ---


def heat_limits(profiles: Iterable[Tensor | Floats]) -> Limits:
    """Return the range of log10 over all positive finite entries of some profiles: one colour scale for all of them.

    >>> heat_limits([np.array([[1.0, 0.0]]), np.array([[1e3, np.inf]])])
    (0.0, 3.0)
    """
    logs = [np.log10(a[np.isfinite(a) & (a > 0)]) for a in map(_array, profiles)]
    values = np.concatenate([np.empty(0), *logs])
    if values.size == 0:
        return -1.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def draw_gradient_heat_map(axes: Axes, profile: Tensor | Floats, limits: Limits) -> QuadMesh:
    """Draw log10 of gradient norms (T, L), time to the right and depth upwards; return the mesh, for a colour bar.

    ``limits`` is the range of log10 that the colours cover, the same for figures to be compared; values beyond it take
    the end colours. A dead entry (0) is light grey, one that is NaN or infinite black. Raises ValueError for another
    rank and negative entries.
    """
    norms = _array(profile)
    if norms.ndim != 2 or norms.size == 0:
        raise ValueError(f"profile: expected gradient norms (T, L), got shape {norms.shape}; see gradient_profile")
    if (norms < 0).any():
        raise ValueError(f"profile: expected gradient norms >= 0, got {norms.min()}; see gradient_profile")
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    steps, layers = norms.shape
    dead, broken = norms == 0, ~np.isfinite(norms)
    logs = np.log10(np.where(dead | broken, 1.0, norms)).clip(*limits)
    logs[dead] = limits[0] - 1  # below the scale: the colour of the dead
    # The darkest end of viridis would be hard to tell from black.
    colours = LinearSegmentedColormap.from_list("viridis_light", colormaps["viridis"](np.linspace(0.12, 1, 256)))
    mesh = axes.pcolormesh(
        np.arange(steps + 1) - 0.5,
        np.arange(layers + 1) + 0.5,
        np.ma.masked_array(logs, broken).T,
        cmap=colours.with_extremes(under=DEAD_COLOUR, bad=NON_FINITE_COLOUR),
        vmin=limits[0],
        vmax=limits[1],
    )
    axes.set_yticks(range(1, layers + 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("time (steps)", fontsize=TEXT_SIZE)
    axes.set_ylabel("layer, from the input up", fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    return mesh


def decades(profile: Tensor | Floats) -> float | None:
    """Return log10 of the largest over the smallest positive finite entry of a profile; None where there is none."""
    norms = _array(profile)
    alive = norms[np.isfinite(norms) & (norms > 0)]
    return float(np.log10(alive.max()) - np.log10(alive.min())) if alive.size else None


def gradient_sentence(profile: Tensor | Floats) -> str:
    """Return in words what a profile shows: how many decades its norms span, and how many are dead or not finite.

    >>> gradient_sentence(np.array([[1.0, 10.0], [1000.0, 0.0]]))
    'gradients span 3.0 decades, 25 % are dead'
    """
    norms = _array(profile)
    span = decades(profile)
    parts = [] if span is None else [f"gradients span {span:.1f} decades"]
    for word, where in (("dead", norms == 0), ("NaN or infinite", ~np.isfinite(norms))):
        if where.all():
            return f"all gradients are {word}"
        if where.any():
            parts.append(f"{100 * where.mean():.0f} % are {word}")
    return ", ".join(parts)


def draw_gradient_heat_maps(figure: Canvas, profiles: Mapping[str, Tensor | Floats]) -> None:
    """Draw one heat map for each arm side by side on a Figure or SubFigure, with one colour scale for all."""
    from matplotlib.patches import Patch

    limits = heat_limits(profiles.values())
    panels = list(np.ravel(figure.subplots(1, len(profiles), sharey=True, squeeze=False)))
    for axes, (arm, profile) in zip(panels, profiles.items(), strict=True):
        mesh = draw_gradient_heat_map(axes, profile, limits)
        axes.set_title(f"{arm}: {gradient_sentence(profile)}".replace(", ", ",\n", 1), fontsize=TITLE_SIZE)
        axes.label_outer()
    arrays = [_array(profile) for profile in profiles.values()]
    if any(decades(array) is not None for array in arrays):
        bar = figure.colorbar(mesh, ax=panels, pad=0.01)
        bar.set_label("log10 of the gradient norm", fontsize=TEXT_SIZE)
        bar.ax.tick_params(labelsize=TEXT_SIZE)
    special = {
        "dead (0)": (DEAD_COLOUR, any((a == 0).any() for a in arrays)),
        "NaN or infinite": (NON_FINITE_COLOUR, any((~np.isfinite(a)).any() for a in arrays)),
    }
    handles = [Patch(fc=colour, ec="#555555", label=word) for word, (colour, seen) in special.items() if seen]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=TEXT_SIZE, frameon=False)


def gradient_figure(profiles: Mapping[str, Tensor | Floats]) -> Figure:
    """Return a Figure of gradient heat maps, one for each arm, ``profiles`` being (T, L) norms by arm.

    >>> len(gradient_figure({"untreated": np.ones((9, 2)), "half": np.zeros((9, 2))}).axes)  # two maps, one scale
    3
    """
    if not profiles:
        raise ValueError("profiles: expected at least one arm, got none; pass a mapping from arm to (T, L) norms")
    figure = new_figure(1.6 + 3.4 * len(profiles), 3.2)
    draw_gradient_heat_maps(figure, profiles)
    return figure


def measure_figure(report: RadiusReport, profile: Tensor | Floats) -> Figure:
    """Return a Figure of what a network is like: its radii above, its gradient (T, L) over time and depth below."""
    figure = new_figure(10, 7)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(4, 3)).ravel()
    draw_radii_pair(above, {"measured": report})
    sentence = _span_sentence(report)
    above.suptitle(sentence[0].upper() + sentence[1:], fontsize=TITLE_SIZE + 1)
    draw_gradient_heat_maps(below, {"measured": profile})
    return figure


# --- training ---


def draw_curves(axes: Axes, curves: Mapping[str, Sequence[float]], *, ylabel: str, first_epoch: int = 1) -> None:
    """Draw one curve over epochs, from ``first_epoch``, for each arm; values that are NaN or infinite leave a gap."""
    from matplotlib.ticker import MaxNLocator

    for position, (arm, values) in enumerate(curves.items()):
        style = style_of(arm, position)
        array = np.asarray(values, dtype=np.float64)
        axes.plot(
            first_epoch + np.arange(len(array)),
            np.where(np.isfinite(array), array, np.nan),
            color=style.colour, marker=style.marker, linestyle=style.line, label=arm, ms=4, lw=1.6,
            markevery=max(1, len(array) // 12),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    axes.set_ylabel(ylabel, fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(alpha=0.25)


def draw_training(
    left: Axes, right: Axes, loss: Mapping[str, Sequence[float]], accuracy: Mapping[str, Sequence[float]]
) -> None:
    """Draw training losses (nats, from epoch 1) and validation accuracies (fractions, from epoch 0: untrained)."""
    draw_curves(left, loss, ylabel="training loss (nats)")
    percent = {arm: [100 * value for value in values] for arm, values in accuracy.items()}
    draw_curves(right, percent, ylabel="validation accuracy (%)", first_epoch=0)
    right.set_ylim(0, 102)
    finals = {arm: values[-1] for arm, values in loss.items() if len(values)}
    ends = ", ".join(f"{value:.2g} ({arm})" for arm, value in finals.items())
    left.set_title(f"Loss ends at\n{ends}" if ends else "No epoch was completed", fontsize=TITLE_SIZE)
    best = {arm: max(values) for arm, values in percent.items() if len(values)}
    words = ", ".join(f"{value:.0f} % ({arm})" for arm, value in best.items())
    right.set_title(f"Best validation accuracy is\n{words}", fontsize=TITLE_SIZE)
    right.legend(fontsize=TEXT_SIZE, loc="best")


def draw_test_accuracy(axes: Axes, accuracy: Mapping[str, float], *, chance: float) -> None:
    """Draw the test accuracy (a fraction, shown in per cent) of each arm as a bar, and ``chance`` as a line."""
    for position, (arm, value) in enumerate(accuracy.items()):
        bars = axes.bar(arm, 100 * value, color=style_of(arm, position).colour, width=0.6)
        axes.bar_label(bars, fmt="%.1f", fontsize=TEXT_SIZE, padding=2)
    axes.axhline(100 * chance, color="#222222", ls=":", lw=1.2)
    axes.text(len(accuracy) - 0.6, 100 * chance, "chance", va="bottom", fontsize=TEXT_SIZE)
    axes.set_xlim(-0.6, len(accuracy) + 0.1)
    axes.set_ylim(0, 110)
    axes.set_ylabel("test accuracy (%)", fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    best = [arm for arm, value in accuracy.items() if value == max(accuracy.values())]
    title = f"{best[0]} is best\non the test samples" if len(best) == 1 else "No arm alone is best\non the test samples"
    axes.set_title(title, fontsize=TITLE_SIZE)


def training_figure(loss: Mapping[str, Sequence[float]], accuracy: Mapping[str, Sequence[float]]) -> Figure:
    """Return a Figure of training loss (nats) and validation accuracy (fractions) over epochs, one curve for each arm.

    >>> figure = training_figure({"half": [2.3, 1.0]}, {"half": [0.1, 0.6]})
    >>> figure.axes[1].get_title().splitlines()
    ['Best validation accuracy is', '60 % (half)']
    """
    figure = new_figure(10.5, 3.8)
    left, right = figure.subplots(1, 2)
    draw_training(left, right, loss, accuracy)
    return figure


def _array(profile: Tensor | Floats) -> Floats:
    values = profile.detach().cpu().numpy() if isinstance(profile, Tensor) else profile
    return np.asarray(values, dtype=np.float64)
