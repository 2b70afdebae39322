"""Benchmarks of loading, and of an epoch of training, against tonic and snnTorch, on a generated file of SHD's layout.

Run as a module with one JSON object, it prints the rows of one loader and the peak memory of the process, which has
done nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lsc_snn.datasets import EventLoader, cached, file_digest, read_shd
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.experiments.bench_peers import Ours, Sizes, SnnTorch, draw_weights
from lsc_snn.experiments.bench_stabilize import peak_memory
from lsc_snn.experiments.bench_table import Table, ratio

NUM_UNITS, NUM_CLASSES = 700, 20
FIRST, LATER = "first epoch samples/s", "later samples/s"
OURS, DENSE, TONIC = "lsc_snn, events", "lsc_snn, dense tensors", "tonic"
OUR_TRAINING, THEIR_TRAINING = "lsc_snn", "snnTorch and tonic"
NOT_INSTALLED = "not installed: pip install 'lsc-snn[bench,data]'"


Measured = dict[str, Any]
"""A row of a table."""


class Recordings(NamedTuple):
    """Sizes of the generated file and of the batches; peers meet the first ``peer_samples`` samples of an epoch."""

    num_samples: int = 1000
    num_spikes: int = 8000
    seconds: float = 1.0
    batch: int = 64
    bin_ms: float = 4.0
    peer_samples: int = 512


FULL = Recordings(num_samples=8156, peer_samples=1024)
"""The training file of the Spiking Heidelberg Digits has as many samples, of about as many spikes."""


class Training(NamedTuple):
    """Sizes of the epoch of training."""

    recordings: Recordings = Recordings(num_samples=256, batch=32, bin_ms=10.0, peer_samples=256)
    num_units: int = 128
    num_layers: int = 2


def write_recordings(path: Path, sizes: Recordings, *, seed: int = 0) -> None:
    """Write random samples in the layout of SHD: float16 seconds, sorted, 16-bit units, a label and a speaker each.

    The length of a sample is uniform in half to all of ``seconds``, its spikes 3/4 to 5/4 of ``num_spikes``. A spike's
    unit is normal around a centre of its sample, a fifth of the channels wide, so that spikes of one unit in one step
    occur as in speech. Raises ImportError without h5py.
    """
    import h5py

    generator = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        times = file.create_dataset("spikes/times", (sizes.num_samples,), h5py.vlen_dtype(np.dtype("f2")))
        units = file.create_dataset("spikes/units", (sizes.num_samples,), h5py.vlen_dtype(np.dtype("u2")))
        for sample in range(sizes.num_samples):
            number = generator.integers(3 * sizes.num_spikes // 4, 5 * sizes.num_spikes // 4, endpoint=True)
            seconds = sizes.seconds * generator.uniform(0.5, 1.0)
            times[sample] = np.sort(generator.uniform(0, seconds, number).astype(np.float16))
            unit = generator.normal(NUM_UNITS * generator.uniform(0.2, 0.8), NUM_UNITS / 5, number)
            units[sample] = np.rint(unit).clip(0, NUM_UNITS - 1).astype(np.uint16)
        file["labels"] = np.arange(sizes.num_samples, dtype=np.uint16) % NUM_CLASSES
        file["extra/speaker"] = np.arange(sizes.num_samples, dtype=np.uint16) % 10
        file["extra/keys"] = np.array([f"class {label}".encode() for label in range(NUM_CLASSES)])


def folder_with(folder: Path, sizes: Recordings) -> Path:
    """Put a generated file where tonic looks for it."""
    _file(folder).parent.mkdir()
    write_recordings(_file(folder), sizes)
    return folder


def our_loader(folder: Path, sizes: Recordings) -> EventLoader:
    """Return a shuffled loader over the cached file ``shd_train.h5`` of tonic's folder; the first call builds it."""
    path = _file(folder)
    key = {"file": file_digest(path), "reader": "shd", "bin_ms": sizes.bin_ms}
    return EventLoader(
        cached(folder / "cache", key, lambda: read_shd(path, bin_ms=sizes.bin_ms, num_classes=NUM_CLASSES)),
        sizes.batch,
        shuffle=True,
    )


