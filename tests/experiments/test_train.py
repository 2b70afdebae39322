"""Training runs: that they learn, keep the best epoch, repeat bit for bit, and end well however they end."""

import csv
import json
import sys
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

import lsc_snn
from lsc_snn.experiments.checkpoint import load_network, read_checkpoint
from lsc_snn.experiments.data import shuffled
from lsc_snn.experiments.loop import evaluate
from lsc_snn.experiments.records import read_result
from lsc_snn.experiments.train import FILES, train
from lsc_snn.stabilize import stabilize
from run_cases import StopError, numbers, same_run, stop_at


def test_it_learns_and_writes_it_down(configure, splits, tmp_path):
    rows = []
    config = configure(epochs=6)
    result = train(config, splits, tmp_path / "new" / "run", on_epoch=rows.append)
    folder = tmp_path / "new" / "run"
    assert (result.status, result.reason, result.epochs) == ("finished", "all 6 epochs", 6)
    assert result.history == tuple(rows)
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1].train_loss < 0.5 * rows[0].train_loss
    assert result.validation.loss < 0.7 * result.initial.loss
    assert result.test.accuracy > 0.8
    others = {"stabilize.json", "refit.safetensors", "refit.json"}
    assert sorted(path.name for path in folder.iterdir()) == sorted(set(FILES) - others)
    assert read_result(folder) == result
    assert json.loads((folder / "config.json").read_text()) == config.to_dict()
    with open(folder / "metrics.csv") as file:
        table = list(csv.DictReader(file))
    assert [float(row["validation_loss"]) for row in table] == [row.validation_loss for row in rows]
    assert [float(row["gradient_max.readout"]) for row in table] == [row.gradient_max[2] for row in rows]
    assert [float(row["rate.layers.1"]) for row in table] == [row.rates[1] for row in rows]


def test_the_best_epoch_is_kept_and_tested(configure, splits, tmp_path):
    config = configure(epochs=8, learning_rate=0.1)
    result = train(config, splits, tmp_path)
    score = {0: (result.initial.accuracy, -result.initial.loss)}
    score |= {row.epoch: (row.validation_accuracy, -row.validation_loss) for row in result.history}
    assert result.best_epoch == max(score, key=lambda epoch: (score[epoch], -epoch))
    assert (result.validation.accuracy, -result.validation.loss) == score[result.best_epoch]
    assert read_checkpoint(tmp_path / "best.safetensors").epoch == result.best_epoch
    assert read_checkpoint(tmp_path / "last.safetensors").epoch == 8
    network, fabric = load_network(tmp_path), Fabric(accelerator="cpu", devices=1)
    assert evaluate(fabric, network, splits.test, config) == result.test
    assert evaluate(fabric, network, splits.validation, config) == result.validation


def test_the_last_epoch_is_kept_and_tested_where_that_is_asked_for(configure, splits, tmp_path):
    config = configure(epochs=8, learning_rate=0.1, patience=1, keep="last")
    result = train(config, splits, tmp_path / "last")
    best = train(replace(config, keep="best", patience=8), splits, tmp_path / "best")
    assert best.best_epoch < 8, "otherwise this test would show nothing"
    assert (result.status, result.epochs, result.best_epoch) == ("finished", 8, 8)
    assert result.history == best.history
    assert result.validation.loss == result.history[-1].validation_loss
    network, fabric = load_network(tmp_path / "last"), Fabric(accelerator="cpu", devices=1)
    assert evaluate(fabric, network, splits.test, config) == result.test
    refitted = train(replace(config, refit=True), splits, tmp_path / "refit")
    assert len(refitted.refit) == 8


def test_a_network_is_stabilised_before_training(configure, splits, tmp_path):
    config = configure(target="half", epochs=1)
    result = train(config, splits, tmp_path / "half")
    report = json.loads((tmp_path / "half" / "stabilize.json").read_text())
    assert result.stabilized is report["converged"]
    assert result.radii == report["after"]
    assert distance_to_half(report["after"]) < 0.5 * distance_to_half(report["before"])
    network = lsc_snn.Network(config.network, seed=config.seed)
    batch, _ = splits.train.batch(shuffled(50, 0, 0)[:32])
    stabilize(network, batch, target="half", generator=torch.Generator().manual_seed(0))
    assert evaluate(Fabric(accelerator="cpu", devices=1), network, splits.validation, config) == result.initial


def distance_to_half(radii):
    return max(abs(radius - 0.5) for radius in [radii["encoder"], *radii["time"], *radii["depth"]])


