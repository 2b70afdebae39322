"""Files that are written whole or not at all, and JSON that is read with a clear word when it is broken."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lsc_snn._files import write_bytes

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing keeps two processes from one folder there
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone_in", "make_folder", "read_json", "write_bytes", "write_csv", "write_json"]


def write_json(path: Path, data: Any) -> None:
    """Write data as indented JSON, whole or not at all; ValueError for NaN and infinities, which JSON cannot say."""
    write_bytes(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV, whole or not at all; None becomes an empty cell, a float all of its digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ValueError, naming the file, where it is missing or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: expected a JSON file, got: {error.strerror}; check the path") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got a broken file ({error}); remove it") from None


def make_folder(folder: Path) -> None:
    """Make a folder that can be written, with its parents; raises ValueError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: expected a folder to write in, got: {error.strerror}; choose another") from None


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a folder to this process; raises ValueError where another one has it, or no file in it can be locked."""
    try:
        lock = (folder / ".lock").open("wb")
    except OSError as error:
        raise ValueError(f"{folder}: expected a folder to write in, got: {error.strerror}; choose another") from None
    with lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{folder}: expected a folder that no other process works in, got a busy one; wait for that to end"
                ) from None
            except OSError as error:
                raise ValueError(
                    f"{folder}: expected a folder whose files can be locked, got: {error.strerror}; choose another"
                ) from None
        yield
