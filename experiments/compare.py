"""Compare arms at several depths, each tuned equally, over several seeds; resumable, one folder a run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lsc_snn.experiments.batches import check_sequences
from lsc_snn.experiments.config import TargetOption, TrainConfig, arm_label, arm_of, read_config
from lsc_snn.experiments.data import SplitsLike, check_splits, describe_difference
from lsc_snn.experiments.files import alone_in, make_folder, write_bytes, write_csv, write_json
from lsc_snn.experiments.optimisers import score_of
from lsc_snn.experiments.records import EpochMetrics, RunResult
from lsc_snn.experiments.table import Cell, Run, summarize, to_markdown
from lsc_snn.experiments.train import train

CLAIM = "grid.json"
"""What a folder of a sweep holds, and one of a comparison does not."""


@dataclass(frozen=True)
class CompareEvent:
    """What happens in a comparison, for whoever shows its progress."""

    kind: str
    """The "start" of a run, the end of an "epoch", or the "end" of a run."""
    config: TrainConfig
    """The run."""
    index: int
    """Which run it is, from 1."""
    total: int
    """How many runs there are."""
    metrics: EpochMetrics | None = None
    """At an "epoch": its metrics."""
    result: RunResult | None = None
    """At an "end": what became of the run."""


@dataclass(frozen=True)
class Comparison:
    """All runs of a comparison and their summary; ``print(comparison)`` shows the Markdown table."""

    runs: tuple[Run, ...]
    """Every run, those that only tuned included."""
    cells: tuple[Cell, ...]
    """One summary for each depth and target."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"runs": [run.to_dict() for run in self.runs], "cells": [cell.to_dict() for cell in self.cells]}

    def __str__(self) -> str:
        """Return the Markdown table."""
        return to_markdown(self.cells)


def compare(
    base: TrainConfig,
    splits: SplitsLike,
    folder: str | Path,
    *,
    targets: Sequence[TargetOption],
    depths: Sequence[int],
    seeds: Sequence[int],
    learning_rates: Sequence[float],
    resume: bool = True,
    on_event: Callable[[CompareEvent], None] | None = None,
    tensorboard: bool = False,
) -> Comparison:
    """Train each target at each depth, with a learning rate tuned in the same way for all, and compare them.

    A target is one of ``TrainConfig.target`` (None: untreated), or the name of an initialisation, such as "lsuv", which
    is then the run's in place of a target. For each depth and target the first seed is trained at every learning rate;
    the one with the best validation accuracy (ties: the lower validation loss, then the earlier in the list) is chosen,
    and the other seeds are trained at it. All else is as in ``base``. The run that won the tuning is the first seed's.

    Runs follow one another, each in its own sub-folder of ``folder``, such as ``depth-2/half/rate-0.001/seed-0``; with
    ``resume``, finished ones are only read, an interrupted one goes on, and depths, targets, seeds and rates may be
    added to what is there. At the end comparison.json, comparison.csv (one row a run) and comparison.md (one row for
    each depth and target) are written. ``on_event`` is called at the start and the end of each run and after each
    epoch; what it raises ends the comparison there.

    Raises ValueError, before anything is trained, for an empty or repeating list, data that do not fit the network, and
    a folder that cannot be written, is in use by another process or holds other runs, or without ``resume`` any; and
    whatever ``train`` raises.

    >>> import tempfile
    >>> from lsc_snn import NetworkConfig
    >>> from lsc_snn.datasets import load_digits
    >>> from lsc_snn.experiments.data import Splits
    >>> splits = Splits(*(part.subset(range(20)) for part in load_digits(num_steps=10)))
    >>> base = TrainConfig(NetworkConfig(num_inputs=64, num_classes=10, num_units=16), epochs=1)
    >>> plan = {"targets": [None], "depths": [1, 2], "seeds": [0], "learning_rates": [0.001, 0.01]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     comparison = compare(base, splits, folder, **plan)
    >>> [(cell.depth, cell.target, cell.num_runs) for cell in comparison.cells]
    [(1, 'untreated', 1), (2, 'untreated', 1)]
    """
    arms = [arm_of(target) for target in targets]
    labels = [tuple(arm.values()) for arm in arms]
    for name, values in (("targets", labels), ("depths", depths), ("seeds", seeds), ("learning_rates", learning_rates)):
        if not values or len(set(values)) < len(values):
            given = list(targets if name == "targets" else values)
            raise ValueError(f"{name}: expected one value or more, each once, got {given}; name each once")
    check_splits(splits, base.network)
    check_sequences(splits, base)
    folder = Path(folder)

    def configured(depth: int, arm: dict[str, Any], rate: float, seed: int) -> TrainConfig:
        network = replace(base.network, num_layers=depth)
        return replace(base, network=network, learning_rate=rate, seed=seed, **arm)

    def run(config: TrainConfig, index: int) -> RunResult:
        return _run(config, splits, folder, resume, on_event, index, total, tensorboard)

    every = [configured(*values) for values in itertools.product(depths, arms, learning_rates, seeds)]
    on_main = os.environ.get("RANK", "0") == "0"
    if on_main:
        _claim(folder, {place_of(config): config for config in every}, resume)
    total = len(depths) * len(arms) * (len(learning_rates) + len(seeds) - 1)
    runs: list[Run] = []
    with alone_in(folder) if on_main else contextlib.nullcontext():
        for depth in depths:
            for arm in arms:
                tuning: list[RunResult] = []
                for rate in learning_rates:
                    config = configured(depth, arm, rate, seeds[0])
                    index = len(runs) + len(tuning) + 1
                    tuning.append(run(config, index))
                best = best_of(tuning)
                runs += [Run.of(result, place_of(result.config), chosen=i == best) for i, result in enumerate(tuning)]
                for seed in seeds[1:]:
                    config = configured(depth, arm, learning_rates[best], seed)
                    runs.append(Run.of(run(config, len(runs) + 1), place_of(config), chosen=True))
        comparison = Comparison(tuple(runs), summarize(runs))
        if on_main:
            _write(folder, comparison, base)
    return comparison


