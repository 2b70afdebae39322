"""Downloads from a server on this machine that behaves in all the ways in which servers do."""

import errno
import hashlib
import io
import os
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lsc_snn.datasets.download import check_md5, download, extract

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT: whole, cut short with and without an announced length, or not at all."""

    def do_GET(self) -> None:
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/silent-cut":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Serve on a free port of the loopback device."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_whole_file_arrives_and_nothing_else(server: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "data.bin"
    download(f"{server}/whole", target, MD5)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("cut", ConnectionError, "expected 1280000 bytes from .*, got 640000"),
        ("silent-cut", ValueError, f"expected the MD5 sum {MD5} from .*, got [0-9a-f]{{32}}"),
        ("absent", ConnectionError, "expected a download from .*, got: HTTP Error 404"),
    ],
)
def test_a_broken_download_leaves_nothing(
    server: str, tmp_path: Path, path: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"data\.bin: {message}") as caught:
        download(f"{server}/{path}", tmp_path / "data.bin", MD5)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_said(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_address[1]
    with pytest.raises(ConnectionError, match=r"data\.bin: expected a download from .*, got: .*refused"):
        download(f"http://127.0.0.1:{port}/whole", tmp_path / "data.bin", MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def __init__(self, handle: int, _: str) -> None:
            super().__init__()
            os.close(handle)

        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", Full)
    with pytest.raises(
        OSError, match=r"data\.bin: expected to write a download, got: No space left on device; make room"
    ):
        download(f"{server}/whole", tmp_path / "data.bin", MD5)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Response(io.BytesIO):
        def __init__(self) -> None:
            super().__init__()
            self.headers = {"Content-Length": "100"}

        def read(self, size: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response())
    with pytest.raises(KeyboardInterrupt):
        download("http://127.0.0.1/", tmp_path / "data.bin", MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_sum_names_file_and_both_sums(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    check_md5(path, MD5)
    path.write_bytes(CONTENT[1:])
    found = hashlib.md5(CONTENT[1:]).hexdigest()
    with pytest.raises(ValueError, match=rf"data\.bin: expected the MD5 sum {MD5}, got {found}"):
        check_md5(path, MD5)


def pack(archive: Path, name: str) -> None:
    """Make an archive with one file of this name."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr(name, CONTENT)
        return
    with tarfile.open(archive, "w:gz") as packed_tar:
        member = tarfile.TarInfo(name)
        member.size = len(CONTENT)
        packed_tar.addfile(member, io.BytesIO(CONTENT))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_gives_what_is_wanted_whole_or_nothing(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"data.{kind}"
    pack(archive, "Train/0/1.bin")
    assert extract(archive, "Train") == tmp_path / "Train"
    assert (tmp_path / "Train/0/1.bin").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Train", archive.name]
    assert extract(archive, "Train") == tmp_path / "Train", "another process may have been first"


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bad_archive_leaves_nothing(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"data.{kind}"
    pack(archive, "Test/0/1.bin")
    with pytest.raises(ValueError, match=rf"data\.{kind}: expected Train in it, got Test; is this the archive of"):
        extract(archive, "Train")
    whole = archive.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no archive at all" * 100, whole[:40] + b"\xff" * 40 + whole[80:]):
        archive.write_bytes(broken)
        with pytest.raises(
            ValueError, match=rf"data\.{kind}: expected a whole \.zip or \.tar\.gz file, got: "
        ) as caught:
            extract(archive, "Test")
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [archive]
