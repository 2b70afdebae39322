"""The cache: round trips, broken files, other versions, killed builds, full disks, and two builders at once."""

import json
import mmap
import multiprocessing
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsc_snn.datasets import EventDataset, cached, file_digest
from lsc_snn.datasets import cache as cache_module

KEY = {"file": "0123", "reader": "shd", "bin_ms": 4.0}
ARRAYS = ("times", "units", "counts", "offsets", "labels", "lengths", "speakers")
SIZES = ("num_steps", "num_units", "num_classes", "num_dropped", "scale")


def dataset_of(seed: int = 0, *, size: int = 6, counted: bool = True) -> EventDataset:
    """Return random samples, the first of them empty."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, 20, size)
    sizes[0] = 0
    lengths = generator.integers(1, 400, size)
    times = [np.sort(generator.integers(0, n, k)) for n, k in zip(lengths, sizes, strict=True)]
    return EventDataset(
        np.concatenate(times),
        generator.integers(0, 700, sizes.sum()),
        np.append(0, np.cumsum(sizes)),
        generator.integers(0, 20, size),
        lengths,
        num_steps=400,
        num_units=700,
        num_classes=20,
        counts=generator.integers(1, 300, sizes.sum()) if counted else None,
        speakers=generator.integers(-2, 10, size),
        num_dropped=7,
        scale=0.5,
    )


def assert_same(first: EventDataset, second: EventDataset) -> None:
    for name in ARRAYS:
        ours, theirs = getattr(first, name), getattr(second, name)
        assert (ours is None) == (theirs is None), name
        assert ours is None or ours.tolist() == theirs.tolist(), name
    assert [getattr(first, name) for name in SIZES] == [getattr(second, name) for name in SIZES]


def never() -> EventDataset:
    raise AssertionError("built, although the cache is good")


def target_of(folder: Path) -> Path:
    """Return the only cache in a folder, and see that nothing else is there but its lock."""
    (target,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    assert {path.name for path in folder.iterdir()} == {target.name, f".{target.name}.lock"}
    return target


@given(st.integers(0, 1000), st.integers(1, 8), st.booleans())
def test_what_is_cached_comes_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, counted: bool
) -> None:
    folder, dataset = tmp_path_factory.mktemp("cache"), dataset_of(seed, size=size, counted=counted)
    assert_same(cached(folder, KEY, lambda: dataset), dataset)
    assert_same(cached(folder, KEY, never), dataset)


def test_events_are_mapped_in_the_smallest_type(tmp_path: Path) -> None:
    sizes = {"num_steps": 400, "num_units": 700, "num_classes": 1, "speakers": [-1]}
    source = EventDataset([0, 255], [0, 256], [0, 2], [0], [400], counts=[1, 70_000], **sizes)
    dataset = cached(tmp_path / "new" / "folder", KEY, lambda: source)
    assert dataset.counts is not None
    assert (dataset.times.dtype, dataset.units.dtype, dataset.counts.dtype) == (np.uint8, np.uint16, np.uint32)
    for array in (dataset.times, dataset.units, dataset.counts):
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)
        assert not array.flags.writeable
    stored = np.load(target_of(tmp_path / "new" / "folder") / "speakers.npy", allow_pickle=False)
    assert stored.dtype == np.int8


def test_sizes_of_numpy_are_plain_numbers(tmp_path: Path) -> None:
    one = np.int64(1)
    dataset = EventDataset([], [], [0, 0], [0], [1], num_steps=one, num_units=one, num_classes=one, num_dropped=one)
    assert_same(cached(tmp_path, KEY, lambda: dataset), dataset)


def test_each_key_has_a_cache_of_its_own(tmp_path: Path) -> None:
    for seed, key in enumerate((KEY, {**KEY, "bin_ms": 2.0}, {**KEY, "file": "4567"})):
        cached(tmp_path, key, lambda seed=seed: dataset_of(seed))
        assert_same(cached(tmp_path, dict(reversed(key.items())), never), dataset_of(seed))


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


BREAK = {
    "flipped in the header": lambda path: flip(path, 0.1),
    "flipped in the middle": lambda path: flip(path, 0.5),
    "flipped at the end": lambda path: flip(path, 1.0),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", BREAK)
def test_a_broken_cache_is_built_anew(tmp_path: Path, damage: str) -> None:
    cached(tmp_path, KEY, dataset_of)
    for name in ("manifest.json", *(f"{array}.npy" for array in ARRAYS)):
        BREAK[damage](target_of(tmp_path) / name)
        # Another dataset, to tell what is built from what was there.
        assert_same(cached(tmp_path, KEY, lambda: dataset_of(1)), dataset_of(1))
        assert_same(cached(tmp_path, KEY, never), dataset_of(1))
        shutil.rmtree(target_of(tmp_path))
        cached(tmp_path, KEY, dataset_of)


def test_another_version_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "FORMAT_VERSION", 99)
    cached(tmp_path, KEY, dataset_of)
    monkeypatch.undo()
    assert_same(cached(tmp_path, KEY, lambda: dataset_of(1)), dataset_of(1))
    assert json.loads((target_of(tmp_path) / "manifest.json").read_text())["version"] == cache_module.FORMAT_VERSION


def test_the_cache_of_another_key_is_not_taken(tmp_path: Path) -> None:
    cached(tmp_path / "a", KEY, dataset_of)
    cached(tmp_path / "b", {"other": 1}, lambda: dataset_of(1))
    target, other = target_of(tmp_path / "a"), target_of(tmp_path / "b")
    shutil.rmtree(target)
    shutil.copytree(other, target)
    assert_same(cached(tmp_path / "a", KEY, lambda: dataset_of(2)), dataset_of(2))


def test_a_file_in_the_place_of_the_cache_is_replaced(tmp_path: Path) -> None:
    cached(tmp_path, KEY, dataset_of)
    target = target_of(tmp_path)
    shutil.rmtree(target)
    target.write_text("not a cache")
    assert_same(cached(tmp_path, KEY, lambda: dataset_of(1)), dataset_of(1))


def test_an_open_dataset_survives_its_files(tmp_path: Path) -> None:
    dataset = cached(tmp_path, KEY, dataset_of)
    shutil.rmtree(tmp_path)
    assert_same(dataset, dataset_of())


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build() -> EventDataset:
        raise ValueError("x.h5: expected a whole HDF5 file")

    with pytest.raises(ValueError, match=r"x\.h5: expected a whole HDF5 file"):
        cached(tmp_path, KEY, build)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert_same(cached(tmp_path, KEY, dataset_of), dataset_of())


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files makes the system refuse a write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    dataset = dataset_of(size=600)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"expected room to write a cache, got: File too large; free") as caught:
            cached(tmp_path, KEY, lambda: dataset)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert_same(cached(tmp_path, KEY, lambda: dataset), dataset)


def test_a_disk_that_keeps_something_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = cache_module._write

    def write(folder: Path, text: str, dataset: EventDataset) -> None:
        original(folder, text, dataset)
        flip(folder / "units.npy", 0.9)

    monkeypatch.setattr(cache_module, "_write", write)
    with pytest.raises(ValueError, match="got: what was written reads back otherwise"):
        cached(tmp_path, KEY, dataset_of)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_bad_folders_and_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: expected room to write a cache, got: .*; free some space or choose"):
        cached(tmp_path / "file", KEY, dataset_of)
    for value in ({1, 2}, float("nan"), tmp_path):
        with pytest.raises(TypeError, match="key: expected plain values that JSON can hold, got: "):
            cached(tmp_path, {"value": value}, dataset_of)


def test_a_digest_is_that_of_the_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    first.write_bytes(b"spikes")
    shutil.copy(first, second)
    os.utime(second, (0, 0))
    assert file_digest(first) == file_digest(second)
    assert re.fullmatch("[0-9a-f]{64}", file_digest(first))
    second.write_bytes(b"spikeS")
    assert file_digest(first) != file_digest(second)
    with pytest.raises(ValueError, match="expected a file, got: Is a directory; check the path"):
        file_digest(tmp_path)


def slow_build(folder: Path) -> EventDataset:
    """Note that a build began, and give another process time to begin one too."""
    with open(folder / "builds", "a") as file:
        file.write("built\n")
    time.sleep(0.2)
    return dataset_of()


def build_and_die(folder: Path) -> None:
    """Build a cache, and be killed in the middle of writing it."""
    original = cache_module._write_array

    def write(path: Path, array: np.ndarray) -> int:
        checksum = original(path, array)
        if path.name == "offsets.npy":
            os.kill(os.getpid(), signal.SIGKILL)
        return checksum

    cache_module._write_array = write
    cached(folder, KEY, dataset_of)


def build_at(folder: Path, start: Any) -> None:
    """Build a cache once all have arrived at the barrier; exit with 0 if it is right."""
    start.wait(60)
    assert_same(cached(folder / "cache", KEY, lambda: slow_build(folder)), dataset_of())


# Python 3.12 warns of a fork of a process with threads.
forked = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
context = multiprocessing.get_context("fork")


@forked
def test_a_killed_build_is_not_trusted_and_cleaned(tmp_path: Path) -> None:
    process = context.Process(target=build_and_die, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (left,) = (path for path in tmp_path.iterdir() if path.suffix == ".tmp")
    assert (left / "fresh" / "offsets.npy").is_file()
    assert_same(cached(tmp_path, KEY, lambda: dataset_of(1)), dataset_of(1))
    target_of(tmp_path)


@forked
def test_two_processes_build_once(tmp_path: Path) -> None:
    start = context.Barrier(2)
    processes = [context.Process(target=build_at, args=(tmp_path, start)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "builds").read_text() == "built\n"
    assert_same(cached(tmp_path / "cache", KEY, never), dataset_of())
    target_of(tmp_path / "cache")


def test_without_locks_the_later_builder_is_right_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process puts its cache in place between the last two steps of this one."""
    original, raced = os.rename, []

    def rename(source: Path, target: Path) -> None:
        if Path(source).name == "fresh" and not raced:
            raced.append(shutil.copytree(source, target))
        original(source, target)

    monkeypatch.setattr(cache_module, "fcntl", None)
    monkeypatch.setattr(os, "rename", rename)
    assert_same(cached(tmp_path, KEY, dataset_of), dataset_of())
    assert raced == [target_of(tmp_path)]
    assert_same(cached(tmp_path, KEY, never), dataset_of())


def test_without_locks_nobody_elses_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path, KEY, dataset_of)
    target = target_of(tmp_path)
    (tmp_path / f".{target.name}.abc.tmp").mkdir()
    shutil.rmtree(target)
    monkeypatch.setattr(cache_module, "fcntl", None)
    cached(tmp_path, KEY, dataset_of)
    assert (tmp_path / f".{target.name}.abc.tmp").is_dir()
    shutil.rmtree(target)
    monkeypatch.undo()
    cached(tmp_path, KEY, dataset_of)
    assert not (tmp_path / f".{target.name}.abc.tmp").exists()
