"""The embedded default: scikit-learn's handwritten digits as spike latencies; nothing to download."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lsc_snn._checks import check_count
from lsc_snn.datasets.events_dataset import EventDataset
from lsc_snn.datasets.splits import split_stratified, stratified_indices

_BRIGHTEST = 16
_TEST_FRACTION = 0.2
_TEST_SEED = 0  # of the one test split there is


class DigitSplits(NamedTuple):
    """The three parts of the digits, without a common sample."""

    train: EventDataset
    validation: EventDataset
    test: EventDataset


def load_digits(*, num_steps: int = 40, validation_fraction: float = 0.15, seed: int = 0) -> DigitSplits:
    """Return the 1,797 digits of 8 x 8 pixels (64 units, 10 classes) as spike latencies.

    A pixel fires once, brighter earlier: brightness v, 1 to 16, in step floor((16 - v) (num_steps - 1) / 15), and 0
    never. With fewer than 16 steps, neighbouring values share a step. Every step of the window is valid.

    The test part is 20 % of each class, always the same; ``seed`` draws the validation part, ``validation_fraction``
    of the rest, stratified too. Raises ImportError without scikit-learn, TypeError or ValueError for a number of steps
    that is no integer above 0 or a fraction that is not between 0 and 1.

    Source: UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998), as shipped with scikit-learn.

    >>> train, validation, test = load_digits()
    >>> len(train), len(validation), len(test)
    (1222, 216, 359)
    """
    check_count("num_steps", num_steps)
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError('the digits need scikit-learn; install it with: pip install "lsc-snn[data]"') from error
    source = datasets.load_digits()
    brightness, labels = source.data.astype(np.int64), source.target
    sample, unit = brightness.nonzero()
    time = (_BRIGHTEST - brightness[sample, unit]) * (num_steps - 1) // (_BRIGHTEST - 1)
    order = np.lexsort((unit, time, sample))
    digits = EventDataset(
        time[order].astype(np.int32),
        unit[order].astype(np.int32),
        np.append(0, np.cumsum((brightness > 0).sum(1))),
        labels,
        np.full(len(labels), num_steps),
        num_steps=num_steps,
        num_units=brightness.shape[1],
        num_classes=len(source.target_names),
    )
    rest, test = stratified_indices(digits.labels, _TEST_FRACTION, seed=_TEST_SEED)
    train, validation = split_stratified(digits.subset(rest), validation_fraction, seed=seed)
    return DigitSplits(train, validation, digits.subset(test))
