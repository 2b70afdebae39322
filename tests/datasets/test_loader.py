"""EventLoader: order, epochs, workers, and what it leaves alone."""

import random
import tempfile
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsc_snn.datasets import Augmentation, EventDataset, EventLoader, cached, read_shd
from lsc_snn.events import EventBatch

FIELDS = ("times", "samples", "units", "counts", "lengths")


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


@st.composite
def recorded(draw: st.DrawFn) -> tuple[float, int, list[list[float]]]:
    """Draw a bin in ms, a window in bins, and for each sample sorted float16 times in seconds, many on edges."""
    bin_ms, num_steps = draw(st.sampled_from([4.0, 1.0, 2.5])), draw(st.integers(1, 300))
    edge = st.integers(0, 400).map(lambda step: float(np.float16(step * bin_ms / 1000)))
    near_end = st.sampled_from([float(np.float16((num_steps + step) * bin_ms / 1000)) for step in (-1, 0, 1)])
    time = st.one_of(edge, near_end, st.floats(0, 1.5, width=16))
    return bin_ms, num_steps, draw(st.lists(st.lists(time, max_size=15).map(sorted), min_size=1, max_size=5))


@given(recorded(), st.sampled_from([1, 5, 700]), st.integers(1, 6))
def test_from_file_to_dense_tensor_no_spike_is_lost_or_doubled(
    drawn: tuple[float, int, list[list[float]]], factor: int, batch_size: int
) -> None:
    bin_ms, num_steps, times = drawn
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.h5")
        with h5py.File(path, "w") as file:
            for key, kind in (("spikes/times", "f2"), ("spikes/units", "u2")):
                node = file.create_dataset(key, (len(times),), h5py.vlen_dtype(np.dtype(kind)))
                for sample, train in enumerate(times):
                    node[sample] = np.asarray(train if kind == "f2" else generator.integers(0, 700, len(train)), kind)
            file["labels"] = [0] * len(times)
        dataset = cached(folder, {}, lambda: read_shd(path, bin_ms=bin_ms, num_steps=num_steps, crop=True))
    end = Fraction(bin_ms) / 1000 * num_steps
    inside = [sum(Fraction(time) < end for time in train) for train in times]
    loader = EventLoader(dataset.pooled(factor), batch_size, shuffle=True)
    batches = [batch.to_dense().sum((0, 2)) for batch, _ in loader]
    assert sorted(torch.cat(batches).tolist()) == sorted(inside)
    assert dataset.num_dropped == sum(map(len, times)) - sum(inside)


def spoken(size: int = 21) -> EventDataset:
    """Return random samples of 0 to 30 events in two classes."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(0, 31, size)
    lengths = generator.integers(20, 41, size)
    times = np.concatenate([np.sort(generator.integers(0, n, k)) for n, k in zip(lengths, sizes, strict=True)])
    offsets = np.append(0, np.cumsum(sizes))
    units = generator.integers(0, 50, sizes.sum())
    labels = np.arange(size) % 2
    return EventDataset(times, units, offsets, labels, lengths, num_steps=40, num_units=50, num_classes=2)


# A machine with one core, and Python 3.12 of a process with threads, warn of worker processes.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_every_number_of_workers_yields_the_same_batches() -> None:
    everything = Augmentation(blend=0.5, time_scale=0.3, time_shift=3, channel_shift=5, channel_jitter=1.0, dropout=0.2)
    passes = []
    for num_workers in (0, 1, 2):
        loader = EventLoader(spoken(), 4, shuffle=True, seed=5, augmentation=everything, num_workers=num_workers)
        loader.set_epoch(3)
        before = torch.get_rng_state()
        passes.append(list(loader))
        assert torch.equal(torch.get_rng_state(), before)
    for others in passes[1:]:
        for (batch, labels), (other, other_labels) in zip(passes[0], others, strict=True):
            assert isinstance(other, EventBatch)
            assert torch.equal(labels, other_labels)
            for name in FIELDS:
                assert torch.equal(getattr(batch, name), getattr(other, name)), name


def test_augmentation_follows_the_epoch_and_the_seed() -> None:
    def units(seed: int, epoch: int) -> list[int]:
        loader = EventLoader(spoken(), 50, seed=seed, augmentation=Augmentation(channel_jitter=3.0))
        loader.set_epoch(epoch)
        return [unit for batch, _ in loader for unit in batch.units.tolist()]

    assert units(0, 0) == units(0, 0)
    assert units(0, 0) != units(0, 1)
    assert units(0, 0) != units(1, 0)


def test_batches_come_on_the_device(device: str) -> None:
    dataset = spoken()
    for (batch, labels), (expected, _) in zip(EventLoader(dataset, 8).to(device), EventLoader(dataset, 8), strict=True):
        assert isinstance(batch, EventBatch)
        assert batch.device.type == labels.device.type == torch.device(device).type
        assert torch.equal(batch.to_dense().cpu(), expected.to_dense())
    batch, labels = next(iter(EventLoader(dataset, 8).to("meta")))
    assert batch.device.type == labels.device.type == "meta"


def test_bad_arguments_are_named() -> None:
    dataset = numbered(3)
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1, got 0"):
        EventLoader(dataset, 0)
    with pytest.raises(ValueError, match="batch_size: expected at most 3 samples with drop_last, got 4"):
        EventLoader(dataset, 4, drop_last=True)
    with pytest.raises(ValueError, match="num_workers: expected an integer >= 0, got -1"):
        EventLoader(dataset, 2, num_workers=-1)
    with pytest.raises(TypeError, match="augmentation: expected an Augmentation or None, got dict"):
        EventLoader(dataset, 2, augmentation={"dropout": 0.1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epoch: expected an integer >= 0, got -1"):
        EventLoader(dataset, 2).set_epoch(-1)
