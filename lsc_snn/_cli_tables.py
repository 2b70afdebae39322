"""Rich tables of what the commands of ``lsc-snn`` found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from lsc_snn.measure import Mean, RadiusReport
from lsc_snn.stabilize import StabilizeReport
from lsc_snn.theory import Target

if TYPE_CHECKING:
    from lsc_snn.experiments.table import Cell

_NONE = "-"


def radius_text(radius: Mean, wanted: float | None, tolerance: float) -> Text:
    """Return a radius as text, green within ``tolerance`` of what is wanted and red outside; a rough one is yellow.

    >>> radius_text(Mean(0.0, 0.0), None, 0.05).plain, radius_text(Mean(0.512, 0.01), 0.5, 0.05).style
    ('dead', 'green')
    >>> radius_text(Mean(0.512, 0.3), 0.5, 0.05)
    <text '~0.512' [] 'yellow'>
    """
    value = radius.radius
    if radius.rough:
        return Text(str(radius), style="yellow")
    if wanted is None:
        return Text(str(radius), style="red" if value == 0 or not math.isfinite(value) else "")
    return Text(str(radius), style="green" if abs(value - wanted) <= tolerance else "red")


def _rows(report: RadiusReport) -> Iterator[tuple[str, Mean | None, Mean | None, float | None]]:
    """Yield (name, time radius, depth radius from below, rate): the layers, then the decoder where there is one."""
    from_below = report.means("encoder", "depth")
    yield from zip(report.names, report.means("time"), from_below, report.rates.tolist(), strict=True)
    for mean in report.means("decoder"):
        yield "decoder", None, mean, None


def report_table(report: RadiusReport, title: str, target: Target | None = None, tolerance: float = 0.05) -> Table:
    """Return the table of one measurement: a line for each layer; its depth radius is that from the layer below."""
    table = Table(title=title, title_justify="left")
    table.add_column("layer")
    for heading in ("time radius", "depth radius", "spikes / step"):
        table.add_column(heading, justify="right")
    for name, time, depth, rate in _rows(report):
        table.add_row(name, *_cells(name, time, depth, rate, target, tolerance))
    _explain(table, report)
    return table


def _explain(table: Table, *reports: RadiusReport) -> None:
    """Say below a table what the sign in front of a rough radius means, if there is one."""
    if any(mean.rough for report in reports for mean in report.means("encoder", "depth", "time")):
        table.caption = "~ a mean that few samples and steps carry: it does not count as reached"
        table.caption_justify = "left"


def stabilize_table(result: StabilizeReport, title: str, tolerance: float) -> Table:
    """Return the table of ``stabilize``: each radius and firing rate before and after."""
    table = Table(title=title, title_justify="left")
    table.add_column("layer")
    for heading in ("time", "depth", "spikes / step"):
        table.add_column(f"{heading}\nbefore", justify="right", style="dim")
        table.add_column("\nafter", justify="right")
    for before, after in zip(_rows(result.before), _rows(result.after), strict=True):
        old = _cells(*before, None, tolerance)
        new = _cells(*after, result.target, tolerance)
        table.add_row(before[0], *(cell for pair in zip(old, new, strict=True) for cell in pair))
    _explain(table, result.before, result.after)
    return table


def rows_table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """Return a table of text, the first column to the left and the others to the right."""
    table = Table(title=title, title_justify="left")
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=position == 0)
    for row in rows:
        table.add_row(*row)
    return table


def comparison_table(cells: Sequence[Cell], title: str) -> Table:
    """Return the table of ``experiments.compare``: a line for each depth and target, mean and deviation over seeds.

    Of a text it shows perplexities in place of speakers.
    """
    from lsc_snn.experiments.table import of_text

    text = of_text(cells)
    headings = (
        "target",
        "layers",
        "test accuracy (%)",
        "test\nperplexity" if text else "known / unseen\nspeakers (%)",
        "runs",
        "learning\nrate",
        "epochs\nto 80 %",
        "time / depth",
        "firing rates",
        "diverged",
    )
    rows = []
    for cell in cells:
        spread = "" if math.isnan(cell.test_accuracy_std) else f" ± {100 * cell.test_accuracy_std:.1f}"
        rows.append(
            (
                cell.target + (" (not reached)" if cell.not_stabilized else ""),
                str(cell.depth),
                f"{100 * cell.test_accuracy:.1f}{spread}",
                _number(cell.test_perplexity, 2)
                if text
                else f"{_number(100 * cell.known, 1)} / {_number(100 * cell.unseen, 1)}",
                str(cell.num_runs),
                f"{cell.learning_rate:g}",
                _number(cell.epochs_to_80, 1),
                f"{_number(cell.radius_time, 2)} / {_number(cell.radius_depth, 2)}",
                _NONE if math.isnan(cell.rate_min) else f"{cell.rate_min:.3f} to {cell.rate_max:.3f}",
                str(cell.diverged),
            )
        )
    return rows_table(headings, rows, title)


def _number(value: float, digits: int) -> str:
    return _NONE if math.isnan(value) else f"{value:.{digits}f}"


def _cells(
    name: str, time: Mean | None, depth: Mean | None, rate: float | None, target: Target | None, tolerance: float
) -> tuple[Text, Text, Text]:
    wanted_time = None if target is None else target.time
    wanted_depth = None if target is None else 1.0 if name == "decoder" else target.depth
    return (
        Text(_NONE) if time is None else radius_text(time, wanted_time, tolerance),
        Text(_NONE) if depth is None else radius_text(depth, wanted_depth, tolerance),
        Text(_NONE if rate is None else _number(rate, 4)),
    )
