"""Augmentation: what each change does, that nothing leaves its range, and that a sample's draws are its own."""

import json
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsc_snn.datasets import Augmentation, EventDataset
from lsc_snn.datasets.events_dataset import FlatEvents
from lsc_snn.datasets.hashing import hash_bits, normal, uniform
from lsc_snn.events import EventBatch

STEPS, UNITS = 20, 15
EVERYTHING = Augmentation(blend=0.5, time_scale=0.4, time_shift=3, channel_shift=4, channel_jitter=1.5, dropout=0.2)

spike = st.tuples(st.integers(0, STEPS - 1), st.integers(0, UNITS - 1), st.integers(1, 9))
recordings = st.lists(st.lists(spike, max_size=8), min_size=1, max_size=6)
changes = st.builds(
    Augmentation,
    blend=st.floats(0, 1),
    time_scale=st.floats(0, 3) | st.just(2.0**20),
    time_shift=st.integers(0, 30),
    channel_shift=st.integers(0, 30),
    channel_jitter=st.floats(0, 20) | st.just(2.0**20),
    dropout=st.floats(0, 1),
)


def dataset_of(samples: list[list[tuple[int, int, int]]], *, classes: int = 2, counted: bool = True) -> EventDataset:
    """Return a dataset of these samples, with labels in turn; lengths leave a step after the last spike."""
    ordered = [sorted(sample) for sample in samples]
    flat = np.array([event for sample in ordered for event in sample], np.uint8).reshape(-1, 3)
    return EventDataset(
        flat[:, 0],
        flat[:, 1],
        np.cumsum([0, *map(len, ordered)]),
        np.arange(len(samples)) % classes,
        [min(max((time for time, _, _ in sample), default=0) + 2, STEPS) for sample in ordered],
        num_steps=STEPS,
        num_units=UNITS,
        num_classes=classes,
        counts=flat[:, 2] if counted else None,
    )


def one_sample(times: npt.ArrayLike, units: npt.ArrayLike, length: int, steps: int, channels: int) -> EventDataset:
    """Return a dataset of one sample."""
    offsets = [0, np.size(times)]
    return EventDataset(times, units, offsets, [0], [length], num_steps=steps, num_units=channels, num_classes=1)


def events_of(flat: FlatEvents, sample: int) -> list[tuple[int, ...]]:
    """Return the sorted events of one sample of a batch."""
    mine = flat.samples == sample
    counts = np.ones(len(flat.times), int) if flat.counts is None else flat.counts
    return sorted(zip(flat.times[mine].tolist(), flat.units[mine].tolist(), counts[mine].tolist(), strict=True))


@given(recordings, changes, st.integers(0, 2**70), st.integers(0, 2**70), st.booleans(), st.data())
def test_events_never_leave_their_range(
    samples: list[list[tuple[int, int, int]]],
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    counted: bool,
    data: st.DataObject,
) -> None:
    dataset = dataset_of(samples, counted=counted)
    indices = data.draw(st.lists(st.integers(0, len(samples) - 1), min_size=1, max_size=7))
    batch, labels = augmentation.batch(dataset, indices, seed=seed, epoch=epoch)
    # The constructor checks ranges, order and lengths.
    EventBatch(batch.times, batch.samples, batch.units, batch.counts, batch.lengths, STEPS, UNITS)
    assert labels.tolist() == dataset.labels[indices].tolist()
    assert batch.batch_size == len(indices)
    # No spike is made: each is one of the sample or of another of its class.
    known = {int(count) for i in indices for count in dataset[i].counts}
    known |= {int(count) for i in range(len(samples)) for count in dataset[i].counts if augmentation.blend}
    assert set(batch.counts.int().tolist()) <= known
    if not augmentation.blend:
        assert batch.num_events <= sum(len(dataset[i].times) for i in indices)


@given(recordings, st.data())
def test_a_sample_does_not_depend_on_its_batch(samples: list[list[tuple[int, int, int]]], data: st.DataObject) -> None:
    dataset = dataset_of(samples)
    order = data.draw(st.permutations(range(len(samples))))
    whole = EVERYTHING.take(dataset, order, seed=1, epoch=2)
    for position, index in enumerate(order):
        alone = EVERYTHING.take(dataset, [index], seed=1, epoch=2)
        assert events_of(alone, 0) == events_of(whole, position)
        assert alone.lengths[0] == whole.lengths[position]


@given(recordings)
def test_nothing_changes_with_every_change_off(samples: list[list[tuple[int, int, int]]]) -> None:
    dataset, indices = dataset_of(samples), np.arange(len(samples))
    off = Augmentation()
    assert not off
    assert EVERYTHING
    expected, _ = dataset.batch(indices)
    got, _ = off.batch(dataset, indices, seed=0, epoch=0)
    for name in ("times", "samples", "units", "counts", "lengths"):
        assert getattr(got, name).tolist() == getattr(expected, name).tolist()


