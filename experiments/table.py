"""The runs of a comparison as rows, their summary for each depth and target, and its Markdown table."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lsc_snn.experiments.config import arm_label
from lsc_snn.experiments.records import RunResult, plain_dict

_HEADER = (
    "layers",
    "target",
    "test accuracy",
    "known speakers",
    "unseen speakers",
    "runs",
    "learning rate",
    "epochs to 80 %",
    "epochs to best",
    "radius in time",
    "radius in depth",
    "firing rate (lowest to highest layer)",
    "largest gradient",
    "diverged",
)


@dataclass(frozen=True)
class Run:
    """One run of a comparison: a row of comparison.csv. NaN where there is no such number."""

    depth: int
    """Spiking layers."""
    target: str
    """"untreated", the name of a target or of an initialisation, or "time,depth"."""
    learning_rate: float
    seed: int
    chosen: bool
    """Whether its learning rate won the tuning, so that the summary counts it."""
    status: str
    epochs: int
    best_epoch: int
    validation_loss: float
    validation_accuracy: float
    test_loss: float
    test_accuracy: float
    radius_time: float
    """Mean over layers, before training, after stabilising if there was any."""
    radius_depth: float
    """Likewise, over the transitions between layers."""
    rate_mean: float
    """Firing rate at the best epoch on the validation samples, mean over layers."""
    rate_min: float
    """Likewise, of the most silent layer."""
    rate_max: float
    """Likewise, of the most active layer."""
    stabilized: bool | None
    """Whether stabilising converged; None for untreated."""
    seconds: float
    folder: str
    """Where its files are, relative to the comparison."""
    known: float
    """Test accuracy on the speakers that training met."""
    unseen: float
    """Likewise, on the others."""
    epochs_to_80: float
    """The first epoch with 80 % of the best validation accuracy."""
    gradient_max: float
    """Largest gradient norm of any layer in any step of the complete epochs."""
    best_on_test: float
    """``RunResult.best_on_test``: selected on the test samples."""
    test_perplexity: float
    """Of a text: exp of the mean loss of a symbol."""

    @classmethod
    def of(cls, result: RunResult, folder: str, *, chosen: bool) -> Run:
        """Return the row of a result."""
        rates = result.validation.rates
        return cls(
            depth=result.config.network.num_layers,
            target=arm_label(result.config),
            learning_rate=result.config.learning_rate,
            seed=result.config.seed,
            chosen=chosen,
            status=result.status,
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            validation_loss=result.validation.loss,
            validation_accuracy=result.validation.accuracy,
            test_loss=result.test.loss,
            test_accuracy=result.test.accuracy,
            radius_time=_mean(_number(radius) for radius in result.radii["time"]),
            radius_depth=_mean(_number(radius) for radius in result.radii["depth"]),
            rate_mean=_mean(rates),
            rate_min=min(rates, default=math.nan),
            rate_max=max(rates, default=math.nan),
            stabilized=result.stabilized,
            seconds=result.seconds,
            folder=folder,
            known=_number(result.known),
            unseen=_number(result.unseen),
            epochs_to_80=_number(result.epochs_to_80),
            gradient_max=max((norm for row in result.history for norm in row.gradient_max), default=math.nan),
            best_on_test=_number(result.best_on_test),
            test_perplexity=math.nan if result.config.bptt_steps is None else _exp(result.test.loss),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return plain_dict(dataclasses.asdict(self))


@dataclass(frozen=True)
class Cell:
    """The runs of one depth and target at its chosen learning rate: a row of the table. Means are over its runs."""

    depth: int
    target: str
    learning_rate: float
    num_runs: int
    test_accuracy: float
    test_accuracy_std: float
    """Sample standard deviation over the seeds (n - 1); NaN for one run."""
    validation_accuracy: float
    best_epoch: float
    radius_time: float
    radius_depth: float
    rate_mean: float
    rate_min: float
    """The lowest rate of any layer in any run."""
    rate_max: float
    """The highest."""
    diverged: int
    """Runs that diverged. They count in the means, with their best epoch before that."""
    not_stabilized: int
    """Runs whose stabilising did not converge."""
    known: float
    known_std: float
    """As ``test_accuracy_std``."""
    unseen: float
    unseen_std: float
    """As ``test_accuracy_std``."""
    epochs_to_80: float
    gradient_max: float
    """The largest of any run."""
    best_on_test: float
    test_perplexity: float
    """NaN but of a text."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return plain_dict(dataclasses.asdict(self))


