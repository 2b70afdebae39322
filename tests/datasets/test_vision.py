"""Event-camera datasets on small files of their formats, read through tonic, against a plain Python loop."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tonic
import torch
from hypothesis import given
from hypothesis import strategies as st

from event_files import Event, write_aedat4, write_gesture, write_nmnist
from lsc_snn.datasets import EventDataset, load
from lsc_snn.datasets.vision import Binning, Recording, bin_recordings

DTYPE = np.dtype([("x", np.int16), ("y", np.int16), ("p", bool), ("t", np.int64)])

event = st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 1), st.sampled_from([0, 999, 1000, 1001, 5999]))


def dense(dataset: EventDataset) -> torch.Tensor:
    return dataset.batch(np.arange(len(dataset)))[0].to_dense()


def recordings_of(samples: list[list[Event]]) -> list[Recording]:
    arrays = [np.array([(x, y, p, t) for x, y, p, t in sample], DTYPE) for sample in samples]
    return [Recording(Path(f"{i}.bin"), array, i % 2, None) for i, array in enumerate(arrays)]


@given(st.lists(st.lists(event, max_size=12), min_size=1, max_size=4), st.integers(1, 8), st.booleans())
def test_no_event_is_lost_or_doubled(samples: list[list[Event]], pool: int, from_first: bool) -> None:
    dataset = bin_recordings(
        iter(recordings_of(samples)),
        size=(5, 7),
        num_classes=2,
        binning=Binning(1.0, None, False, pool),
        from_first=from_first,
    )
    width, height = -(-5 // pool), -(-7 // pool)
    expected = torch.zeros(dataset.num_steps, len(samples), 2 * width * height)
    for sample, events in enumerate(samples):
        start = min((t for *_, t in events), default=0) if from_first else 0
        for x, y, p, t in events:
            expected[(t - start) // 1000, sample, (p * height + y // pool) * width + x // pool] += 1
    assert torch.equal(dense(dataset), expected)
    assert int(expected.sum()) == sum(map(len, samples))
    assert dataset.labels.tolist() == [i % 2 for i in range(len(samples))]


def bin_one(sample: list[Event], **options: object) -> EventDataset:
    binning = Binning(**{"bin_ms": 1.0, "num_steps": None, "crop": False, "pool": 1, **options})  # type: ignore[arg-type]
    return bin_recordings(iter(recordings_of([sample])), size=(5, 7), num_classes=2, binning=binning, from_first=False)


def test_a_longer_sample_is_an_error_or_cropped_and_counted() -> None:
    sample = [(0, 0, 0, 0), (1, 1, 1, 2999), (1, 1, 1, 3000), (2, 2, 0, 9000)]
    with pytest.raises(ValueError, match=r"0\.bin: expected at most 3 steps, got 10; .* or pass crop=True"):
        bin_one(sample, num_steps=3)
    cropped = bin_one(sample, num_steps=3, crop=True)
    assert (cropped.num_dropped, len(cropped.times), cropped.lengths.tolist()) == (2, 2, [3])
    assert bin_one([], num_steps=3).lengths.tolist() == [1]
    with pytest.raises(ValueError, match="is the file whole"):
        bin_one([(0, 0, 0, 10**12)])


@pytest.mark.parametrize(
    ("sample", "options", "message"),
    [
        ([(5, 0, 0, 0)], {}, r"0\.bin: expected x in 0\.\.4, got 5"),
        ([(0, -1, 0, 0)], {}, r"0\.bin: expected y in 0\.\.6, got -1"),
        ([(0, 0, 0, -7)], {}, r"0\.bin: expected times >= 0, got -7 us"),
        ([], {"bin_ms": 0.0}, "bin_ms: expected a finite number above 0"),
        ([], {"pool": 0}, "pool: expected an integer >= 1"),
        ([], {"num_steps": 0}, "num_steps: expected an integer >= 1"),
        ([], {"num_steps": 10**6}, "num_steps: expected at most 65536"),
        ([], {"crop": True}, "crop: expected num_steps with crop=True"),
    ],
)
def test_bad_events_and_options_are_named(sample: list[Event], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        bin_one(sample, **options)
    assert "\n" not in str(caught.value)


NMNIST = [(33, 0, 1, 0), (0, 33, 0, 9_999), (0, 33, 0, 10_000), (5, 5, 1, 299_999)]


@pytest.fixture
def nmnist(tmp_path: Path) -> Path:
    """Make a root with a few N-MNIST files of every class, unpacked and without their archives."""
    for part, number in (("Train", 4), ("Test", 1)):
        for label in range(10):
            for index in range(number):
                write_nmnist(tmp_path / f"n-mnist/{part}/{label}/{index:05}.bin", NMNIST[: 4 - index])
    return tmp_path


def test_nmnist_is_read_through_tonic(nmnist: Path) -> None:
    options = {"verify": False, "cache": nmnist / "cache", "validation": 0.25}
    train, validation, test, dropped = load("n-mnist", nmnist, **options)
    assert (len(train), len(validation), len(test), dropped) == (30, 10, 10, 0)
    x = dense(test)
    expected = torch.zeros(30, 10, 2 * 34 * 34)
    for step, p, y, x_position in ((0, 1, 0, 33), (0, 0, 33, 0), (1, 0, 33, 0), (29, 1, 5, 5)):
        expected[step, :, (p * 34 + y) * 34 + x_position] += 1
    assert torch.equal(x, expected)
    assert test.labels.tolist() == list(range(10))
    cropped = load("n-mnist", nmnist, num_steps=20, crop=True, **options)
    assert cropped.num_dropped == 20, "one event of each sample that has all four"
    assert cropped.train.num_steps == 20


def test_a_part_of_the_files_is_not_taken_for_the_whole(nmnist: Path) -> None:
    with pytest.raises(ValueError, match=r"Train: expected the 60000 samples of N-MNIST.*, got 40; check for"):
        load("n-mnist", nmnist, cache=nmnist / "cache")


def test_a_truncated_or_foreign_file_is_named(nmnist: Path) -> None:
    path = nmnist / "n-mnist/Train/3/00001.bin"
    whole = path.read_bytes()
    for content, message in ((whole[:-2], "got 13 bytes"), (b"", "got 0 bytes"), (b"\x89HDF\r" * 9, "expected x in")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path}: expected .*{message}|{path}: {message}") as caught:
            load("n-mnist", nmnist, cache=nmnist / "cache", verify=False)
        assert "\n" not in str(caught.value)
    shutil.rmtree(nmnist / "n-mnist/Test")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=rf"{nmnist}/n-mnist/Test: expected this file of N-MNIST.*, got none; put it"):
        load("n-mnist", nmnist, cache=nmnist / "cache", verify=False)


def test_an_archive_on_disk_is_checked_and_unpacked(nmnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = nmnist / "other" / "NMNIST"
    home.mkdir(parents=True)
    for part in ("train", "test"):
        archive = shutil.make_archive(str(home / part), "zip", nmnist / "n-mnist", part.capitalize())
        assert Path(archive).name == f"{part}.zip"
    found = hashlib.md5((home / "train.zip").read_bytes()).hexdigest()
    expected = tonic.datasets.NMNIST.train_md5
    with pytest.raises(ValueError, match=rf"train\.zip: expected the MD5 sum {expected}, got {found}"):
        load("n-mnist", home.parent, cache=nmnist / "cache")
    assert sorted(path.name for path in home.iterdir()) == ["test.zip", "train.zip"]
    train, validation, *_ = load("n-mnist", home.parent, cache=nmnist / "cache", verify=False)
    assert len(train) + len(validation) == 40
    assert sorted(path.name for path in home.iterdir()) == ["Test", "Train", "test.zip", "train.zip"]


def test_a_download_takes_the_address_and_sum_of_tonic(nmnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, home = nmnist / "source", nmnist / "home"
    source.mkdir()
    for part in ("train", "test"):
        archive = Path(shutil.make_archive(str(source / part), "zip", nmnist / "n-mnist", part.capitalize()))
        monkeypatch.setattr(tonic.datasets.NMNIST, f"{part}_url", archive.as_uri())
        monkeypatch.setattr(tonic.datasets.NMNIST, f"{part}_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    options = {"cache": nmnist / "cache", "verify": False}
    assert len(load("n-mnist", home, download=True, **options).test) == 10
    assert sorted(path.name for path in (home / "n-mnist").iterdir()) == ["Test", "Train", "test.zip", "train.zip"]


@pytest.fixture
def gesture(tmp_path: Path) -> Path:
    """Make a root with DVS Gesture files: six users in train, two in test, all classes each."""
    events = [(127, 0, 1, 5_000_000), (0, 127, 0, 5_019_000), (0, 127, 0, 5_020_000)]
    for part, users in (("Train", range(1, 7)), ("Test", (24, 25))):
        for user in users:
            for label in range(11):
                name = f"dvs-gesture/ibmGesture{part}/user{user:02}_led/{label}.npy"
                write_gesture(tmp_path / name, events if label else [])
    return tmp_path


def test_gestures_are_split_by_user_and_pooled(gesture: Path) -> None:
    train, validation, test, _ = load("dvs-gesture", gesture, cache=gesture / "cache", validation=[2, 5])
    assert set(validation.speakers) == {2, 5}
    assert set(train.speakers) == {1, 3, 4, 6}
    assert set(test.speakers) == {24, 25}
    assert (train.num_units, len(train), len(test)) == (2048, 44, 22)
    expected = torch.zeros(2, 2048)
    expected[0, 1024 + 31], expected[0, 31 * 32], expected[1, 31 * 32] = 1, 1, 1
    position = test.labels.tolist().index(7)
    assert torch.equal(dense(test)[:, position], expected)
    assert not dense(test)[:, test.labels.tolist().index(0)].any(), "a sample without events is valid"


def test_a_bad_gesture_file_is_named(gesture: Path) -> None:
    path = gesture / "dvs-gesture/ibmGestureTrain/user03_led/4.npy"
    whole = path.read_bytes()
    for content in (whole[:-9], b"", b"no numpy file", whole[:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path}: expected events of a camera, got: .*; unpack") as caught:
            load("dvs-gesture", gesture, cache=gesture / "cache")
        assert "\n" not in str(caught.value)
    folder = gesture / "dvs-gesture"
    path.write_bytes(whole)
    swap = (("Train", "Kept"), ("Test", "Train"), ("Kept", "Test"))
    for old, new in swap:
        (folder / f"ibmGesture{old}").rename(folder / f"ibmGesture{new}")
    with pytest.raises(ValueError, match=r"ibmGestureTrain: expected users up to 23, got 24; check for a swapped"):
        load("dvs-gesture", gesture, cache=gesture / "cache")
    for old, new in swap:
        (folder / f"ibmGesture{old}").rename(folder / f"ibmGesture{new}")
    for other in (gesture / "dvs-gesture/ibmGestureTrain").rglob("4.npy"):
        other.unlink()
    with pytest.raises(
        ValueError, match=r"ibmGestureTrain: expected samples of 11 classes of DVS128 .*, got 10; check"
    ):
        load("dvs-gesture", gesture, cache=gesture / "cache")


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Make a root with ten CIFAR10-DVS files of each class, two classes packed in their own archives."""
    classes = list(tonic.datasets.CIFAR10DVS.classes)
    for label, name in enumerate(classes):
        for index in range(10):
            start = 10**9 + index
            events = [(label, 0, 1, start), (0, 127, 0, start + 9_999), (0, 127, 0, start + 10_000)]
            write_aedat4(tmp_path / f"cifar10-dvs/{name}/{index}.aedat4", events)
    for name in classes[:2]:
        shutil.make_archive(str(tmp_path / "cifar10-dvs" / name), "zip", tmp_path / "cifar10-dvs", name)
        shutil.rmtree(tmp_path / "cifar10-dvs" / name)
    return tmp_path


