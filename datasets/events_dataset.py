"""Event datasets held in a few flat arrays, in memory or mapped from files, from which batches are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lsc_snn._checks import check_count, check_positive
from lsc_snn.events import EventBatch

Integers = npt.NDArray[np.integer[Any]]

_BLOCK_EVENTS = 2**20


class EventSample(NamedTuple):
    """One sample: the time step, unit and count of each of its events, sorted by time, its valid length and label."""

    times: Integers
    units: Integers
    counts: Integers
    length: int
    label: int


class FlatEvents(NamedTuple):
    """Events of some samples, sample after sample: the position 0..B-1 of its sample stands with every event."""

    times: Integers
    units: Integers
    counts: Integers | None
    samples: Integers
    lengths: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


class EventDataset(Dataset[EventSample]):
    """Labelled event sequences in flat arrays: sample i owns the events ``offsets[i]:offsets[i + 1]``.

    ``times`` (E,) holds time steps, sorted within each sample and below its length, ``units`` (E,) the input units
    0..num_units-1, ``counts`` (E,) how many spikes each event stands for (None: one each); the integer dtype that comes
    is kept, so that a small one saves memory, and these three may be memory-mapped: they are checked in blocks and
    never copied. ``offsets`` is (S + 1,), ``labels`` (S,) 0..num_classes-1, ``lengths`` (S,) the valid steps
    1..num_steps, ``speakers`` (S,) or None. ``num_steps`` is the time axis T of every batch; ``scale`` multiplies the
    counts of a batch, so that 1 / 255 makes intensities of the bytes of an image; ``num_dropped`` says how many spikes
    a reader cropped away.

    A sample is an ``EventSample``, a batch an ``EventBatch`` and its labels, (B,) int64. Raises TypeError for arrays
    that are not of integers, ValueError for shapes that do not fit together, values out of range, and a scale that is
    not above 0.

    >>> dataset = EventDataset([0, 2, 1], [1, 0, 1], [0, 2, 3], [0, 1], [3, 2], num_steps=3, num_units=2, num_classes=2)
    >>> batch, labels = dataset.batch([1, 0])
    >>> batch.to_dense()[:, 1], labels
    (tensor([[0., 1.],
            [0., 0.],
            [1., 0.]]), tensor([1, 0]))
    """

    def __init__(
        self,
        times: npt.ArrayLike,
        units: npt.ArrayLike,
        offsets: npt.ArrayLike,
        labels: npt.ArrayLike,
        lengths: npt.ArrayLike,
        *,
        num_steps: int,
        num_units: int,
        num_classes: int,
        counts: npt.ArrayLike | None = None,
        speakers: npt.ArrayLike | None = None,
        num_dropped: int = 0,
        scale: float = 1.0,
    ) -> None:
        for name, size in (("num_steps", num_steps), ("num_units", num_units), ("num_classes", num_classes)):
            check_count(name, size)
        check_positive("scale", scale)
        self.times = _integers("times", times)
        self.units = _integers("units", units)
        self.counts = None if counts is None else _integers("counts", counts)
        self.offsets = _integers("offsets", offsets).astype(np.int64)
        self.labels = _integers("labels", labels).astype(np.int64)
        self.lengths = _integers("lengths", lengths).astype(np.int64)
        self.speakers = None if speakers is None else _integers("speakers", speakers)
        self.num_steps, self.num_units, self.num_classes = int(num_steps), int(num_units), int(num_classes)
        self.num_dropped, self.scale = int(num_dropped), float(scale)
        self._check()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"EventDataset(samples={len(self)}, events={len(self.times)}, steps={self.num_steps}, "
            f"units={self.num_units}, classes={self.num_classes})"
        )

    def __getitem__(self, index: int) -> EventSample:
        sample = range(len(self))[index]
        span = slice(self.offsets[sample], self.offsets[sample + 1])
        times = self.times[span]
        counts = np.ones(len(times), np.int64) if self.counts is None else self.counts[span]
        return EventSample(times, self.units[span], counts, int(self.lengths[sample]), int(self.labels[sample]))

    def collate(self, samples: Sequence[EventSample]) -> tuple[EventBatch, Tensor]:
        """Join samples of this dataset into a batch: the ``collate_fn`` of a torch ``DataLoader``.

        >>> dataset = EventDataset([0, 1], [0, 0], [0, 1, 2], [0, 0], [2, 2], num_steps=2, num_units=1, num_classes=1)
        >>> dataset.collate([dataset[0], dataset[1]])[0].to_dense().squeeze(-1)
        tensor([[1., 0.],
                [0., 1.]])
        """
        check_count("number of samples", len(samples))
        times, units, counts, lengths, labels = zip(*samples, strict=True)
        return self.assemble(
            FlatEvents(
                np.concatenate(times),
                np.concatenate(units),
                np.concatenate(counts),
                np.repeat(np.arange(len(samples)), [len(sample.times) for sample in samples]),
                np.array(lengths),
                np.array(labels),
            )
        )

    def batch(self, indices: npt.ArrayLike) -> tuple[EventBatch, Tensor]:
        """Cut the batch of the samples with these indices, (B,) integers, straight from the arrays, in that order.

        Raises ValueError for no index, IndexError for one outside the dataset.
        """
        return self.assemble(self.take(indices))

    def take(self, indices: npt.ArrayLike) -> FlatEvents:
        """Return the events of the samples with these indices, in that order; raises like ``batch``."""
        chosen = self._indices(indices)
        return FlatEvents(
            self._cut(self.times, chosen),
            self._cut(self.units, chosen),
            None if self.counts is None else self._cut(self.counts, chosen),
            np.repeat(np.arange(len(chosen)), self.offsets[chosen + 1] - self.offsets[chosen]),
            self.lengths[chosen],
            self.labels[chosen],
        )

    def assemble(self, events: FlatEvents) -> tuple[EventBatch, Tensor]:
        """Return the batch of events that stand sample after sample; in a sample they may stand in any order.

        Times and units must be in range, as those of ``take`` are: nothing is checked.
        """
        # A stable sort by time also sorts by (time, sample); keys of 16 bits sort several times faster.
        key = events.times.astype(np.uint16, copy=False) if self.num_steps <= 2**16 else events.times
        order = np.argsort(key, kind="stable")
        if events.counts is None:
            counts = torch.full(order.shape, self.scale, dtype=torch.float32)
        else:
            counts = torch.from_numpy(events.counts[order].astype(np.float32)).mul_(self.scale)
        batch = EventBatch(
            times=_int64(events.times[order]),
            samples=_int64(events.samples[order]),
            units=_int64(events.units[order]),
            counts=counts,
            lengths=_int64(events.lengths),
            num_steps=self.num_steps,
            num_units=self.num_units,
            validate=False,
        )
        return batch, _int64(events.labels)

    def subset(self, indices: npt.ArrayLike) -> EventDataset:
        """Return the samples with these indices, in that order, as a dataset of their own; raises like ``batch``.

        Samples that stand in a row are not copied.
        """
        chosen = self._indices(indices)
        return EventDataset(
            self._cut(self.times, chosen),
            self._cut(self.units, chosen),
            np.append(0, np.cumsum(self.offsets[chosen + 1] - self.offsets[chosen])),
            self.labels[chosen],
            self.lengths[chosen],
            num_steps=self.num_steps,
            num_units=self.num_units,
            num_classes=self.num_classes,
            counts=None if self.counts is None else self._cut(self.counts, chosen),
            speakers=None if self.speakers is None else self.speakers[chosen],
            scale=self.scale,
        )

    def pooled(self, factor: int) -> EventDataset:
        """Return a dataset in which unit n is the sum of the units factor * n ... factor * (n + 1) - 1 of this one.

        Events of one pooled unit in one step become one, their counts summed, so that no spike is lost: the 700
        channels of SHD become 140 by a factor of 5. Raises TypeError or ValueError unless ``factor`` is a positive
        integer that divides the number of units.

        >>> dataset = EventDataset([0, 0, 0], [0, 1, 3], [0, 3], [0], [1], num_steps=1, num_units=4, num_classes=1)
        >>> dataset.pooled(2).batch([0])[0].to_dense()
        tensor([[[2., 1.]]])
        """
        check_count("factor", factor)
        num_units, rest = divmod(self.num_units, factor)
        if rest:
            raise ValueError(f"factor: expected a divisor of the {self.num_units} units, got {factor}; choose another")
        blocks = [
            merged(self.take(np.arange(first, last)), factor, self.num_steps, num_units)
            for first, last in sample_blocks(self.offsets)
        ]
        times, units, counts, sizes = (np.concatenate(field) for field in zip(*blocks, strict=True))
        return EventDataset(
            times,
            units,
            np.append(0, np.cumsum(sizes)),
            self.labels,
            self.lengths,
            num_steps=self.num_steps,
            num_units=num_units,
            num_classes=self.num_classes,
            counts=counts if counts.max(initial=1) > 1 else None,
            speakers=self.speakers,
            num_dropped=self.num_dropped,
            scale=self.scale,
        )

    @cached_property
    def by_class(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All samples in the order of their classes, where each stands there, and where each class begins."""
        order = np.argsort(self.labels, kind="stable")
        return order, np.argsort(order), np.searchsorted(self.labels[order], np.arange(self.num_classes + 1))

    def _indices(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        chosen = _integers("indices", indices).astype(np.int64)
        if chosen.size == 0:
            raise ValueError("indices: expected at least one sample, got none; pass one index or more")
        outside = (chosen < 0) | (chosen >= len(self))
        if outside.any():
            raise IndexError(f"indices: expected 0..{len(self) - 1}, got {chosen[outside][0]}; check the split")
        return chosen

    def _cut(self, array: Integers, samples: npt.NDArray[np.int64]) -> Integers:
        """Entries of the given samples, sample after sample; a view where these samples stand in a row."""
        starts, ends = self.offsets[samples], self.offsets[samples + 1]
        breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
        starts, ends = starts[np.append(0, breaks)], ends[np.append(breaks - 1, -1)]
        parts = [array[first:last] for first, last in zip(starts.tolist(), ends.tolist(), strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _check(self) -> None:
        num_events, num_samples = len(self.times), len(self.labels)
        if num_samples == 0:
            raise ValueError("labels: expected at least one sample, got none; pass one label or more")
        sizes = {"units": num_events, "counts": num_events, "lengths": num_samples, "speakers": num_samples}
        for name, size in (*sizes.items(), ("offsets", num_samples + 1)):
            array = getattr(self, name)
            if array is not None and len(array) != size:
                raise ValueError(f"{name}: expected {size} entries, got {len(array)}; see times and labels")
        if self.offsets[0] != 0 or self.offsets[-1] != num_events or (np.diff(self.offsets) < 0).any():
            raise ValueError(
                f"offsets: expected values rising from 0 to {num_events}; pass the running sum of the sizes"
            )
        _check_range("units", self.units, 0, self.num_units)
        _check_range("labels", self.labels, 0, self.num_classes)
        _check_range("lengths", self.lengths, 1, self.num_steps + 1)
        _check_range("times", self.times, 0, self.num_steps)
        if self.counts is not None:
            _check_range("counts", self.counts, 1, np.iinfo(np.int64).max)
        falls = falls_within(self.times, self.offsets)
        if falls is not None:
            raise ValueError(f"times: expected sorted events, got an earlier one in sample {falls}; sort it by time")
        filled = np.flatnonzero(np.diff(self.offsets))
        late = filled[self.times[self.offsets[filled + 1] - 1] >= self.lengths[filled]]
        if late.size:
            got = f"a later one in sample {late[0]} of length {self.lengths[late[0]]}"
            raise ValueError(f"times: expected events below the length of their sample, got {got}; raise the length")


def sample_blocks(offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut samples into ranges first..last-1 of about a million events, to bound the memory of what is done to them.

    >>> list(sample_blocks(np.array([0, 600_000, 1_200_000, 1_300_000])))
    [(0, 1), (1, 3)]
    """
    first, num_samples = 0, len(offsets) - 1
    while first < num_samples:
        last = int(np.searchsorted(offsets, offsets[first] + _BLOCK_EVENTS, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def merged(
    events: FlatEvents, factor: int, num_steps: int, num_units: int
) -> tuple[Integers, Integers, Integers, npt.NDArray[np.int64]]:
    """Return times, units // factor and counts with the events of one entry summed, and the events of each sample.

    >>> events = FlatEvents(*(np.array(field) for field in ([1, 1], [2, 3], [1, 4], [0, 0], [2], [0])))
    >>> merged(events, 2, num_steps=2, num_units=2)
    (array([1]), array([1], dtype=uint8), array([5], dtype=uint8), array([1]))
    """
    key = events.samples * num_steps + events.times.astype(np.int64)
    key = key * num_units + events.units.astype(np.int64) // factor
    # Readers sort by (time, unit), and a stable sort of what is sorted already takes one pass.
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    row, units = np.divmod(key[starts], num_units)
    samples, times = np.divmod(row, num_steps)
    if events.counts is None or not len(key):
        counts = np.diff(starts, append=len(key))
    else:
        counts = np.add.reduceat(events.counts[order], starts, dtype=np.int64)
    return (
        times.astype(events.times.dtype),
        units.astype(np.min_scalar_type(num_units - 1)),
        counts.astype(np.min_scalar_type(counts.max(initial=0))),
        np.bincount(samples, minlength=len(events.labels)),
    )


def falls_within(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> int | None:
    """Return the first sample within which the values ever fall, None if all are sorted.

    >>> falls_within(np.array([1, 2, 0, 3, 1]), np.array([0, 2, 5]))
    1
    """
    for first in range(0, len(values) - 1, _BLOCK_EVENTS):
        block = values[first : first + _BLOCK_EVENTS + 1]
        falls = np.flatnonzero(block[1:] < block[:-1]) + first + 1
        inside = falls[offsets[np.searchsorted(offsets, falls)] != falls]
        if inside.size:
            return int(np.searchsorted(offsets, inside[0], side="right")) - 1
    return None


def _integers(name: str, values: npt.ArrayLike) -> Integers:
    array = np.asarray(values)
    if array.size == 0 and array.dtype == np.float64:  # what an empty list becomes
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected an array of integers, got {array.dtype}; convert it with .astype(int)")
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got shape {array.shape}; flatten it")
    return array


def _int64(array: Integers) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _check_range(name: str, array: Integers, lower: int, upper: int) -> None:
    # Minimum and maximum first: they need no memory of their own.
    if array.size and not lower <= int(array.min()) <= int(array.max()) < upper:
        entry = int(((array < lower) | (array >= upper)).argmax())
        got = f"{array[entry]} at entry {entry}"
        raise ValueError(f"{name}: expected values in {lower}..{upper - 1}, got {got}; correct it or the sizes")
