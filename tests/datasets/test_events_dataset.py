"""EventDataset and EventLoader against the dense tensors of a plain Python loop."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from lsc_snn.datasets import EventDataset, EventLoader
from lsc_snn.events import EventBatch

STEPS, UNITS = 6, 4
FIELDS = ("times", "samples", "units", "counts", "lengths")

spike = st.tuples(st.integers(0, STEPS - 1), st.integers(0, UNITS - 1), st.integers(1, 3))
recordings = st.lists(st.lists(spike, max_size=8), min_size=1, max_size=6)


def dataset_of(samples: list[list[tuple[int, int, int]]], dtype: type = np.int32) -> EventDataset:
    """Return a dataset of samples given as lists of (step, unit, count); sample i has label i modulo 3."""
    ordered = [sorted(sample) for sample in samples]
    flat = np.array([event for sample in ordered for event in sample], dtype).reshape(-1, 3)
    return EventDataset(
        flat[:, 0],
        flat[:, 1],
        np.cumsum([0, *map(len, ordered)]),
        np.arange(len(samples)) % 3,
        [max((event[0] for event in sample), default=0) + 1 for sample in ordered],
        num_steps=STEPS,
        num_units=UNITS,
        num_classes=3,
        counts=flat[:, 2],
        speakers=np.arange(len(samples)) % 2,
    )


def dense_of(samples: list[list[tuple[int, int, int]]]) -> Tensor:
    """Return the (T, B, N) tensor, filled spike by spike."""
    x = torch.zeros(STEPS, len(samples), UNITS)
    for index, sample in enumerate(samples):
        for step, unit, count in sample:
            x[step, index, unit] += count
    return x


def assert_same(first: EventBatch, second: EventBatch) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0)
    assert first.shape == second.shape


@given(recordings, st.data(), st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]))
def test_batches_hold_every_event_once(
    samples: list[list[tuple[int, int, int]]], data: st.DataObject, dtype: type
) -> None:
    dataset = dataset_of(samples, dtype)
    indices = data.draw(st.lists(st.integers(0, len(samples) - 1), min_size=1, max_size=7))
    batch, labels = dataset.batch(indices)
    torch.testing.assert_close(batch.to_dense(), dense_of([samples[i] for i in indices]), rtol=0, atol=0)
    assert labels.tolist() == [i % 3 for i in indices]
    assert labels.dtype == torch.int64
    assert batch.counts.dtype == torch.float32
    checked = EventBatch(*(getattr(batch, name) for name in FIELDS), num_steps=STEPS, num_units=UNITS)
    assert_same(checked, batch)
    collated, same_labels = dataset.collate([dataset[i] for i in indices])
    assert_same(collated, batch)
    assert torch.equal(same_labels, labels)
    part, _ = dataset.subset(indices).batch(np.arange(len(indices)))
    assert_same(part, batch)


def test_a_torch_dataloader_gives_the_same_batches() -> None:
    dataset = dataset_of([[(0, 1, 1)], [], [(3, 2, 2), (3, 0, 1)], [(5, 3, 1)]])
    pairs = zip(DataLoader(dataset, batch_size=2, collate_fn=dataset.collate), EventLoader(dataset, 2), strict=True)
    for (first, first_labels), (second, second_labels) in pairs:
        assert_same(first, second)
        assert torch.equal(first_labels, second_labels)


def test_samples_without_counts_count_one() -> None:
    dataset = EventDataset([0, 1], [1, 0], [0, 1, 2], [0, 1], [2, 2], num_steps=2, num_units=2, num_classes=2)
    assert dataset[1].counts.tolist() == [1]
    assert dataset[-1].label == 1
    assert dataset.batch([0, 1])[0].counts.tolist() == [1, 1]
    with pytest.raises(IndexError):
        dataset[2]
    assert repr(dataset) == "EventDataset(samples=2, events=2, steps=2, units=2, classes=2)"


def test_subset_keeps_speakers_and_sizes() -> None:
    part = dataset_of([[(0, 1, 1)], [], [(3, 2, 2)]]).subset([2, 0])
    assert part.speakers is not None
    assert part.speakers.tolist() == [0, 0]
    assert part.labels.tolist() == [2, 0]
    assert part.lengths.tolist() == [4, 1]
    assert (part.num_steps, part.num_units, part.num_classes) == (STEPS, UNITS, 3)


def labels_of(loader: EventLoader) -> list[int]:
    return [int(label) for _, labels in loader for label in labels]


def numbered(size: int) -> EventDataset:
    return EventDataset([], [], [0] * (size + 1), range(size), [1] * size, num_steps=1, num_units=1, num_classes=size)


@pytest.mark.parametrize(("size", "drop_last", "batches"), [(6, False, 2), (7, False, 3), (7, True, 2), (2, False, 1)])
def test_loader_length_and_last_batch(size: int, drop_last: bool, batches: int) -> None:
    loader = EventLoader(numbered(size), 3, drop_last=drop_last)
    assert len(loader) == len(list(loader)) == batches
    assert labels_of(loader) == list(range(min(size, 3 * batches)))


def test_shuffled_order_is_a_function_of_seed_and_epoch() -> None:
    dataset = numbered(50)
    loader = EventLoader(dataset, 8, shuffle=True, seed=3)
    first = labels_of(loader)
    assert first == labels_of(loader)
    assert sorted(first) == list(range(50))
    loader.set_epoch(1)
    second = labels_of(loader)
    assert second != first
    fresh = EventLoader(dataset, 8, shuffle=True, seed=3)
    fresh.set_epoch(1)
    assert labels_of(fresh) == second
    assert labels_of(EventLoader(dataset, 8, shuffle=True, seed=4)) not in (first, second)


def test_the_global_random_state_is_untouched() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    list(EventLoader(numbered(9), 2, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def arguments(**changes: object) -> dict[str, object]:
    """Return the arguments of a valid dataset of two samples, some of them changed."""
    valid: dict[str, object] = {
        "times": [0, 2, 1],
        "units": [1, 0, 1],
        "offsets": [0, 2, 3],
        "labels": [0, 1],
        "lengths": [3, 2],
        "num_steps": 3,
        "num_units": 2,
        "num_classes": 2,
    }
    return valid | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"times": [0.0, 2.0, 1.0]}, TypeError, "times: expected an array of integers, got float64"),
        ({"labels": ["a", "b"]}, TypeError, "labels: expected an array of integers"),
        ({"units": [[1, 0, 1]]}, ValueError, r"units: expected one axis, got shape \(1, 3\)"),
        ({"units": [1, 0]}, ValueError, "units: expected 3 entries, got 2"),
        ({"counts": [1]}, ValueError, "counts: expected 3 entries, got 1"),
        ({"counts": [1, 0, 1]}, ValueError, "counts: expected values in 1.*got 0 at entry 1"),
        ({"lengths": [3]}, ValueError, "lengths: expected 2 entries, got 1"),
        ({"speakers": [0]}, ValueError, "speakers: expected 2 entries, got 1"),
        ({"offsets": [0, 3]}, ValueError, "offsets: expected 3 entries, got 2"),
        ({"offsets": [0, 2, 2]}, ValueError, "offsets: expected values rising from 0 to 3"),
        ({"offsets": [1, 2, 3]}, ValueError, "offsets: expected values rising from 0 to 3"),
        ({"offsets": [0, 4, 3]}, ValueError, "offsets: expected values rising from 0 to 3"),
        ({"units": [1, 0, 2]}, ValueError, r"units: expected values in 0\.\.1, got 2 at entry 2"),
        ({"labels": [0, 2]}, ValueError, r"labels: expected values in 0\.\.1, got 2 at entry 1"),
        ({"lengths": [3, 0]}, ValueError, r"lengths: expected values in 1\.\.3, got 0 at entry 1"),
        ({"times": [0, 3, 1]}, ValueError, r"times: expected values in 0\.\.2, got 3 at entry 1"),
        ({"times": [2, 0, 1]}, ValueError, "times: expected sorted events, got an earlier one in sample 0"),
        ({"lengths": [3, 1]}, ValueError, "got a later one in sample 1 of length 1"),
        ({"labels": [], "lengths": [], "offsets": [0]}, ValueError, "labels: expected at least one sample"),
        ({"num_classes": 0}, ValueError, "num_classes: expected an integer >= 1, got 0"),
        ({"num_steps": 2.0}, TypeError, "num_steps: expected an integer, got float"),
    ],
)
def test_bad_arrays_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    assert len(EventDataset(**arguments())) == 2  # type: ignore[arg-type]
    with pytest.raises(error, match=message) as caught:
        EventDataset(**arguments(**changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bad_indices_and_loader_arguments_are_named() -> None:
    dataset = numbered(3)
    with pytest.raises(IndexError, match=r"indices: expected 0\.\.2, got 3"):
        dataset.batch([0, 3])
    with pytest.raises(IndexError, match=r"indices: expected 0\.\.2, got -1"):
        dataset.subset([-1])
    with pytest.raises(ValueError, match="indices: expected at least one sample"):
        dataset.batch([])
    with pytest.raises(ValueError, match="number of samples: expected an integer >= 1"):
        dataset.collate([])
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1, got 0"):
        EventLoader(dataset, 0)
    with pytest.raises(ValueError, match="batch_size: expected at most 3 samples with drop_last, got 4"):
        EventLoader(dataset, 4, drop_last=True)
    with pytest.raises(ValueError, match="epoch: expected an integer >= 0, got -1"):
        EventLoader(dataset, 2).set_epoch(-1)
