"""Splits of an event dataset: by speaker where there are speakers, stratified by class elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lsc_snn._checks import check_count, is_number
from lsc_snn.datasets.events_dataset import EventDataset

VALIDATION_SPEAKERS = 0.2
"""Fraction of the training speakers held out for validation where nothing else is asked for."""
VALIDATION_SAMPLES = 0.15
"""Fraction of the training samples of each class held out where no speakers are known."""


class EventSplits(NamedTuple):
    """The parts of a dataset, without a common sample, and the spikes that a reader cropped away from all of them."""

    train: EventDataset
    validation: EventDataset
    test: EventDataset
    num_dropped: int = 0


def split_by_speaker(
    dataset: EventDataset, held_out: float | Sequence[int], *, seed: int = 0
) -> tuple[EventDataset, EventDataset]:
    """Split a dataset into (kept, held out), with no speaker on both sides.

    ``held_out`` names the speakers to hold out, or is the fraction of all speakers, rounded to at least one and at most
    all but one, to draw with ``seed``. Raises ValueError for a dataset that names no or one speaker, for speakers that
    it lacks, and for a fraction that is not between 0 and 1.

    >>> sizes = {"num_steps": 1, "num_units": 1, "num_classes": 1}
    >>> dataset = EventDataset([], [], [0] * 5, [0] * 4, [1] * 4, speakers=[3, 7, 3, 9], **sizes)
    >>> kept, held_out = split_by_speaker(dataset, [7])
    >>> kept.speakers.tolist(), held_out.speakers.tolist()
    ([3, 3, 9], [7])
    """
    known = _two_speakers(dataset)
    if is_number(held_out):
        fraction = _fraction("held_out", held_out)
        number = min(max(round(fraction * len(known)), 1), len(known) - 1)
        chosen = np.random.default_rng(seed).permutation(known)[:number]
    else:
        chosen = np.unique(held_out)
    if not chosen.size or not np.isin(chosen, known).all() or len(chosen) == len(known):
        expected = f"some but not all of the speakers {known.tolist()}"
        raise ValueError(f"held_out: expected {expected}, got {chosen.tolist()}; choose others")
    held = np.isin(np.asarray(dataset.speakers), chosen)
    first, second = dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))
    check_speakers_disjoint(first, second)
    return first, second


def leave_one_speaker_out(dataset: EventDataset) -> Iterator[tuple[int, EventDataset, EventDataset]]:
    """Yield (speaker, kept, held out) for every speaker in turn: the folds of a cross-validation by speaker.

    Raises ValueError for a dataset that names no or one speaker.

    >>> sizes = {"num_steps": 1, "num_units": 1, "num_classes": 1}
    >>> dataset = EventDataset([], [], [0] * 4, [0] * 3, [1] * 3, speakers=[7, 3, 7], **sizes)
    >>> [(speaker, len(kept), len(held_out)) for speaker, kept, held_out in leave_one_speaker_out(dataset)]
    [(3, 2, 1), (7, 1, 2)]
    """
    return ((speaker, *split_by_speaker(dataset, [speaker])) for speaker in _two_speakers(dataset).tolist())


def hold_out(
    dataset: EventDataset, validation: float | Sequence[int] | None = None, *, seed: int = 0
) -> tuple[EventDataset, EventDataset]:
    """Split a training set into (train, validation): by speaker where it names two or more, else stratified by class.

    ``validation`` is a fraction (of the speakers, or of the samples of each class), or the speakers to hold out; by
    default a fifth of the speakers, or 15 % of the samples. Raises like ``split_by_speaker`` and ``split_stratified``.

    >>> sizes = {"num_steps": 1, "num_units": 1, "num_classes": 1}
    >>> dataset = EventDataset([], [], [0] * 4, [0] * 3, [1] * 3, speakers=[7, 3, 7], **sizes)
    >>> [part.speakers.tolist() for part in hold_out(dataset, [7])]
    [[3], [7, 7]]
    """
    named = validation is not None and not is_number(validation)
    if named or (dataset.speakers is not None and len(speakers_of(dataset)) > 1):
        return split_by_speaker(dataset, VALIDATION_SPEAKERS if validation is None else validation, seed=seed)
    fraction = VALIDATION_SAMPLES if validation is None else validation
    return split_stratified(dataset, fraction, seed=seed)  # type: ignore[arg-type]


def split_stratified(dataset: EventDataset, fraction: float, *, seed: int = 0) -> tuple[EventDataset, EventDataset]:
    """Split a dataset into (kept, held out), holding out the same fraction of every class, drawn with ``seed``.

    Of a class with n samples, fraction * n are held out, rounded half up. Both sides keep the order of the dataset.
    Raises ValueError for a fraction that is not between 0 and 1, or so small or large that a side is empty.

    >>> sizes = {"num_steps": 1, "num_units": 1, "num_classes": 2}
    >>> dataset = EventDataset([], [], [0] * 9, [0, 1] * 4, [1] * 8, **sizes)
    >>> kept, held_out = split_stratified(dataset, 0.25)
    >>> sorted(kept.labels.tolist()), sorted(held_out.labels.tolist())
    ([0, 0, 0, 1, 1, 1], [0, 1])
    """
    kept, held = stratified_indices(dataset.labels, fraction, seed=seed)
    return dataset.subset(kept), dataset.subset(held)


def stratified_indices(
    labels: npt.NDArray[np.integer[Any]], fraction: float, *, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the indices (kept, held out), each sorted, of ``split_stratified`` for labels (S,); raises alike.

    >>> kept, held = stratified_indices(np.array([5, 5, 6, 6]), 0.5, seed=0)
    >>> len(kept), len(held)
    (2, 2)
    """
    fraction = _fraction("fraction", fraction)
    check_count("seed", seed, minimum=0)
    generator = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        held[members[: math.floor(fraction * len(members) + 0.5)]] = True
    if held.all() or not held.any():
        side = "nothing" if not held.any() else "everything"
        raise ValueError(
            f"fraction: expected samples on both sides, got {fraction} of {len(labels)}, which holds out {side}; "
            "choose another fraction"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def speakers_of(dataset: EventDataset) -> npt.NDArray[np.integer[Any]]:
    """Return the speakers of a dataset, sorted, each once; raises ValueError where it names none."""
    if dataset.speakers is None:
        raise ValueError("dataset: expected a speaker for each sample, got none; use split_stratified")
    return np.unique(dataset.speakers)


def check_speakers_disjoint(first: EventDataset, second: EventDataset) -> None:
    """Raise ValueError if a speaker is in both datasets, or one of them names no speakers."""
    shared = np.intersect1d(speakers_of(first), speakers_of(second))
    if shared.size:
        raise ValueError(
            f"dataset: expected no speaker on both sides, got {shared.tolist()}; split with split_by_speaker"
        )


def _two_speakers(dataset: EventDataset) -> npt.NDArray[np.integer[Any]]:
    known = speakers_of(dataset)
    if len(known) < 2:
        raise ValueError(f"dataset: expected two speakers or more, got {len(known)}; use split_stratified")
    return known


def _fraction(name: str, value: object) -> float:
    if not is_number(value):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}; pass a fraction such as 0.2")
    fraction = float(value)  # type: ignore[arg-type]
    if not 0 < fraction < 1:
        raise ValueError(f"{name}: expected a fraction above 0 and below 1, got {value}; choose for example 0.2")
    return fraction
