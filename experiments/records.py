"""What a training run leaves behind: the metrics of each epoch, and the result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.files import read_json, write_csv


@dataclass(frozen=True)
class Evaluation:
    """A network on one part of the data."""

    loss: float
    """Mean cross-entropy over the samples, in nats."""
    accuracy: float
    """Fraction of the samples whose highest score is their label's."""
    rates: tuple[float, ...]
    """Firing rate of each spiking layer: spikes per unit and valid step."""


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv."""

    epoch: int
    """Passes over the training samples so far, from 1."""
    train_loss: float
    """Mean over the samples, each when the network met it, dropout included."""
    train_accuracy: float
    """Likewise."""
    validation_loss: float
    """After the epoch."""
    validation_accuracy: float
    """After the epoch."""
    layers: tuple[str, ...]
    """Names of the spiking layers and of the readout, from the input up."""
    gradient_mean: tuple[float, ...]
    """Norm of the gradient in all parameters of each of these layers, before clipping: the mean over steps."""
    gradient_max: tuple[float, ...]
    """Likewise, the largest of the steps."""
    rates: tuple[float, ...]
    """Firing rate of each spiking layer on the validation samples, in spikes per unit and valid step."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; a number that JSON cannot say becomes "inf" or "nan"."""
        return plain_dict(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpochMetrics:
        """Return what ``to_dict`` wrote, to the last bit."""
        values: dict[str, Any] = {**data, "layers": tuple(data["layers"])}
        for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            values[name] = float(data[name])
        for name in ("gradient_mean", "gradient_max", "rates"):
            values[name] = floats(data[name])
        return cls(**values)


@dataclass(frozen=True)
class RunResult:
    """What became of a run, as results.json holds it. ``to_dict`` is ready for JSON.

    ``status`` is "finished" (all epochs), "stopped early", or "diverged": a loss or a gradient was NaN or infinite, and
    ``reason`` says which, when. Then the run ended there; its best epoch before is evaluated as in any other run.
    """

    status: str
    """One of "finished", "stopped early", "diverged"."""
    reason: str
    """Why the run ended, in words."""
    config: TrainConfig
    """What was run."""
    data: dict[str, Any]
    """Sizes and checksums of the three parts of the data."""
    epochs: int
    """Complete epochs."""
    best_epoch: int
    """The epoch with the best validation accuracy, ties broken by the lower loss; 0 is the network before training."""
    validation: Evaluation
    """The validation samples at the best epoch."""
    test: Evaluation
    """The test samples at the best epoch: the only time that they were looked at."""
    initial: Evaluation
    """The validation samples before training."""
    radii: dict[str, Any]
    """RadiusReport.to_dict() of the network before training, after it was stabilised if it was."""
    stabilized: bool | None
    """Whether stabilising converged; None where the network was left untreated."""
    seconds: float
    """Wall-clock time of the epochs, over all sessions of the run."""
    history: tuple[EpochMetrics, ...]
    """The metrics of each complete epoch."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; a number that JSON cannot say becomes "inf" or "nan"."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("validation", "test", "initial"):
            fields[name] = dataclasses.asdict(fields[name])
        fields["config"] = self.config.to_dict()
        fields["history"] = [row.to_dict() for row in self.history]
        return plain_dict(fields)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunResult:
        """Return what ``to_dict`` wrote, to the last bit; raises KeyError, TypeError or ValueError otherwise."""
        values = dict(data)
        for name in ("validation", "test", "initial"):
            values[name] = evaluation_from(values[name])
        values["config"] = TrainConfig.from_dict(values["config"])
        values["history"] = tuple(map(EpochMetrics.from_dict, values["history"]))
        return cls(**values)


def evaluation_from(data: Mapping[str, Any]) -> Evaluation:
    """Return an Evaluation from its plain values."""
    return Evaluation(float(data["loss"]), float(data["accuracy"]), floats(data["rates"]))


def read_result(folder: str | Path) -> RunResult:
    """Read the results.json of a finished run; raises ValueError, naming the file, without a whole one."""
    path = Path(folder) / "results.json"
    data = read_json(path)
    try:
        return RunResult.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected the result of a run, got another file ({error}); remove it to evaluate the run again"
        ) from None


def write_metrics(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Write metrics.csv: one row an epoch; per-layer columns are named as in ``gradient_max.layers.0``."""
    scalars = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    columns = {"gradient_mean": "gradient_mean", "gradient_max": "gradient_max", "rates": "rate"}
    header = list(scalars)
    if history:
        names = history[0].layers
        for field, column in columns.items():
            header += [f"{column}.{name}" for name in names[: len(getattr(history[0], field))]]
    rows = [
        [getattr(row, name) for name in scalars] + [value for field in columns for value in getattr(row, field)]
        for row in history
    ]
    write_csv(path, header, rows)


def plain(value: Any) -> Any:
    """Return nested data as JSON can hold it: tuples as lists, NaN and infinities as strings that ``float`` reads.

    >>> plain({"a": (1, float("inf"))})
    {'a': [1, 'inf']}
    """
    if isinstance(value, Mapping):
        return plain_dict(value)
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def plain_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a mapping as ``plain`` makes them."""
    return {key: plain(value) for key, value in values.items()}


def floats(values: Sequence[Any]) -> tuple[float, ...]:
    """Return the numbers that ``plain`` wrote, as a tuple."""
    return tuple(float(value) for value in values)