def test_an_untreated_network_is_measured(configure, splits, tmp_path):
    config = configure(epochs=1)
    result = train(config, splits, tmp_path)
    batch, _ = splits.train.batch(shuffled(50, 0, 0)[:32])
    network = lsc_snn.Network(config.network, seed=config.seed)
    measured = lsc_snn.measure(network, batch, generator=torch.Generator().manual_seed(0))
    assert result.radii == measured.to_dict()
    assert result.stabilized is None
    assert evaluate(Fabric(accelerator="cpu", devices=1), network, splits.validation, config) == result.initial


def test_same_seed_same_bits(configure, splits, tmp_path):
    config = configure(target="half")
    before = torch.get_rng_state()
    results = []
    for name in "ab":
        results.append(numbers(train(config, splits, tmp_path / name)))
        with torch.random.fork_rng([]):
            torch.rand(3)
    assert results[0] == results[1]
    assert same_run(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/best.safetensors").read_bytes() == (tmp_path / "b/best.safetensors").read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    other = train(replace(config, seed=1), splits, tmp_path / "c")
    assert other.history[0].train_loss != results[0].history[0].train_loss


class Counted:
    """A dataset that counts how often each sample is read."""

    def __init__(self, dataset):
        self.dataset, self.reads = dataset, [0] * len(dataset)

    def __len__(self):
        return len(self.dataset)

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def batch(self, indices):
        for index in indices:
            self.reads[index] += 1
        return self.dataset.batch(indices)


def test_each_test_sample_is_read_once(configure, splits, tmp_path):
    counted = splits._replace(**{name: Counted(part) for name, part in splits._asdict().items()})
    config = configure(epochs=3, stabilize_batch=10)
    before = []
    with pytest.raises(StopError):
        train(config, counted, tmp_path, on_epoch=stop_at(2))
    before += counted.test.reads
    train(config, counted, tmp_path, resume=True)
    assert before == [0] * len(before)
    assert counted.test.reads == [1] * len(before)
    assert set(counted.validation.reads) == {1 + 3}
    assert sorted(set(counted.train.reads)) == [3, 4]


def test_early_stopping(configure, splits, tmp_path):
    """With a step too small to move a float32 weight, no epoch is better than the network before training."""
    config = configure(epochs=20, patience=3, learning_rate=1e-30, weight_decay=0.0)
    result = train(config, splits, tmp_path)
    assert (result.status, result.epochs, result.best_epoch) == ("stopped early", 3, 0)
    assert result.reason == "no better validation in 3 epochs"
    assert result.validation == result.initial


def test_divergence_ends_a_run_without_an_error(configure, splits, tmp_path):
    config = configure(epochs=5, learning_rate=1e30)
    result = train(config, splits, tmp_path)
    assert result.status == "diverged"
    assert " was inf in epoch 1, step" in result.reason or " was nan in epoch 1, step" in result.reason
    assert (result.epochs, result.best_epoch) == (0, 0)
    assert result.validation == result.initial
    assert read_result(tmp_path) == result
    assert all(torch.isfinite(value).all() for value in load_network(tmp_path).state_dict().values())
    assert train(config, splits, tmp_path, resume=True) == result


def test_divergence_after_an_epoch(configure, splits, tmp_path, monkeypatch):
    """A validation loss of NaN, after parameters went wrong in the last step, is no epoch to keep."""
    config = configure(epochs=4)

    def evaluate_badly(fabric, network, dataset, config):
        got = evaluate(fabric, network, dataset, config)
        evaluations.append(got)
        return replace(got, loss=float("nan")) if len(evaluations) == 3 else got

    evaluations = []
    monkeypatch.setattr(sys.modules[train.__module__], "evaluate", evaluate_badly)
    result = train(config, splits, tmp_path)
    assert (result.status, result.reason) == ("diverged", "validation loss was nan after epoch 2")
    assert result.epochs == 1
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2


def test_weight_decay_is_for_matrices_alone(configure, splits, tmp_path):
    plain = configure(epochs=1, batch_size=50, learning_rate=0.01, weight_decay=0.0)
    networks = []
    for decay in (0.0, 0.5):
        train(replace(plain, weight_decay=decay), splits, tmp_path / str(decay))
        networks.append(read_checkpoint(tmp_path / str(decay) / "last.safetensors").network)
    start = lsc_snn.Network(plain.network, seed=0).state_dict()
    for name, value in start.items():
        shrunk = 0.01 * 0.5 * value if value.ndim > 1 else torch.zeros_like(value)
        torch.testing.assert_close(networks[0][name] - networks[1][name], shrunk, rtol=1e-2, atol=1e-6)
