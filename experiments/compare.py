"""Compare targets at several depths, each tuned equally, over several seeds; resumable, one folder a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lsc_snn import _checks
from lsc_snn.experiments.config import TargetOption, TrainConfig, parse_target, target_label
from lsc_snn.experiments.data import SplitsLike, check_splits, describe_difference
from lsc_snn.experiments.files import make_folder, read_json, write_bytes, write_csv, write_json
from lsc_snn.experiments.records import EpochMetrics, RunResult
from lsc_snn.experiments.table import Cell, Run, summarize, to_markdown
from lsc_snn.experiments.train import train

PLAN = "plan.json"


@dataclass(frozen=True)
class CompareEvent:
    """What happens in a comparison, for whoever shows its progress."""

    kind: str
    """ "start" of a run, the end of an "epoch", or the "end" of a run."""
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
    """One summary for each depth and target, in the order of the plan."""

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
) -> Comparison:
    """Train each target at each depth, with a learning rate tuned in the same way for all, and compare them.

    For each depth and target (None: untreated) the first seed is trained at every learning rate; the one with the best
    validation accuracy (ties: the lower validation loss, then the earlier in the list) is chosen, and the other seeds
    are trained at it. All else is as in ``base``. The run that won the tuning is the first seed's run.

    Runs follow one another, each in its own sub-folder of ``folder``, such as ``depth-2/half/rate-0.001/seed-0``; with
    ``resume``, finished ones are only read, and an interrupted one goes on. At the end comparison.json, comparison.csv
    (one row a run) and comparison.md (one row for each depth and target) are written. ``on_event`` is called at the
    start and the end of each run and after each epoch; what it raises ends the comparison there.

    Raises ValueError for an empty or repeating list, a folder that cannot be written, holds another comparison, or
    without ``resume`` any; and whatever ``train`` raises.
    """
    arms = [parse_target(target) for target in targets]
    for name, values in (("targets", arms), ("depths", depths), ("seeds", seeds), ("learning_rates", learning_rates)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}: expected one value or more, each once, got {list(values)}; name each once")
    configs = {
        (depth, arm, rate, seed): replace(
            base, network=replace(base.network, num_layers=depth), target=arm, learning_rate=rate, seed=seed
        )
        for depth in depths
        for arm in arms
        for rate in learning_rates
        for seed in seeds
    }
    check_splits(splits, base.network)
    folder = Path(folder)
    _claim(folder, _plan(base, arms, depths, seeds, learning_rates), resume)
    total = len(depths) * len(arms) * (len(learning_rates) + len(seeds) - 1)
    runs: list[Run] = []

    def run(depth: int, arm: TargetOption, rate: float, seed: int) -> Run:
        config, index = configs[depth, arm, rate, seed], len(runs) + 1

        def tell(kind: str, **more: Any) -> None:
            if on_event is not None:
                on_event(CompareEvent(kind, config, index, total, **more))

        tell("start")
        place = f"depth-{depth}/{target_label(arm)}/rate-{rate:g}/seed-{seed}"
        result = train(config, splits, folder / place, resume=resume, on_epoch=lambda row: tell("epoch", metrics=row))
        tell("end", result=result)
        return Run.of(result, place)
    ...
