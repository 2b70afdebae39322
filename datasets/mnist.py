"""MNIST from its original idx files, as spike latencies (sl-MNIST) or as sequences of pixels (sequential MNIST)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lsc_snn._checks import check_count
from lsc_snn.datasets.cards import spellings
from lsc_snn.datasets.events_dataset import EventDataset
from lsc_snn.datasets.published import check_published
from lsc_snn.datasets.request import Remote, Request
from lsc_snn.datasets.splits import EventSplits, hold_out

Bytes = npt.NDArray[np.uint8]

_SIDE, _CLASSES, _BRIGHTEST = 28, 10, 255
_ADDRESS = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def read_idx(path: str | Path) -> Bytes:
    """Read the unsigned bytes of an idx file, packed with gzip or not, in the shape that it names.

    Raises ValueError, naming the file, where it is missing, truncated, too long, broken, of another type of file or of
    numbers.

    >>> read_idx("absent")
    Traceback (most recent call last):
    ValueError: absent: expected an idx file, got no such file; check the path
    """
    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: expected an idx file, got {got}; check the path")
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: expected a whole gzip file, got: {error}; copy or download it again") from error
    rank = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * rank
    if content[:3] != b"\0\0\x08" or not rank or len(content) < start:
        raise ValueError(
            f"{path}: expected an idx file of unsigned bytes, got the first bytes {content[:4]!r}; check it"
        )
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes for the shape {shape}, got {len(content)}; copy or download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_mnist(images: str | Path, labels: str | Path) -> tuple[Bytes, Bytes]:
    """Read images (S, 28, 28) with values 0..255 and their labels (S,), 0..9, from two idx files.

    Raises what ``read_idx`` raises, and ValueError, naming the file, for files that do not hold images and labels of as
    many samples, at least one, and for labels out of range.
    """
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or pixels.shape[1:] != (_SIDE, _SIDE) or not len(pixels):
        got = f"shape {pixels.shape}"
        raise ValueError(f"{images}: expected images of shape (samples, 28, 28), got {got}; is this an images file?")
    if classes.shape != pixels.shape[:1]:
        got = f"shape {classes.shape}"
        raise ValueError(f"{labels}: expected a label for each of {len(pixels)} images, got {got}; is this their file?")
    if classes.max() >= _CLASSES:
        sample = int((classes >= _CLASSES).argmax())
        raise ValueError(f"{labels}: sample {sample}: expected a label 0..9, got {classes[sample]}; check the file")
    return pixels, classes


def latency_events(images: Bytes, labels: Bytes, *, num_steps: int = 100) -> EventDataset:
    """Return images (S, height, width) as spike latencies: a pixel fires once, brighter earlier.

    A pixel of brightness v, 1 to 255, fires in step floor((255 - v) (num_steps - 1) / 254), and one of brightness 0
    never. Unit r * width + c is the pixel of row r and column c. Every step of the window is valid. Raises TypeError or
    ValueError for a number of steps that is no integer above 0.

    >>> image = np.array([[[255, 0], [128, 1]]], np.uint8)
    >>> dataset = latency_events(image, np.array([7], np.uint8), num_steps=5)
    >>> dataset.times.tolist(), dataset.units.tolist()
    ([0, 2, 4], [0, 2, 3])
    """
    check_count("num_steps", num_steps)
    flat = images.reshape(len(images), -1)
    sample, unit = flat.nonzero()
    time = (_BRIGHTEST - flat[sample, unit].astype(np.int64)) * (num_steps - 1) // (_BRIGHTEST - 1)
    order = np.argsort(sample * num_steps + time, kind="stable")  # the units of a step stay sorted
    return EventDataset(
        time[order].astype(np.min_scalar_type(num_steps - 1)),
        unit[order].astype(np.min_scalar_type(flat.shape[1] - 1)),
        np.append(0, np.cumsum((flat > 0).sum(1))),
        labels,
        np.full(len(labels), num_steps),
        num_steps=num_steps,
        num_units=flat.shape[1],
        num_classes=_CLASSES,
    )


def pixel_sequences(images: Bytes, labels: Bytes) -> EventDataset:
    """Return images (S, height, width) as sequences of one analog unit: a pixel a step, row by row, intensity v / 255.

    A pixel of brightness v is an event of count v, scaled by 1/255; a black one is no event. Every step is valid.

    >>> dataset = pixel_sequences(np.array([[[255, 0], [51, 0]]], np.uint8), np.array([7], np.uint8))
    >>> dataset.batch([0])[0].to_dense().flatten()
    tensor([1.0000, 0.0000, 0.2000, 0.0000])
    """
    flat = images.reshape(len(images), -1)
    sample, time = flat.nonzero()
    num_steps = flat.shape[1]
    return EventDataset(
        time.astype(np.min_scalar_type(num_steps - 1)),
        np.zeros(len(time), np.uint8),
        np.append(0, np.cumsum((flat > 0).sum(1))),
        labels,
        np.full(len(labels), num_steps),
        num_steps=num_steps,
        num_units=1,
        num_classes=_CLASSES,
        counts=flat[sample, time],
        scale=1 / _BRIGHTEST,
    )


def load_latencies(request: Request, *, num_steps: int = 100) -> EventSplits:
    """Load sl-MNIST, or MNIST-10k in that form; ``num_steps`` as in ``latency_events``."""
    return _load(request, num_steps)


def load_sequences(request: Request) -> EventSplits:
    """Load sequential MNIST, or MNIST-10k in that form."""
    return _load(request, None)


def _load(request: Request, num_steps: int | None) -> EventSplits:
    """Load the parts as latencies in so many steps, or as sequences without a number."""

    def read(part: str) -> EventDataset:
        paths = [_idx(request, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]

        def build() -> EventDataset:
            pixels = read_mnist(*paths)
            return pixel_sequences(*pixels) if num_steps is None else latency_events(*pixels, num_steps=num_steps)

        return request.cached(paths, {"num_steps": num_steps}, build)

    if not request.card.name.endswith("10k"):
        train, test = read("train"), read("t10k")
        if request.verify:
            check_published(request.card, "train", request.provide(*spellings("train-images-idx3-ubyte")), train)
            check_published(request.card, "test", request.provide(*spellings("t10k-images-idx3-ubyte")), test)
        return EventSplits(*hold_out(train, request.validation, seed=request.seed), test)
    request.refuse_validation()
    whole = read("t10k")
    first, second = len(whole) * 8 // 10, len(whole) * 9 // 10
    ranges = (range(first), range(first, second), range(second, len(whole)))
    train, validation, test = (whole.subset(list(part)) for part in ranges)
    return EventSplits(train, validation, test)


def _idx(request: Request, name: str) -> Path:
    """Return the path of an official file, unpacked or packed, checked; downloaded in its packed form."""
    plain, packed = spellings(name)
    chosen = plain if request.find(plain) else packed
    return request.fetch(chosen, lambda: Remote(_ADDRESS + chosen, _MD5[chosen]))
