"""A small grid for the tests of sweeps, and a pool that computes in this process."""

import json
import os
import signal
from pathlib import Path

from cli_cases import make_recordings
from lsc_snn.experiments.sweep_workers import Event, attempt, pack
from lsc_snn.experiments.sweep_yaml import sweep_of

TRAIN = {"epochs": 2, "batch_size": 8, "stabilize_batch": 8}
OUTPUTS = ("table.csv", "summary.md", "accuracy.png", "grid.json")
"""What is the same, byte for byte, however a sweep came to its end."""


def grid_values(recordings, **changes):
    return {
        "data": [{"folder": str(recordings), "label": "speech", "bin_ms": 50.0}],
        "networks": [{"neuron": "LIF", "num_units": 6}],
        "depths": [1],
        "targets": ["none", "glorot"],
        "seeds": 2,
        "learning_rates": [0.01, 0.1],
        "train": TRAIN,
        **changes,
    }


def make_sweep(recordings, **changes):
    return sweep_of(grid_values(recordings, **changes))


class HerePool:
    """Computes each run when its end is asked for, last in first out; ``stop_after`` runs it raises KeyboardInterrupt.

    ``before`` is called with each job first.
    """

    def __init__(self, folder, stop_after=None, before=lambda job: None):
        self.folder, self.stop_after, self.before = folder, stop_after, before
        self.waiting, self.done = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, job):
        self.waiting.append(job)

    def next(self):
        if len(self.done) == self.stop_after:
            raise KeyboardInterrupt
        job = self.waiting.pop()
        self.done.append(job.place)
        self.before(job)
        return Event("end", job, **attempt(pack(job, self.folder, None), threads=1))


def outputs(folder):
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def dies_once(text, threads):
    """Do as ``attempt``, but kill the process after the third epoch, the first time that this happens."""
    marker = Path(json.loads(text)["source"]["folder"]) / "killed"

    def kill(epoch):
        if epoch == 3 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return attempt(text, threads, kill)


__all__ = ["OUTPUTS", "HerePool", "alive", "dies_once", "grid_values", "make_recordings", "make_sweep", "outputs"]
