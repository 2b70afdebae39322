"""Downloads and archives that end whole or not at all, and the checksums that tell an official file from another."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path

_CHUNK = 2**20
_HINT = "try again, or put the file there by hand"


def md5_of(path: Path) -> str:
    """Return the MD5 sum of a file: what the publishers of these datasets give; it guards against faults, not attacks.

    >>> md5_of(Path(os.devnull))
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_md5(path: Path, md5: str) -> None:
    """Raise ValueError, naming the file and both sums, unless its MD5 sum is ``md5``.

    >>> check_md5(Path(os.devnull), "d41d8cd98f00b204e9800998ecf8427e")
    """
    found = md5_of(path)
    if found != md5:
        raise ValueError(f"{path}: expected the MD5 sum {md5}, got {found}; remove the file and download it again")


def download(url: str, path: Path, md5: str, *, timeout: float = 60.0) -> None:
    """Download a file whole or not at all: beside its place under a hidden name, checked, then renamed.

    ``timeout`` in seconds is the longest silence of the server. Whatever goes wrong, an interrupt included, nothing is
    left. Raises ConnectionError, naming the file, where the server does not answer or breaks off, and ValueError where
    what came has another MD5 sum than ``md5``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            got, announced = 0, 0
            try:
                with urllib.request.urlopen(url, timeout=timeout) as response:
                    announced = int(response.headers.get("Content-Length") or 0)
                    while chunk := response.read(_CHUNK):
                        file.write(chunk)
                        got += len(chunk)
            except urllib.error.HTTPError as error:
                error.close()  # it is the open response
                raise ConnectionError(f"{path}: expected a download from {url}, got: {error}; {_HINT}") from error
            except (HTTPException, ConnectionError, TimeoutError, urllib.error.URLError) as error:
                raise ConnectionError(
                    f"{path}: expected a download from {url}, got: {_line(error)}; {_HINT}"
                ) from error
            except OSError as error:
                raise OSError(
                    f"{path}: expected to write a download, got: {error.strerror}; make room for it"
                ) from error
            if got < announced:
                raise ConnectionError(f"{path}: expected {announced} bytes from {url}, got {got}; {_HINT}")
            file.flush()
            os.fsync(file.fileno())
        found = md5_of(part)
        if found != md5:
            raise ValueError(f"{path}: expected the MD5 sum {md5} from {url}, got {found}; {_HINT}")
        part.chmod(0o644)  # mkstemp makes files for their owner alone
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def extract(archive: Path, wanted: str) -> Path:
    """Take a file or folder of the name ``wanted`` out of a .zip or .tar.gz file, whole or not at all.

    It comes to lie beside the archive, and its path is returned. Raises ValueError, naming the archive, where that is
    broken, of another type, or does not hold ``wanted``.
    """
    target = archive.with_name(wanted)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".{wanted}.") as folder:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(folder)
            else:
                with tarfile.open(archive, "r:*") as packed_tar:
                    packed_tar.extractall(folder, filter="data")
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError) as error:
            raise ValueError(
                f"{archive}: expected a whole .zip or .tar.gz file, got: {_line(error)}; download it again"
            ) from error
        source = Path(folder) / wanted
        if not source.exists():
            found = ", ".join(sorted(path.name for path in Path(folder).iterdir())[:5]) or "nothing"
            raise ValueError(
                f"{archive}: expected {wanted} in it, got {found}; is this the archive of another dataset?"
            )
        try:
            os.replace(source, target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
    return target


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
