"""Classical initialisations in one picture: radii that tend to 1 with width, and deep nets before and after LSC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lsc_snn._figure import TEXT_SIZE, TITLE_SIZE, Style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

# Okabe and Ito, as in the other figures, where the solid blue line is ours too.
_OURS, _GREY, _PINK = Style("#0072b2", "o", "-"), Style("#5c5c5c", "s", ":"), Style("#cc79a7", "v", "--")
_GLOROT, _HE = Style("#d55e00", "^", "--"), Style("#009e73", "D", "-.")
_BY_WIDTH = (_GLOROT, _HE, _PINK)
_BEFORE = (_GREY, _GLOROT, _HE, _PINK)


class Curve(NamedTuple):
    """A quantity along an axis ``x``, over ``nets`` random nets at each: mean and standard deviation, all (N,)."""

    x: Floats
    mean: Floats
    std: Floats
    nets: Floats


class Profile(NamedTuple):
    """Layer by layer, from the input up: the radius, and log10 of the gradient norm relative to that of the last."""

    radius: Curve
    gradient: Curve


def initialisations_figure(
    radii: Mapping[str, Curve], theory: Mapping[str, Floats], profiles: Mapping[str, Mapping[str, Profile]]
) -> Figure:
    """Return the picture of ``radii`` against width (left), and of deep nets layer by layer (right).

    ``radii`` maps a label to the mean radius by width, ``theory`` some of these labels to what it should be.
    ``profiles`` maps an activation to its arms, a label to a profile; the first arm is what the last one, stabilised,
    started from. Bands are one standard deviation over random nets.
    """
    figure = new_figure(12.5, 5.8)
    from matplotlib.ticker import MaxNLocator

    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.9), wspace=0.03).ravel()
    _draw_radii(left.subplots(), radii, theory)
    panels = right.subplots(2, len(profiles), sharex=True, sharey="row", squeeze=False)
    for (above, below), (activation, arms) in zip(panels.T, profiles.items(), strict=True):
        for position, (label, profile) in enumerate(arms.items()):
            last = position == len(arms) - 1
            style = _OURS if last else _BEFORE[position % len(_BEFORE)]
            name = f"{label} (after)" if last else label if position else f"{label} (before)"
            _draw_curve(above, profile.radius, style, name)
            _draw_curve(below, profile.gradient, style, name)
        above.set_title(_sentence(activation, list(arms.values())), fontsize=TITLE_SIZE)
        above.axhline(1, color="#222222", lw=1)
        below.set_xlabel("layer, from the input up", fontsize=TEXT_SIZE)
        for axes in (above, below):
            _tidy(axes)
    panels[0, 0].set_ylabel("spectral radius (no unit)", fontsize=TEXT_SIZE)
    panels[1, 0].set_ylabel("gradient norm (last layer: 1)", fontsize=TEXT_SIZE)
    panels[1, 0].yaxis.set_major_locator(MaxNLocator(6, integer=True))
    panels[1, 0].yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    right.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=TEXT_SIZE, frameon=False)
    return figure


def _sentence(activation: str, arms: list[Profile]) -> str:
    """Say by how many orders of magnitude the gradient norm spans the layers, in the first arm and in the last."""
    first, last = (float(np.ptp(profile.gradient.mean)) for profile in (arms[0], arms[-1]))
    return f"{activation}: gradients span\n$10^{{{first:.1f}}}$ before, $10^{{{last:.1f}}}$ after LSC"


def _draw_radii(axes: Axes, radii: Mapping[str, Curve], theory: Mapping[str, Floats]) -> None:
    axes.axhline(1, color="#222222", lw=1)
    for position, (label, curve) in enumerate(radii.items()):
        style, expected = _BY_WIDTH[position % len(_BY_WIDTH)], theory.get(label)
        _draw_curve(axes, curve, style._replace(line="-" if expected is None else "none"), label)
        if expected is not None:
            axes.plot(curve.x, expected, color=style.colour, ls="--", lw=1.2)
    if theory:
        axes.plot([], [], color="#222222", ls="--", lw=1.2, label="theory of Gaussian matrices")
    widths = np.unique(np.concatenate([curve.x for curve in radii.values()]))
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.minorticks_off()
    axes.set_title("Radii of Glorot and He tend to 1 with width,\northogonal is 1 throughout", fontsize=TITLE_SIZE)
    axes.set_xlabel("width (units)", fontsize=TEXT_SIZE)
    axes.set_ylabel("spectral radius of a depth transition (no unit)", fontsize=TEXT_SIZE)
    title = "bands: ± 1 standard deviation over nets"
    axes.legend(title=title, fontsize=TEXT_SIZE, title_fontsize=TEXT_SIZE, loc="upper right")
    _tidy(axes)


def _draw_curve(axes: Axes, curve: Curve, style: Style, label: str) -> None:
    every = max(1, len(curve.x) // 6)
    axes.fill_between(curve.x, curve.mean - curve.std, curve.mean + curve.std, color=style.colour, alpha=0.15, lw=0)
    axes.plot(
        curve.x, curve.mean, color=style.colour, marker=style.marker, ls=style.line, ms=5, lw=1.6, label=label,
        markevery=every,
    )  # fmt: skip


def _tidy(axes: Any) -> None:
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(alpha=0.25)
