"""What a training run is made of: one frozen configuration, checked when it is made, that can be written to JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsc_snn import _checks
from lsc_snn.datasets.augment import Augmentation
from lsc_snn.experiments.files import read_json
from lsc_snn.network import NetworkConfig
from lsc_snn.theory import Target

READOUTS = ("mean", "last", "max", "sum")
INITIALISATIONS = ("orthogonal", "glorot", "he", "lsuv", "fluctuation")
"""What a network may be initialised by instead of being stabilised: functions of ``lsc_snn.baselines``."""
OPTIMIZERS = ("adamw", "adabelief")
SCHEDULES = ("none", "cosine", "plateau")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
KEEPS = ("best", "last")
_CHOICES = {"keep": KEEPS, "readout": READOUTS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
_COUNTS = ("seed", "epochs", "batch_size", "patience", "stabilize_batch", "plateau_epochs", "bptt_steps")
_MAY_BE_NONE = ("bptt_steps", "gradient_clip")
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
    """Step size, before a schedule lowers it."""
    weight_decay: float = 1e-4
    """Decoupled weight decay, on the weight matrices only: time constants and thresholds must not drift to zero."""
    patience: int = 10
    """Epochs without a better validation result after which the run stops."""
    readout: str = "mean"
    """How the output's valid steps become one score for each class: their "mean" or "sum", the "last", or the "max".

    A text is scored at every step instead.
    """
    gradient_clip: float | None = None
    """Largest norm of the whole gradient; None, because clipping hides what stabilising mends."""
    stabilize_batch: int = 32
    """Training samples on which radii are measured, and to which the network is stabilised or initialised."""
    initialisation: str | None = None
    """Instead of a target, an initialisation of ``lsc_snn.baselines``: one of ``INITIALISATIONS``."""
    optimizer: str = "adamw"
    """"adamw" or "adabelief"."""
    lookahead: bool = False
    """Whether slow weights follow the optimiser's (Lookahead, k = 6, alpha = 0.5)."""
    schedule: str = "none"
    """The learning rate of an epoch: constant, "cosine" (half a cosine from full to zero over ``epochs``), or "plateau"
    (times ``plateau_factor`` after ``plateau_epochs`` epochs without better validation)."""
    plateau_epochs: int = 5
    """See ``schedule``; without effect where ``patience`` is not larger."""
    plateau_factor: float = 0.5
    """See ``schedule``; above 0 and below 1."""
    rate_band: tuple[float, float] | None = None
    """Firing rates, in spikes per unit and valid step, outside of which a layer is penalised; None for no penalty."""
    rate_strength: float = 1.0
    """Weight of that penalty in the loss (``losses.rate_penalty``)."""
    augment: Augmentation | None = None
    """How training samples are changed, each time that the network meets them."""
    bptt_steps: int | None = None
    """Of a text: steps between two optimiser steps, after which the state goes on without its gradient (truncated
    back-propagation through time). None for samples, which are never cut."""
    precision: str = "32-true"
    """"32-true", or "bf16-mixed" or "16-mixed": matrix products in half precision, on a GPU."""
    refit: bool = False
    """Whether, once validation has chosen the epoch, a new network is trained for as many epochs from the same seed on
    train and validation together, and tested in place of the first."""
    track_test: bool = False
    """Whether the test samples are also evaluated after every epoch. The highest accuracy is recorded as
    ``best_on_test``, for comparison with publications that choose the epoch so; nothing here is chosen by it."""
    keep: str = "best"
    """The epoch that is tested: the "best" on validation, or the "last", where the schedule is to be run to its end and
    validation chooses settings only; then ``patience`` has no effect."""

    def __post_init__(self) -> None:
        """Check every value, and write it as a plain Python number where it is one."""
        if not isinstance(self.network, NetworkConfig):
            raise TypeError(f"network: expected a NetworkConfig, got {type(self.network).__name__}; build one")
        _check_json(self.network.layer)
        object.__setattr__(self, "network", _with_plain_numbers(self.network))
        for name in _COUNTS:
            if getattr(self, name) is not None or name not in _MAY_BE_NONE:
                _checks.check_count(name, getattr(self, name), 0 if name == "seed" else 1)
                object.__setattr__(self, name, int(getattr(self, name)))
        _check_not_negative("weight_decay", self.weight_decay)
        for name in ("learning_rate", "plateau_factor", "rate_strength", "gradient_clip"):
            if getattr(self, name) is not None or name not in _MAY_BE_NONE:
                _checks.check_positive(name, getattr(self, name))
                object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "weight_decay", float(self.weight_decay))
        if self.plateau_factor >= 1:
            raise ValueError(f"plateau_factor: expected a number above 0 and below 1, got {self.plateau_factor}")
        for name, choices in _CHOICES.items():
            _checks.check_in(name, getattr(self, name), choices)
        for name in ("lookahead", "refit", "track_test"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {type(getattr(self, name)).__name__}")
        object.__setattr__(self, "target", parse_target(self.target))
        self._check_initialisation()
        if self.rate_band is not None:
            object.__setattr__(self, "rate_band", _band(self.rate_band))
            if not self.network.spiking:
                raise ValueError(f"rate_band: expected a spiking network with it, got {self.network.neuron}; leave it")
        if not isinstance(self.augment, Augmentation | None):
            raise TypeError(f"augment: expected an Augmentation or None, got {type(self.augment).__name__}")

    def _check_initialisation(self) -> None:
        if self.initialisation is None:
            return
        _checks.check_in("initialisation", self.initialisation, INITIALISATIONS)
        if self.target is not None:
            got = f"{self.initialisation!r} and the target {target_label(self.target)!r}"
            raise ValueError(f"initialisation: expected it or a target, got {got}; leave one out")
        if self.initialisation == "fluctuation" and not self.network.spiking:
            raise ValueError(f"initialisation: expected a spiking network for 'fluctuation', got {self.network.neuron}")

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
        if values.get("augment") is not None:
            values["augment"] = Augmentation(**_known("config augment", values["augment"], Augmentation))
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


def arm_of(value: Any) -> dict[str, Any]:
    """Return what an arm of a comparison sets in a configuration, from a target or the name of an initialisation.

    Raises TypeError or ValueError as ``parse_target`` does.

    >>> arm_of("half"), arm_of("lsuv")
    ({'target': 'half', 'initialisation': None}, {'target': None, 'initialisation': 'lsuv'})
    """
    if isinstance(value, str) and value in INITIALISATIONS:
        return {"target": None, "initialisation": value}
    return {"target": parse_target(value), "initialisation": None}


def arm_label(config: TrainConfig) -> str:
    """Return the name of a configuration's arm in tables and folders: its initialisation, or ``target_label``."""
    return target_label(config.target) if config.initialisation is None else config.initialisation


def target_label(target: TargetOption) -> str:
    """Return the name of a target in tables and folders.

    >>> target_label(None), target_label("half"), target_label((0.9, 0.1))
    ('untreated', 'half', '0.9,0.1')
    """
    if target is None:
        return "untreated"
    return target if isinstance(target, str) else f"{target[0]},{target[1]}"


def check_keys(what: str, given: Mapping[Any, Any], known: Collection[str]) -> None:
    """Raise ValueError for a key that is not known, and name the nearest known one.

    >>> check_keys("grid", {"depth": [2]}, {"data", "depths"})
    Traceback (most recent call last):
    ValueError: grid: expected known keys, got 'depth'; did you mean 'depths'?
    """
    for key in given:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), sorted(known), n=1, cutoff=0.0)[0]
            raise ValueError(f"{what}: expected known keys, got {key!r}; did you mean {nearest!r}?")


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


def _band(band: Any) -> tuple[float, float]:
    """Return a band of rates as two floats; raises TypeError or ValueError unless 0 <= low <= high."""
    if not isinstance(band, tuple | list) or len(band) != 2 or not all(map(_checks.is_number, band)):
        raise TypeError(f"rate_band: expected two numbers (low, high), got {band!r}; pass (0.01, 0.2)")
    low, high = map(float, band)
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"rate_band: expected 0 <= low <= high, got {band}; pass (0.01, 0.2), or equal ones")
    return low, high


def _with_plain_numbers(network: NetworkConfig) -> NetworkConfig:
    """Return the network with Python's numbers in place of NumPy's."""
    counts = ("num_inputs", "num_classes", "num_layers", "num_units")
    plain: dict[str, Any] = {name: int(getattr(network, name)) for name in counts}
    tau = None if network.readout_tau is None else float(network.readout_tau)
    return dataclasses.replace(network, **plain, dropout=float(network.dropout), readout_tau=tau)


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
    check_keys(what, data, fields)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ValueError(f"{what}: expected the key {name!r}, got {sorted(data)}; add it")
    return dict(data)
