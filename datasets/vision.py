"""Event-camera datasets through tonic: N-MNIST, DVS Gesture and CIFAR10-DVS, binned and pooled while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lsc_snn._checks import check_count
from lsc_snn.datasets.download import extract
from lsc_snn.datasets.events_dataset import EventDataset
from lsc_snn.datasets.published import HINT, check_published
from lsc_snn.datasets.request import Remote, Request, files_below, import_tonic
from lsc_snn.datasets.shd import MAX_STEPS, check_window
from lsc_snn.datasets.splits import EventSplits, hold_out, speakers_of, stratified_indices

_TEST_FRACTION, _TEST_SEED = 0.1, 0  # of the one test split that CIFAR10-DVS has here
_LAST_TRAINING_USER = 23  # of DVS Gesture: users 24 to 29 are its test part

Array = npt.NDArray[Any]


class Binning(NamedTuple):
    """How the events of a camera become steps and units."""

    bin_ms: float
    num_steps: int | None
    crop: bool
    pool: int


class Recording(NamedTuple):
    """One sample of a camera: its file, events with fields x, y, p and t in microseconds, label and user (or None)."""

    path: Path
    events: Array
    label: int
    user: int | None


def bin_recordings(
    recordings: Iterator[Recording],
    *,
    size: tuple[int, int],
    num_classes: int,
    binning: Binning,
    from_first: bool,
) -> EventDataset:
    """Bin the events of a camera of ``size`` (width, height) and two polarities into an event dataset.

    An event at t microseconds falls into step floor(t / (1000 bin_ms)), with ``from_first`` counted from the first
    event of its sample. Pixels are pooled in squares of ``pool`` x ``pool``, W x H of them (the last ones may be cut by
    the edge): unit (p H + y // pool) W + x // pool. Events of one unit in one step become one, which counts them, so
    that none is lost or doubled. The window and ``crop`` are as in ``read_shd``; a sample may have no event at all.

    Raises TypeError or ValueError for bad options, and ValueError, naming the file, for a time below 0, a pixel outside
    the camera, a polarity that is neither 0 nor 1, and a sample longer than the window.
    """
    check_window(binning.bin_ms, binning.num_steps, binning.crop)
    check_count("pool", binning.pool)
    width, height = (-(-side // binning.pool) for side in size)
    num_units = 2 * height * width
    times, units, counts, ends, sizes, labels, users = [], [], [], [], [], [], []
    dropped = 0
    for recording in recordings:
        events = recording.events
        _check_events(recording, size)
        micros = events["t"].astype(np.int64)
        if from_first and len(micros):
            micros = micros - micros.min()
        if (micros < 0).any():
            raise ValueError(f"{recording.path}: expected times >= 0, got {micros.min()} us; is the file whole?")
        steps = np.floor(micros / (1000 * binning.bin_ms)).astype(np.int64)
        rows, columns = events["y"].astype(np.int64) // binning.pool, events["x"].astype(np.int64) // binning.pool
        unit = (events["p"].astype(np.int64) * height + rows) * width + columns
        end = int(steps.max(initial=0)) + 1
        limit = binning.num_steps or MAX_STEPS
        if end > limit and not binning.crop:
            hint = "or pass crop=True" if binning.num_steps else "is the file whole?"
            raise ValueError(
                f"{recording.path}: expected at most {limit} steps, got {end}; raise num_steps or bin_ms, {hint}"
            )
        kept = steps < limit
        dropped += int((~kept).sum())
        key, count = np.unique(steps[kept] * num_units + unit[kept], return_counts=True)
        times.append((key // num_units).astype(np.uint16))
        units.append((key % num_units).astype(np.min_scalar_type(num_units - 1)))
        counts.append(count.astype(np.uint32))
        sizes.append(len(key))
        ends.append(min(end, limit))
        labels.append(recording.label)
        if recording.user is not None:
            users.append(recording.user)
    if not labels:
        raise ValueError("recordings: expected at least one sample, got none; check the folder")
    most = int(max(count.max(initial=0) for count in counts))
    return EventDataset(
        np.concatenate(times),
        np.concatenate(units),
        np.append(0, np.cumsum(sizes)),
        labels,
        ends,
        num_steps=max(ends) if binning.num_steps is None else binning.num_steps,
        num_units=num_units,
        num_classes=num_classes,
        counts=None if most <= 1 else np.concatenate(counts).astype(np.min_scalar_type(most)),
        speakers=np.array(users) if users else None,
        num_dropped=dropped,
    )


def _check_events(recording: Recording, size: tuple[int, int]) -> None:
    for field, upper in (("x", size[0]), ("y", size[1]), ("p", 2)):
        values = recording.events[field].astype(np.int64)
        outside = (values < 0) | (values >= upper)
        if outside.any():
            raise ValueError(
                f"{recording.path}: expected {field} in 0..{upper - 1}, got {values[outside][0]}; "
                "is this a file of another dataset?"
            )


def load_nmnist(
    request: Request, *, bin_ms: float = 10.0, num_steps: int | None = None, crop: bool = False, pool: int = 1
) -> EventSplits:
    """Load N-MNIST; options as in ``bin_recordings``. Raises what that and the methods of ``Request`` raise."""
    parts = {}
    for part in ("train", "test"):
        folder = request.unpack(part.capitalize(), f"{part}.zip", partial(_remote, "NMNIST", part))
        files = list(files_below(folder, ".bin"))
        _expect_files(request, folder, files, ".bin")
        for path in files:
            if path.stat().st_size % 5 or not path.stat().st_size:
                got = f"{path.stat().st_size} bytes"
                raise ValueError(f"{path}: expected events of 5 bytes each, got {got}; unpack the archive again")
        parts[part] = _read(
            request, part, folder, files, Binning(bin_ms, num_steps, crop, pool), "NMNIST", train=part == "train"
        )
    return _with_validation(request, parts)


def load_gesture(
    request: Request, *, bin_ms: float = 20.0, num_steps: int | None = None, crop: bool = False, pool: int = 4
) -> EventSplits:
    """Load DVS Gesture, validation by user; options and errors as of ``load_nmnist``."""
    parts = {}
    for part in ("train", "test"):
        name = f"ibmGesture{part.capitalize()}"
        folder = request.unpack(name, f"{name}.tar.gz", partial(_remote, "DVSGesture", part))
        files = list(files_below(folder, ".npy"))
        _expect_files(request, folder, files, ".npy")
        parts[part] = _read(
            request, part, folder, files, Binning(bin_ms, num_steps, crop, pool), "DVSGesture", train=part == "train"
        )
        if request.verify:
            _check_users(folder, part, parts[part])
    return _with_validation(request, parts)


def _remote(name: str, part: str) -> Remote:
    """Return where tonic finds the archive of a part, and its checksum."""
    source = getattr(import_tonic().datasets, name)
    return Remote(getattr(source, f"{part}_url"), getattr(source, f"{part}_md5"))


def _check_users(folder: Path, part: str, dataset: EventDataset) -> None:
    """Raise ValueError where a user of a part belongs to the other one."""
    users = speakers_of(dataset)
    strange = users[(users <= _LAST_TRAINING_USER) != (part == "train")]
    if len(strange):
        expected = f"users {'up to' if part == 'train' else 'above'} {_LAST_TRAINING_USER}"
        raise ValueError(f"{folder}: expected {expected}, got {strange[0]}; {HINT}")


def load_cifar10_dvs(
    request: Request, *, bin_ms: float = 10.0, num_steps: int | None = None, crop: bool = False, pool: int = 4
) -> EventSplits:
    """Load CIFAR10-DVS, whose test part is 10 % of each class, always the same; else as ``load_nmnist``.

    Raises ImportError too without the package aedat, which decodes its files.
    """
    binning = Binning(bin_ms, num_steps, crop, pool)
    folders = [_cifar10_class(request, name) for name in request.card.files]
    files = [path for folder in folders for path in files_below(folder, ".aedat4")]
    home = folders[0].parent
    _expect_files(request, home, files, ".aedat4")
    _import_aedat()
    whole = _read(request, "all", home, files, binning, "CIFAR10DVS")
    rest, test = stratified_indices(whole.labels, _TEST_FRACTION, seed=_TEST_SEED)
    train, validation = hold_out(whole.subset(rest), request.validation, seed=request.seed)
    return EventSplits(train, validation, whole.subset(test), whole.num_dropped)


def _cifar10_class(request: Request, name: str) -> Path:
    """Return the folder of a class: unpacked, in its own archive, or in the archive of archives."""
    folder, packed = request.find(name), request.find(f"{name}.zip")
    if folder is not None:
        return folder
    if packed is not None:
        return extract(packed, name)

    def remote() -> Remote:
        source = import_tonic().datasets.CIFAR10DVS
        return Remote(source.url, source.file_md5)

    if request.find("CIFAR10DVS.zip") is None and not request.download:
        return request.provide(name)
    return extract(extract(request.fetch("CIFAR10DVS.zip", remote), f"{name}.zip"), name)


def _import_aedat() -> None:
    try:
        import aedat  # noqa: F401
    except ImportError as error:
        raise ImportError("CIFAR10-DVS needs the package aedat; install it with: pip install aedat") from error


def _expect_files(request: Request, folder: Path, files: list[Path], suffix: str) -> None:
    if not files:
        raise ValueError(
            f"{folder}: expected files {suffix} of {request.card.title}, got none; unpack the archive again"
        )


def _read(
    request: Request, part: str, folder: Path, files: list[Path], binning: Binning, name: str, **options: bool
) -> EventDataset:
    """Read a part through tonic's class ``name``, once, and check that it is what was published."""

    def build() -> EventDataset:
        source = _offline(name, folder if name == "CIFAR10DVS" else folder.parent, options)
        width, height, _ = source.sensor_size
        return bin_recordings(
            _recordings(source),
            size=(width, height),
            num_classes=len(source.classes),
            binning=binning,
            from_first=name != "NMNIST",  # whose saccades start at 0
        )

    dataset = request.cached(files, {"part": part, **binning._asdict()}, build)
    if request.verify:
        check_published(request.card, part, folder, dataset)
    return dataset


def _offline(name: str, location: Path, options: dict[str, bool]) -> Any:
    """Return tonic's dataset of the files at a location, without its look for the archive, which need not be there."""
    base: Any = getattr(import_tonic().datasets, name)

    class Offline(base):  # type: ignore[misc]
        def _check_exists(self) -> bool:
            self.location_on_system = str(location)
            return True

    return Offline(save_to=str(location), **options)


def _recordings(source: Any) -> Iterator[Recording]:
    """Yield the samples of a dataset of tonic in the order of their paths, whatever the order of the file system."""
    users = getattr(source, "users", [None] * len(source))
    for index in sorted(range(len(source)), key=lambda index: source.data[index]):
        path = Path(source.data[index])
        try:
            events, label = source[index]
        except Exception as error:  # readers of three formats, each with errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: expected events of a camera, got: {reason}; unpack the archive again") from error
        yield Recording(path, events, int(label), users[index])


def _with_validation(request: Request, parts: dict[str, EventDataset]) -> EventSplits:
    dropped = sum(dataset.num_dropped for dataset in parts.values())
    return EventSplits(*hold_out(parts["train"], request.validation, seed=request.seed), parts["test"], dropped)
