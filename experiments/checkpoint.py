"""Checkpoints in safetensors: parameters, optimiser state, and all else as JSON in the file's own header.

A checkpoint is one file, so that it is whole or absent; the .json file beside it repeats the header for people to read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from lsc_snn.experiments.config import TrainConfig, read_config
from lsc_snn.experiments.data import describe_difference
from lsc_snn.experiments.files import write_bytes, write_json
from lsc_snn.network import Network
from lsc_snn.optim import Lookahead

_KEY, _FORMAT = "lsc_snn", "lsc_snn checkpoint 1"
_LOOKAHEAD = "lookahead/num_steps"
_REMEDY = "remove it and start again, or choose another"


@dataclass(frozen=True)
class Checkpoint:
    """A network at the end of an epoch, and, if training is to go on from there, its optimiser."""

    config: TrainConfig
    """The run that it belongs to."""
    epoch: int
    """Complete epochs."""
    info: dict[str, Any]
    """What else the run has to remember, ready for JSON."""
    network: dict[str, Tensor]
    """``state_dict`` of the network."""
    optimizer: dict[str, Tensor]
    """State of the optimiser, ``<parameter>/<name>``; empty where there is none."""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``path`` (.safetensors), whole or not at all, and then its header once more as .json beside it."""
    header = {
        "format": _FORMAT,
        "epoch": checkpoint.epoch,
        "config": checkpoint.config.to_dict(),
        "info": checkpoint.info,
    }
    tensors = {f"network/{name}": tensor for name, tensor in checkpoint.network.items()}
    tensors.update({f"optimizer/{name}": tensor for name, tensor in checkpoint.optimizer.items()})
    write_bytes(path, save(tensors, metadata={_KEY: json.dumps(header, allow_nan=False)}))
    write_json(path.with_suffix(".json"), header)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; raises ValueError, naming the file, where it is missing, truncated or foreign."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint, got no such file; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY)
            tensors = {} if header is None else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a whole safetensors file, got a broken one ({reason}); {_REMEDY}") from None
    if header is None:
        raise ValueError(f"{path}: expected a checkpoint of lsc_snn, got another safetensors file; {_REMEDY}")
    try:
        data = json.loads(header)
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r}")
        config, epoch, info = TrainConfig.from_dict(data["config"]), int(data["epoch"]), dict(data["info"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a header of {_FORMAT!r}, got another ({error}); {_REMEDY}") from None
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    return Checkpoint(config, epoch, info, parts["network"], parts["optimizer"])


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU, each in its own memory, as safetensors wants them."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def load_parameters(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a network the parameters of a checkpoint; raises ValueError where names or shapes are another network's."""
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        expected, got = (str(tuple(side[name].shape)) if name in side else "none" for side in (own, tensors))
        if expected != got:
            raise ValueError(f"{path}: expected {name} of shape {expected}, got {got}; pass one of this network")
    network.load_state_dict(dict(tensors))


def optimizer_tensors(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Return the state of an optimiser as tensors named ``<parameter>/<name>``, and the steps of a Lookahead."""
    tensors = {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    if isinstance(optimizer, Lookahead):
        tensors |= optimizer_tensors(optimizer.inner, names)
        tensors[_LOOKAHEAD] = torch.tensor(optimizer.num_steps)
    return tensors


def load_optimizer(optimizer: Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that ``optimizer_tensors`` returned."""
    outer = isinstance(optimizer, Lookahead)
    if isinstance(optimizer, Lookahead):
        load_optimizer(optimizer.inner, names, tensors)
        optimizer.num_steps = int(tensors.get(_LOOKAHEAD, torch.tensor(0)))
    for parameter, name in names.items():
        state = {key.rpartition("/")[2]: value for key, value in tensors.items() if key.rpartition("/")[0] == name}
        state = {key: value for key, value in state.items() if (key == "slow") == outer}
        if state:
            optimizer.state[parameter] = {
                # The optimisers keep their step count on the CPU.
                key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
                for key, value in state.items()
            }


def load_network(path: str | Path) -> Network:
    """Return the network of a run's folder, the one that is tested, or of a checkpoint file, on the CPU, in eval mode.

    That is the best epoch's, or the one that was refitted where the run asks for it.

    The checkpoint says what network it is of; where config.json stands beside it, both have to agree. Raises
    ValueError, naming the file, for one that is missing, truncated, foreign or of another network.

    >>> load_network("absent")
    Traceback (most recent call last):
    ValueError: absent: expected a checkpoint, got no such file; check the path
    """
    path = Path(path)
    file = path / _tested(path) if path.is_dir() else path
    checkpoint = read_checkpoint(file)
    beside = file.with_name("config.json")
    if beside.is_file():
        check_same_run(checkpoint, read_config(beside), file)
    network = Network(checkpoint.config.network, seed=checkpoint.config.seed)
    load_parameters(network, checkpoint.network, file)
    return network.eval()


def _tested(folder: Path) -> str:
    config = folder / "config.json"
    return "refit.safetensors" if config.is_file() and read_config(config).refit else "best.safetensors"


def check_same_run(checkpoint: Checkpoint, config: TrainConfig, path: Path) -> None:
    """Raise ValueError unless a checkpoint is of the run that a configuration describes."""
    difference = describe_difference(config.to_dict(), checkpoint.config.to_dict())
    if difference:
        raise ValueError(f"{path}: expected a checkpoint of this run with {difference}; {_REMEDY}")
