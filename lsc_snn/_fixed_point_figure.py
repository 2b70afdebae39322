"""The figure of ``lsc_snn.fixed_point``: accuracy, spike agreement and radii against the bits of a weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lsc_snn._figure import TEXT_SIZE, TITLE_SIZE, Style, new_figure, style_of
from lsc_snn.fixed_point.report import AWARE, POST, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLOAT = "#5c5c5c"
_LINES = {POST: "-", AWARE: "--"}
_COLOURED = ("half", "one", "balanced")


def fixed_point_figure(rows: Sequence[Row], title: str) -> Figure:
    """Return a Figure of three panels over the bits of a weight; the float network, a row without bits, is a line.

    >>> rows = [Row("float", None, 0.9, (1.0,), (0.5,), ()), Row(POST, 8, 0.8, (0.7,), (0.6,), ())]
    >>> [axes.get_title() for axes in fixed_point_figure(rows, "digits").axes]
    ['accuracy', 'spikes that agree with float', 'radii']
    """
    figure = new_figure(12, 4.2)
    accuracy, agreement, radii = figure.subplots(1, 3)
    measured = [row for row in rows if row.bits is not None]
    exact = [row for row in rows if row.bits is None]
    for row, line in zip(exact, (":", "-."), strict=False):
        accuracy.axhline(100 * row.accuracy, color=_FLOAT, ls=line, label=row.method)
    for position, method in enumerate((POST, AWARE)):
        mine = sorted((row for row in measured if row.method == method), key=lambda row: row.bits or 0)
        if not mine:
            continue
        line = _LINES[method]
        style = style_of("balanced" if method == POST else "")
        _draw(accuracy, mine, [100 * row.accuracy for row in mine], method, style, line)
        _draw_layers(agreement, mine, lambda row: [100 * value for value in row.agreement], method, line)
        if position == 0:
            _draw_layers(radii, mine, lambda row: row.time, "time", "-")
            _draw_layers(radii, mine, lambda row: row.depth, "depth", "--", first=2)
    if exact:
        for first, values in ((1, exact[0].time), (2, exact[0].depth)):
            for index, value in enumerate(values):
                radii.axhline(value, color=_style(first + index).colour, ls=":", lw=1)
        radii.plot([], [], color=_FLOAT, ls=":", label="float, same colours")
    for axes, name, unit in (
        (accuracy, "accuracy", "test accuracy (%)"),
        (agreement, "spikes that agree with float", "spikes of either in both (%)"),
        (radii, "radii", f"spectral radius, {POST}"),
    ):
        axes.set_title(name, fontsize=TITLE_SIZE)
        axes.set_xlabel("bits of a weight", fontsize=TEXT_SIZE)
        axes.set_ylabel(unit, fontsize=TEXT_SIZE)
        axes.set_xticks(sorted({row.bits for row in measured if row.bits is not None}))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=TEXT_SIZE - 2)
    agreement.set_ylim(0, 102)
    radii.set_ylim(bottom=0)
    # A dollar sign would begin a formula.
    figure.suptitle(title.replace("$", r"\$"), fontsize=TITLE_SIZE + 1)
    return figure


def _draw(axes: Axes, rows: Sequence[Row], values: Sequence[float], label: str, style: Style, line: str) -> None:
    bits = [row.bits or 0 for row in rows]
    axes.plot(bits, values, color=style.colour, marker=style.marker, ls=line, ms=5, label=label)


def _draw_layers(
    axes: Axes,
    rows: Sequence[Row],
    values: Callable[[Row], Sequence[float]],
    label: str,
    line: str,
    *,
    first: int = 1,
) -> None:
    """Draw a line for each layer, numbered from ``first``; a layer has its colour in all panels."""
    for index in range(len(values(rows[0]))):
        layer = first + index
        _draw(axes, rows, [values(row)[index] for row in rows], f"{label}, layer {layer}", _style(layer), line)


def _style(layer: int) -> Style:
    return style_of(_COLOURED[layer - 1]) if layer <= len(_COLOURED) else style_of("", layer)
