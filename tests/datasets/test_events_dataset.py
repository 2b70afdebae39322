"""EventDataset against the dense tensors of a plain Python loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from lsc_snn.datasets import EventDataset, EventLoader, events_dataset
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
        ({"scale": 0.0}, ValueError, "scale: expected a finite number above 0, got 0.0"),
        ({"num_steps": 2.0}, TypeError, "num_steps: expected an integer, got float"),
    ],
)
def test_bad_arrays_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    assert len(EventDataset(**arguments())) == 2  # type: ignore[arg-type]
    with pytest.raises(error, match=message) as caught:
        EventDataset(**arguments(**changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bad_indices_are_named() -> None:
    dataset = dataset_of([[(0, 1, 1)], [], [(3, 2, 2)]])
    with pytest.raises(IndexError, match=r"indices: expected 0\.\.2, got 3"):
        dataset.batch([0, 3])
    with pytest.raises(IndexError, match=r"indices: expected 0\.\.2, got -1"):
        dataset.subset([-1])
    with pytest.raises(ValueError, match="indices: expected at least one sample"):
        dataset.batch([])
    with pytest.raises(ValueError, match="number of samples: expected an integer >= 1"):
        dataset.collate([])


@pytest.mark.parametrize("counts", [None, [1, 255, 3]])
def test_scale_multiplies_the_counts_of_a_batch(counts: list[int] | None) -> None:
    dataset = EventDataset(**arguments(counts=counts, scale=1 / 255))  # type: ignore[arg-type]
    plain = EventDataset(**arguments(counts=counts))  # type: ignore[arg-type]
    batches = [
        dataset.batch([0, 1])[0],
        dataset.collate([dataset[0], dataset[1]])[0],
        dataset.subset([0, 1]).batch([0, 1])[0],
        dataset.pooled(1).batch([0, 1])[0],
    ]
    for batch in batches:
        torch.testing.assert_close(batch.to_dense(), plain.batch([0, 1])[0].to_dense() / 255)
        assert batch.counts.dtype == torch.float32


def test_mapped_arrays_are_used_in_place(tmp_path: Path) -> None:
    source = dataset_of([[(0, 1, 1), (4, 0, 2)], [], [(3, 2, 2)], [(1, 1, 1)]], np.uint16)
    mapped = {}
    for name in ("times", "units", "counts"):
        np.save(tmp_path / f"{name}.npy", getattr(source, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    dataset = EventDataset(
        **mapped,
        **{name: getattr(source, name) for name in ("offsets", "labels", "lengths")},
        num_steps=STEPS,
        num_units=UNITS,
        num_classes=3,
    )
    in_a_row, apart = dataset.subset([2, 3]), dataset.subset([3, 0])
    for name, array in mapped.items():
        assert np.shares_memory(getattr(dataset, name), array)
        assert np.shares_memory(getattr(in_a_row, name), array)
    assert_same(dataset.batch([3, 0, 2])[0], source.batch([3, 0, 2])[0])
    assert_same(in_a_row.batch([1, 0])[0], source.batch([3, 2])[0])
    assert_same(apart.batch([0, 1])[0], source.batch([3, 0])[0])


def test_checks_see_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsorted events are found wherever the blocks are cut, and a fall between two samples is none."""
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(events_dataset, "_BLOCK_EVENTS", size)
        for fall in range(6):
            values = np.array([5, 6, 7, 8, 9, 10])
            values[fall:] -= 7
            for offsets in ([0, 6], [0, 3, 6], [0, 0, 2, 2, 6]):
                expected = None
                if fall not in (0, *offsets):
                    expected = max(i for i, offset in enumerate(offsets) if offset < fall)
                assert events_dataset.falls_within(values, np.array(offsets)) == expected, (size, fall, offsets)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_blocks_cover_every_sample_once(sizes: list[int], limit: int) -> None:
    offsets = np.cumsum([0, *sizes])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_dataset, "_BLOCK_EVENTS", limit)
        blocks = list(events_dataset.sample_blocks(offsets))
    assert [sample for first, last in blocks for sample in range(first, last)] == list(range(len(sizes)))
    assert all(last - first == 1 or offsets[last] - offsets[first] <= limit for first, last in blocks)


@given(recordings)
def test_samples_are_found_by_class(samples: list[list[tuple[int, int, int]]]) -> None:
    dataset = dataset_of(samples)
    order, ranks, starts = dataset.by_class
    for label in range(3):
        members = order[starts[label] : starts[label + 1]]
        assert members.tolist() == [i for i in range(len(samples)) if i % 3 == label]
        assert ranks[members].tolist() == list(range(starts[label], starts[label + 1]))
