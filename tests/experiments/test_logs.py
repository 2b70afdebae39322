"""TensorBoard logs: what is written, once, also after an interruption, and the word for a missing package."""

import sys
from pathlib import Path

import pytest
import torch.utils

from lsc_snn.experiments import logs
from lsc_snn.experiments.train import train
from run_cases import StopError, contents, numbers, stop_at


class Recorder:
    """Stands in for torch's SummaryWriter, so that the test needs no tensorboard: a line for each scalar."""

    def __init__(self, folder):
        self.folder, self.lines = folder, []

    def add_scalar(self, name, value, step):
        self.lines.append(f"{step} {name} {value}")

    def flush(self):
        folder = Path(self.folder)
        folder.mkdir(exist_ok=True)
        (folder / f"events.out.tfevents.{id(self)}").write_text("\n".join(self.lines))

    def close(self):
        self.flush()


def test_a_resumed_run_has_every_epoch_once(configure, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "summary_writer", lambda: Recorder)
    config = configure(epochs=3)
    with pytest.raises(StopError):
        train(config, splits, tmp_path / "a", tensorboard=True, on_epoch=stop_at(2))
    result = train(config, splits, tmp_path / "a", tensorboard=True, resume=True)
    (file,) = (tmp_path / "a" / "tensorboard").iterdir()
    lines = [line.split() for line in file.read_text().splitlines()]
    losses = [(int(step), float(value)) for step, name, value in lines if name == "validation_loss"]
    assert losses == [(row.epoch, row.validation_loss) for row in result.history]
    norms = [float(value) for _, name, value in lines if name == "gradient_max/readout"]
    assert norms == [row.gradient_max[-1] for row in result.history]
    assert {name for _, name, _ in lines if name.startswith("rates/")} == {"rates/layers.0", "rates/layers.1"}
    assert numbers(train(config, splits, tmp_path / "b")) == numbers(result)


def test_event_files_can_be_read(configure, splits, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = train(configure(epochs=2), splits, tmp_path, tensorboard=True)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    got = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert got == [(row.epoch, pytest.approx(row.train_loss, rel=1e-6)) for row in result.history]


def test_without_tensorboard_nothing_is_written(configure, splits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    with pytest.raises(ImportError, match=r'pip install "lsc-snn\[tensorboard\]"'):
        train(configure(), splits, tmp_path / "run", tensorboard=True)
    assert contents(tmp_path) == {}
