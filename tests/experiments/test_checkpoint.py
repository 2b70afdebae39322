"""Checkpoints: a round trip, bad files, and files that are whole or absent."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from cases import normal
from lsc_snn import Network
from lsc_snn.experiments import files
from lsc_snn.experiments.checkpoint import (
    Checkpoint,
    load_network,
    load_optimizer,
    load_parameters,
    optimizer_tensors,
    read_checkpoint,
    snapshot,
    write_checkpoint,
)


def trained(config, steps=2):
    """Return a network after a few steps of AdamW, the optimiser, and the names of the parameters."""
    network = Network(config.network, seed=3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for step in range(steps):
        advance(network, optimizer, step)
    return network, optimizer, {parameter: name for name, parameter in network.named_parameters()}


def advance(network, optimizer, step):
    optimizer.zero_grad()
    network.eval()(normal(9, 2, 8, seed=step, dtype=torch.float32)).square().mean().backward()
    optimizer.step()


@pytest.fixture
def checkpoint(configure):
    config = configure()
    network, optimizer, names = trained(config)
    state = snapshot(optimizer_tensors(optimizer, names))
    return Checkpoint(config, 2, {"note": [1.5, "inf"]}, snapshot(network.state_dict()), state)


def test_round_trip(checkpoint, tmp_path):
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, checkpoint)
    again = read_checkpoint(path)
    assert (again.config, again.epoch, again.info) == (checkpoint.config, checkpoint.epoch, checkpoint.info)
    for part in ("network", "optimizer"):
        expected, got = getattr(checkpoint, part), getattr(again, part)
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)
    beside = json.loads((tmp_path / "last.json").read_text())
    assert beside["epoch"] == 2
    assert beside["info"] == checkpoint.info
    assert len(load_file(path)) == len(checkpoint.network) + len(checkpoint.optimizer)


def test_the_same_checkpoint_is_the_same_file(checkpoint, tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        write_checkpoint(tmp_path / name, checkpoint)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_optimizer_goes_on_as_if_nothing_had_happened(configure, checkpoint):
    network, optimizer, _ = trained(configure())
    other = Network(checkpoint.config.network, seed=9)
    load_parameters(other, checkpoint.network, "a.safetensors")
    restored = torch.optim.AdamW(other.parameters(), lr=0.01)
    load_optimizer(restored, {parameter: name for name, parameter in other.named_parameters()}, checkpoint.optimizer)
    for step in range(2, 5):
        advance(network, optimizer, step)
        advance(other, restored, step)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def test_load_network(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "best.safetensors", checkpoint)
    for path in (tmp_path, str(tmp_path / "best.safetensors")):
        network = load_network(path)
        assert not network.training
        assert all(torch.equal(checkpoint.network[name], value) for name, value in network.state_dict().items())
    files.write_json(tmp_path / "config.json", checkpoint.config.to_dict())
    assert load_network(tmp_path).config == checkpoint.config.network


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1000, -1])
def test_truncated(checkpoint, tmp_path, kept):
    path = tmp_path / "best.safetensors"
    write_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:kept])
    message = r"best.safetensors: expected a whole safetensors file, got a broken one .*; remove it"
    with pytest.raises(ValueError, match=message) as caught:
        load_network(tmp_path)
    assert "\n" not in str(caught.value)


def test_foreign(checkpoint, tmp_path):
    path = tmp_path / "best.safetensors"
    with pytest.raises(ValueError, match=r"best.safetensors: expected a checkpoint, got no such file"):
        load_network(tmp_path)
    path.write_text("weights")
    with pytest.raises(ValueError, match=r"best.safetensors: expected a whole safetensors file, got a broken one"):
        load_network(tmp_path)
    save_file(checkpoint.network, path)
    with pytest.raises(ValueError, match=r"expected a checkpoint of lsc_snn, got another safetensors file"):
        load_network(tmp_path)
    for header in ("no json", "[]", '{"format": "lsc_snn checkpoint 2"}', '{"format": "lsc_snn checkpoint 1"}'):
        save_file(checkpoint.network, path, metadata={"lsc_snn": header})
        with pytest.raises(ValueError, match=r"expected a header of 'lsc_snn checkpoint 1', got another"):
            load_network(tmp_path)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"num_units": 13}, r"expected layers.0.alpha_raw of shape \(13,\), got \(12,\)"),
        ({"num_layers": 3}, r"expected layers.2.alpha_raw of shape \(12,\), got none"),
        ({"num_layers": 1}, r"expected layers.1.alpha_raw of shape none, got \(12,\)"),
    ],
)
def test_parameters_of_another_network(configure, checkpoint, tmp_path, network, message):
    other = Network(configure(network=network).network)
    before = snapshot(other.state_dict())
    with pytest.raises(ValueError, match=rf"x.safetensors: {message}"):
        load_parameters(other, checkpoint.network, tmp_path / "x.safetensors")
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_config_beside_it_of_another_run(configure, checkpoint, tmp_path):
    write_checkpoint(tmp_path / "best.safetensors", checkpoint)
    files.write_json(tmp_path / "config.json", configure(network={"num_units": 13}).to_dict())
    message = r"best.safetensors: expected a checkpoint of this run with network.num_units = 13, got 12"
    with pytest.raises(ValueError, match=message):
        load_network(tmp_path)


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def fail(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(KeyboardInterrupt):
            files.write_bytes(path, b"new and longer")
        assert path.read_bytes() == b"old"
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
