"""Accuracy by speaker: of those that training met, and of those that it never met."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class SpeakerAccuracy:
    """A network on the samples of one speaker."""

    speaker: int
    known: bool
    """Whether training met this speaker."""
    samples: int
    accuracy: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SpeakerAccuracy:
        """Return what ``dataclasses.asdict`` and JSON made of one."""
        return cls(**{**data, "accuracy": float(data["accuracy"])})


def by_speaker(
    hits: Sequence[float], speakers: npt.NDArray[np.integer[Any]], met: Collection[int]
) -> tuple[SpeakerAccuracy, ...]:
    """Return the accuracy of each speaker, sorted, from the hits (S,) and speakers (S,) of samples.

    ``met`` names the speakers of the samples that were trained on.

    >>> [(s.speaker, s.known, s.accuracy) for s in by_speaker([1, 0, 1], np.array([3, 3, 8]), {3})]
    [(3, True, 0.5), (8, False, 1.0)]
    """
    right = np.asarray(hits, np.float64)
    groups = ((speaker, right[speakers == speaker]) for speaker in np.unique(speakers).tolist())
    return tuple(SpeakerAccuracy(s, s in met, len(group), float(group.mean())) for s, group in groups)


def accuracy_of(speakers: Sequence[SpeakerAccuracy], *, known: bool) -> float | None:
    """Return the accuracy over all samples of the known, or of the unseen, speakers; None where there is none.

    >>> accuracy_of(by_speaker([1, 0, 1], np.array([3, 4, 8]), {3, 4}), known=True)
    0.5
    """
    group = [speaker for speaker in speakers if speaker.known == known]
    samples = sum(speaker.samples for speaker in group)
    return sum(s.accuracy * s.samples for s in group) / samples if samples else None
