"""The grid of a sweep: what is run, in which order its table lists it, where each run lies, and whose a folder is."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lsc_snn.experiments.compare import CLAIM, check_held, place_of
from lsc_snn.experiments.config import TargetOption, TrainConfig, arm_of, target_label
from lsc_snn.experiments.data import describe_difference, other_data
from lsc_snn.experiments.files import read_json
from lsc_snn.experiments.records import RunResult, read_result
from lsc_snn.network import NetworkConfig

FORMAT = "lsc_snn sweep 1"
_AXES = ("targets", "depths", "seeds", "learning_rates")


@dataclass(frozen=True)
class DataSource:
    """One data set of a sweep."""

    label: str
    """Its name in tables and folders."""
    name: str | None = None
    """What ``lsc_snn.datasets.load`` calls it, or None for a folder."""
    folder: str | None = None
    """A folder with train.h5 and test.h5 in the layout of SHD, or None for a name."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of ``load`` or of ``read_shd``: bin_ms, num_steps, ..."""


@dataclass(frozen=True)
class NetworkSource:
    """One kind of network of a sweep; inputs and classes come from the data, the depth from the grid."""

    label: str
    """Its name in tables and folders."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of NetworkConfig: neuron, num_units, dropout, readout_tau, layer."""
    targets: tuple[TargetOption, ...] | None = None
    """Its own arms in place of the sweep's, where not every arm makes sense for it."""
    train: dict[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig that differ from the sweep's."""


@dataclass(frozen=True)
class Sweep:
    """A grid: data set x network x depth x arm x seed, the learning rate tuned alike for each arm.

    An arm is a target or an initialisation, as in ``compare``. Raises ValueError for an axis without values or with one
    twice, and TypeError or ValueError, as TrainConfig does, for runs that cannot be.

    >>> digits, gru = DataSource("digits", "digits"), NetworkSource("GRU", {"neuron": "GRU", "readout_tau": None})
    >>> Sweep((digits,), (gru,), (1, 2), (None, "half"), (0, 1, 2), (0.001, 0.01)).num_runs
    16
    """

    data: tuple[DataSource, ...]
    networks: tuple[NetworkSource, ...]
    depths: tuple[int, ...]
    targets: tuple[TargetOption, ...]
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    train: dict[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig that all runs share."""
    train_by_depth: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Fields of TrainConfig that differ at a depth."""

    def __post_init__(self) -> None:
        """Check the axes, and that every configuration can be made."""
        for name in ("data", "networks", *_AXES):
            check_axis(name, [_value(entry) for entry in getattr(self, name)])
        for network in self.networks:
            if network.targets is not None:
                check_axis(f"networks {network.label} targets", list(map(_value, network.targets)))
        for depth in self.train_by_depth:
            if depth not in self.depths:
                raise ValueError(f"train_by_depth: expected depths of {list(self.depths)}, got {depth}; leave it out")
        for _, network, depth, arm in self._cells():
            for rate, seed in itertools.product(self.learning_rates, self.seeds):
                _config(self, network, (1, 1), depth, arm, rate, seed)

    def _cells(self) -> Iterator[tuple[DataSource, NetworkSource, int, TargetOption]]:
        for source, network, depth in itertools.product(self.data, self.networks, self.depths):
            for arm in self.targets if network.targets is None else network.targets:
                yield source, network, depth, arm

    @property
    def num_runs(self) -> int:
        """Runs in all, those that only tune included."""
        return len(list(self._cells())) * (len(self.learning_rates) + len(self.seeds) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON would give them back."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


@dataclass(frozen=True)
class Job:
    """One run: where it lies, below the folder of the sweep, on what, and how."""

    place: str
    source: DataSource
    network: str
    config: TrainConfig


@dataclass(frozen=True)
class Cell:
    """The runs of one arm at one depth of one network on one data set."""

    tuning: tuple[Job, ...]
    """The first seed at every learning rate."""
    others: tuple[tuple[Job, ...], ...]
    """For each learning rate, should it win: the other seeds."""


def expand(sweep: Sweep, sizes: Mapping[str, tuple[int, int]]) -> tuple[Cell, ...]:
    """Return the cells of a grid in the order of its table; ``sizes`` are (inputs, classes) by the label of the data.

    >>> digits, lif = DataSource("digits", "digits"), NetworkSource("LIF", {"neuron": "LIF"})
    >>> (cell,) = expand(Sweep((digits,), (lif,), (2,), ("one",), (0, 1), (0.001,)), {"digits": (64, 10)})
    >>> cell.tuning[0].place
    'digits/LIF/depth-2/one/rate-0.001/seed-0'
    """

    def job(source: DataSource, network: NetworkSource, depth: int, arm: TargetOption, rate: float, seed: int) -> Job:
        config = _config(sweep, network, sizes[source.label], depth, arm, rate, seed)
        return Job(f"{source.label}/{network.label}/{place_of(config)}", source, network.label, config)

    first, *later = sweep.seeds
    return tuple(
        Cell(
            tuple(job(*key, rate, first) for rate in sweep.learning_rates),
            tuple(tuple(job(*key, rate, seed) for seed in later) for rate in sweep.learning_rates),
        )
        for key in sweep._cells()
    )


def result_at(folder: Path, job: Job) -> RunResult | None:
    """Return the result of a run that is done, None for one that is not; ValueError for a file that is no result."""
    place = folder / job.place
    return read_result(place) if (place / "results.json").exists() else None


def check_claim(folder: Path, sweep: Sweep, data: Mapping[str, Any], cells: Sequence[Cell]) -> dict[str, Any]:
    """Return what grid.json says of this sweep; ``data`` are the identities of the data sets, by label.

    A folder of the same sweep, or of one that this sweep contains (the same data, networks and training, the same first
    seed, no value of an axis less), is its own. Raises ValueError for a folder of another sweep or of other runs.
    """
    if folder.is_dir() and not (folder / CLAIM).exists() and any(folder.glob("**/config.json")):
        raise ValueError(f"{folder}: expected a folder of a sweep, or a new one, got one of other runs; choose another")
    wanted = {"format": FORMAT, "grid": sweep.to_dict(), "data": dict(data)}
    if (folder / CLAIM).exists():
        difference = _difference(read_json(folder / CLAIM), wanted)
        if difference:
            raise ValueError(f"{folder}: expected the grid that it holds, {difference}; choose another folder")
    jobs = [job for cell in cells for job in (*cell.tuning, *itertools.chain(*cell.others))]
    check_held(folder, {job.place: job.config for job in jobs})
    for job in jobs:
        result_at(folder, job)
    return wanted


def check_axis(name: str, values: Sequence[Any]) -> None:
    """Raise ValueError for an axis without values, or with one twice.

    >>> check_axis("depths", [2, 5, 2])
    Traceback (most recent call last):
    ValueError: depths: expected each value once, got 2 twice; name it once
    """
    if not values:
        raise ValueError(f"{name}: expected one value or more, got none; name at least one")
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{name}: expected each value once, got {value} twice; name it once")


def _value(entry: Any) -> Any:
    """Return what tells an entry of an axis from the others: labels, which name folders, or the value itself."""
    if isinstance(entry, DataSource | NetworkSource):
        return entry.label
    if entry is None or isinstance(entry, str | tuple | list):
        arm = arm_of(entry)
        return arm["initialisation"] or target_label(arm["target"])
    return entry


def _config(
    sweep: Sweep,
    network: NetworkSource,
    sizes: tuple[int, int],
    depth: int,
    arm: TargetOption,
    rate: float,
    seed: int,
) -> TrainConfig:
    inputs, classes = sizes
    values = {**sweep.train, **sweep.train_by_depth.get(depth, {}), **network.train}
    config = TrainConfig.from_dict({"network": {"num_inputs": 1, "num_classes": 1}, **values})
    stack = NetworkConfig(num_inputs=inputs, num_classes=classes, num_layers=depth, **network.options)
    return replace(config, network=stack, learning_rate=rate, seed=seed, **arm_of(arm))


def _difference(held: Any, wanted: dict[str, Any]) -> str:
    """Return in words what the claim of a folder has that the wanted one has not, "" if it has all of it."""
    try:
        if held["format"] != FORMAT:
            return f"format = {held['format']!r}, got {FORMAT!r}"
        ours, theirs = held["grid"], wanted["grid"]
        if ours["seeds"][0] != theirs["seeds"][0]:
            return f"first seed = {ours['seeds'][0]}, got {theirs['seeds'][0]}"
        grids = describe_difference(_narrowed(ours, ours), _narrowed(theirs, ours))
        others = ((label, other_data(stored, wanted["data"][label])) for label, stored in held["data"].items())
        return grids or next((f"{label}.{difference}" for label, difference in others if difference), "")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return f"{CLAIM}, got another file of that name"


def _narrowed(grid: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    """Return what a grid has of the values that a folder holds, in the order of the folder."""
    narrow = {**grid, **{axis: _common(held[axis], grid[axis]) for axis in _AXES}}
    narrow["train_by_depth"] = {d: grid["train_by_depth"].get(str(d)) for d in held["depths"]}
    for axis in ("data", "networks"):
        by_label = {entry["label"]: entry for entry in grid[axis]}
        narrow[axis] = {entry["label"]: by_label.get(entry["label"]) for entry in held[axis]}
    for entry in filter(None, narrow["data"].values()):
        narrow["data"][entry["label"]] = {**entry, "folder": None}  # its content is compared, it may have moved
    for entry in held["networks"]:
        mine = narrow["networks"][entry["label"]]
        if mine and mine["targets"] is not None and entry["targets"] is not None:
            narrow["networks"][entry["label"]] = {**mine, "targets": _common(entry["targets"], mine["targets"])}
    return narrow


def _common(held: list[Any], got: list[Any]) -> list[Any]:
    return [value for value in held if value in got]
