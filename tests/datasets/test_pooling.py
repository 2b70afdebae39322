"""Pooling of channels against sums of the dense tensor."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsc_snn.datasets import EventDataset, events_dataset

STEPS, UNITS = 5, 12

spike = st.tuples(st.integers(0, STEPS - 1), st.integers(0, UNITS - 1), st.integers(1, 255))
samples_of_spikes = st.lists(st.lists(spike, max_size=10), min_size=1, max_size=5)


def dataset_of(samples: list[list[tuple[int, int, int]]], *, counted: bool = True) -> EventDataset:
    """Return a dataset whose events are sorted by time, in any order of units."""
    ordered = [sorted(sample, key=lambda event: event[0]) for sample in samples]
    flat = np.array([event for sample in ordered for event in sample], np.uint8).reshape(-1, 3)
    return EventDataset(
        flat[:, 0],
        flat[:, 1],
        np.cumsum([0, *map(len, ordered)]),
        [0] * len(samples),
        [STEPS] * len(samples),
        num_steps=STEPS,
        num_units=UNITS,
        num_classes=1,
        counts=flat[:, 2] if counted else None,
        speakers=range(len(samples)),
        num_dropped=3,
    )


@given(samples_of_spikes, st.sampled_from([1, 2, 3, 4, 6, 12]), st.booleans(), st.sampled_from([1, 5, 2**20]))
def test_a_pooled_unit_is_the_sum_of_its_units(
    samples: list[list[tuple[int, int, int]]], factor: int, counted: bool, block: int
) -> None:
    dataset = dataset_of(samples, counted=counted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_dataset, "_BLOCK_EVENTS", block)
        pooled = dataset.pooled(factor)
    indices = np.arange(len(samples))
    fine, coarse = dataset.batch(indices)[0].to_dense(), pooled.batch(indices)[0].to_dense()
    assert torch.equal(coarse, fine.view(STEPS, len(samples), UNITS // factor, factor).sum(3))
    assert coarse.sum() == fine.sum()
    places = pooled.offsets.searchsorted(np.arange(len(pooled.times)), side="right"), pooled.times, pooled.units
    assert len(set(zip(*places, strict=True))) == len(pooled.times), "one event for each entry"
    assert pooled.speakers is not None
    assert pooled.speakers.tolist() == list(range(len(samples)))
    assert (pooled.num_dropped, pooled.num_steps, pooled.times.dtype) == (3, STEPS, np.uint8)


def test_bad_factors_are_named() -> None:
    dataset = dataset_of([[(0, 0, 1)]])
    with pytest.raises(ValueError, match="factor: expected a divisor of the 12 units, got 5"):
        dataset.pooled(5)
    with pytest.raises(ValueError, match="factor: expected an integer >= 1, got 0"):
        dataset.pooled(0)
    with pytest.raises(TypeError, match="factor: expected an integer, got float"):
        dataset.pooled(2.0)  # type: ignore[arg-type]
