"""A small task for the tests of training, and what is compared between two runs.

Two classes of events, which a tiny network learns in seconds.
"""

from dataclasses import replace

import numpy as np
import torch

from lsc_snn import NetworkConfig
from lsc_snn.datasets import EventDataset, TokenStream
from lsc_snn.experiments.checkpoint import read_checkpoint
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.data import Splits

NUM_STEPS, NUM_UNITS = 20, 8


def make_part(size, seed):
    """Label 0 fires in the lower half of the units, label 1 in the upper half, a tenth anywhere; lengths vary."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    lengths = rng.integers(NUM_STEPS // 2, NUM_STEPS + 1, size)
    sizes = rng.integers(20, 41, size)
    owner = np.repeat(np.arange(size), sizes)
    times = rng.integers(0, lengths[owner])
    units = rng.integers(0, NUM_UNITS // 2, len(owner)) + labels[owner] * NUM_UNITS // 2
    units = np.where(rng.random(len(owner)) < 0.1, rng.integers(0, NUM_UNITS, len(owner)), units)
    order = np.lexsort((units, times, owner))
    return EventDataset(
        times[order],
        units[order],
        np.append(0, np.cumsum(sizes)),
        labels,
        lengths,
        num_steps=NUM_STEPS,
        num_units=NUM_UNITS,
        num_classes=2,
    )


def make_splits(seed=0):
    return Splits(*(make_part(size, (seed, part)) for part, size in enumerate((50, 21, 23))))


def make_config(**options):
    network = {"num_inputs": NUM_UNITS, "num_classes": 2, "num_units": 12, "dropout": 0.2, "layer": {"threshold": 1.0}}
    network |= options.pop("network", {})
    return TrainConfig(NetworkConfig(**network), **{"epochs": 3, "batch_size": 16, "learning_rate": 0.02, **options})


def make_text(seed=0):
    """A cycle of four symbols, each followed by one that depends on the last two, with a tenth of noise."""
    rng = np.random.default_rng(seed)
    tokens = [0, 1]
    for noise in rng.random(430):
        tokens.append((tokens[-1] + tokens[-2] + 1) % 4 if noise > 0.1 else int(4 * noise / 0.1))
    streams = np.split(np.array(tokens), [280, 350])
    return Splits(*(TokenStream(stream, 4) for stream in streams))


def with_speakers(splits):
    """Return the same splits, spoken by 0 to 2 in training, 3 in validation, and 1, 3 and 4 in the test."""
    for part, speakers in zip(splits, ((0, 1, 2), (3,), (1, 3, 4)), strict=True):
        part.speakers = np.resize(speakers, len(part))
    return splits


class StopError(Exception):
    """What interrupts a run in the tests."""


def stop_at(epoch):
    """Return an ``on_epoch`` that interrupts a run after an epoch."""

    def on_epoch(row):
        if row.epoch == epoch:
            raise StopError

    return on_epoch


def contents(folder):
    """Return every file below a folder, hidden ones too."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def numbers(result):
    """Return a result but for the time it took."""
    return replace(result, seconds=0.0)


def same_run(first, second):
    """Whether two folders hold the same metrics and the same tensors, bit for bit."""
    for name in ("best.safetensors", "last.safetensors", "refit.safetensors"):
        if not (first / name).exists() and not (second / name).exists():
            continue
        ours, theirs = read_checkpoint(first / name), read_checkpoint(second / name)
        for mine, other in ((ours.network, theirs.network), (ours.optimizer, theirs.optimizer)):
            if mine.keys() != other.keys() or not all(torch.equal(mine[key], other[key]) for key in mine):
                return False
    return (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
