"""The configuration: a round trip through JSON, and one line for what it does not take."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from lsc_snn import NetworkConfig
from lsc_snn.datasets.augment import Augmentation
from lsc_snn.experiments.config import TrainConfig, arm_label, arm_of, read_config, target_label

NETWORK = NetworkConfig(num_inputs=8, num_classes=2, layer={"tau": [5.0, 6.0], "reset": "hard"}, num_units=2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "balanced", "seed": 3, "gradient_clip": 1},
        {"target": (0.25, 1), "readout": "last", "learning_rate": 1 / 3, "patience": 2, "stabilize_batch": 5},
        {"target": "0.9, 0.1", "readout": "max", "weight_decay": 0, "epochs": 1, "batch_size": 7},
        {"seed": np.int64(4), "learning_rate": np.float32(0.5)},
        {"initialisation": "lsuv", "optimizer": "adabelief", "lookahead": True, "schedule": "cosine", "readout": "sum"},
        {"schedule": "plateau", "plateau_epochs": np.int64(3), "plateau_factor": 0.1, "precision": "bf16-mixed"},
        {"rate_band": [0, 0.2], "rate_strength": 3, "refit": True, "track_test": True, "bptt_steps": 35},
        {"augment": Augmentation(time_shift=3, dropout=0.1)},
        {"network": NetworkConfig(8, 2, neuron="GRU", readout_tau=None)},
        {"network": NetworkConfig(np.int64(8), np.int32(2), dropout=np.float64(0.5), readout_tau=5)},
    ],
)
def test_round_trip(options):
    config = TrainConfig(**{"network": NETWORK, **options})
    text = json.dumps(config.to_dict(), allow_nan=False)
    again = TrainConfig.from_dict(json.loads(text))
    assert again == config
    assert json.dumps(again.to_dict()) == text


def test_what_is_left_out_takes_its_default():
    config = TrainConfig.from_dict({"network": {"num_inputs": 8, "num_classes": 2}, "epochs": 5})
    assert config == TrainConfig(NetworkConfig(num_inputs=8, num_classes=2), epochs=5)
    assert config.gradient_clip is None


def test_targets():
    targets = (None, "half", "1,0.5", [0.9, 0.1])
    labels = [target_label(TrainConfig(NETWORK, target=target).target) for target in targets]
    assert labels == ["untreated", "half", "1.0,0.5", "0.9,0.1"]


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        TrainConfig(NETWORK).epochs = 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs: expected an integer >= 1, got 0"),
        ({"epochs": 1.5}, TypeError, "epochs: expected an integer, got float"),
        ({"seed": -1}, ValueError, "seed: expected an integer >= 0, got -1"),
        ({"batch_size": True}, TypeError, "batch_size: expected an integer, got bool"),
        ({"patience": 0}, ValueError, "patience: expected an integer >= 1"),
        ({"stabilize_batch": 0}, ValueError, "stabilize_batch: expected an integer >= 1"),
        ({"learning_rate": 0}, ValueError, "learning_rate: expected a finite number above 0, got 0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate: expected a finite number above 0, got nan"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay: expected a finite number >= 0, got -0.1"),
        ({"weight_decay": "no"}, TypeError, "weight_decay: expected a number, got str"),
        ({"gradient_clip": 0.0}, ValueError, "gradient_clip: expected a finite number above 0"),
        ({"readout": "meen"}, ValueError, r"readout: expected one of .* got 'meen'; did you mean 'mean'\?"),
        ({"target": "haff"}, ValueError, r"target: expected one of .* got 'haff'; did you mean 'half'\?"),
        ({"target": (0.5, 3.0)}, ValueError, r"target depth: expected a radius in \(0, 2\], got 3.0"),
        ({"target": "0.5,x"}, ValueError, "target: expected two numbers 'time,depth', got 'x'"),
        ({"target": "1,2,1"}, ValueError, "target: expected a pair"),
        ({"initialisation": "xavier"}, ValueError, "initialisation: expected one of 'orthogonal', 'glorot', 'he'"),
        ({"initialisation": "he", "target": "half"}, ValueError, "initialisation: expected it or a target, got 'he'"),
        ({"optimizer": "adam"}, ValueError, r"optimizer: expected one of .* did you mean 'adamw'\?"),
        ({"schedule": None}, TypeError, "schedule: expected a string, got NoneType"),
        ({"plateau_factor": 1}, ValueError, "plateau_factor: expected a number above 0 and below 1, got 1.0"),
        ({"plateau_epochs": 0}, ValueError, "plateau_epochs: expected an integer >= 1"),
        ({"precision": 16}, TypeError, "precision: expected a string, got int"),
        ({"lookahead": 1}, TypeError, "lookahead: expected True or False, got int"),
        ({"refit": "yes"}, TypeError, "refit: expected True or False, got str"),
        ({"rate_band": 0.1}, TypeError, r"rate_band: expected two numbers \(low, high\), got 0.1"),
        ({"rate_band": (0.2, 0.1)}, ValueError, "rate_band: expected 0 <= low <= high"),
        ({"rate_band": (0.1, float("nan"))}, ValueError, "rate_band: expected 0 <= low <= high"),
        ({"rate_strength": 0}, ValueError, "rate_strength: expected a finite number above 0"),
        ({"augment": {"dropout": 0.1}}, TypeError, "augment: expected an Augmentation or None, got dict"),
        ({"bptt_steps": 0}, ValueError, "bptt_steps: expected an integer >= 1, got 0"),
        ({"target": 0.5}, TypeError, "target: expected a name, a pair or a Target, got float"),
    ],
)
def test_bad_values(options, error, message):
    with pytest.raises(error, match=message):
        TrainConfig(NETWORK, **options)


@pytest.mark.parametrize("options", [{"rate_band": (0.1, 0.2)}, {"initialisation": "fluctuation"}])
def test_what_needs_spikes_is_refused_without(options):
    with pytest.raises(ValueError, match="expected a spiking network"):
        TrainConfig(NetworkConfig(8, 2, neuron="LSTM"), **options)


def test_arms():
    arms = (None, "half", "0.9,0.1", "fluctuation")
    labels = [arm_label(TrainConfig(NETWORK, **arm_of(arm))) for arm in arms]
    assert labels == ["untreated", "half", "0.9,0.1", "fluctuation"]


def test_network_has_to_fit_into_json():
    with pytest.raises(TypeError, match="network: expected a NetworkConfig, got dict"):
        TrainConfig({"num_inputs": 8})
    for value in (torch.ones(2), float("inf"), object()):
        network = NetworkConfig(num_inputs=8, num_classes=2, num_units=2, layer={"tau": value})
        with pytest.raises(TypeError, match="network layer option 'tau': expected a number, a string or a list, got"):
            TrainConfig(network)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"networks": {}}, ValueError, r"config: expected known keys, got 'networks'; did you mean 'network'\?"),
        ({"epochs": 3}, ValueError, r"config: expected the key 'network', got \['epochs'\]; add it"),
        ({"network": {"num_inputs": 8, "num_clases": 2}}, ValueError, "config network: .* did you mean 'num_classes'"),
        ({"network": {"num_inputs": 8}}, ValueError, "config network: expected the key 'num_classes'"),
        ({"network": 3}, TypeError, "config network: expected a dict, got int"),
        ([], TypeError, "config: expected a dict, got list"),
        (
            {"network": {"num_inputs": 8, "num_classes": 2}, "augment": {"drop": 1}},
            ValueError,
            "config augment: expected known keys, got 'drop'; did you mean 'dropout'",
        ),
    ],
)
def test_bad_dicts(data, error, message):
    with pytest.raises(error, match=message):
        TrainConfig.from_dict(data)


def test_bad_files(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ValueError, match=r"config.json: expected a JSON file, got: No such file"):
        read_config(path)
    path.write_text('{"network": ')
    with pytest.raises(ValueError, match=r"config.json: expected JSON, got a broken file"):
        read_config(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"config.json: config: expected a dict, got list"):
        read_config(path)
    path.write_text(json.dumps(TrainConfig(NETWORK).to_dict()))
    assert read_config(path) == TrainConfig(NETWORK)
