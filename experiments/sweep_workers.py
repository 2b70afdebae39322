"""Where the runs of a sweep are computed: in processes of this machine, which may die, or by Ray on a cluster."""

from __future__ import annotations

import collections
import errno
import functools
import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Protocol

import torch

from lsc_snn import datasets
from lsc_snn._checks import check_count
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.data import Splits
from lsc_snn.experiments.sweep import DataSource, Job
from lsc_snn.experiments.train import train

RETRIES = 3
"""How often a run goes on after its process was killed, before it counts as failed."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Event:
    """What a pool has to tell of a run."""

    kind: str
    """"epoch", "retry" (its process died, and it goes on in another), or "end"."""
    job: Job
    epoch: int = 0
    """At "epoch": complete epochs."""
    error: str = ""
    """At "end": why there is no result, in a line; "" if there is one. At "retry": how the process died."""
    full: bool = False
    """At "end": whether the disk is full."""


class Pool(AbstractContextManager["Pool"], Protocol):
    """Computes runs, several at once; to be left by ``with``, which ends those that are under way."""

    def submit(self, job: Job) -> None:
        """Take a run."""

    def next(self) -> Event:
        """Wait for the next event of the runs that were taken."""


def load_parts(source: DataSource, root: Path | None) -> Splits:
    """Return the parts of a data set; ``root`` is the folder of named ones. Raises what their readers raise."""
    return load_counted(source, root)[0]


def load_counted(source: DataSource, root: Path | None) -> tuple[Splits, int]:
    """Do as ``load_parts``, and also return how many spikes were cropped away."""
    options = dict(source.options)
    if source.folder is not None:
        validation = options.pop("validation", None)
        training, test = datasets.load_folder(source.folder, **options)
        return Splits(*datasets.hold_out(training, validation), test), training.num_dropped + test.num_dropped
    parts = datasets.load(source.name, root, **options)
    return Splits(parts.train, parts.validation, parts.test), getattr(parts, "num_dropped", 0)  # text has none


def pack(job: Job, folder: Path, root: Path | None) -> str:
    """Return a run as text for another process; paths are made absolute."""
    source = job.source
    where = None if source.folder is None else str(Path(source.folder).resolve())
    return json.dumps(
        {
            "folder": str((folder / job.place).resolve()),
            "root": None if root is None else str(root.resolve()),
            "source": {**asdict(source), "folder": where},
            "config": job.config.to_dict(),
        }
    )


def attempt(text: str, threads: int, on_epoch: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Do, or go on with, the run that a text describes, on so many threads; return what ``Event`` says of its end.

    Whatever goes wrong becomes one line: a run that fails must not end the others.
    """
    torch.set_num_threads(threads)
    given = json.loads(text)
    told = None if on_epoch is None else lambda row: on_epoch(row.epoch)
    try:
        splits = _parts(json.dumps(given["source"]), given["root"])
        train(TrainConfig.from_dict(given["config"]), splits, given["folder"], resume=True, on_epoch=told)
    except BrokenPipeError:
        raise  # whoever wanted the run is gone
    except Exception as error:
        line = " ".join(str(error).split()) or "no message"
        known = isinstance(error, ValueError | TypeError | OSError | ImportError)
        return {"error": line if known else f"{type(error).__name__}: {line}", "full": _disk_is_full(error)}
    return {"error": "", "full": False}


@functools.lru_cache(maxsize=2)
def _parts(source: str, root: str | None) -> Splits:
    return load_parts(DataSource(**json.loads(source)), None if root is None else Path(root))


def _disk_is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__context__
    return False


