"""A cache of event datasets on disk, mapped into memory: read a source once, and never trust what is broken."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsc_snn.datasets.events_dataset import EventDataset

try:
    import fcntl
except ImportError:  # not a POSIX system: caches are then right too, but two processes may build one twice
    fcntl = None  # type: ignore[assignment]

FORMAT_VERSION = 1

_MANIFEST = "manifest.json"
_MAPPED = ("times", "units", "counts")
_ARRAYS = (*_MAPPED, "offsets", "labels", "lengths", "speakers")
_SIZES = ("num_steps", "num_units", "num_classes", "num_dropped", "scale")
_BLOCK_BYTES = 2**22


def cached(folder: str | Path, key: Mapping[str, Any], build: Callable[[], EventDataset]) -> EventDataset:
    """Return the dataset that ``build`` makes, from the cache in ``folder`` if it is there, with its events mapped.

    ``key`` says all that the dataset depends on, as plain values that JSON can hold: the digest of each source file
    (``file_digest``), the name of the reader and its options. Each key has a folder of its own, with one .npy file for
    each array, in the smallest integer type that holds it, and a manifest with format version, key and checksums. All
    of them are checked whenever it is opened; a cache of another version, or one that is broken, is built anew.

    It is built in a temporary folder and renamed once it is whole, so that a process that is killed leaves nothing
    that a later one would use; the later one removes it. Of several processes that need the same cache one builds it,
    while the others wait. A dataset stays valid while it is open, whatever becomes of its files.

    Raises TypeError for a key that JSON cannot hold, ValueError where the folder cannot be written or the disk is full,
    and whatever ``build`` raises; nothing half is left then.

    >>> sizes = {"num_steps": 3, "num_units": 5, "num_classes": 2}
    >>> def build():
    ...     print("reading ...")
    ...     return EventDataset([0, 2], [4, 1], [0, 1, 2], [0, 1], [1, 3], **sizes)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first, second = (cached(folder, {"source": "example"}, build) for _ in range(2))
    reading ...
    >>> second.units.tolist(), second.times.dtype
    ([4, 1], dtype('uint8'))
    """
    try:
        text = json.dumps(dict(key), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"key: expected plain values that JSON can hold, got: {error}; convert them") from None
    folder = Path(folder)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    target = folder / name
    dataset = _open(target, text)
    if dataset is not None:
        return dataset
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{name}.lock").open("wb")
    with lock, _alone(lock) as alone:
        dataset = _open(target, text)  # another process may have built it while this one waited
        if dataset is None:
            if alone:
                for left in folder.glob(f".{name}.*.tmp"):
                    shutil.rmtree(left, ignore_errors=True)
            dataset = _build(target, text, build)
    return dataset


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, for a key; raises ValueError for a file that cannot be read.

    >>> file_digest("absent.h5")
    Traceback (most recent call last):
    ValueError: absent.h5: expected a file, got: No such file or directory; check the path
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: expected a file, got: {error.strerror}; check the path") from None


def _build(target: Path, text: str, build: Callable[[], EventDataset]) -> EventDataset:
    """Build a dataset into a temporary folder beside the target, then put it into the target's place."""
    source = build()
    with (
        _writing(target.parent),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as scratch,
    ):
        fresh, old = Path(scratch, "fresh"), Path(scratch, "old")
        fresh.mkdir()
        _write(fresh, text, source)
        # Opened before it is in place: nobody can take it away from here on.
        dataset = _open(fresh, text)
        if dataset is None:
            raise OSError("what was written reads back otherwise")
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, old)  # broken, or of another version
        try:
            os.rename(fresh, target)
        except OSError as error:
            # Where files cannot be locked, another process may have been first; its cache is as good.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    return dataset


def _write(folder: Path, text: str, dataset: EventDataset) -> None:
    checksums = {}
    for name in _ARRAYS:
        array = getattr(dataset, name)
        if array is not None:
            checksums[name] = _write_array(folder / f"{name}.npy", _smallest(array))
    sizes = {name: getattr(dataset, name) for name in _SIZES}
    manifest = {"version": FORMAT_VERSION, "key": json.loads(text), "sizes": sizes, "checksums": checksums}
    manifest["checksum"] = _checksum_of(manifest)
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2))


def _write_array(path: Path, array: npt.NDArray[Any]) -> int:
    """Write a .npy file; return the CRC-32 of its bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    checksum = zlib.crc32(header.getvalue())
    # Not numpy's own writer: it does not report every failed write.
    with path.open("wb") as file:
        file.write(header.getvalue())
        content = array.data.cast("B") if array.size else memoryview(b"")
        for first in range(0, len(content), _BLOCK_BYTES):
            block = content[first : first + _BLOCK_BYTES]
            file.write(block)
            checksum = zlib.crc32(block, checksum)
    return checksum


def _open(folder: Path, text: str) -> EventDataset | None:
    """Open a cache; None where there is none, or one that is broken, of another version or of another key."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if manifest.pop("checksum") != _checksum_of(manifest):
            return None
        if manifest["version"] != FORMAT_VERSION or manifest["key"] != json.loads(text):
            return None
        arrays = {}
        for name, checksum in manifest["checksums"].items():
            path = folder / f"{name}.npy"
            if _checksum(path) != checksum:
                return None
            arrays[name] = np.load(path, mmap_mode="r" if name in _MAPPED else None, allow_pickle=False)
        return EventDataset(**arrays, **manifest["sizes"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _checksum_of(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _smallest(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array in the smallest integer type that holds its values."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    dtype = np.result_type(np.min_scalar_type(low), np.min_scalar_type(high))
    return np.ascontiguousarray(array, dtype if dtype.kind in "iu" else array.dtype)


@contextlib.contextmanager
def _alone(lock: io.BufferedWriter) -> Iterator[bool]:
    """Hold a lock that the system lets go when the process ends; False where the file system has no locks."""
    locked = fcntl is not None
    try:
        if locked:
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        locked = False
    yield locked


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"{folder}: expected room to write a cache, got: {reason}; free some space or choose another folder"
        ) from error
