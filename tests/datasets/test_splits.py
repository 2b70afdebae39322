"""Splits: nothing lost, nothing on both sides, the same for the same seed."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_dir import data_dir
from lsc_snn.datasets import (
    EventDataset,
    check_speakers_disjoint,
    hold_out,
    leave_one_speaker_out,
    load_folder,
    split_by_speaker,
    split_stratified,
)
from lsc_snn.datasets.splits import stratified_indices


def dataset_of(labels: list[int], speakers: list[int] | None) -> EventDataset:
    """Return a dataset without events; the length of a sample is its number, so that it can be recognised."""
    size = len(labels)
    return EventDataset(
        [],
        [],
        [0] * (size + 1),
        labels,
        np.arange(1, size + 1),
        num_steps=size,
        num_units=1,
        num_classes=max(labels) + 1,
        speakers=speakers,
    )


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.floats(0.01, 0.99), st.integers(0, 9))
def test_speakers_never_cross(speakers: list[int], fraction: float, seed: int) -> None:
    dataset = dataset_of([0] * len(speakers), speakers)
    number = len(set(speakers))
    if number < 2:
        with pytest.raises(ValueError, match="dataset: expected two speakers or more, got 1"):
            split_by_speaker(dataset, fraction, seed=seed)
        return
    kept, held = split_by_speaker(dataset, fraction, seed=seed)
    assert not set(kept.speakers) & set(held.speakers)
    assert sorted([*kept.lengths, *held.lengths]) == dataset.lengths.tolist()
    assert len(set(held.speakers)) == min(max(round(fraction * number), 1), number - 1)
    assert split_by_speaker(dataset, fraction, seed=seed)[1].lengths.tolist() == held.lengths.tolist()


def test_leaving_one_speaker_out_tests_every_sample_once() -> None:
    dataset = dataset_of([0, 1, 0, 1, 0, 1], [4, 9, 4, 2, 9, 9])
    folds = list(leave_one_speaker_out(dataset))
    assert [speaker for speaker, _, _ in folds] == [2, 4, 9]
    for speaker, kept, held in folds:
        assert set(held.speakers) == {speaker}
        assert sorted([*kept.lengths, *held.lengths]) == [1, 2, 3, 4, 5, 6]
        check_speakers_disjoint(kept, held)
    assert sorted(length for *_, held in folds for length in held.lengths) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="dataset: expected two speakers or more, got 1"):
        leave_one_speaker_out(dataset_of([0, 1], [3, 3]))
    with pytest.raises(ValueError, match="dataset: expected a speaker for each sample, got none"):
        leave_one_speaker_out(dataset_of([0, 1], None))


def test_validation_is_by_speaker_where_there_are_some() -> None:
    labels = [0, 1] * 20
    train, validation = hold_out(dataset_of(labels, [0, 1, 2, 3, 4] * 8))
    assert len(set(validation.speakers)) == 1
    check_speakers_disjoint(train, validation)
    for speakers in (None, [7] * 40):
        train, validation = hold_out(dataset_of(labels, speakers), seed=1)
        assert np.bincount(validation.labels).tolist() == [3, 3]
        assert len(train) == 34
    assert len(hold_out(dataset_of(labels, None), 0.5)[1]) == 20
    assert set(hold_out(dataset_of(labels, [0, 1, 2, 3, 4] * 8), [1, 4])[1].speakers) == {1, 4}
    with pytest.raises(ValueError, match="dataset: expected a speaker for each sample, got none"):
        hold_out(dataset_of(labels, None), [1])


def test_named_speakers_are_held_out() -> None:
    kept, held = split_by_speaker(dataset_of([0] * 5, [4, 9, 4, 2, 9]), [9, 2])
    assert kept.lengths.tolist() == [1, 3]
    assert held.lengths.tolist() == [2, 4, 5]


def test_a_common_speaker_is_found() -> None:
    dataset = dataset_of([0] * 4, [1, 2, 3, 3])
    check_speakers_disjoint(dataset.subset([0]), dataset.subset([1, 2]))
    with pytest.raises(ValueError, match=r"dataset: expected no speaker on both sides, got \[3\]"):
        check_speakers_disjoint(dataset.subset([0, 2]), dataset.subset([1, 3]))


@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.floats(0.2, 0.8), st.integers(0, 9))
def test_stratified_parts_hold_the_same_share_of_every_class(labels: list[int], fraction: float, seed: int) -> None:
    array = np.array(labels)
    kept, held = stratified_indices(array, fraction, seed=seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for label in set(labels):
        assert abs((array[held] == label).sum() - fraction * labels.count(label)) <= 0.5
    part = split_stratified(dataset_of(labels, None), fraction, seed=seed)[1]
    assert part.lengths.tolist() == (held + 1).tolist()


def test_seeds_differ_and_the_global_state_does_not_matter() -> None:
    labels = np.repeat(np.arange(4), 25)
    first = stratified_indices(labels, 0.2, seed=0)[1].tolist()
    state = np.random.get_state()[1].tolist()
    assert stratified_indices(labels, 0.2, seed=0)[1].tolist() == first
    assert stratified_indices(labels, 0.2, seed=1)[1].tolist() != first
    assert np.random.get_state()[1].tolist() == state


def test_bad_arguments_are_named() -> None:
    dataset = dataset_of([0, 1, 0], [1, 2, 3])
    with pytest.raises(ValueError, match=r"held_out: expected some but not all of the speakers \[1, 2, 3\], got \[7\]"):
        split_by_speaker(dataset, [7])
    with pytest.raises(ValueError, match=r"held_out: expected some but not all .*, got \[1, 2, 3\]"):
        split_by_speaker(dataset, [1, 2, 3])
    with pytest.raises(ValueError, match=r"held_out: expected some but not all .*, got \[\]"):
        split_by_speaker(dataset, [])
    with pytest.raises(ValueError, match=r"held_out: expected a fraction above 0 and below 1, got 1\.5"):
        split_by_speaker(dataset, 1.5)
    with pytest.raises(ValueError, match=r"dataset: expected a speaker for each sample, got none"):
        split_by_speaker(dataset_of([0, 1], None), 0.5)
    with pytest.raises(TypeError, match=r"fraction: expected a number, got str"):
        split_stratified(dataset, "half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fraction: expected samples on both sides, got 0\.1 of 3, .* nothing"):
        split_stratified(dataset, 0.1)
    with pytest.raises(ValueError, match=r"fraction: expected samples on both sides, got 0\.9 of 3, .* everything"):
        split_stratified(dataset, 0.9)


def test_importing_the_package_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules.update(h5py=None, sklearn=None, scipy=None, tonic=None); "
        "import lsc_snn.datasets as d; print(sorted(d.__all__) == sorted(n for n in set(d.__all__) if hasattr(d, n)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "True"


@pytest.mark.slow
def test_recorded_speech_splits_by_speaker() -> None:
    train, test = load_folder(data_dir("spoken_digits"))
    kept, held = split_by_speaker(train, 0.25, seed=0)
    assert len(kept) + len(held) == len(train) == 1000
    assert len(set(held.speakers)) == 1
    check_speakers_disjoint(kept, held)
    with pytest.raises(ValueError, match=r"no speaker on both sides, got \[0, 1, 2, 3\]"):
        check_speakers_disjoint(train, test)