def summarize(runs: Iterable[Run]) -> tuple[Cell, ...]:
    """Return one cell for each depth and target, in the order in which they first come; only chosen runs count."""
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        if run.chosen:
            groups.setdefault((run.depth, run.target), []).append(run)
    return tuple(_cell(group) for group in groups.values())


def to_markdown(cells: Sequence[Cell]) -> str:
    """Return the cells as a Markdown table, accuracies in percent; of a text, perplexities in place of speakers."""
    header, rows = list(_HEADER), [_row(cell) for cell in cells]
    if of_text(cells):
        header[3:5] = ["test perplexity"]
        for row, cell in zip(rows, cells, strict=True):
            row[3:5] = [_text(cell.test_perplexity, ".2f")]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def of_text(cells: Sequence[Cell]) -> bool:
    """Say whether these are results on a text."""
    return any(not math.isnan(cell.test_perplexity) for cell in cells)


def _cell(runs: Sequence[Run]) -> Cell:
    accuracies, known, unseen = ([getattr(run, name) for run in runs] for name in ("test_accuracy", "known", "unseen"))
    return Cell(
        depth=runs[0].depth,
        target=runs[0].target,
        learning_rate=runs[0].learning_rate,
        num_runs=len(runs),
        test_accuracy=_mean(accuracies),
        test_accuracy_std=_deviation(accuracies),
        validation_accuracy=_mean(run.validation_accuracy for run in runs),
        best_epoch=_mean(run.best_epoch for run in runs),
        radius_time=_mean(run.radius_time for run in runs),
        radius_depth=_mean(run.radius_depth for run in runs),
        rate_mean=_mean(run.rate_mean for run in runs),
        rate_min=min(run.rate_min for run in runs),
        rate_max=max(run.rate_max for run in runs),
        diverged=sum(run.status == "diverged" for run in runs),
        not_stabilized=sum(run.stabilized is False for run in runs),
        known=_mean(known),
        known_std=_deviation(known),
        unseen=_mean(unseen),
        unseen_std=_deviation(unseen),
        epochs_to_80=_mean(run.epochs_to_80 for run in runs),
        gradient_max=max(run.gradient_max for run in runs),
        best_on_test=_mean(run.best_on_test for run in runs),
        test_perplexity=_mean(run.test_perplexity for run in runs),
    )


def _row(cell: Cell) -> list[str]:
    unsure = f" ({cell.not_stabilized} not reached)" if cell.not_stabilized else ""
    rates = _text(cell.rate_mean) + ("" if math.isnan(cell.rate_mean) else _between(cell.rate_min, cell.rate_max))
    return [
        str(cell.depth),
        cell.target + unsure,
        _percent(cell.test_accuracy, cell.test_accuracy_std),
        _percent(cell.known, cell.known_std),
        _percent(cell.unseen, cell.unseen_std),
        str(cell.num_runs),
        f"{cell.learning_rate:g}",
        _text(cell.epochs_to_80, ".1f"),
        f"{cell.best_epoch:.1f}",
        _text(cell.radius_time),
        _text(cell.radius_depth),
        rates,
        _text(cell.gradient_max, ".2g"),
        str(cell.diverged),
    ]


def _percent(mean: float, deviation: float) -> str:
    spread = "" if math.isnan(deviation) else f" ± {100 * deviation:.1f}"
    return _text(mean) if math.isnan(mean) else f"{100 * mean:.1f}{spread} %"


def _between(low: float, high: float) -> str:
    return f" ({low:.3f} to {high:.3f})"


def _text(value: float, form: str = ".3f") -> str:
    return "none" if math.isnan(value) else format(value, form)


def _deviation(values: Sequence[float]) -> float:
    known = len(values) > 1 and not any(map(math.isnan, values))
    return statistics.stdev(values) if known else math.nan


def _exp(loss: float) -> float:
    """Return exp of a loss, inf where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan
