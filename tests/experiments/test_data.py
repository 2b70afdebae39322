"""The order of the samples, how processes share them, and what tells one data set from another."""

import math

import numpy as np
import pytest

from lsc_snn import NetworkConfig
from lsc_snn.datasets import EventDataset
from lsc_snn.experiments.data import (
    Splits,
    check_splits,
    describe_difference,
    identity,
    joined,
    other_data,
    shares,
    shuffled,
)


def test_order_depends_on_seed_and_epoch_alone():
    orders = {(seed, epoch): shuffled(40, seed, epoch) for seed in range(3) for epoch in range(3)}
    for key, order in orders.items():
        assert sorted(order) == list(range(40))
        assert (shuffled(40, *key) == order).all()
    assert len({tuple(order) for order in orders.values()}) == 9


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 11, 12, 16])
def test_shares_average_to_the_whole_batch(size, world_size):
    """The mean over processes of (weighted sum of the share) * processes / batch size is the mean of the batch."""
    values, order = np.random.default_rng(0).normal(size=size), shuffled(size, 0, 1)
    by_rank = [list(shares(order, 5, rank, world_size)) for rank in range(world_size)]
    batches = [order[i : i + 5] for i in range(0, size, 5)]
    assert {len(steps) for steps in by_rank} == {len(batches)}
    for step, batch in enumerate(batches):
        parts = [steps[step] for steps in by_rank]
        assert sorted(np.concatenate([part.indices for part in parts if part.weight])) == sorted(batch)
        assert all(len(part.indices) > 0 and part.size == len(batch) for part in parts)
        average = np.mean([part.weight * values[part.indices].sum() * world_size / part.size for part in parts])
        assert math.isclose(average, values[batch].mean(), rel_tol=1e-12)


def test_joined_parts_have_all_samples_of_both(splits):
    both = joined(splits.train, splits.validation)
    assert len(both) == 71
    for part, first in ((splits.train, 0), (splits.validation, 50)):
        for index in range(len(part)):
            ours, theirs = both[first + index], part[index]
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert both.speakers is None


def test_joined_parts_keep_speakers_and_counts():
    sizes = {"num_steps": 2, "num_units": 3, "num_classes": 2}
    first = EventDataset([0, 1], [2, 1], [0, 2], [1], [2], speakers=[5], **sizes)
    second = EventDataset([1], [0], [0, 1], [0], [2], counts=[3], speakers=[6], **sizes)
    both = joined(first, second)
    assert both.speakers.tolist() == [5, 6]
    assert both.counts.tolist() == [1, 1, 3]


def test_joined_parts_keep_the_scale_of_their_counts():
    sizes = {"num_steps": 1, "num_units": 1, "num_classes": 1}
    first, second, other = (
        EventDataset([0], [0], [0, 1], [0], [1], counts=[count], scale=scale, **sizes)
        for count, scale in ((51, 1 / 255), (255, 1 / 255), (1, 1.0))
    )
    assert joined(first, second).batch([0, 1])[0].to_dense().flatten().tolist() == pytest.approx([0.2, 1.0])
    with pytest.raises(ValueError, match="joined: expected parts of one scale"):
        joined(first, other)


def test_identity(splits):
    first = identity(splits)
    assert first == identity(splits)
    assert first["train"]["samples"] == 50
    swapped = splits._replace(validation=splits.validation.subset(np.arange(21)[::-1]))
    assert "validation.checksum" in describe_difference(first, identity(swapped))


def test_binary_data_are_not_taken_for_counted_ones():
    sizes = {"num_steps": 2, "num_units": 3, "num_classes": 2}
    binary, counted = (
        identity(Splits(*[EventDataset([0, 1], [2, 1], [0, 2], [1], [2], counts=counts, **sizes)] * 3))
        for counts in (None, [1, 3])
    )
    assert other_data(binary, counted) == "train.spikes = 2, got 4"
    assert other_data(counted, binary) == "train.spikes = 4, got 2"
    assert other_data(counted, counted) == ""


def test_identities_of_earlier_versions_without_spikes_still_tell_other_data(splits):
    data = identity(splits)
    earlier = {part: {key: n for key, n in sizes.items() if key != "spikes"} for part, sizes in data.items()}
    assert other_data(earlier, data) == ""
    earlier["test"]["events"] += 1
    assert other_data(earlier, data).startswith("test.events = ")


def test_splits_have_to_fit_the_network(splits):
    check_splits(splits, NetworkConfig(num_inputs=8, num_classes=3))
    with pytest.raises(ValueError, match="splits train: expected 9 units as the network has inputs, got 8"):
        check_splits(splits, NetworkConfig(num_inputs=9, num_classes=2))
    with pytest.raises(ValueError, match="splits train: expected at most 1 classes as the network has, got 2"):
        check_splits(splits, NetworkConfig(num_inputs=8, num_classes=1))
    with pytest.raises(TypeError, match="splits: expected the parts train, validation, test, got none named 'train'"):
        check_splits(splits[:2], NetworkConfig(num_inputs=8, num_classes=2))


@pytest.mark.parametrize(
    ("expected", "got", "difference"),
    [
        ({"a": 1, "b": {"c": [1]}}, {"a": 1, "b": {"c": [1]}}, ""),
        ({"a": 1}, {"a": "1"}, "a = 1, got '1'"),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c = 2, got 3"),
        ({}, {"a": 1}, "a = None, got 1"),
    ],
)
def test_describe_difference(expected, got, difference):
    assert describe_difference(expected, got) == difference