def place_of(config: TrainConfig) -> str:
    """Return the sub-folder of a run.

    >>> from lsc_snn import NetworkConfig
    >>> place_of(TrainConfig(NetworkConfig(num_inputs=64, num_classes=10), target="half"))
    'depth-2/half/rate-0.001/seed-0'
    """
    return f"depth-{config.network.num_layers}/{arm_label(config)}/rate-{config.learning_rate}/seed-{config.seed}"


def best_of(tuning: Sequence[RunResult]) -> int:
    """Return which learning rate wins on validation, by ``score_of``; of equal ones, the earlier in the list."""
    scores = [score_of(result.validation.accuracy, result.validation.loss, result.config) for result in tuning]
    return scores.index(max(scores))


def check_held(folder: Path, configs: Mapping[str, TrainConfig]) -> None:
    """Raise ValueError where a folder holds another run than the one wanted in that place of it."""
    for place, config in configs.items():
        file = folder / place / "config.json"
        if file.exists():
            difference = describe_difference(read_config(file).to_dict(), config.to_dict())
            if difference:
                raise ValueError(f"{file}: expected the run that it holds, {difference}; choose another folder")


def _run(
    config: TrainConfig,
    splits: SplitsLike,
    folder: Path,
    resume: bool,
    on_event: Callable[[CompareEvent], None] | None,
    index: int,
    total: int,
    tensorboard: bool,
) -> RunResult:
    def tell(kind: str, **more: Any) -> None:
        if on_event is not None:
            on_event(CompareEvent(kind, config, index, total, **more))

    tell("start")
    place = folder / place_of(config)
    told = {"resume": resume, "on_epoch": lambda row: tell("epoch", metrics=row), "tensorboard": tensorboard}
    result = train(config, splits, place, **told)
    tell("end", result=result)
    return result


def _claim(folder: Path, configs: Mapping[str, TrainConfig], resume: bool) -> None:
    """Raise ValueError unless the runs that the folder holds are those of this comparison, and it can be written."""
    if (folder / "config.json").exists():
        raise ValueError(f"{folder}: expected a folder for a comparison, got one of a single run; choose another")
    if (folder / CLAIM).exists():
        raise ValueError(f"{folder}: expected a folder for a comparison, got one of a sweep; choose another")
    if not resume and ((folder / "comparison.json").exists() or next(folder.glob("depth-*"), None)):
        raise ValueError(f"{folder}: expected a folder without runs, got some; resume them or choose another")
    check_held(folder, configs)
    make_folder(folder)


def _write(folder: Path, comparison: Comparison, base: TrainConfig) -> None:
    write_json(folder / "comparison.json", {"base": base.to_dict(), **comparison.to_dict()})
    columns = [field.name for field in dataclasses.fields(Run)]
    write_csv(folder / "comparison.csv", columns, ([getattr(run, name) for name in columns] for run in comparison.runs))
    write_bytes(folder / "comparison.md", f"{comparison}\n".encode())
