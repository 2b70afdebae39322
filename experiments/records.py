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
from lsc_snn.experiments.speakers import SpeakerAccuracy


@dataclass(frozen=True)
class Evaluation:
    """A network on one part of the data."""

    loss: float
    """Mean cross-entropy over the samples, in nats."""
    accuracy: float
    """Fraction of the samples (of the valid steps, if each has a label) whose highest score is the label's."""
    rates: tuple[float, ...]
    """Firing rate of each spiking layer: spikes per unit and valid step; empty for a network without spikes."""


SCALARS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")
"""The numbers of an epoch that are not by layer."""


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv."""

    epoch: int
    """Passes over the training samples so far, from 1."""
    train_loss: float
    """Mean cross-entropy over the samples, each when the network met it, dropout and augmentation included."""
    train_accuracy: float
    """Likewise."""
    validation_loss: float | None
    """After the epoch; None where validation samples are trained on, after the epoch was chosen."""
    validation_accuracy: float | None
    """Likewise."""
    layers: tuple[str, ...]
    """Names of the recurrent layers and of the readout, from the input up."""
    gradient_mean: tuple[float, ...]
    """Norm of the gradient in all parameters of each of these layers, before clipping: the mean over steps."""
    gradient_max: tuple[float, ...]
    """Likewise, the largest of the steps."""
    rates: tuple[float, ...]
    """Firing rate of each spiking layer on the validation samples, in spikes per unit and valid step."""
    learning_rate: float | None = None
    """Step size of the epoch; None in the files of versions that did not record it."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; a number that JSON cannot say becomes "inf" or "nan"."""
        return plain_dict(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpochMetrics:
        """Return what ``to_dict`` wrote, to the last bit."""
        values: dict[str, Any] = {**data, "layers": tuple(data["layers"])}
        for name in SCALARS:
            if data.get(name) is not None:
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
    """The epoch that was kept: of the best validation accuracy, ties broken by the lower loss, or of a text of the
    lowest loss, 0 being the network before training; or the last, if the configuration says so."""
    validation: Evaluation
    """The validation samples at the best epoch."""
    test: Evaluation
    """The test samples, looked at once, by the network of the best epoch, or by the one that was refitted."""
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
    speakers: tuple[SpeakerAccuracy, ...] = ()
    """Test accuracy of each speaker, where the test samples and the training samples name theirs."""
    known: float | None = None
    """Test accuracy over the samples of the speakers that training met."""
    unseen: float | None = None
    """Likewise, of those that it never met."""
    epochs_to_80: int | None = None
    """The first epoch with 80 % of the best validation accuracy; 0 is the network before training."""
    refit: tuple[EpochMetrics, ...] | None = None
    """The epochs on train and validation together, if the configuration asks for it."""
    best_on_test: float | None = None
    """Highest test accuracy of any epoch, if the configuration asks for it. It is selected on the test samples, and
    too high for that; compare it with nothing but figures that are selected alike."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; a number that JSON cannot say becomes "inf" or "nan"."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("validation", "test", "initial"):
            fields[name] = dataclasses.asdict(fields[name])
        fields["config"] = self.config.to_dict()
        fields["history"] = [row.to_dict() for row in self.history]
        fields["speakers"] = [dataclasses.asdict(speaker) for speaker in self.speakers]
        fields["refit"] = None if self.refit is None else [row.to_dict() for row in self.refit]
        return plain_dict(fields)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunResult:
        """Return what ``to_dict`` wrote, to the last bit; raises KeyError, TypeError or ValueError otherwise."""
        values = dict(data)
        for name in ("validation", "test", "initial"):
            values[name] = evaluation_from(values[name])
        values["config"] = TrainConfig.from_dict(values["config"])
        values["history"] = rows_from(values["history"])
        values["speakers"] = tuple(map(SpeakerAccuracy.from_dict, values.get("speakers", ())))
        values["refit"] = None if values.get("refit") is None else rows_from(values["refit"])
        return cls(**values)


def rows_from(data: Sequence[Mapping[str, Any]]) -> tuple[EpochMetrics, ...]:
    """Return a history from its plain values."""
    return tuple(map(EpochMetrics.from_dict, data))


def epochs_to(fraction: float, accuracies: Sequence[float]) -> int:
    """Return the first position with a fraction of the largest accuracy.

    >>> epochs_to(0.8, [0.1, 0.5, 0.7, 0.8])
    2
    """
    wanted = fraction * max(accuracies)
    return next(index for index, accuracy in enumerate(accuracies) if accuracy >= wanted)


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
    columns = {"gradient_mean": "gradient_mean", "gradient_max": "gradient_max", "rates": "rate"}
    header = ["epoch", *SCALARS]
    if history:
        names = history[0].layers
        for field, column in columns.items():
            header += [f"{column}.{name}" for name in names[: len(getattr(history[0], field))]]
    rows = []
    for row in history:
        of_layers = (value for field in columns for value in getattr(row, field))
        rows.append([row.epoch, *(getattr(row, name) for name in SCALARS), *of_layers])
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
