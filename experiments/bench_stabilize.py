"""Benchmarks of stabilize: fast against the published procedure, and fast at the size of a speech network.

Run as a module with one JSON object, the arguments of ``large_row``, it prints that row and the peak memory of the
process, which has done nothing else.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lsc_snn.events import EventBatch
from lsc_snn.experiments.bench_radius import DENSITY, random_events
from lsc_snn.experiments.bench_table import Row, Table, joined, ratio
from lsc_snn.network import Network, NetworkConfig
from lsc_snn.stabilize import RATE_BAND, StabilizeReport, stabilize

RATES = {"fast": (1e-6, 1.0), "paper": (0.0, 1.0)}
"""Rate bands of the comparison: the published procedure does not look at rates, ours may at least not end silent."""
THRESHOLD = 0.1
"""At the library's default of 1 the published procedure soon silences these networks, and cannot wake them again."""


class Small(NamedTuple):
    """A network on which the published procedure can be run to its end."""

    num_units: int
    max_sweeps: int
    num_layers: int = 2
    num_inputs: int = 100
    num_steps: int = 50
    batch: int = 16


class Large(NamedTuple):
    """A network of the size of those on the Spiking Heidelberg Digits."""

    num_layers: int = 5
    num_units: int = 256
    num_inputs: int = 700
    num_steps: int = 250
    batch: int = 32


def procedures_table(sizes: Sequence[Small], *, tolerance: float = 0.08, target: str = "half") -> Table:
    """Return two rows a size, one for each procedure, from the same initial weights on the same batch."""
    rows = [row for size in sizes for row in _procedure_rows(size, tolerance, target)]
    columns = ("units", "procedure", "seconds", "sweeps", "converged", "worst error", "firing rates", "paper / fast")
    first = sizes[0]
    return Table(
        "procedures",
        "stabilize: fast against the published procedure",
        columns,
        tuple(rows),
        f"{first.num_layers} layers of recurrent ALIF, threshold {THRESHOLD:g}, {first.num_inputs} channels, "
        f"{first.num_steps} steps, batch {first.batch}, {100 * DENSITY:g} % random events; target {target}, tolerance "
        f"{tolerance:g}. The published procedure stops by its own rule (20 visits in a row within the tolerance), or "
        f"after {' and '.join(str(size.max_sweeps) for size in sizes)} sweeps; it may end at any firing rate, fast not "
        "at zero. Converged: every mean radius, over all samples and 8 steps, within the tolerance. Goal: over 100.",
    )


def _procedure_rows(size: Small, tolerance: float, target: str) -> list[Row]:
    events = random_events(size.num_steps, size.batch, size.num_inputs, DENSITY)
    layer = {"threshold": THRESHOLD}
    config = NetworkConfig(size.num_inputs, 10, size.num_layers, size.num_units, "ALIF", layer=layer)

    def run(procedure: str, max_sweeps: int) -> StabilizeReport:
        options: dict[str, Any] = {"procedure": procedure, "max_sweeps": max_sweeps, "rate_band": RATES[procedure]}
        return stabilize(Network(config), events, target=target, tolerance=tolerance, **options)

    run("fast", 1)  # what torch sets up at its first use is nobody's time
    # Fast thrice, around the long run of the other, for a median; the procedure itself is deterministic.
    fast = [run("fast", 50)]
    paper = run("paper", size.max_sweeps)
    fast += [run("fast", 50), run("fast", 50)]
    seconds = {"fast": statistics.median(report.seconds for report in fast), "paper": paper.seconds}
    least = "" if paper.converged else "> "
    rows: list[Row] = []
    for name, report in (("fast", fast[0]), ("paper", paper)):
        rows.append({"units": size.num_units, "procedure": name, "seconds": seconds[name], **_outcome(report)})
    rows[1]["paper / fast"] = f"{least}{ratio(seconds['paper'], seconds['fast']):.3g}"
    return rows


def large_row(neuron: str, target: str, data: str | None, sizes: Large) -> Row:
    """Stabilise one large network with the defaults of ``stabilize``; return what happened."""
    events, name = load_events(data, sizes)
    report = stabilize(network_of(neuron, events, sizes), events, target=target)
    return {"neuron": neuron, "target": target, "input": name, "seconds": report.seconds, **_outcome(report)}


def network_of(neuron: str, events: EventBatch, sizes: Large) -> Network:
    """Return the untreated network."""
    return Network(NetworkConfig(events.num_units, 20, sizes.num_layers, sizes.num_units, neuron))


def load_events(data: str | None, sizes: Large) -> tuple[EventBatch, str]:
    """Return a batch and what it is: of a folder of the SHD layout, cut after the last step, else random events.

    Raises ImportError without h5py and ValueError for a folder that cannot be read.
    """
    if data is None:
        events = random_events(sizes.num_steps, sizes.batch, sizes.num_inputs, DENSITY)
        return events, f"random events, {100 * DENSITY:g} %"
    from lsc_snn.datasets import EventLoader, load_folder

    training, _ = load_folder(data, num_steps=sizes.num_steps, crop=True)
    events = next(iter(EventLoader(training, sizes.batch, shuffle=True, seed=0)))[0]
    return events, Path(data).resolve().name


def large_table(
    sizes: Large, data: str | None, *, neurons: Sequence[str], targets: Sequence[str], threads: int
) -> Table:
    """Return one row for each neuron and target, and the peak memory of the first, run in a process of its own."""
    rows = [large_row(neuron, target, data, sizes) for neuron in neurons for target in targets]
    alone = run_alone(neurons[0], targets[0], data, sizes, threads)
    rows[0]["peak memory GB"] = alone["peak memory GB"]
    columns = (*(key for key in rows[1 % len(rows)] if key != "peak memory GB"), "peak memory GB")
    return Table(
        "stabilize",
        "stabilize, fast, at full size",
        columns,
        tuple(rows),
        f"{sizes.num_layers} x {sizes.num_units} recurrent, {sizes.num_inputs} channels, {sizes.num_steps} steps, "
        f"batch {sizes.batch}; tolerance 0.05, firing rates within {RATE_BAND[0]:g} to {RATE_BAND[1]:g}. Peak resident "
        "memory of a process that does nothing else, reading the data and torch itself included. Goals: "
        "converged in at most 10 s, under 1.5 GB.",
    )


def run_alone(neuron: str, target: str, data: str | None, sizes: Large, threads: int) -> dict[str, Any]:
    """Do as ``large_row`` in a new process; return its row, with the peak memory of that process."""
    request = {"neuron": neuron, "target": target, "data": data, "sizes": list(sizes), "threads": threads}
    done = subprocess.run(
        [sys.executable, "-m", "lsc_snn.experiments.bench_stabilize", json.dumps(request)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def peak_memory() -> int:
    """Return the largest resident memory that this process has had, in bytes.

    Linux hands the peak of ``getrusage`` down to a new process, so there the process's own high-water mark is read.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _outcome(report: StabilizeReport) -> Row:
    target, after = report.target, report.after
    wanted = {"time": target.time, "depth": target.depth, "encoder": target.depth, "decoder": 1.0}
    return {
        "sweeps": report.sweeps,
        "converged": report.converged,
        "worst error": max(abs(radius - wanted[kind]) for kind, _, radius in after.entries()),
        "firing rates": joined(after.rates.tolist()),
    }


def _main(request: dict[str, Any]) -> None:
    torch.set_num_threads(request["threads"])
    row = large_row(request["neuron"], request["target"], request["data"], Large(*request["sizes"]))
    print(json.dumps({**row, "peak memory GB": peak_memory() / 1e9}))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
