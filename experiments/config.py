"""What a training run is made of: one frozen configuration, checked when it is made, that can be written to JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsc_snn import _checks
from lsc_snn.experiments.files import read_json
from lsc_snn.network import NetworkConfig
from lsc_snn.theory import Target

READOUTS = ("mean", "last", "max")
TargetOption = str | tuple[float, float] | None
"""What a network is stabilised to before training: a name, a pair (time, depth), or None for untreated."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Raises TypeError or ValueError for a value of another type or out of its range.

    >>> config = TrainConfig(NetworkConfig(num_inputs=64, num_classes=10), target="0.9, 0.1", epochs=5)
    >>> config.target
    (0.9, 0.1)
    >>> TrainConfig.from_dict(config.to_dict()) == config
    True
    """

    network: NetworkConfig
    """The network; its options must be what JSON can hold."""
    target: TargetOption = None
    """Radii to stabilise to first: "one", "half", "balanced", "a,b", a pair (time, depth), or None (untreated)."""
    seed: int = 0
    """Fixes initial weights, the order of the samples and dropout."""
    epochs: int = 50
    """Most passes over the training samples."""
    batch_size: int = 64
    """Samples of each step, over all processes together."""
    learning_rate: float = 1e-3
    """Step size of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW, on the weight matrices only: time constants and thresholds must not drift to zero."""
    patience: int = 10
    """Epochs without a better validation result after which the run stops."""
    readout: str = "mean"
    """How the output's valid steps become one score for each class: their "mean", the "last", or the "max"."""
    gradient_clip: float | None = None
    """Largest norm of the whole gradient; None, because clipping hides what stabilising mends."""
    stabilize_batch: int = 32
    """Training samples on which radii are measured, and to which the network is stabilised."""

    def __post_init__(self) -> None:
        """Check every value, and write it as a plain Python number where it is one."""
        if not isinstance(self.network, NetworkConfig):
            raise TypeError(f"network: expected a NetworkConfig, got {type(self.network).__name__}; build one")
        _check_json(self.network.layer)
        object.__setattr__(self, "network", _with_plain_numbers(self.network))
        for name, minimum in (("seed", 0), ("epochs", 1), ("batch_size", 1), ("patience", 1), ("stabilize_batch", 1)):
            _checks.check_count(name, getattr(self, name), minimum)
            object.__setattr__(self, name, int(getattr(self, name)))
        _checks.check_positive("learning_rate", self.learning_rate)
        _check_not_negative("weight_decay", self.weight_decay)
        if self.gradient_clip is not None:
            _checks.check_positive("gradient_clip", self.gradient_clip)
            object.__setattr__(self, "gradient_clip", float(self.gradient_clip))
        for name in ("learning_rate", "weight_decay"):
            object.__setattr__(self, name, float(getattr(self, name)))
        _checks.check_in("readout", self.readout, READOUTS)
        object.__setattr__(self, "target", parse_target(self.target))

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, numbers and strings, as JSON would give them back."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration that ``to_dict`` wrote; what is left out takes its default.

        Raises ValueError for an unknown key, and names the nearest known one, and where a required one is missing;
        TypeError or ValueError for its values.

        >>> TrainConfig.from_dict({"network": {"num_inputs": 64, "num_classes": 10}, "epoch": 3})
        Traceback (most recent call last):
        ValueError: config: expected known keys, got 'epoch'; did you mean 'epochs'?
        """
        values = _known("config", data, cls)
        values["network"] = NetworkConfig(**_known("config network", values["network"], NetworkConfig))
        return cls(**values)


def read_config(path: Path) -> TrainConfig:
    """Read a configuration from a JSON file; raises ValueError, naming the file, for anything that is none."""
    data = read_json(path)
    try:
        return TrainConfig.from_dict(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def parse_target(value: Any) -> TargetOption:
    """Return a target as a configuration holds it: None, a name, or a pair of floats; a string "a,b" is a pair too.

    Raises TypeError or ValueError as ``lsc_snn.theory.Target.parse`` does.

    >>> parse_target("half"), parse_target("0.9,0.1"), parse_target([1, 1])
    ('half', (0.9, 0.1), (1.0, 1.0))
    """
    if value is None:
        return None
    if isinstance(value, str):
        if "," not in value:
            Target.parse(value, num_steps=1, num_layers=1)
            return value
        value = tuple(_number(part) for part in value.split(","))
    target = Target.parse(value, num_steps=1, num_layers=1)
    return target.time, target.depth


def target_label(target: TargetOption) -> str:
    """Return the name of a target in tables and folders.

    >>> target_label(None), target_label("half"), target_label((0.9, 0.1))
    ('untreated', 'half', '0.9,0.1')
    """
    if target is None:
        return "untreated"
    return target if isinstance(target, str) else f"{target[0]},{target[1]}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"target: expected two numbers 'time,depth', got {text.strip()!r}; write 0.5,0.5") from None


def _check_not_negative(name: str, value: float) -> None:
    if not _checks.is_number(value):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}; pass an int or a float")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: expected a finite number >= 0, got {value}; choose 0 for none")


def _with_plain_numbers(network: NetworkConfig) -> NetworkConfig:
    """Return the network with Python's numbers in place of NumPy's."""
    counts = ("num_inputs", "num_classes", "num_layers", "num_units")
    plain: dict[str, Any] = {name: int(getattr(network, name)) for name in counts}
    return dataclasses.replace(network, **plain, dropout=float(network.dropout), readout_tau=float(network.readout_tau))


def _check_json(options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        try:
            same = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise TypeError(
                f"network layer option {key!r}: expected a number, a string or a list, got {type(value).__name__}; "
                "pass a name, or tensor.tolist()"
            )


def _known(what: str, data: Any, kind: type[Any]) -> dict[str, Any]:
    """Return the data as a dict, after checking its keys against the fields of a dataclass."""
    if not isinstance(data, Mapping):
        raise TypeError(f"{what}: expected a dict, got {type(data).__name__}; pass what to_dict() gives")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            nearest = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)[0]
            raise ValueError(f"{what}: expected known keys, got {key!r}; did you mean {nearest!r}?")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ValueError(f"{what}: expected the key {name!r}, got {sorted(data)}; add it")
    return dict(data)