def tonic_loader(folder: Path, sizes: Recordings) -> Iterable[tuple[Tensor, Tensor]]:
    """Return a shuffled DataLoader over tonic's SHD class, unchanged, with ToFrame and PadTensors, time first.

    Of a downloaded archive it only asks whether it is there, so an empty one lies beside the generated file. Raises
    ImportError without tonic.
    """
    import tonic

    (folder / "SHD" / "shd_train.h5.zip").touch()
    frames = tonic.transforms.ToFrame(
        sensor_size=tonic.datasets.SHD.sensor_size,
        time_window=1000 * sizes.bin_ms,
        start_time=0,
        include_incomplete=True,
    )
    return torch.utils.data.DataLoader(
        tonic.datasets.SHD(str(folder), train=True, transform=frames),
        batch_size=sizes.batch,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
        collate_fn=tonic.collation.PadTensors(batch_first=False),
    )


def load_ours(folder: Path, sizes: Recordings) -> list[Measured]:
    """Load epochs as events, then one as dense tensors; return samples per second.

    The first epoch includes what comes before it: the digest of the file, reading it, and writing the cache.
    """
    _warm("h5py")
    start = time.perf_counter()
    loader = our_loader(folder, sizes)
    seen = sum(len(labels) for _, labels in loader)
    rates = [seen / (time.perf_counter() - start)]
    for dense in (False, True):
        start = time.perf_counter()
        for batch, _ in loader:
            if dense:
                batch.to_dense()
        rates.append(seen / (time.perf_counter() - start))
    first, later, as_tensors = rates
    return [{"loader": OURS, FIRST: first, LATER: later}, {"loader": DENSE, LATER: as_tensors}]


def load_tonic(folder: Path, sizes: Recordings) -> list[Measured]:
    """Load the first batches of two epochs; return samples per second."""
    _warm("tonic")
    rates = []
    start = time.perf_counter()
    loader = tonic_loader(folder, sizes)
    for _ in range(2):
        seen = 0
        for _, labels in loader:
            seen += len(labels)
            if seen >= sizes.peer_samples:
                break
        rates.append(seen / (time.perf_counter() - start))
        start = time.perf_counter()
    return [{"loader": TONIC, FIRST: rates[0], LATER: rates[1]}]


def loader_table(sizes: Recordings, *, threads: int) -> Table:
    """Return one row a contender; ours and tonic run in processes of their own, for their peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = folder_with(Path(name), sizes)
        rows = _run_alone(OURS, folder, sizes, threads)
        rows += _run_alone(TONIC, folder, sizes, threads) if _installed("tonic") else [missing("loader", TONIC)]
    if LATER in rows[-1]:
        for row in rows[:-1]:
            row["first / tonic"] = ratio(row[FIRST], rows[-1][FIRST]) if FIRST in row else None
            row["later / tonic"] = ratio(row[LATER], rows[-1][LATER])
    return Table(
        "loader",
        "Loading a file of SHD's layout, against tonic",
        ("loader", FIRST, LATER, "first / tonic", "later / tonic", "peak memory GB", "note"),
        tuple(rows),
        f"{sizes.num_samples} generated samples of about {sizes.num_spikes} spikes, {NUM_UNITS} channels, steps of "
        f"{sizes.bin_ms:g} ms, batch {sizes.batch}, shuffled, no worker processes; the file is in the system's cache. "
        f"tonic: its SHD class with ToFrame and PadTensors, the first {min(sizes.peer_samples, sizes.num_samples)} "
        "samples of an epoch. Our first epoch includes reading the file and writing the cache. Goals: 10 times tonic, "
        "first epoch included 3 times, less than 2 GB at the full size of SHD (--full).",
    )


class Classifier(nn.Module):
    """Spiking layers, and a linear readout of how often each unit of the last fires."""

    def __init__(self, body: nn.Module, num_units: int) -> None:
        super().__init__()
        self.body, self.readout = body, nn.Linear(num_units, NUM_CLASSES)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return scores (B, classes)."""
        scores: Tensor = self.readout(self.body(inputs).mean(0))
        return scores


