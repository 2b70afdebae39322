"""The theory in one picture: how many paths a gradient takes, and which radii keep their sum bounded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lsc_snn._figure import TEXT_SIZE, TITLE_SIZE, new_figure, style_of
from lsc_snn.theory import Target, direction, growth_rate, log_path_sum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def path_count_figure(num_steps: int = 60, num_layers: int = 20) -> Figure:
    """Return the picture of the theory: path sums S = a^dt b^dl C(dt + dl, dl) of three targets, and the critical line.

    Above, log10 S over the grid of dt (0..num_steps) and dl (0..num_layers) for the targets 1, 1/2 and balanced. Below,
    S along the direction in which it is largest, dt : dl = a : b, against depth; and its growth per step, log(a + b),
    over all pairs of radii, with the line a + b = 1 that parts shrinking from exploding sums. Everything is computed by
    ``lsc_snn.theory``. Raises TypeError or ValueError for sizes that are no integers above 0.

    Source: L. Herranz-Celotti and J. Rouat, "Stabilizing RNN Gradients through Pre-training", arXiv 2308.12075.

    >>> figure = path_count_figure(num_steps=12, num_layers=4)
    >>> figure.axes[0].get_title()
    'At 1, the sum over paths reaches $10^{3.3}$'
    """
    targets = {"one": Target.one(), "half": Target.half(), "balanced": Target.balanced(num_steps, num_layers)}
    figure = new_figure(11, 6.8)
    from matplotlib.ticker import MaxNLocator

    above, below = figure.subfigures(2, 1, squeeze=False, hspace=0.04).ravel()
    maps = list(above.subplots(1, 3, sharey=True))
    dt, dl = np.arange(num_steps + 1), np.arange(num_layers + 1)
    sums = {arm: log_path_sum(target, dt, dl[:, None]) / math.log(10) for arm, target in targets.items()}
    largest = max(1.0, *(float(abs(values).max()) for values in sums.values()))
    for axes, (arm, target) in zip(maps, targets.items(), strict=True):
        mesh = axes.pcolormesh(dt, dl, sums[arm], cmap="PuOr_r", vmin=-largest, vmax=largest, shading="nearest")
        _draw_steepest(axes, target, num_steps, num_layers)
        axes.set_title(_sentence(arm, target, float(sums[arm].max())), fontsize=TITLE_SIZE)
        axes.set_xlabel("dt (time steps crossed)", fontsize=TEXT_SIZE)
        axes.tick_params(labelsize=TEXT_SIZE)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    maps[0].set_ylabel("dl (layers crossed)", fontsize=TEXT_SIZE)
    bar = above.colorbar(mesh, ax=maps, pad=0.01)
    bar.set_label("log10 of the path sum", fontsize=TEXT_SIZE)
    bar.ax.tick_params(labelsize=TEXT_SIZE)
    growth, plane = below.subplots(1, 2)
    _draw_growth(growth, targets, num_layers)
    _draw_critical_line(below, plane, targets)
    return figure


def _name(arm: str, target: Target) -> str:
    return {"one": "1", "half": "1/2"}.get(arm, f"balanced ({target.time:.2g}, {target.depth:.2g})")


def _sentence(arm: str, target: Target, log_sum: float) -> str:
    if arm == "one":
        return f"At 1, the sum over paths reaches $10^{{{log_sum:.1f}}}$"
    name = _name(arm, target)
    return f"{'At ' if arm == 'half' else ''}{name[0].upper()}{name[1:]}: no sum passes {10**log_sum:.3g}"


def _draw_steepest(axes: Axes, target: Target, num_steps: int, num_layers: int) -> None:
    """Draw the direction of largest growth, dt : dl = a : b, up to the edge of the grid."""
    fraction = direction(target.time, target.depth)
    reach = min(num_steps / fraction, num_layers / (1 - fraction))
    axes.plot([0, reach * fraction], [0, reach * (1 - fraction)], color="#222222", ls="--", lw=1.5)


def _draw_growth(axes: Axes, targets: dict[str, Target], num_layers: int) -> None:
    from matplotlib.ticker import MaxNLocator

    depths = np.arange(1, num_layers + 1)
    for position, (arm, target) in enumerate(targets.items()):
        fraction = direction(target.time, target.depth)
        steps = np.rint(depths * fraction / (1 - fraction)).astype(np.int64)
        style = style_of(arm)
        axes.plot(
            depths, log_path_sum(target, steps, depths) / math.log(10),
            color=style.colour, marker=style.marker, linestyle=style.line, ms=6, label=_name(arm, target),
            markevery=(position % 2, 2),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_title("Along the dashed lines, only the target 1 explodes with depth", fontsize=TITLE_SIZE)
    axes.set_xlabel("dl (layers crossed)", fontsize=TEXT_SIZE)
    axes.set_ylabel("log10 of the path sum", fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(alpha=0.25)
    axes.legend(title="target", fontsize=TEXT_SIZE, title_fontsize=TEXT_SIZE, loc="upper left")


def _draw_critical_line(figure: Any, axes: Axes, targets: dict[str, Target]) -> None:
    a = np.linspace(0.02, 1.25, 247)
    rates = np.vectorize(growth_rate)(*np.meshgrid(a, a))
    filled = axes.contourf(a, a, rates, levels=np.linspace(-1.5, 1.5, 25), cmap="PuOr_r", extend="both")
    line = axes.contour(a, a, rates, levels=[0.0], colors="#000000", linewidths=2)
    axes.clabel(line, fmt={0.0: "a + b = 1"}, fontsize=TEXT_SIZE, manual=[(0.28, 0.72)])
    for arm, target in targets.items():
        style = style_of(arm)
        axes.plot(target.time, target.depth, style.marker, color=style.colour, mec="white", ms=10)
        axes.annotate(
            _name(arm, target), (target.time, target.depth), (9, 6), textcoords="offset points", fontsize=TEXT_SIZE
        )
    axes.set_title("Above the line a + b = 1 path sums explode, below it they vanish", fontsize=TITLE_SIZE)
    axes.set_xlabel("a, radius through time", fontsize=TEXT_SIZE)
    axes.set_ylabel("b, radius through depth", fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    bar = figure.colorbar(filled, ax=axes, pad=0.01, ticks=[-1.5, -1, -0.5, 0, 0.5, 1, 1.5])
    bar.set_label("growth per step, log(a + b) (nats)", fontsize=TEXT_SIZE)
    bar.ax.tick_params(labelsize=TEXT_SIZE)
