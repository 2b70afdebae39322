"""How far a run has come: its history, the epoch that validation likes best, and whether it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.optimisers import learning_rate_of, score_of
from lsc_snn.experiments.records import EpochMetrics, Evaluation, evaluation_from, plain_dict, rows_from


@dataclass(frozen=True)
class Progress:
    """What a run has to remember besides tensors."""

    data: dict[str, Any]
    radii: dict[str, Any]
    stabilized: bool | None
    initial: Evaluation
    validation: Evaluation
    best_epoch: int = 0
    epoch: int = 0
    seconds: float = 0.0
    history: tuple[EpochMetrics, ...] = ()
    best_on_test: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return plain_dict(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Progress:
        """Return what ``to_dict`` wrote; entries of others beside it are left out."""
        values = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        evaluations = {name: evaluation_from(data[name]) for name in ("initial", "validation")}
        return cls(**{**values, **evaluations, "history": rows_from(data["history"])})

    def after(
        self, row: EpochMetrics, got: Evaluation, seconds: float, config: TrainConfig, on_test: float | None = None
    ) -> Progress:
        """Return the progress after one more epoch, with its result on validation and, if it is tracked, on test.

        The last epoch counts as the best where the configuration says that it is the one to test.
        """
        progress = replace(self, epoch=row.epoch, seconds=self.seconds + seconds, history=(*self.history, row))
        if on_test is not None:
            progress = replace(progress, best_on_test=max(on_test, self.best_on_test or 0.0))
        now, best = (score_of(result.accuracy, result.loss, config) for result in (got, self.validation))
        if config.keep == "last" or now > best:
            return replace(progress, best_epoch=row.epoch, validation=got)
        return progress

    def accuracies(self) -> list[float]:
        """Return the accuracy on validation before training and after each epoch."""
        return [self.initial.accuracy, *(row.validation_accuracy for row in self.history)]  # type: ignore[list-item]

    def scores(self, config: TrainConfig) -> list[tuple[float, ...]]:
        """Return what ``score_of`` makes of validation before training and after each epoch."""
        losses: list[Any] = [self.initial.loss, *(row.validation_loss for row in self.history)]
        return [score_of(*result, config) for result in zip(self.accuracies(), losses, strict=True)]

    def learning_rate(self, config: TrainConfig) -> float:
        """Return the learning rate of the next epoch."""
        return learning_rate_of(config, self.epoch + 1, self.scores(config))

    def ended(self, config: TrainConfig) -> tuple[str, str] | None:
        """Return status and reason of a run that is over, None for one that goes on."""
        if self.epoch >= config.epochs:
            return "finished", f"all {config.epochs} epochs"
        if self.epoch - self.best_epoch >= config.patience:
            return "stopped early", f"no better validation in {config.patience} epochs"
        return None
