"""MNIST from small idx files and, where the development data is there, from the original ones."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from data_dir import data_dir
from event_files import write_idx
from lsc_snn.datasets import EventDataset, latency_events, load, pixel_sequences, read_idx, read_mnist
from lsc_snn.datasets import mnist as mnist_module

RNG = np.random.default_rng(0)
IMAGES = (RNG.integers(0, 256, (40, 28, 28)) * (RNG.random((40, 28, 28)) < 0.3)).astype(np.uint8)
LABELS = np.arange(40, dtype=np.uint8) % 10


def dense(dataset: EventDataset) -> torch.Tensor:
    return dataset.batch(np.arange(len(dataset)))[0].to_dense()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_packed_or_not(tmp_path: Path, suffix: str) -> None:
    images = write_idx(tmp_path / f"images{suffix}", IMAGES)
    labels = write_idx(tmp_path / f"labels{suffix}", LABELS)
    assert np.array_equal(read_idx(images), IMAGES)
    pixels, classes = read_mnist(images, labels)
    assert np.array_equal(pixels, IMAGES)
    assert np.array_equal(classes, LABELS)


@pytest.mark.parametrize("num_steps", [1, 7, 100, 255])
def test_a_pixel_fires_once_and_brighter_earlier(num_steps: int) -> None:
    x = dense(latency_events(IMAGES, LABELS, num_steps=num_steps))
    expected = torch.zeros(num_steps, 40, 784)
    for sample, image in enumerate(IMAGES.reshape(40, -1).tolist()):
        for unit, value in enumerate(image):
            if value:
                expected[(255 - value) * (num_steps - 1) // 254, sample, unit] += 1
    assert torch.equal(x, expected)


def test_a_sequence_is_the_pixels_row_by_row() -> None:
    x = dense(pixel_sequences(IMAGES, LABELS))
    torch.testing.assert_close(x[:, :, 0].T, torch.from_numpy(IMAGES.reshape(40, -1)) / 255)


def test_bad_files_are_named(tmp_path: Path) -> None:
    images, labels = write_idx(tmp_path / "images.gz", IMAGES), write_idx(tmp_path / "labels", LABELS)
    plain, packed = labels.read_bytes(), images.read_bytes()
    bad = {
        plain[:-3]: "expected 48 bytes for the shape .40,., got 45",
        plain + b"0": "expected 48 bytes for the shape .40,., got 49",
        plain[:6]: "expected an idx file of unsigned bytes",
        b"": "expected an idx file of unsigned bytes",
        b"\0\0\x0d" + plain[3:]: "expected an idx file of unsigned bytes",
        b"\x89HDF\r\n\x1a\n" * 9: "expected an idx file of unsigned bytes",
        packed[: len(packed) // 2]: "expected a whole gzip file, got: ",
        packed[:50] + b"\xff" * 50 + packed[100:]: "expected a whole gzip file, got: ",
        b"\0\0\x08\x02" + b"\xff" * 8: "expected 18446744065119617037 bytes",
    }
    for content, message in bad.items():
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match=rf"bad: {message}") as caught:
            read_idx(tmp_path / "bad")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"labels: expected images of shape \(samples, 28, 28\), got shape \(40,\)"):
        read_mnist(labels, images)
    with pytest.raises(
        ValueError, match=r"images\.gz: expected a label for each of 40 images, got shape \(40, 28, 28\)"
    ):
        read_mnist(images, images)
    other = write_idx(tmp_path / "other", LABELS[:30])
    with pytest.raises(ValueError, match=r"other: expected a label for each of 40 images, got shape \(30,\)"):
        read_mnist(images, other)
    write_idx(other, np.where(np.arange(40) == 7, 10, LABELS))
    with pytest.raises(ValueError, match=r"other: sample 7: expected a label 0\.\.9, got 10"):
        read_mnist(images, other)
    with pytest.raises(ValueError, match="expected images of shape"):
        read_mnist(write_idx(tmp_path / "none", IMAGES[:0]), labels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a folder with small files under the official names, some packed."""
    for part, suffix in (("train", ".gz"), ("t10k", "")):
        write_idx(tmp_path / f"mnist/{part}-images-idx3-ubyte{suffix}", IMAGES if part == "train" else IMAGES[::-1])
        write_idx(tmp_path / f"mnist/{part}-labels-idx1-ubyte", LABELS if part == "train" else LABELS[::-1])
    return tmp_path


