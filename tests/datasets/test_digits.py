"""The embedded digits against scikit-learn's pixels."""

import sys

import numpy as np
import pytest
import torch
from sklearn import datasets

from lsc_snn.datasets import EventDataset, load_digits
from lsc_snn.events import EventBatch


def everything(dataset: EventDataset) -> EventBatch:
    return dataset.batch(np.arange(len(dataset)))[0]


def images_of(dataset: EventDataset, num_steps: int) -> set[tuple[int, ...]]:
    """Return the brightness of every pixel, recovered from when it fires (exact from 16 steps on)."""
    x = everything(dataset).to_dense()
    step = x.argmax(0)
    brightness = torch.where(x.sum(0) > 0, 16 - torch.ceil(step * 15 / (num_steps - 1)), torch.zeros(()))
    return {tuple(map(int, image)) for image in brightness}


@pytest.mark.parametrize("num_steps", [16, 40, 100])
def test_the_splits_hold_each_image_once_and_brighter_fires_earlier(num_steps: int) -> None:
    splits = load_digits(num_steps=num_steps)
    source = datasets.load_digits()
    images = {tuple(map(int, image)) for image in source.data}
    parts = [images_of(part, num_steps) for part in splits]
    assert set().union(*parts) == images
    assert sum(map(len, parts)) == len(images) == sum(map(len, splits)) == 1797
    assert sorted(np.concatenate([part.labels for part in splits])) == sorted(source.target)


def test_a_pixel_fires_at_most_once() -> None:
    for part in load_digits():
        assert set(everything(part).to_dense().sum(0).unique().tolist()) == {0.0, 1.0}
        assert part.lengths.tolist() == [40] * len(part)
        assert (part.num_steps, part.num_units, part.num_classes) == (40, 64, 10)


def test_the_seed_moves_validation_but_never_test() -> None:
    first, again, other = load_digits(seed=0), load_digits(seed=0), load_digits(seed=1)
    assert torch.equal(everything(first.test).to_dense(), everything(other.test).to_dense())
    assert torch.equal(everything(first.validation).to_dense(), everything(again.validation).to_dense())
    assert images_of(first.validation, 40) != images_of(other.validation, 40)


def test_every_part_is_stratified() -> None:
    whole = np.bincount(datasets.load_digits().target) / 1797
    for part in load_digits(seed=5):
        share = np.bincount(part.labels, minlength=10) / len(part)
        np.testing.assert_allclose(share, whole, atol=0.5 / len(part) + 0.002)


def test_one_step_and_bad_arguments() -> None:
    assert not everything(load_digits(num_steps=1).test).times.any()
    with pytest.raises(ValueError, match="num_steps: expected an integer >= 1, got 0"):
        load_digits(num_steps=0)
    with pytest.raises(ValueError, match="expected a fraction above 0 and below 1, got 1"):
        load_digits(validation_fraction=1)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r'pip install "lsc-snn\[data\]"'):
        load_digits()
