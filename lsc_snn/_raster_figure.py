"""A picture of event samples: what ``lsc-snn data show`` draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lsc_snn._figure import TEXT_SIZE, TITLE_SIZE, new_figure
from lsc_snn.events import EventBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_COLOUR, _PADDING = "#0072b2", "#e8e8e8"


def raster_figure(title: str, batch: EventBatch, names: Sequence[str], step_ms: float | None = None) -> Figure:
    """Return a raster of every sample of a batch: a dot for each event, over time and input unit.

    Of a single unit the values are drawn as a line instead. ``names`` are the samples' titles; time is in milliseconds
    if ``step_ms``, the length of a step, is known, else in steps. Steps beyond a sample's length are grey.
    """
    rows = -(-batch.batch_size // _COLUMNS)
    figure = new_figure(11, 0.6 + 2.7 * rows)
    figure.suptitle(_plain(title), fontsize=TITLE_SIZE + 1)
    axes = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    for sample, panel in enumerate(axes):
        if sample >= batch.batch_size:
            panel.set_visible(False)
            continue
        _draw(panel, batch, sample, step_ms or 1.0)
        panel.set_title(_plain(names[sample]), fontsize=TITLE_SIZE)
        panel.tick_params(labelsize=TEXT_SIZE - 1, labelbottom=sample + _COLUMNS >= batch.batch_size)
    figure.supxlabel("time (ms)" if step_ms else "time step", fontsize=TEXT_SIZE)
    figure.supylabel("value" if batch.num_units == 1 else "input unit", fontsize=TEXT_SIZE)
    return figure


def _draw(axes: Axes, batch: EventBatch, sample: int, step: float) -> None:
    mine = batch.samples == sample
    times, units = batch.times[mine].numpy() * step, batch.units[mine].numpy()
    end, length = batch.num_steps * step, int(batch.lengths[sample]) * step
    axes.axvspan(length, end, color=_PADDING, linewidth=0)
    axes.set_xlim(0, end)
    if batch.num_units == 1:
        values = batch.rows(*_steps_of(batch, sample)).flatten().numpy()
        axes.plot([t * step for t in range(batch.num_steps)], values, color=_COLOUR, linewidth=0.7)
        axes.set_ylim(bottom=0)
        return
    size = min(12.0, max(1.0, 6000 / (1 + len(times))))
    axes.scatter(times + step / 2, units, s=size, color=_COLOUR, linewidths=0)
    axes.set_ylim(-0.5, batch.num_units - 0.5)


def _steps_of(batch: EventBatch, sample: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(batch.num_steps)
    return steps, torch.full_like(steps, sample)


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics, and line breaks as such."""
    return " ".join(text.split()).replace("$", r"\$")
