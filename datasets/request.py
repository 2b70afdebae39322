"""One call of ``load``: where the files of a dataset lie, how missing ones are had, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lsc_snn.datasets.cache import cached, file_digest
from lsc_snn.datasets.cards import Card
from lsc_snn.datasets.download import check_md5, download, extract
from lsc_snn.datasets.events_dataset import EventDataset

ROOT_VARIABLE = "LSC_SNN_DATA"
"""Environment variable with the folder of all datasets."""


class Remote(NamedTuple):
    """A file at its publisher: address and MD5 sum."""

    url: str
    md5: str


def default_root() -> Path:
    """Return the folder of all datasets: that of the variable LSC_SNN_DATA, else data in the cache folder."""
    named = os.environ.get(ROOT_VARIABLE)
    return Path(named).expanduser() if named else cache_folder() / "data"


def cache_folder() -> Path:
    """Return the folder lsc_snn in the user's cache folder, which is that of XDG_CACHE_HOME, else .cache at home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lsc_snn"


@dataclass(frozen=True)
class Request:
    """What the caller of ``load`` asked for, and the services that every reader needs."""

    card: Card
    root: Path
    cache: Path
    validation: float | Sequence[int] | None = None
    seed: int = 0
    download: bool = False
    verify: bool = True

    @property
    def places(self) -> list[Path]:
        """Folders that may hold the files, in the order in which they are looked in; the first receives downloads."""
        return [*(self.root / folder for folder in self.card.folders), self.root]

    def find(self, *names: str) -> Path | None:
        """Return the first of these files or folders that is on disk, or None."""
        found = (folder / name for folder in self.places for name in names)
        return next((path for path in found if path.exists()), None)

    def provide(self, *names: str) -> Path:
        """Return the first of these files that is on disk; ValueError, which says what is expected where, if none is.

        >>> from lsc_snn.datasets.cards import CARDS
        >>> Request(CARDS[1], Path("absent"), Path("absent")).provide("shd_train.h5")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: absent/shd/shd_train.h5: expected this file of Spiking Heidelberg Digits, got none; ...
        """
        found = self.find(*names)
        if found is not None:
            return found
        fetch = f"or fetch it (download=True, or lsc-snn data show {self.card.name} --download)"
        how = f"put it there, {fetch}" if self.card.downloads else "put it there"
        raise ValueError(
            f"{self.places[0] / names[0]}: expected this file of {self.card.title}, got none; "
            f"{how}, or say with root or {ROOT_VARIABLE} where it is"
        )

    def fetch(self, name: str, remote: Callable[[], Remote]) -> Path:
        """Return an official file, checked: the one on disk, or with ``download`` that of its publisher.

        Raises ValueError where it has another MD5 sum, and what ``provide`` and ``download`` raise.
        """
        found = self.find(name)
        if found is None and self.download:
            url, md5 = remote()
            download(url, self.places[0] / name, md5)
        elif found is not None and self.verify:
            check_md5(found, remote().md5)
        return self.provide(name)

    def unpack(self, wanted: str, archive: str, remote: Callable[[], Remote]) -> Path:
        """Return a file or folder that lies on disk, or in an official archive on disk or at its publisher.

        What is unpacked already is used as it is; an archive is checked first. Raises like ``fetch`` and ``extract``.
        """
        found = self.find(wanted)
        if found is not None:
            return found
        if self.find(archive) is None and not self.download:
            return self.provide(wanted)
        return extract(self.fetch(archive, remote), wanted)

    def refuse_validation(self) -> None:
        """Raise ValueError if the caller asked for a validation part where there is an official one."""
        if self.validation is not None:
            raise ValueError(
                f"validation: expected nothing for {self.card.name}, which has one of its own, got {self.validation}; "
                "leave it out"
            )

    def cached(
        self, files: Iterable[Path], transform: Mapping[str, object], build: Callable[[], EventDataset]
    ) -> EventDataset:
        """Return what ``build`` makes, from the cache where the same files went through the same transform before."""
        key = {"dataset": self.card.name, "content": content_hash(files), **transform}
        return cached(self.cache, key, build)


def import_tonic() -> Any:
    """Return the package tonic, which knows addresses and checksums; ImportError, naming the extra, without it."""
    try:
        import tonic
    except ImportError as error:
        raise ImportError('this dataset needs tonic; install it with: pip install "lsc-snn[data]"') from error
    return tonic


def content_hash(files: Iterable[Path]) -> str:
    """Return a hash of the names and contents of some files, in their order.

    >>> len(content_hash([]))
    64
    """
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name}\0{file_digest(path)}\0".encode())
    return total.hexdigest()


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files below a folder whose names end so, sorted."""
    yield from sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file())
