"""Checks that what was read is the part of a dataset that its publisher made, and not another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lsc_snn.datasets.cards import Card
from lsc_snn.datasets.events_dataset import EventDataset

HINT = "check for a swapped or partial file, or pass verify=False to take it as it is"


def check_published(card: Card, part: str, path: Path, dataset: EventDataset) -> None:
    """Raise ValueError, naming the file, unless a part has the published number of samples, and samples of every class.

    A truncated archive, train in the place of test and a file of another dataset of the same layout all fail here.
    """
    expected = dict(card.samples).get(part)
    if expected is not None and len(dataset) != expected:
        raise ValueError(
            f"{path}: expected the {expected} samples of {card.title}, {part}, as published, got {len(dataset)}; {HINT}"
        )
    classes = len(np.unique(dataset.labels))
    if classes != card.classes:
        raise ValueError(f"{path}: expected samples of {card.classes} classes of {card.title}, got {classes}; {HINT}")
