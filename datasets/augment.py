"""Augmentation of event samples, for a whole batch at once, each sample's a function of (seed, epoch, sample)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lsc_snn._checks import check_count, is_number
from lsc_snn.datasets.events_dataset import EventDataset, FlatEvents, Integers
from lsc_snn.datasets.hashing import Bits, hash_bits, normal, uniform
from lsc_snn.events import EventBatch

Int64s = npt.NDArray[np.int64]

# What a key is hashed with: a number for each use, so that no two draws are related.
_OWN, _OTHER, _BLEND, _PARTNER, _HALF, _SCALE, _WITHIN, _TIME_SHIFT, _CHANNEL_SHIFT, _JITTER, _DROPOUT = range(11)

_LARGEST = 2**20
_LIMITS = {
    "blend": 1,
    "time_scale": _LARGEST,
    "time_shift": _LARGEST,
    "channel_shift": _LARGEST,
    "channel_jitter": _LARGEST,
    "dropout": 1,
}


class _Events(NamedTuple):
    """Events that may lie outside the window yet, each with a key of its own, and the length of every sample."""

    times: Int64s
    units: Int64s
    counts: Integers | None
    samples: Integers
    keys: Bits
    lengths: Int64s


@dataclass(frozen=True)
class Augmentation:
    """Random changes of samples in training; each is off at 0. What leaves the window or the channels is dropped.

    They act in the order below on the events of a sample, so the spikes of one unit in one step move or vanish
    together. What becomes of a sample depends on (seed, epoch, its index in the dataset) alone: not on the batch, the
    order, or the number of workers. Every draw is a hash of these and the number of the event (``hashing``).

    Raises TypeError or ValueError for a value of another type or out of range.

    Sources: channel jitter: Cramer et al. 2020, "The Heidelberg spiking data sets for the systematic evaluation of
    spiking neural networks"; channel shift, time scaling and blending: Nowotny, Turner and Knight 2022, "Loss shaping
    enhances exact gradient learning with Eventprop in spiking neural networks" (arXiv 2212.01232).

    >>> dataset = EventDataset([0, 1], [3, 4], [0, 2], [0], [2], num_steps=4, num_units=9, num_classes=1)
    >>> batch, _ = Augmentation(channel_shift=3).batch(dataset, [0], seed=0, epoch=0)
    >>> batch.units.diff()
    tensor([1])
    """

    blend: float = 0.0
    """Probability that a sample is blended with another of its class: both are moved so that their mean times and mean
    channels meet half-way, and every event of either is kept with probability 1/2."""
    time_scale: float = 0.0
    """Time is stretched by a factor log-uniform in 1 / (1 + time_scale) to 1 + time_scale, length included; an event
    stands anywhere within its step, so that a longer sample has no empty steps at regular distances."""
    time_shift: int = 0
    """Largest shift in time, in steps; the shift of a sample is uniform in -time_shift..time_shift."""
    channel_shift: int = 0
    """Largest shift in units; the shift of a sample is uniform in -channel_shift..channel_shift."""
    channel_jitter: float = 0.0
    """Standard deviation, in units, of the normal number, rounded, that is added to the unit of each event."""
    dropout: float = 0.0
    """Probability that an event is left out."""

    def __post_init__(self) -> None:
        for name in ("time_shift", "channel_shift"):
            check_count(name, getattr(self, name), minimum=0)
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not is_number(value):
                raise TypeError(f"{name}: expected a number, got {type(value).__name__}; pass a float")
            if not 0 <= value <= limit:
                raise ValueError(f"{name}: expected a number in 0..{limit}, got {value}; 0 turns it off")

    def __bool__(self) -> bool:
        """Whether anything is changed at all."""
        return any(getattr(self, field.name) for field in fields(self))

    def batch(
        self, dataset: EventDataset, indices: npt.ArrayLike, *, seed: int, epoch: int
    ) -> tuple[EventBatch, Tensor]:
        """Cut the batch of these samples, (B,) integers, augmented; ``seed`` and ``epoch`` are integers >= 0.

        Raises like ``EventDataset.batch``, and TypeError or ValueError for another seed or epoch.
        """
        return dataset.assemble(self.take(dataset, indices, seed=seed, epoch=epoch))

    def take(self, dataset: EventDataset, indices: npt.ArrayLike, *, seed: int, epoch: int) -> FlatEvents:
        """Do as ``batch``, and return the events sample after sample, in any order within a sample."""
        check_count("seed", seed, minimum=0)
        check_count("epoch", epoch, minimum=0)
        flat, chosen = dataset.take(indices), np.asarray(indices, np.int64)
        root = hash_bits(hash_bits(np.zeros(1, np.uint64), seed % 2**64), epoch % 2**64)
        keys = hash_bits(root, chosen)
        events = _keyed(flat, hash_bits(keys, _OWN))
        if self.blend:
            events = _blend(events, dataset, chosen, keys, self.blend)
        if self.time_scale:
            events = _stretch(events, keys, math.log1p(self.time_scale))
        if self.time_shift:
            shift = _symmetric(hash_bits(keys, _TIME_SHIFT), self.time_shift)
            events = events._replace(times=events.times + shift[events.samples], lengths=events.lengths + shift)
        if self.channel_shift:
            shift = _symmetric(hash_bits(keys, _CHANNEL_SHIFT), self.channel_shift)
            events = events._replace(units=events.units + shift[events.samples])
        if self.channel_jitter:
            jitter = np.rint(self.channel_jitter * normal(hash_bits(events.keys, _JITTER)))
            events = events._replace(units=events.units + jitter.astype(np.int64))
        lengths = events.lengths.clip(1, dataset.num_steps)
        keep = (events.times >= 0) & (events.times < lengths[events.samples])
        keep &= (events.units >= 0) & (events.units < dataset.num_units)
        if self.dropout:
            keep &= uniform(hash_bits(events.keys, _DROPOUT)) >= self.dropout
        events = _select(events, keep)
        return FlatEvents(events.times, events.units, events.counts, events.samples, lengths, flat.labels)


def _keyed(flat: FlatEvents, keys: Bits) -> _Events:
    """Give every event a key: a hash of the key of its sample and its number among the events of the sample."""
    sizes = np.bincount(flat.samples, minlength=len(keys))
    number = np.arange(len(flat.times)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    times, units = flat.times.astype(np.int64), flat.units.astype(np.int64)
    return _Events(times, units, flat.counts, flat.samples, hash_bits(keys[flat.samples], number), flat.lengths)


def _blend(events: _Events, dataset: EventDataset, chosen: Int64s, keys: Bits, probability: float) -> _Events:
    partner = _partners(dataset, chosen, uniform(hash_bits(keys, _PARTNER)))
    blended = (uniform(hash_bits(keys, _BLEND)) < probability) & (partner != chosen)
    position = np.flatnonzero(blended)
    if not position.size:
        return events
    other = _keyed(dataset.take(partner[position]), hash_bits(keys[position], _OTHER))
    other = other._replace(samples=position[other.samples])
    time, unit = _halfway(events, other, "times"), _halfway(events, other, "units")
    lengths = events.lengths.copy()
    lengths[position] = np.maximum(lengths[position] + time[position], other.lengths - time[position])
    parts = [
        part._replace(times=part.times + sign * time[part.samples], units=part.units + sign * unit[part.samples])
        for sign, part in ((1, events), (-1, other))
    ]
    parts = [_select(part, ~blended[part.samples] | (uniform(hash_bits(part.keys, _HALF)) < 0.5)) for part in parts]
    arrays: list[Any] = [
        None if field[0] is None else np.concatenate(field) for field in zip(*(part[:5] for part in parts), strict=True)
    ]
    joined = _Events._make([*arrays, lengths])
    return _select(joined, np.argsort(joined.samples, kind="stable"))


def _partners(dataset: EventDataset, chosen: Int64s, draws: npt.NDArray[np.float64]) -> Int64s:
    """Another sample of the class of each, by a draw in [0, 1); itself where there is no other."""
    order, ranks, starts = dataset.by_class
    labels = dataset.labels[chosen]
    first, sizes = starts[labels], starts[labels + 1] - starts[labels]
    step = 1 + (draws * (sizes - 1)).astype(np.int64)
    partner: Int64s = order[first + (ranks[chosen] - first + step) % sizes]
    return partner


def _halfway(events: _Events, other: _Events, name: str) -> Int64s:
    """Half of the way, rounded, from the mean of each sample to that of the other; 0 where there is no other."""
    num_samples = len(events.lengths)
    way = _centres(other, name, num_samples) - _centres(events, name, num_samples)
    return np.rint(np.nan_to_num(way) / 2).astype(np.int64)


def _centres(events: _Events, name: str, num_samples: int) -> npt.NDArray[np.float64]:
    """Mean time or unit of the spikes of every sample, NaN without spikes."""
    weights = np.ones(len(events.samples)) if events.counts is None else events.counts.astype(np.float64)
    sums = np.bincount(events.samples, weights * getattr(events, name), num_samples)
    totals = np.bincount(events.samples, weights, num_samples)
    means: npt.NDArray[np.float64] = np.divide(sums, totals, out=np.full(num_samples, np.nan), where=totals > 0)
    return means


def _stretch(events: _Events, keys: Bits, limit: float) -> _Events:
    factor = np.exp(limit * (2 * uniform(hash_bits(keys, _SCALE)) - 1))
    within = uniform(hash_bits(events.keys, _WITHIN))
    times = np.floor((events.times + within) * factor[events.samples]).astype(np.int64)
    return events._replace(times=times, lengths=np.ceil(events.lengths * factor).astype(np.int64))


def _symmetric(bits: Bits, largest: int) -> Int64s:
    """Integers uniform in -largest..largest."""
    return np.floor(uniform(bits) * (2 * largest + 1)).astype(np.int64) - largest


def _select(events: _Events, which: npt.NDArray[Any]) -> _Events:
    """Events of a mask, or in an order."""
    # Five masked copies would search the mask five times.
    places = np.flatnonzero(which) if which.dtype == bool else which
    chosen: list[Any] = [None if field is None else field[places] for field in events[:5]]
    return _Events._make([*chosen, events.lengths])
