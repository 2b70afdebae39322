"""A picture of a sweep: the accuracy of every run, by arm and depth, a panel for each data set and network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lsc_snn._figure import TEXT_SIZE, TITLE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lsc_snn.experiments.sweep_run import Row

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "^", "s", "D", "v", "P")
_COLUMNS = 3


def sweep_figure(rows: Sequence[Row]) -> Figure:
    """Return test accuracies over arms: a point for each run, a bar at the mean, a colour for each depth.

    Rows of panels are data sets, columns networks; of one data set, three panels a row. Runs that only tuned a learning
    rate are left out.
    """
    chosen = [row for row in rows if row.run.chosen]
    sets, networks = (
        list(dict.fromkeys(values)) for values in zip(*((r.data, r.network) for r in chosen), strict=True)
    )
    arms = {n: list(dict.fromkeys(row.run.target for row in chosen if row.network == n)) for n in networks}
    depths = sorted({row.run.depth for row in chosen})
    columns = len(networks) if len(sets) > 1 else min(_COLUMNS, len(networks))
    lines = math.ceil(len(sets) * len(networks) / columns)
    width = max(3.2, 1.2 + 0.75 * max(map(len, arms.values())))
    figure = new_figure(max(5.0, 0.6 + width * columns), 0.8 + 3.2 * lines)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for axes, (data, network) in zip(panels, itertools.product(sets, networks), strict=False):
        mine = [row.run for row in chosen if (row.data, row.network) == (data, network)]
        _draw(axes, mine, arms[network], depths)
        axes.set_title(f"{network} on {data}", fontsize=TITLE_SIZE)
    for axes in panels[::columns]:
        axes.set_ylabel("test accuracy (%)", fontsize=TEXT_SIZE)
    for axes in panels[len(sets) * len(networks) :]:
        axes.remove()
    handles, labels = _handles(depths)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=TEXT_SIZE, frameon=False)
    return figure


def _draw(axes: Axes, runs: Sequence[Any], arms: Sequence[str], depths: Sequence[int]) -> None:
    step = 0.7 / len(depths)
    for position, arm in enumerate(arms):
        for index, depth in enumerate(depths):
            values = [100 * run.test_accuracy for run in runs if (run.target, run.depth) == (arm, depth)]
            if not values:
                continue
            x = position + step * (index - (len(depths) - 1) / 2)
            colour, marker = _style(index)
            mean = math.fsum(values) / len(values)
            axes.plot([x - 0.4 * step, x + 0.4 * step], [mean, mean], color=colour, linewidth=2)
            axes.scatter([x] * len(values), values, s=22, color=colour, marker=marker, alpha=0.7, linewidths=0)
    axes.set_xticks(range(len(arms)), arms, rotation=30, ha="right")
    axes.set_xlim(-0.6, len(arms) - 0.4)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _style(index: int) -> tuple[str, str]:
    return _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]


def _handles(depths: Sequence[int]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    for index in range(len(depths)):
        colour, marker = _style(index)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="none"))
    handles.append(Line2D([], [], color="#5c5c5c", linewidth=2))
    return handles, [*(f"{depth} layer{'s' if depth > 1 else ''}, a point a run" for depth in depths), "mean"]
