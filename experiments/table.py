"""The runs of a comparison as rows, their summary for each depth and target, and its Markdown table."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lsc_snn.experiments.config import target_label
from lsc_snn.experiments.records import RunResult, plain_dict

_HEADER = (
    "layers",
    "target",
    "test accuracy",
    "runs",
    "learning rate",
    "epochs to best",
    "radius in time",
    "radius in depth",
    "firing rate (lowest to highest layer)",
    "diverged",
)


@dataclass(frozen=True)
class Run:
    """One run of a comparison: a row of comparison.csv. NaN where there is no such number."""

    depth: int
    """Spiking layers."""
    target: str
    """"untreated", a name, or "time,depth"."""
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

    @classmethod
    def of(cls, result: RunResult, folder: str, *, chosen: bool) -> Run:
        """Return the row of a result."""
        rates = result.validation.rates
        return cls(
            depth=result.config.network.num_layers,
            target=target_label(result.config.target),
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
            rate_min=min(rates),
            rate_max=max(rates),
            stabilized=result.stabilized,
            seconds=result.seconds,
            folder=folder,
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
    """Return the cells as a Markdown table, accuracies in percent."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + " --- |" * len(_HEADER)]
    lines += ["| " + " | ".join(_row(cell)) + " |" for cell in cells]
    return "\n".join(lines)


def _cell(runs: Sequence[Run]) -> Cell:
    accuracies = [run.test_accuracy for run in runs]
    return Cell(
        depth=runs[0].depth,
        target=runs[0].target,
        learning_rate=runs[0].learning_rate,
        num_runs=len(runs),
        test_accuracy=_mean(accuracies),
        test_accuracy_std=statistics.stdev(accuracies) if len(runs) > 1 else math.nan,
        validation_accuracy=_mean(run.validation_accuracy for run in runs),
        best_epoch=_mean(run.best_epoch for run in runs),
        radius_time=_mean(run.radius_time for run in runs),
        radius_depth=_mean(run.radius_depth for run in runs),
        rate_mean=_mean(run.rate_mean for run in runs),
        rate_min=min(run.rate_min for run in runs),
        rate_max=max(run.rate_max for run in runs),
        diverged=sum(run.status == "diverged" for run in runs),
        not_stabilized=sum(run.stabilized is False for run in runs),
    )


def _row(cell: Cell) -> list[str]:
    spread = "" if math.isnan(cell.test_accuracy_std) else f" ± {100 * cell.test_accuracy_std:.1f}"
    unsure = f" ({cell.not_stabilized} not reached)" if cell.not_stabilized else ""
    return [
        str(cell.depth),
        cell.target + unsure,
        f"{100 * cell.test_accuracy:.1f}{spread} %",
        str(cell.num_runs),
        f"{cell.learning_rate:g}",
        f"{cell.best_epoch:.1f}",
        _radius(cell.radius_time),
        _radius(cell.radius_depth),
        f"{cell.rate_mean:.3f} ({cell.rate_min:.3f} to {cell.rate_max:.3f})",
        str(cell.diverged),
    ]


def _radius(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan
