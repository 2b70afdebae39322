"""Read the grid of a sweep from YAML, or from the mapping that flags make; every key and value is checked."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lsc_snn._checks import check_count, check_positive, is_number
from lsc_snn.datasets import names, options, read_shd
from lsc_snn.datasets.registry import keywords
from lsc_snn.experiments.config import TargetOption, TrainConfig, arm_of, check_keys
from lsc_snn.experiments.sweep import DataSource, NetworkSource, Sweep
from lsc_snn.network import SPIKING, NetworkConfig

PROTOCOLS = Path(__file__).parent / "protocols"
"""Grids of published protocols."""
_OF_SWEEP = {field.name for field in dataclasses.fields(Sweep)}
_OF_AXES = {"network", "target", "initialisation", "seed", "learning_rate"}
_OF_TRAIN = {field.name for field in dataclasses.fields(TrainConfig)} - _OF_AXES
_OF_NETWORK = {field.name for field in dataclasses.fields(NetworkConfig)} - {"num_inputs", "num_classes", "num_layers"}
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
_DEFAULTS: dict[str, Any] = {
    "networks": ["ALIF"],
    "depths": [2, 5],
    "targets": ["none", "one", "half"],
    "seeds": 3,
    "learning_rates": [0.001, 0.003],
}


def protocols() -> list[str]:
    """Return the names of the published protocols that come with the package.

    >>> "shd" in protocols()
    True
    """
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


def grid_file(text: str) -> Path:
    """Return the file that a word names: a YAML file, or a protocol that comes with the package.

    Raises ValueError for a file that is missing and for an unknown protocol.
    """
    if Path(text).suffix in (".yaml", ".yml"):
        return Path(text)
    known = protocols()
    if text not in known:
        nearest = difflib.get_close_matches(text, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "check the path"
        raise ValueError(f"grid: expected a .yaml file or one of {', '.join(known)}, got {text!r}; {hint}")
    return PROTOCOLS / f"{text}.yaml"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, not checked further; numbers such as 1e-3 are numbers.

    Raises ValueError, naming the file, for one that is missing, no YAML, no mapping, or has a key twice.
    """
    yaml = _import_yaml()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "bytes that are no UTF-8"
        raise ValueError(f"{path}: expected a YAML file, got: {reason}; check the path") from None
    try:
        wrong = _wrong_nodes(yaml.compose(text, Loader=yaml.SafeLoader), set())
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: expected YAML, got: {reason}; mend the file") from None
    if wrong:
        raise ValueError(f"{path}: {wrong}")
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected keys such as data and depths, got {_kind(data)}; see lsc-snn bench --help")
    numbers: dict[str, Any] = _with_floats(data)
    return numbers


def sweep_of(values: Mapping[str, Any]) -> Sweep:
    """Return the grid that a mapping describes; all keys but ``data`` have defaults.

    ``data``: a list of names, or of mappings with ``name`` or ``folder``, ``label`` and the options of the data;
    ``networks``: a list of kinds, or of mappings with the fields of NetworkConfig, ``label``, ``targets`` and
    ``train``; ``targets``: none, a name, "a:b" or [a, b], an initialisation; ``seeds``: how many, or a list;
    ``depths`` and ``learning_rates``: lists; ``train`` and, by depth, ``train_by_depth``: fields of TrainConfig.

    Raises TypeError or ValueError, one line that names the key, for anything else.

    >>> grid = sweep_of({"data": ["digits"], "networks": ["LIF", {"neuron": "GRU", "num_units": 118}], "seeds": 2})
    >>> [network.label for network in grid.networks], grid.seeds, grid.targets
    (['LIF', 'GRU'], (0, 1), (None, 'one', 'half'))
    >>> sweep_of({"data": ["digits"], "depth": [2]})
    Traceback (most recent call last):
    ValueError: grid: expected known keys, got 'depth'; did you mean 'depths'?
    """
    check_keys("grid", values, _OF_SWEEP)
    if "data" not in values:
        raise ValueError("data: expected one data set or more, got none; name for example digits")
    given = {**_DEFAULTS, **values}
    seeds = given["seeds"]
    if not isinstance(seeds, list):
        check_count("seeds", seeds)
        seeds = list(range(seeds))
    by_depth = _mapping("train_by_depth", given.get("train_by_depth", {}))
    return Sweep(
        data=_each("data", given["data"], _source),
        networks=_each("networks", given["networks"], _network),
        depths=_each("depths", given["depths"], _count(1)),
        targets=_each("targets", given["targets"], _target),
        seeds=_each("seeds", seeds, _count(0)),
        learning_rates=_each("learning_rates", given["learning_rates"], _rate),
        train=_train("train", given.get("train", {})),
        train_by_depth={
            _count(1)("train_by_depth", depth): _train(f"train_by_depth {depth}", more)
            for depth, more in by_depth.items()
        },
    )


