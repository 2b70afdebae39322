"""Event datasets held in a few flat arrays, and the loader that cuts batches from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lsc_snn._checks import check_count
from lsc_snn.events import EventBatch

Integers = npt.NDArray[np.integer[Any]]


class EventSample(NamedTuple):
    """One sample: the time step, unit and count of each of its events, sorted by time, its valid length and label."""

    times: Integers
    units: Integers
    counts: Integers
    length: int
    label: int


class EventDataset(Dataset[EventSample]):
    """Labelled event sequences in flat arrays: sample i owns the events ``offsets[i]:offsets[i + 1]``.

    ``times`` (E,) holds time steps, sorted within each sample and below its length, ``units`` (E,) the input units
    0..num_units-1, ``counts`` (E,) how many spikes each event stands for (None: one each); the integer dtype that comes
    is kept, so that a small one saves memory. ``offsets`` is (S + 1,), ``labels`` (S,) 0..num_classes-1, ``lengths``
    (S,) the valid steps 1..num_steps, ``speakers`` (S,) or None. ``num_steps`` is the time axis T of every batch;
    ``num_dropped`` says how many spikes a reader cropped away.

    A sample is an ``EventSample``, a batch an ``EventBatch`` and its labels, (B,) int64. Raises TypeError for arrays
    that are not of integers, ValueError for shapes that do not fit together and values out of range.

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
    ) -> None:
        for name, size in (("num_steps", num_steps), ("num_units", num_units), ("num_classes", num_classes)):
            check_count(name, size)
        self.times = _integers("times", times)
        self.units = _integers("units", units)
        self.counts = None if counts is None else _integers("counts", counts)
        self.offsets = _integers("offsets", offsets).astype(np.int64)
        self.labels = _integers("labels", labels).astype(np.int64)
        self.lengths = _integers("lengths", lengths).astype(np.int64)
        self.speakers = None if speakers is None else _integers("speakers", speakers)
        self.num_steps, self.num_units, self.num_classes = num_steps, num_units, num_classes
        self.num_dropped = num_dropped
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
        return self._assemble(
            np.concatenate(times),
            np.concatenate(units),
            np.concatenate(counts),
            np.array([len(sample.times) for sample in samples]),
            np.array(lengths),
            np.array(labels),
        )

    def batch(self, indices: npt.ArrayLike) -> tuple[EventBatch, Tensor]:
        """Cut the batch of the samples with these indices, (B,) integers, straight from the arrays, in that order.

        Raises ValueError for no index, IndexError for one outside the dataset.
        """
        chosen = self._indices(indices)
        source, sizes = self._events_of(chosen)
        counts = None if self.counts is None else self.counts[source]
        labels, lengths = self.labels[chosen], self.lengths[chosen]
        return self._assemble(self.times[source], self.units[source], counts, sizes, lengths, labels)

    def subset(self, indices: npt.ArrayLike) -> EventDataset:
        """Copy the samples with these indices, in that order, into a dataset of their own; raises like ``batch``."""
        chosen = self._indices(indices)
        source, sizes = self._events_of(chosen)
        return EventDataset(
            self.times[source],
            self.units[source],
            np.append(0, np.cumsum(sizes)),
            self.labels[chosen],
            self.lengths[chosen],
            num_steps=self.num_steps,
            num_units=self.num_units,
            num_classes=self.num_classes,
            counts=None if self.counts is None else self.counts[source],
            speakers=None if self.speakers is None else self.speakers[chosen],
        )

    def _indices(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        chosen = _integers("indices", indices).astype(np.int64)
        if chosen.size == 0:
            raise ValueError("indices: expected at least one sample, got none; pass one index or more")
        outside = (chosen < 0) | (chosen >= len(self))
        if outside.any():
            raise IndexError(f"indices: expected 0..{len(self) - 1}, got {chosen[outside][0]}; check the split")
        return chosen

    def _events_of(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Positions of the events of the given samples, sample after sample, and how many each has."""
        starts = self.offsets[samples]
        sizes = self.offsets[samples + 1] - starts
        shift = starts - (np.cumsum(sizes) - sizes)
        return np.arange(sizes.sum()) + np.repeat(shift, sizes), sizes

    def _assemble(
        self,
        times: Integers,
        units: Integers,
        counts: Integers | None,
        sizes: npt.NDArray[np.int64],
        lengths: Integers,
        labels: Integers,
    ) -> tuple[EventBatch, Tensor]:
        """Batch of events that come sample after sample: a stable sort by time also sorts them by (time, sample)."""
        order = np.argsort(times, kind="stable")
        batch = EventBatch(
            times=_int64(times[order]),
            samples=_int64(np.repeat(np.arange(len(sizes)), sizes)[order]),
            units=_int64(units[order]),
            counts=torch.ones(len(times)) if counts is None else torch.from_numpy(counts[order].astype(np.float32)),
            lengths=_int64(lengths),
            num_steps=self.num_steps,
            num_units=self.num_units,
            validate=False,
        )
        return batch, _int64(labels)

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


class EventLoader:
    """Batches of an event dataset, in order or shuffled; each pass yields (EventBatch, labels) pairs.

    The order is a pure function of (``seed``, epoch) and touches no global random state. The epoch is 0 until
    ``set_epoch`` changes it, so a training loop calls ``set_epoch`` before each pass and can resume at any of them.
    With ``drop_last`` an incomplete last batch is left out. Raises TypeError or ValueError for sizes that are not
    integers of at least 1, and where ``drop_last`` leaves no batch.

    >>> dataset = EventDataset([0] * 5, [0] * 5, range(6), range(5), [1] * 5, num_steps=1, num_units=1, num_classes=5)
    >>> loader = EventLoader(dataset, batch_size=2)
    >>> [labels.tolist() for _, labels in loader]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self, dataset: EventDataset, batch_size: int, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False
    ) -> None:
        check_count("batch_size", batch_size)
        check_count("seed", seed, minimum=0)
        if drop_last and batch_size > len(dataset):
            raise ValueError(f"batch_size: expected at most {len(dataset)} samples with drop_last, got {batch_size}")
        self.dataset, self.batch_size = dataset, batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, an integer >= 0, whose order the next passes follow."""
        check_count("epoch", epoch, minimum=0)
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[EventBatch, Tensor]]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            yield self.dataset.batch(order[first : first + self.batch_size])


def falls_within(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> int | None:
    """Return the first sample within which the values ever fall, None if all are sorted.

    >>> falls_within(np.array([1, 2, 0, 3, 1]), np.array([0, 2, 5]))
    1
    """
    falls = values[1:] < values[:-1]
    ends = offsets[(offsets > 0) & (offsets < len(values))]
    falls[ends - 1] = False
    return int(np.searchsorted(offsets, falls.argmax() + 1, side="right")) - 1 if falls.any() else None


def _integers(name: str, values: npt.ArrayLike) -> Integers:
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected an array of integers, got {array.dtype}; convert it with .astype(int)")
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got shape {array.shape}; flatten it")
    return array


def _int64(array: Integers) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _check_range(name: str, array: Integers, lower: int, upper: int) -> None:
    outside = (array < lower) | (array >= upper)
    if outside.any():
        entry = int(outside.argmax())
        got = f"{array[entry]} at entry {entry}"
        raise ValueError(f"{name}: expected values in {lower}..{upper - 1}, got {got}; correct it or the sizes")
