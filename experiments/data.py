"""The three parts of a data set, what identifies them, and the order in which training meets their samples."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lsc_snn.datasets import EventDataset
from lsc_snn.network import NetworkConfig

PARTS = ("train", "validation", "test")


class Splits(NamedTuple):
    """The parts of a data set: to fit, to choose the epoch and the learning rate, and to report once."""

    train: EventDataset
    validation: EventDataset
    test: EventDataset


class SplitsLike(Protocol):
    """Anything with these three parts, such as ``Splits`` or what ``lsc_snn.datasets.load_digits`` returns."""

    @property
    def train(self) -> EventDataset:
        """What is fitted."""

    @property
    def validation(self) -> EventDataset:
        """What chooses the epoch."""

    @property
    def test(self) -> EventDataset:
        """What is reported, once."""


def check_splits(splits: SplitsLike, network: NetworkConfig) -> None:
    """Raise ValueError unless every part fits the network, and TypeError where a part is missing."""
    for name in PARTS:
        part = getattr(splits, name, None)
        if part is None:
            raise TypeError(f"splits: expected the parts {', '.join(PARTS)}, got none named {name!r}; pass Splits(...)")
        if part.num_units != network.num_inputs:
            raise ValueError(
                f"splits {name}: expected {network.num_inputs} units as the network has inputs, got {part.num_units}; "
                "change num_inputs of the network"
            )
        if part.num_classes > network.num_classes:
            raise ValueError(
                f"splits {name}: expected at most {network.num_classes} classes as the network has, "
                f"got {part.num_classes}; raise its num_classes"
            )


def identity(splits: SplitsLike) -> dict[str, dict[str, int]]:
    """Return sizes and a checksum of the labels and lengths of every part: what tells other data from the same."""
    return {name: _identity(getattr(splits, name)) for name in PARTS}


def _identity(part: EventDataset) -> dict[str, int]:
    checksum = zlib.crc32(np.ascontiguousarray(part.lengths).tobytes(), zlib.crc32(part.labels.tobytes()))
    return {"samples": len(part), "events": len(part.times), "steps": part.num_steps, "checksum": checksum}


def shuffled(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch, a permutation of 0..size-1 that depends on (seed, epoch) alone.

    >>> shuffled(5, seed=0, epoch=1).tolist() == shuffled(5, seed=0, epoch=1).tolist()
    True
    """
    return np.random.default_rng((seed, epoch)).permutation(size)


def shares(
    order: npt.NDArray[np.int64], batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Cut an order into batches and yield this process's share of each, with the size of the whole batch.

    A last batch with fewer samples than there are processes is left out; one process alone meets every sample.

    >>> [(share.tolist(), size) for share, size in shares(np.arange(5), 3, rank=0, world_size=2)]
    [([0, 2], 3), ([3], 2)]
    """
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        if len(batch) >= world_size:
            yield batch[rank::world_size], len(batch)


def describe_difference(expected: dict[str, Any], got: dict[str, Any]) -> str:
    """Return the first entry in which two flat or nested plain dicts differ, as "key: expected, got"; "" if none.

    >>> describe_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b = 1, got 2'
    """
    for key in [*expected, *(key for key in got if key not in expected)]:
        ours, theirs = expected.get(key), got.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            inner = describe_difference(ours, theirs)
            if inner:
                return f"{key}.{inner}"
        elif ours != theirs:
            return f"{key} = {ours!r}, got {theirs!r}"
    return ""