def _source(where: str, value: Any) -> DataSource:
    given = dict(value) if isinstance(value, dict) else {"name" if value in names() else "folder": value}
    name, folder, label = (given.pop(key, None) for key in ("name", "folder", "label"))
    if (name is None) == (folder is None):
        raise ValueError(f"{where}: expected a name or a folder, got {value!r}; name one of them")
    if folder is None:
        known = {"validation": None, "verify": True, **options(_text(f"{where} name", name))}
    else:
        if not Path(_text(f"{where} folder", folder)).is_dir():
            raise ValueError(f"{where}: expected a folder or one of {', '.join(names())}, got {folder!r}; check it")
        known = {"validation": None, **keywords(read_shd)}
    check_keys(where, given, {"name", "folder", "label", *known})
    for key, option in given.items():
        # Any text is true to Python: crop: "no" would crop.
        if isinstance(known[key], bool) != isinstance(option, bool):
            expected = "true or false" if isinstance(known[key], bool) else "no truth value"
            raise TypeError(f"{where} {key}: expected {expected}, got {_kind(option)}")
    return DataSource(_label(where, label, name or Path(folder).resolve().name), name, folder, given)


def _network(where: str, value: Any) -> NetworkSource:
    given = {"neuron": value} if isinstance(value, str) else dict(_mapping(where, value))
    check_keys(where, given, {*_OF_NETWORK, "label", "targets", "train"})
    label, targets, train = given.pop("label", None), given.pop("targets", None), given.pop("train", {})
    if "neuron" not in given:
        raise ValueError(f"{where}: expected a neuron, got {sorted(given)}; name for example ALIF")
    neuron = given["neuron"] = _text(f"{where} neuron", given["neuron"]).upper()
    for key in ("dropout", "readout_tau"):
        if given.get(key) is not None and not is_number(given[key]):
            raise TypeError(f"{where} {key}: expected a number, got {given[key]!r}")
    _mapping(f"{where} layer", given.get("layer", {}))
    if neuron not in SPIKING:
        given.setdefault("readout_tau", None)
    arms = None if targets is None else _each(f"{where} targets", targets, _target)
    return NetworkSource(_label(where, label, neuron), given, arms, _train(f"{where} train", train))


def _target(where: str, value: Any) -> TargetOption:
    if isinstance(value, bool | int | float):
        raise TypeError(f"{where}: expected a target, got {value!r}; write a pair as [1, 1] or '1:1', in quotes")
    if value is None or value == "none":
        return None
    arm = arm_of(value.replace(":", ",") if isinstance(value, str) else value)
    target: TargetOption = arm["initialisation"] or arm["target"]
    return target


def _train(where: str, value: Any) -> dict[str, Any]:
    given = dict(_mapping(where, value))
    check_keys(where, given, _OF_TRAIN)
    if given.get("augment") is not None:
        _mapping(f"{where} augment", given["augment"])
    return given


def _count(minimum: int) -> Callable[[str, Any], int]:
    def check(where: str, value: Any) -> int:
        check_count(where, value, minimum)
        return int(value)

    return check


def _rate(where: str, value: Any) -> float:
    check_positive(where, value)
    return float(value)


def _each(where: str, values: Any, read: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{where}: expected a list, got {_kind(values)}; write it in [ ]")
    return tuple(read(where, value) for value in values)


def _mapping(where: str, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{where}: expected keys with values, got {_kind(value)}; see lsc-snn bench --help")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where}: expected a name, got {_kind(value)}; write a word")
    if not value.strip():
        raise ValueError(f"{where}: expected a name, got an empty one; write a word")
    return value


def _label(where: str, label: Any, default: str) -> str:
    """Return the label, which names a folder: letters, digits and .+_- only."""
    name = _text(f"{where} label", default if label is None else label)
    if not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*", name):
        raise ValueError(f"{where}: expected a label of letters, digits and ._+-, got {name!r}; give a label")
    return name


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _wrong_nodes(node: Any, seen: set[int]) -> str:
    """Return what is wrong with a tree of YAML nodes: a key twice, a list or mapping by alias; "" if nothing is.

    Of a key given twice ``safe_load`` keeps the last without a word; with aliases a few lines can make millions.
    """
    if node is None or node.id == "scalar":
        return ""
    line = node.start_mark.line + 1
    if id(node) in seen:
        return f"expected lists and mappings written out, got an alias of that in line {line}; write it again"
    seen.add(id(node))
    children = node.value
    if node.id == "mapping":
        children = [child for pair in node.value for child in pair]
        keys = [key.value for key, _ in node.value if key.id == "scalar"]
        twice = [key for position, key in enumerate(keys) if key in keys[:position]]
        if twice:
            return f"expected each key once, got {twice[0]!r} twice below line {line}; name it once"
    return next(filter(None, (_wrong_nodes(child, seen) for child in children)), "")


def _import_yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('a grid in YAML needs PyYAML; install it with: pip install "lsc-snn[cli]"') from error
    return yaml


def _with_floats(value: Any) -> Any:
    """Return nested data with texts such as "1e-3", which YAML 1.1 takes for words, as numbers."""
    if isinstance(value, dict):
        return {key: _with_floats(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_floats(entry) for entry in value]
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value