class LocalPool:
    """Processes of this machine, one run at a time each; a run whose process dies goes on in a new one.

    Raises TypeError or ValueError unless ``workers`` and ``threads``, those of each process, are integers >= 1.
    """

    def __init__(self, folder: Path, root: Path | None, *, workers: int = 1, threads: int = 1) -> None:
        check_count("workers", workers)
        check_count("threads", threads)
        self._folder, self._root, self._threads = folder, root, threads
        self._waiting: collections.deque[Job] = collections.deque()
        self._deaths: collections.Counter[str] = collections.Counter()
        self._workers: list[_Worker | None] = [None] * workers

    def __enter__(self) -> LocalPool:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all processes: every file that they wrote is whole."""
        for worker in filter(None, self._workers):
            worker.kill()

    @property
    def processes(self) -> dict[int, str]:
        """The place of the run that each process, by its id, works on."""
        return {w.process.pid: w.job.place for w in filter(None, self._workers) if w.job is not None and w.process.pid}

    def submit(self, job: Job) -> None:
        """Take a run."""
        self._waiting.append(job)
        self._assign()

    def next(self) -> Event:
        """Wait for the next event."""
        while True:
            busy = [worker for worker in filter(None, self._workers) if worker.job is not None]
            ready = connection.wait([handle for w in busy for handle in (w.link, w.process.sentinel)])
            for worker in busy:
                if worker.job is not None and (worker.link in ready or worker.process.sentinel in ready):
                    event = self._event(worker, worker.job)
                    self._assign()
                    return event

    def _assign(self) -> None:
        for index, worker in enumerate(self._workers):
            if not self._waiting:
                return
            if worker is None:
                worker = self._workers[index] = _Worker(self._threads)
            if worker.job is None:
                worker.start(self._waiting.popleft(), self._folder, self._root)

    def _event(self, worker: _Worker, job: Job) -> Event:
        told = worker.hear()
        if told is None:
            return self._died(worker, job)
        if "epoch" in told:
            return Event("epoch", job, epoch=told["epoch"])
        worker.job = None
        return Event("end", job, error=told["error"], full=told["full"])

    def _died(self, worker: _Worker, job: Job) -> Event:
        self._workers[self._workers.index(worker)] = None
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._deaths[job.place] += 1
        if self._deaths[job.place] > RETRIES:
            return Event("end", job, error=f"its process was {how}, {RETRIES + 1} times in all")
        self._waiting.appendleft(job)
        return Event("retry", job, error=f"its process was {how}")


class _Worker:
    """A process, the pipe to it, and the run that it works on."""

    def __init__(self, threads: int) -> None:
        context = get_context("spawn")
        self.link, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None

    def start(self, job: Job, folder: Path, root: Path | None) -> None:
        """Send it a run. That it has died meanwhile is found by ``hear``."""
        self.job = job
        try:
            self.link.send_bytes(pack(job, folder, root).encode())
        except OSError:
            self.process.kill()

    def hear(self) -> dict[str, Any] | None:
        """Return what it says, None if it is dead and said nothing more."""
        try:
            told: dict[str, Any] = json.loads(self.link.recv_bytes())
        except (EOFError, OSError):
            return None
        return told

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join()
        self.link.close()


def _serve(link: Any, threads: int) -> None:
    """Do the runs that come through a pipe, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            text = link.recv_bytes().decode()
        except EOFError:
            return
        outcome = attempt(text, threads, lambda epoch: link.send_bytes(json.dumps({"epoch": epoch}).encode()))
        link.send_bytes(json.dumps(outcome).encode())


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone, so that no two ever write the same run."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


class RayPool:
    """Tasks of a Ray cluster: Ray schedules and places them, and starts those again whose worker or node died.

    ``address`` is what ``ray.init`` takes: "auto", "HOST:PORT", "ray://HOST:PORT", or "local" for one of this machine
    alone. Each run asks for ``threads`` CPUs and ``gpus`` GPUs: by default 1 where the cluster has any, else 0. Folder,
    data and this package must be there under the same paths on every node. Raises ImportError without Ray, and
    ConnectionError where no cluster answers.
    """

    def __init__(
        self, folder: Path, root: Path | None, address: str, *, threads: int = 1, gpus: float | None = None
    ) -> None:
        check_count("threads", threads)
        self._ray = _import_ray()
        self._folder, self._root, self._threads = folder, root, threads
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(f"--ray: expected a cluster at {address!r}, got: {reason}; check it") from None
        if gpus is None:
            gpus = 1.0 if self._ray.cluster_resources().get("GPU", 0) else 0.0
        needs = {"num_cpus": threads, "num_gpus": gpus, "max_retries": RETRIES}
        self._task = self._ray.remote(**needs)(attempt)
        self._running: dict[Any, Job] = {}

    def __enter__(self) -> RayPool:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what is under way, and leave the cluster."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()

    def submit(self, job: Job) -> None:
        """Take a run."""
        self._running[self._task.remote(pack(job, self._folder, self._root), self._threads)] = job

    def next(self) -> Event:
        """Wait for the next run that ends."""
        (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
        job = self._running.pop(reference)
        try:
            told = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Event("end", job, error=f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return Event("end", job, error=told["error"], full=told["full"])


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError('--ray needs Ray; install it with: pip install "lsc-snn[ray]"') from error
    return ray
