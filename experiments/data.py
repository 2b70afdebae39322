"""The three parts of a data set, what identifies them, and the order in which training meets their samples."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lsc_snn.datasets import EventDataset, TokenStream
from lsc_snn.network import NetworkConfig

PARTS = ("train", "validation", "test")
Part: TypeAlias = EventDataset | TokenStream
"""What a run is fitted to or evaluated on."""


class Splits(NamedTuple):
    """The parts of a data set: to fit, to choose the epoch and the learning rate, and to report once."""

    train: Part
    validation: Part
    test: Part


class SplitsLike(Protocol):
    """Anything with these three parts, such as ``Splits`` or what ``lsc_snn.datasets.load_digits`` returns."""

    @property
    def train(self) -> Part:
        """What is fitted."""

    @property
    def validation(self) -> Part:
        """What chooses the epoch."""

    @property
    def test(self) -> Part:
        """What is reported, once."""


def check_splits(splits: SplitsLike, network: NetworkConfig) -> None:
    """Raise ValueError unless every part fits the network, and TypeError where a part is missing."""
    for name in PARTS:
        part = getattr(splits, name, None)
        if part is None:
            raise TypeError(f"splits: expected the parts {', '.join(PARTS)}, got none named {name!r}; pass Splits(...)")
        num_units, num_classes = sizes_of(part)
        if num_units != network.num_inputs:
            raise ValueError(
                f"splits {name}: expected {network.num_inputs} units as the network has inputs, got {num_units}; "
                "change num_inputs of the network"
            )
        if num_classes > network.num_classes:
            raise ValueError(
                f"splits {name}: expected at most {network.num_classes} classes as the network has, "
                f"got {num_classes}; raise its num_classes"
            )


def sizes_of(part: Part) -> tuple[int, int]:
    """Return the units and the classes of a part; of a text both are its symbols."""
    if isinstance(part, TokenStream):
        return part.num_symbols, part.num_symbols
    return part.num_units, part.num_classes


def speakers_of(part: Part) -> npt.NDArray[np.integer[Any]] | None:
    """Return the speaker of every sample, or None where they are not known."""
    return None if isinstance(part, TokenStream) else part.speakers


def identity(splits: SplitsLike) -> dict[str, dict[str, int]]:
    """Return sizes and a checksum of the labels and lengths of every part: what tells other data from the same."""
    return {name: _identity(getattr(splits, name)) for name in PARTS}


def other_data(stored: dict[str, dict[str, int]], got: dict[str, dict[str, int]]) -> str:
    """Return as ``describe_difference`` how the identity of data differs from one that a file holds; "" if it does not.

    Files of earlier versions do not say how many spikes there were; then those are not compared.

    >>> other_data({"train": {"events": 3}}, {"train": {"events": 3, "spikes": 4}})
    ''
    """
    known = {
        name: {key: value for key, value in part.items() if key != "spikes" or key in stored.get(name, {})}
        for name, part in got.items()
    }
    return describe_difference(stored, known)


def _identity(part: Part) -> dict[str, int]:
    if isinstance(part, TokenStream):
        return {"tokens": len(part), "symbols": part.num_symbols, "checksum": zlib.crc32(part.tokens.tobytes())}
    checksum = zlib.crc32(np.ascontiguousarray(part.lengths).tobytes(), zlib.crc32(part.labels.tobytes()))
    # The same events counted or not, as by ``binary`` of a reader, differ in their spikes alone.
    spikes = len(part.times) if part.counts is None else int(part.counts.sum())
    sizes = {"samples": len(part), "events": len(part.times), "spikes": spikes, "steps": part.num_steps}
    return {**sizes, "checksum": checksum}


def shuffled(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch, a permutation of 0..size-1 that depends on (seed, epoch) alone.

    >>> shuffled(5, seed=0, epoch=1).tolist() == shuffled(5, seed=0, epoch=1).tolist()
    True
    """
    return np.random.default_rng((seed, epoch)).permutation(size)


class Share(NamedTuple):
    """A process's part of a batch: its samples, how many the whole batch has, and the weight of this part, 1 or 0."""

    indices: npt.NDArray[np.int64]
    size: int
    weight: float


def shares(order: npt.NDArray[np.int64], batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Share]:
    """Cut an order into batches and yield this process's share of each.

    Where a last batch has fewer samples than there are processes, those left over get another's sample, at weight 0:
    all take part in every step, and every sample counts once.

    >>> [(share.indices.tolist(), share.weight) for share in shares(np.arange(4), 3, rank=1, world_size=2)]
    [([1], 1.0), ([3], 0.0)]
    """
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        start = rank % len(batch)
        yield Share(batch[start::world_size], len(batch), float(start == rank))


def joined(first: Part, second: Part) -> Part:
    """Return two parts as one: samples of the same units and classes, with speakers where both name them, or text.

    Raises TypeError for samples and text, ValueError for samples whose counts are scaled differently.

    >>> sizes = {"num_steps": 2, "num_units": 1, "num_classes": 2}
    >>> parts = [EventDataset([step], [0], [0, 1], [step], [2], **sizes) for step in (0, 1)]
    >>> joined(*parts).batch([0, 1])[0].to_dense().squeeze(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    if isinstance(first, TokenStream) and isinstance(second, TokenStream):
        return TokenStream(np.concatenate([first.tokens, second.tokens]), max(first.num_symbols, second.num_symbols))
    if isinstance(first, TokenStream) or isinstance(second, TokenStream):
        raise TypeError("joined: expected two event datasets or two texts, got one of each; pass parts of one kind")
    if first.scale != second.scale:
        raise ValueError(
            f"joined: expected parts of one scale, got {first.scale} and {second.scale}; pass parts of one set"
        )
    parts = (first, second)

    def both(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    counts = None
    if first.counts is not None or second.counts is not None:
        counts = np.concatenate([np.ones(len(p.times), np.uint8) if p.counts is None else p.counts for p in parts])
    return EventDataset(
        both("times"),
        both("units"),
        np.append(first.offsets, first.offsets[-1] + second.offsets[1:]),
        both("labels"),
        both("lengths"),
        num_steps=max(first.num_steps, second.num_steps),
        num_units=first.num_units,
        num_classes=max(first.num_classes, second.num_classes),
        counts=counts,
        speakers=None if first.speakers is None or second.speakers is None else both("speakers"),
        scale=first.scale,
    )


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