def test_channel_shift_moves_a_sample_as_a_whole_and_evenly() -> None:
    dataset = one_sample([0, 1, 2], [50, 52, 57], 3, 3, 100)
    shifts = []
    for epoch in range(700):
        flat = Augmentation(channel_shift=3).take(dataset, [0], seed=0, epoch=epoch)
        (shift,) = set((flat.units - [50, 52, 57]).tolist())
        assert flat.times.tolist() == [0, 1, 2]
        shifts.append(shift)
    values, numbers = np.unique(shifts, return_counts=True)
    assert values.tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert numbers.min() > 60, "100 of each are expected"


def test_time_shift_moves_the_end_too() -> None:
    dataset = one_sample([4, 6], [0, 1], 8, 12, 2)
    seen = set()
    for epoch in range(200):
        flat = Augmentation(time_shift=5).take(dataset, [0], seed=0, epoch=epoch)
        shift = int(flat.lengths[0]) - 8 if flat.lengths[0] < 12 else 5
        if shift < 4:
            expected = [time + shift for time in (4, 6) if time + shift >= 0]
            assert flat.times.tolist() == expected
        seen.add(int(flat.lengths[0]))
    assert seen == {3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
    early = [Augmentation(time_shift=5).take(one_sample([0], [0], 1, 9, 1), [0], seed=0, epoch=e) for e in range(50)]
    assert {len(flat.times) for flat in early} == {0, 1}
    assert min(int(flat.lengths[0]) for flat in early) == 1


def test_time_scale_stretches_spikes_and_length_alike() -> None:
    times = np.arange(1000)
    dataset = one_sample(times, times % 7, 1000, 4000, 7)
    factors = []
    for epoch in range(200):
        flat = Augmentation(time_scale=0.5).take(dataset, [0], seed=0, epoch=epoch)
        assert len(flat.times) == 1000, "no event is lost while the window is long enough"
        factor = int(flat.lengths[0]) / 1000
        # A spike stands somewhere within its step of the original.
        assert (flat.times >= np.floor(times * (factor - 0.001))).all()
        assert (flat.times <= (times + 1) * factor).all()
        assert flat.times.max() < flat.lengths[0]
        factors.append(factor)
    logs = np.log(factors)
    assert -np.log(1.5) <= logs.min() < -0.38
    assert 0.38 < logs.max() <= np.log(1.5) + 0.001
    assert abs(logs.mean()) < 3 * 0.41 / np.sqrt(3 * 200), "uniform in the logarithm"


def test_time_scale_leaves_no_regular_gaps() -> None:
    times = np.repeat(np.arange(1000), 20)
    dataset = one_sample(times, [0] * len(times), 1000, 4000, 1)
    for epoch in range(20):
        flat = Augmentation(time_scale=0.5).take(dataset, [0], seed=0, epoch=epoch)
        rates = np.bincount(flat.times, minlength=int(flat.lengths[0]))[:-1]
        assert rates.min() > 0, "20 spikes in every step, spread over at most 1.5"


def test_channel_jitter_is_normal_for_each_event() -> None:
    number = 20_000
    dataset = one_sample([0] * number, [500] * number, 1, 1, 1000)
    flat = Augmentation(channel_jitter=4.0).take(dataset, [0], seed=0, epoch=0)
    moves = flat.units - 500
    # Rounding adds a variance of 1 / 12.
    assert abs(moves.mean()) < 4 * 4 / np.sqrt(number)
    assert moves.std() == pytest.approx(np.sqrt(16 + 1 / 12), rel=0.03)
    assert (abs(moves) <= 4).mean() == pytest.approx(0.7394, abs=0.02), "P(|x| < 4.5 / 4)"


def test_dropout_drops_its_share() -> None:
    number = 20_000
    dataset = one_sample([0] * number, [0] * number, 1, 1, 1)
    kept = len(Augmentation(dropout=0.3).take(dataset, [0], seed=0, epoch=0).times)
    assert kept == pytest.approx(0.7 * number, abs=5 * np.sqrt(number * 0.21))
    assert len(Augmentation(dropout=1.0).take(dataset, [0], seed=0, epoch=0).times) == 0


def test_blending_joins_halves_of_two_samples_of_a_class() -> None:
    """Two samples of class 0, apart in time and channels, meet half-way; class 1 has no other sample."""
    size = 400
    times = np.concatenate([np.full(size, 10), np.full(size, 30), [5]])
    units = np.concatenate([np.full(size, 20), np.full(size, 40), [7]])
    dataset = EventDataset(
        times,
        units,
        [0, size, 2 * size, 2 * size + 1],
        [0, 0, 1],
        [12, 31, 6],
        num_steps=50,
        num_units=60,
        num_classes=2,
        counts=np.concatenate([np.full(size, 1), np.full(size, 2), [3]]),
    )
    flat = Augmentation(blend=1.0).take(dataset, [0, 1, 2], seed=0, epoch=0)
    assert flat.counts is not None
    for sample in (0, 1):
        mine = flat.samples == sample
        assert set(flat.times[mine].tolist()) == {20}
        assert set(flat.units[mine].tolist()) == {30}
        for count in (1, 2):
            assert abs((flat.counts[mine] == count).sum() - size / 2) < 5 * np.sqrt(size / 4)
    assert events_of(flat, 2) == [(5, 7, 3)]
    assert flat.lengths.tolist() == [22, 22, 6]
    blended = [
        len(Augmentation(blend=0.25).take(dataset, [0], seed=0, epoch=epoch).times) != size for epoch in range(400)
    ]
    assert np.mean(blended) == pytest.approx(0.25, abs=0.1)


def test_partners_are_all_others_of_the_class() -> None:
    """Sample i has i + 1 spikes in one place of its own, so that its partner can be told from the counts."""
    dataset = EventDataset(
        [0] * 6, [0] * 6, range(7), [0, 1, 0, 0, 1, 0], [1] * 6, num_steps=1, num_units=1, num_classes=2,
        counts=range(1, 7),
    )  # fmt: skip
    partners: dict[int, set[int]] = {0: set(), 3: set(), 4: set()}
    for epoch in range(200):
        flat = Augmentation(blend=1.0).take(dataset, list(partners), seed=0, epoch=epoch)
        assert flat.counts is not None
        for position, index in enumerate(partners):
            partners[index] |= set(flat.counts[flat.samples == position].tolist()) - {index + 1}
    assert partners == {0: {3, 4, 6}, 3: {1, 3, 6}, 4: {2}}


def test_a_configuration_is_plain_values() -> None:
    assert Augmentation(**json.loads(json.dumps(asdict(EVERYTHING)))) == EVERYTHING


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("dropout", 1.5, ValueError, r"dropout: expected a number in 0\.\.1, got 1\.5; 0 turns it off"),
        ("blend", -0.1, ValueError, r"blend: expected a number in 0\.\.1, got -0\.1"),
        ("blend", float("nan"), ValueError, r"blend: expected a number in 0\.\.1, got nan"),
        ("time_scale", -1.0, ValueError, r"time_scale: expected a number in 0\.\.1048576, got -1\.0"),
        ("channel_jitter", float("inf"), ValueError, r"channel_jitter: expected a number in .*, got inf"),
        ("channel_jitter", "1", TypeError, "channel_jitter: expected a number, got str"),
        ("channel_shift", -1, ValueError, "channel_shift: expected an integer >= 0, got -1"),
        ("channel_shift", 2**63, ValueError, r"channel_shift: expected a number in 0\.\.1048576"),
        ("time_shift", 1.5, TypeError, "time_shift: expected an integer, got float"),
    ],
)
def test_bad_values_are_named(name: str, value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(EVERYTHING, **{name: value})  # type: ignore[arg-type]


def test_bad_arguments_are_named() -> None:
    dataset = dataset_of([[(0, 0, 1)]])
    with pytest.raises(IndexError, match=r"indices: expected 0\.\.0, got 1"):
        EVERYTHING.batch(dataset, [1], seed=0, epoch=0)
    with pytest.raises(ValueError, match="seed: expected an integer >= 0, got -1"):
        EVERYTHING.batch(dataset, [0], seed=-1, epoch=0)
    with pytest.raises(TypeError, match="epoch: expected an integer, got float"):
        EVERYTHING.batch(dataset, [0], seed=0, epoch=1.0)  # type: ignore[arg-type]


def test_hashes_are_splitmix64() -> None:
    """The published generator, stepped in Python integers."""
    state, expected = 1234567, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        bits = state
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
        expected.append(bits ^ (bits >> 31))
    assert expected[:2] == [6457827717110365317, 3203168211198807973]
    assert hash_bits(np.array([1234567], np.uint64), np.arange(5)).tolist() == expected
    assert hash_bits(np.array([2**64 - 1], np.uint64), 2**64 - 1).dtype == np.uint64


def test_numbers_have_their_distribution() -> None:
    bits = hash_bits(np.zeros(1, np.uint64), np.arange(100_000))
    values = uniform(bits)
    assert values.min() >= 0
    assert values.max() < 1
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(np.full(10, 10_000), abs=500)
    gauss = normal(bits)
    assert gauss.mean() == pytest.approx(0, abs=0.02)
    assert gauss.std() == pytest.approx(1, abs=0.02)
    assert (gauss**4).mean() == pytest.approx(3, abs=0.15)
    extremes = normal(np.array([0, 2**64 - 1], np.uint64))
    assert np.isfinite(extremes).all()
    assert abs(extremes).max() < 6.8
