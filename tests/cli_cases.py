"""What the tests of the command line share: a command, its refusal, and recordings."""

import h5py
import numpy as np
import torch
from typer.testing import CliRunner

from lsc_snn._cli_app import app

SMALL = ("--layers", "2", "--units", "12", "--batch-size", "8", "--threads", "1")
SPEECH = ("--layers", "1", "--units", "6", "--batch-size", "4", "--bin-ms", "50", "--threads", "1")
QUICK = ("--units", "6", "--bin-ms", "50", "--epochs", "2", "--batch-size", "8", "--threads", "1")
ARMS = ("--depths", "1,2", "--targets", "none,half", "--seeds", "2", "--learning-rates", "0.01")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result):
    """Return the one line of a command that was refused."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("lsc-snn: ")
    assert "Traceback" not in line
    return line


def write_recordings(path, size, speakers, seed=0, **broken):
    """Write a small file of the SHD layout; ``broken`` replaces the values of a key."""
    rng = np.random.default_rng(seed)
    times = [np.sort(rng.uniform(0, 0.5, 40)).astype(np.float16) for _ in range(size)]
    times[0] = times[0][:0]  # a silent sample is valid
    units = [rng.integers(0, 700, len(sample)).astype(np.uint16) for sample in times]
    values = {"times": times, "units": units, "labels": np.arange(size) % 3, "speaker": np.arange(size) % speakers}
    values |= broken
    with h5py.File(path, "w") as file:
        for name, kind in (("times", np.float16), ("units", np.uint16)):
            if values[name] is not None:
                data = file.create_dataset(f"spikes/{name}", (size,), h5py.vlen_dtype(kind))
                for index, sample in enumerate(values[name]):
                    data[index] = sample
        file["labels"] = values["labels"]
        file["extra/speaker"] = values["speaker"]


def make_recordings(tmp_path):
    """Make a folder of recordings by three speakers."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    write_recordings(folder / "train.h5", 24, 3)
    write_recordings(folder / "test.h5", 6, 3, seed=1)
    return folder


def in_an_empty_folder(monkeypatch, tmp_path):
    """Work in an empty folder, and leave the number of threads as it was: an automatic fixture of some files."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
