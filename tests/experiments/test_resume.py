"""A run that is interrupted, dies at any write or is killed ends as if nothing had happened; so does one on two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lsc_snn.experiments import files
from lsc_snn.experiments.checkpoint import read_checkpoint
from lsc_snn.experiments.records import read_result
from lsc_snn.experiments.train import train
from run_cases import StopError, contents, numbers, same_run, stop_at

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
"""Of programs that import the small task."""


@pytest.mark.parametrize("epochs", [[1], [2], [1, 2, 3]])
def test_an_interrupted_run_ends_the_same(configure, splits, tmp_path, epochs):
    config = configure(target="half", epochs=4)
    whole = train(config, splits, tmp_path / "whole")
    for epoch in epochs:
        with pytest.raises(StopError):
            train(config, splits, tmp_path / "parts", resume=True, on_epoch=stop_at(epoch))
        assert read_checkpoint(tmp_path / "parts" / "last.safetensors").epoch == epoch
    rows = []
    resumed = train(config, splits, tmp_path / "parts", resume=True, on_epoch=rows.append)
    assert [row.epoch for row in rows] == list(range(epochs[-1] + 1, 5))
    assert numbers(resumed) == numbers(whole)
    assert same_run(tmp_path / "whole", tmp_path / "parts")


def test_death_at_any_write_leaves_a_run_that_ends_the_same(configure, splits, tmp_path, monkeypatch):
    config = configure(target="half", epochs=2, network={"num_layers": 1, "num_units": 6}, stabilize_batch=8)
    replaced, allowed = os.replace, 10**6

    def dying(source, destination):
        nonlocal allowed
        if allowed == 0:
            raise StopError
        allowed -= 1
        replaced(source, destination)

    monkeypatch.setattr(files.os, "replace", dying)
    whole = train(config, splits, tmp_path / "whole")
    writes = 10**6 - allowed
    assert writes > 12
    for write in range(writes):
        folder, allowed = tmp_path / str(write), write
        with pytest.raises(StopError):
            train(config, splits, folder)
        allowed = 10**6
        assert numbers(train(config, splits, folder, resume=True)) == numbers(whole)
        assert same_run(tmp_path / "whole", folder)
        assert not list(folder.glob(".*"))


def test_a_killed_process_ends_the_same(configure, splits, tmp_path):
    """SIGKILL at a moment of the machine's choosing."""
    config = configure(epochs=10)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    program = f"""
import json, time, torch
from run_cases import make_splits
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.train import train
torch.set_num_threads(1)
config = TrainConfig.from_dict(json.loads({json.dumps(config.to_dict())!r}))
train(config, make_splits(), {str(killed)!r}, on_epoch=lambda row: time.sleep(0.02 if row.epoch < 9 else 600))
"""
    process = subprocess.Popen([sys.executable, "-c", program], env=ENVIRONMENT)
    try:
        while process.poll() is None and not (killed / "best.json").exists():
            time.sleep(0.01)
        time.sleep(0.15)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "results.json").exists()
    assert read_checkpoint(killed / "last.safetensors").epoch < 10
    assert numbers(train(config, splits, killed, resume=True)) == numbers(train(config, splits, whole))
    assert same_run(killed, whole)


def test_a_finished_run_is_only_read(configure, splits, tmp_path):
    config = configure(epochs=2)
    result = train(config, splits, tmp_path)
    before = contents(tmp_path)
    rows = []
    assert train(config, splits, tmp_path, resume=True, on_epoch=rows.append) == result
    assert rows == []
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_two_processes_train_as_one(configure, splits, tmp_path):
    """Under torchrun, each step's gradient is that of the whole batch, whoever computed which share."""
    config = configure(epochs=2, network={"dropout": 0.0})
    program = tmp_path / "program.py"
    program.write_text(f"""
import json, torch
from run_cases import make_splits
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.train import train
torch.set_num_threads(1)
config = TrainConfig.from_dict(json.loads({json.dumps(config.to_dict())!r}))
train(config, make_splits(), {str(tmp_path / "two")!r})
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    two, one = read_result(tmp_path / "two"), train(config, splits, tmp_path / "one")
    for ours, theirs in zip(two.history, one.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-3)
        assert ours.gradient_mean == pytest.approx(theirs.gradient_mean, rel=1e-2)
        assert ours.rates == pytest.approx(theirs.rates, rel=1e-2)
    assert two.test.loss == pytest.approx(one.test.loss, rel=1e-2)