def test_cifar10_dvs_has_a_fixed_stratified_test_part(cifar: Path) -> None:
    pytest.importorskip("aedat")
    options = {"cache": cifar / "cache", "verify": False}
    first, other = load("cifar10-dvs", cifar, pool=1, **options), load("cifar10-dvs", cifar, pool=1, seed=1, **options)
    assert (len(first.test), len(first.train) + len(first.validation)) == (10, 90)
    assert np.bincount(first.test.labels).tolist() == [1] * 10
    assert torch.equal(dense(first.test), dense(other.test))
    expected = torch.zeros(2, 10, 2 * 128 * 128)
    for position, label in enumerate(first.test.labels.tolist()):
        expected[0, position, 128 * 128 + label] += 1
        expected[0, position, 127 * 128] += 1
        expected[1, position, 127 * 128] += 1
    assert torch.equal(dense(first.test), expected)


def test_cifar10_dvs_without_its_decoder_names_the_package(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "aedat", None)
    with pytest.raises(ImportError, match="CIFAR10-DVS needs the package aedat; install it with: pip install aedat"):
        load("cifar10-dvs", cifar, cache=cifar / "cache", verify=False)


def test_a_truncated_cifar10_file_is_named(cifar: Path) -> None:
    pytest.importorskip("aedat")
    path = cifar / "cifar10-dvs/truck/3.aedat4"
    whole = path.read_bytes()
    for content in (whole[:-20], b"no aedat file", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path}: expected events of a camera, got: ") as caught:
            load("cifar10-dvs", cifar, cache=cifar / "cache", verify=False)
        assert "\n" not in str(caught.value)


def test_the_cache_gives_the_same_and_follows_the_files(nmnist: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        options = {"verify": False, "cache": cache}
        first, again = load("n-mnist", nmnist, **options), load("n-mnist", nmnist, **options)
        assert torch.equal(dense(first.train), dense(again.train))
        write_nmnist(nmnist / "n-mnist/Test/0/00000.bin", NMNIST[:1])
        changed = load("n-mnist", nmnist, **options)
        assert int(dense(changed.test).sum()) == int(dense(first.test).sum()) - 3
        assert load("n-mnist", nmnist, bin_ms=100.0, **options).train.num_steps == 3
