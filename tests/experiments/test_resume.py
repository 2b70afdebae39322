"""A run that is interrupted, dies at any write or is killed ends as if nothing had happened; so does one on two."""

import os
import random
import subprocess
import sys

import pytest

import run_cases
from killing import ENVIRONMENT, killed, program_of
from lsc_snn.datasets.augment import Augmentation
from lsc_snn.experiments.checkpoint import read_checkpoint
from lsc_snn.experiments.records import read_result
from lsc_snn.experiments.train import train
from run_cases import StopError, contents, numbers, same_run, stop_at


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

    monkeypatch.setattr(os, "replace", dying)
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


ALL = {
    "target": "half",
    "optimizer": "adabelief",
    "lookahead": True,
    "schedule": "plateau",
    "plateau_epochs": 1,
    "rate_band": (0.05, 0.2),
    "augment": Augmentation(time_shift=2, dropout=0.1),
    "refit": True,
    "track_test": True,
}
"""Everything that has, or could have, a state."""


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_with_everything_goes_on_as_if_never_interrupted(configure, splits, tmp_path, epoch):
    config = configure(epochs=4, **ALL)
    whole = train(config, splits, tmp_path / "whole")
    with pytest.raises(StopError):
        train(config, splits, tmp_path / "parts", on_epoch=stop_at(epoch))
    assert numbers(train(config, splits, tmp_path / "parts", resume=True)) == numbers(whole)
    assert same_run(tmp_path / "whole", tmp_path / "parts")


def test_killed_processes_end_the_same(configure, splits, tmp_path):
    """SIGKILL in two sessions, one after the other, at moments of the machine's choosing."""
    config = configure(epochs=12, refit=True, lookahead=True, patience=12)
    whole = train(config, splits, tmp_path / "whole")
    for seconds in (0.0, 0.1):
        assert killed(config, tmp_path / "killed", "make_splits", seconds)
        assert not (tmp_path / "killed" / "results.json").exists()
    assert numbers(train(config, splits, tmp_path / "killed", resume=True)) == numbers(whole)
    assert same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["samples", "text"])
def test_killed_at_any_moment_a_run_ends_the_same(configure, tmp_path, case):
    """Four sessions, killed at random moments, from the first file that each writes on."""
    if case == "samples":
        config, name = configure(epochs=30, patience=30, **ALL), "make_splits"
    else:
        network = {"num_inputs": 4, "num_classes": 4, "neuron": "LSTM", "layer": {}, "num_layers": 1}
        config, name = configure(epochs=30, network=network, bptt_steps=5, batch_size=4, stabilize_batch=4), "make_text"
    whole = train(config, getattr(run_cases, name)(), tmp_path / "whole")
    moments = random.Random(0)
    kills = [killed(config, tmp_path / "killed", name, moments.uniform(0, whole.seconds / 3)) for _ in range(4)]
    assert sum(kills) >= 2
    assert numbers(train(config, getattr(run_cases, name)(), tmp_path / "killed", resume=True)) == numbers(whole)
    assert same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_finished_run_is_only_read(configure, splits, tmp_path):
    config = configure(epochs=2)
    result = train(config, splits, tmp_path)
    before = contents(tmp_path)
    rows = []
    assert train(config, splits, tmp_path, resume=True, on_epoch=rows.append) == result
    assert rows == []
    assert contents(tmp_path) == before


def launched(config, folder, splits="make_splits"):
    """Train on two processes under torchrun."""
    arguments = program_of(config, folder, splits)
    program = folder.with_suffix(".py")
    program.write_text(arguments[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    subprocess.run([*command, *arguments[2:]], check=True, env=ENVIRONMENT, capture_output=True)
    return read_result(folder)


def assert_agree(two, one):
    for ours, theirs in zip((*two.history, *(two.refit or ())), (*one.history, *(one.refit or ())), strict=True):
        for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            expected = getattr(theirs, name)
            assert getattr(ours, name) == (None if expected is None else pytest.approx(expected, rel=1e-5, abs=1e-6))
        for name in ("gradient_mean", "gradient_max", "rates"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-5)
    assert two.best_epoch == one.best_epoch
    assert two.test.loss == pytest.approx(one.test.loss, rel=1e-5, abs=1e-6)
    assert two.test.accuracy == one.test.accuracy
    assert two.speakers == one.speakers


def test_two_processes_train_as_one(configure, splits, tmp_path):
    """Under torchrun each step's gradient is that of the whole batch, dropout included, whoever computes which share.

    Batches of 7 leave one sample at the end of an epoch, for two processes.
    """
    config = configure(epochs=2, batch_size=7, network={"neuron": "GRU", "layer": {}, "dropout": 0.3})
    assert_agree(launched(config, tmp_path / "two"), train(config, splits, tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.parametrize("neuron", ["LIF", "ALIF", "LSNN", "LSTM", "LRU"])
def test_two_processes_train_as_one_with_everything(configure, splits, tmp_path, neuron):
    network = {"neuron": neuron, "layer": {}, "dropout": 0.3}
    options = ALL if neuron in ("LIF", "ALIF", "LSNN") else {**ALL, "rate_band": None}
    config = configure(epochs=3, batch_size=7, network=network, **options)
    assert_agree(launched(config, tmp_path / "two"), train(config, splits, tmp_path / "one"))


@pytest.mark.slow
def test_two_processes_read_a_text_as_one(configure, tmp_path):
    network = {"num_inputs": 4, "num_classes": 4, "neuron": "GRU", "layer": {}, "num_layers": 1}
    config = configure(epochs=3, network=network, bptt_steps=5, batch_size=5, stabilize_batch=4)
    assert_agree(
        launched(config, tmp_path / "two", "make_text"), train(config, run_cases.make_text(), tmp_path / "one")
    )