def test_load_splits_train_and_leaves_test(root: Path) -> None:
    for name in ("sl-mnist", "s-mnist"):
        train, validation, test, _ = load(name, root, verify=False, validation=0.25, cache=root / "cache")
        assert (len(train), len(validation)) == (30, 10)
        assert np.bincount(validation.labels).tolist() == [1] * 10
        assert test.labels.tolist() == LABELS[::-1].tolist()
    expected = latency_events(IMAGES[::-1], LABELS[::-1], num_steps=20)
    test = load("sl-mnist", root, verify=False, cache=root / "cache", num_steps=20).test
    assert torch.equal(dense(test), dense(expected))


def test_mnist_10k_takes_its_parts_in_order(root: Path) -> None:
    splits = load("sl-mnist-10k", root, verify=False, cache=root / "cache")
    assert [len(part) for part in splits[:3]] == [32, 4, 4]
    assert np.concatenate([part.labels for part in splits[:3]]).tolist() == LABELS[::-1].tolist()
    with pytest.raises(ValueError, match="validation: expected nothing for sl-mnist-10k, which has one of its own"):
        load("sl-mnist-10k", root, verify=False, cache=root / "cache", validation=0.1)


def test_another_file_under_an_official_name_is_refused(root: Path) -> None:
    path = root / "mnist/train-images-idx3-ubyte.gz"
    found = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(
        ValueError, match=rf"{path}: expected the MD5 sum f68b3c2dcbeaaa9fbdd348bbdeb94873, got {found};"
    ):
        load("sl-mnist", root, cache=root / "cache")


def test_missing_files_are_fetched_checked_and_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, home = tmp_path / "source", tmp_path / "home"
    source.mkdir()
    sums = {}
    for path in (root / "mnist").iterdir():
        content = path.read_bytes() if path.suffix else gzip.compress(path.read_bytes(), mtime=0)
        name = f"{path.name.removesuffix('.gz')}.gz"
        (source / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(mnist_module, "_ADDRESS", source.as_uri() + "/")
    monkeypatch.setattr(mnist_module, "_MD5", sums)
    monkeypatch.setattr(mnist_module, "check_published", lambda *_: None)
    with pytest.raises(
        ValueError, match=rf"{home}/mnist/train-images-idx3-ubyte.gz: expected this file of Spike-latency"
    ):
        load("sl-mnist", home, cache=root / "cache")
    assert not home.exists()
    assert len(load("sl-mnist", home, cache=root / "cache", download=True).test) == 40
    assert sorted(path.name for path in (home / "mnist").iterdir()) == sorted(sums)
    assert len(load("sl-mnist", home, cache=root / "cache").test) == 40, "without the network from now on"
    monkeypatch.undo()
    monkeypatch.setattr(mnist_module, "_MD5", sums)
    with pytest.raises(ValueError, match=r"images-idx3-ubyte.gz: expected the 60000 samples of .*, got 40; check for"):
        load("sl-mnist", home, cache=root / "cache")


def test_the_original_files_give_mnist_10k(tmp_path: Path) -> None:
    folder = data_dir("mnist")
    train, validation, test, _ = load("s-mnist-10k", folder.parent, cache=tmp_path)
    pixels, labels = (read_idx(folder / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    assert (len(train), len(validation), len(test)) == (8000, 1000, 1000)
    assert np.concatenate([train.labels, validation.labels, test.labels]).tolist() == labels.tolist()
    last = torch.from_numpy(pixels[-1].flatten().astype(np.float32)) / 255
    torch.testing.assert_close(test.batch([999])[0].to_dense().flatten(), last)