def train(contender: str, folder: Path, sizes: Training) -> Measured:
    """Train two epochs with Adam, the data from the contender's own loader; return what they took, in seconds."""
    body_of: Any = Ours if contender == OUR_TRAINING else SnnTorch
    loader_of: Any = our_loader if contender == OUR_TRAINING else tonic_loader
    weights = draw_weights(Sizes(num_inputs=NUM_UNITS, num_units=sizes.num_units, num_layers=sizes.num_layers))
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        network = Classifier(body_of(weights), sizes.num_units)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    _warm("h5py" if contender == OUR_TRAINING else "tonic")
    seconds: list[float] = []
    data: list[float] = []
    start = time.perf_counter()
    loader = loader_of(folder, sizes.recordings)
    waits = [time.perf_counter() - start]
    for _ in range(2):
        for batch, labels in _timed(loader, waits):
            inputs = batch if isinstance(batch, EventBatch) else batch.squeeze(2).float()
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(inputs), labels)
            torch.autograd.backward(loss)
            optimizer.step()
        seconds.append(time.perf_counter() - start)
        data.append(sum(waits))
        waits = []
        start = time.perf_counter()
    return {
        "training": contender,
        "first epoch s": seconds[0],
        "of it data s": data[0],
        "second epoch s": seconds[1],
        "of that data s": data[1],
    }


def _timed(batches: Iterable[tuple[Any, Tensor]], waits: list[float]) -> Iterator[tuple[Any, Tensor]]:
    """Yield the batches, and append how long each was waited for, in seconds."""
    source = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(source, None)
        waits.append(time.perf_counter() - asked)
        if batch is None:
            return
        yield batch


def epoch_table(sizes: Training) -> Table:
    """Return one row a contender: this library, and a plain training script with snnTorch and tonic."""
    with tempfile.TemporaryDirectory() as name:
        folder = folder_with(Path(name), sizes.recordings)
        rows = [train(OUR_TRAINING, folder, sizes)]
        if _installed("tonic") and _installed("snntorch"):
            rows.append(train(THEIR_TRAINING, folder, sizes))
            for row in rows:
                row["second, against ours"] = ratio(row["second epoch s"], rows[0]["second epoch s"])
        else:
            rows.append(missing("training", THEIR_TRAINING))
    columns = ("first epoch s", "of it data s", "second epoch s", "of that data s", "second, against ours", "note")
    recordings = sizes.recordings
    return Table(
        "epoch",
        "An epoch of training, against a plain snnTorch script",
        ("training", *columns),
        tuple(rows),
        f"{recordings.num_samples} generated samples of about {recordings.num_spikes} spikes, steps of "
        f"{recordings.bin_ms:g} ms, batch {recordings.batch}; {sizes.num_layers} x {sizes.num_units} recurrent LIF of "
        "the same weights, a linear readout of the firing rates, cross-entropy, Adam. The script loads with tonic's "
        "SHD class, ToFrame and PadTensors and steps RLeaky through time, as snnTorch's tutorials do. Data: waiting "
        "for batches; in our first epoch, reading the file and writing the cache too.",
    )


def missing(column: str, contender: str) -> Measured:
    """Return the row of a contender that is not installed."""
    return {column: contender, "note": NOT_INSTALLED}


def _file(folder: Path) -> Path:
    return folder / "SHD" / "shd_train.h5"


def _installed(package: str) -> bool:
    # A module that is None cannot be imported, and find_spec raises for it.
    return sys.modules.get(package, package) is not None and importlib.util.find_spec(package) is not None


def _warm(package: str) -> None:
    """Import what would be imported within the measurement otherwise."""
    importlib.import_module(package)


def _run_alone(contender: str, folder: Path, sizes: Recordings, threads: int) -> list[Measured]:
    """Load in a new process; return its rows, the first with its peak memory."""
    request = {"contender": contender, "folder": str(folder), "sizes": list(sizes), "threads": threads}
    done = subprocess.run(
        [sys.executable, "-m", "lsc_snn.experiments.bench_loader", json.dumps(request)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows: list[Measured] = json.loads(done.stdout)
    return rows


def _main(request: dict[str, Any]) -> None:
    torch.set_num_threads(request["threads"])
    load = load_tonic if request["contender"] == TONIC else load_ours
    rows = load(Path(request["folder"]), Recordings(*request["sizes"]))
    rows[0]["peak memory GB"] = peak_memory() / 1e9
    print(json.dumps(rows))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
