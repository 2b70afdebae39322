"""What the flags of ``lsc-snn`` stand for: a network, data and its splits, and files that may be written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lsc_snn import _checks
from lsc_snn.events import EventBatch
from lsc_snn.network import Network, NetworkConfig

if TYPE_CHECKING:
    from lsc_snn.datasets import EventDataset
    from lsc_snn.experiments.data import Splits

Number = TypeVar("Number", int, float)

DEFAULT_BIN_MS = 4.0


@dataclass(frozen=True)
class NetworkFlags:
    """The flags that describe a network; those left at None take the layer's own defaults."""

    neuron: str = "ALIF"
    layers: int = 5
    units: int = 128
    tau: float | None = None
    threshold: float | None = None
    beta: float | None = None
    feed_forward: bool = False
    reset: str | None = None

    def config(self, num_inputs: int, num_classes: int, **options: Any) -> NetworkConfig:
        """Return the configuration of the network for some data; ``options`` are further fields of NetworkConfig."""
        given = {"tau": self.tau, "threshold": self.threshold, "beta": self.beta, "reset": self.reset}
        layer: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.feed_forward:
            layer["recurrent"] = False
        return NetworkConfig(
            num_inputs=num_inputs,
            num_classes=num_classes,
            num_layers=self.layers,
            num_units=self.units,
            neuron=self.neuron.upper(),
            layer=layer,
            **options,
        )


def load_splits(
    data: str, bin_ms: float | None, pool: int | None = None, *, root: Path | None = None, download: bool = False
) -> Splits:
    """Return train, validation and test of a dataset by its name, or of a folder with train.h5 and test.h5 as of SHD.

    Validation is by speaker where the data names two or more, else stratified by class; the split is always the same.
    ``bin_ms`` is the length of a time step in milliseconds and ``pool`` how many neighbouring channels become one, both
    for recordings only; ``root`` and ``download`` say where the files of a named dataset are, as for ``datasets.load``.
    Raises ValueError for text, and what ``check_bins`` and the readers raise.
    """
    from lsc_snn import datasets
    from lsc_snn.experiments.data import Splits

    given = {"bin_ms": bin_ms, "pool": pool}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if data in datasets.names():
        if datasets.card(data).text:
            raise ValueError(f"--data: expected samples with labels, got {data}, which is text; choose another")
        check_bins(data, bin_ms, pool)
        parts = datasets.load(data, root, download=download, **options)
        return Splits(parts.train, parts.validation, parts.test)
    if not Path(data).is_dir():
        raise ValueError(
            f"--data: expected a folder with train.h5 and test.h5 or one of {', '.join(datasets.names())}, "
            f"got {data!r}; check the path"
        )
    if root is not None or download:
        raise ValueError(f"--root, --download: expected the name of a dataset with them, got {data!r}; see data list")
    training, test = datasets.load_folder(data, **{"bin_ms": DEFAULT_BIN_MS, **options})
    return Splits(*datasets.hold_out(training), test)


def check_bins(name: str, bin_ms: float | None, pool: int | None = None) -> None:
    """Raise ValueError for a length of time steps, or for pooling, with a dataset that does not take it."""
    from lsc_snn import datasets

    for flag, value in (("--bin-ms", bin_ms), ("--pool", pool)):
        if value is not None and flag[2:].replace("-", "_") not in datasets.options(name):
            raise ValueError(f"{flag}: expected recordings with it, got {name}; leave it out")


def first_batch(dataset: EventDataset, batch_size: int, seed: int) -> EventBatch:
    """Return a batch of samples drawn with ``seed``, or of all samples where there are fewer."""
    from lsc_snn.datasets import EventLoader

    batch: EventBatch = next(iter(EventLoader(dataset, batch_size, shuffle=True, seed=seed)))[0]
    return batch


def network_of(flags: NetworkFlags, run: Path | None, dataset: EventDataset, seed: int) -> Network:
    """Return the network of a finished run or, without one, that of the flags, in eval mode.

    Raises ValueError where the run's network takes another number of inputs than the data has, and for a run together
    with flags of a new network.
    """
    if run is None:
        return Network(flags.config(dataset.num_units, dataset.num_classes), seed=seed).eval()
    if flags != NetworkFlags():
        raise ValueError("--run: expected no flags of a new network (--neuron, --layers, ...) with it; leave them out")
    from lsc_snn.experiments.checkpoint import load_network

    network: Network = load_network(run)
    if network.config.num_inputs != dataset.num_units:
        raise ValueError(
            f"--data: expected {network.config.num_inputs} input units as the network of {run} has, "
            f"got {dataset.num_units}; pass the data that it was trained on"
        )
    return network


def describe(config: NetworkConfig, depths: Sequence[int] = ()) -> str:
    """Return a network in a few words; ``depths`` are the numbers of layers, if there are several such networks.

    >>> describe(NetworkConfig(num_inputs=64, num_classes=10), depths=(2, 5))
    '64 inputs, 2 or 5 x 256 recurrent ALIF'
    """
    layers = " or ".join(map(str, depths)) or config.num_layers
    kind = "feed-forward" if config.layer.get("recurrent") is False else "recurrent"
    return f"{config.num_inputs} inputs, {layers} x {config.num_units} {kind} {config.neuron}"


def target_of(text: str) -> str | tuple[float, float] | None:
    """Return the target that a flag names: none, a name, or a pair A:B of radii in time and depth.

    Raises ValueError or TypeError for anything else.

    >>> target_of("none"), target_of("half"), target_of("0.9:0.1")
    (None, 'half', (0.9, 0.1))
    """
    from lsc_snn.experiments.config import parse_target

    word = text.strip()
    target: str | tuple[float, float] | None = None if word == "none" else parse_target(word.replace(":", ","))
    return target


def numbers_of(flag: str, text: str, kind: type[Number]) -> list[Number]:
    """Return the numbers of a flag that takes several, with commas; ValueError where one of them is none.

    >>> numbers_of("--depths", "2, 5", int)
    [2, 5]
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag}: expected {kind.__name__} numbers with commas, got {text!r}; see --help") from None


def check_figure(path: Path | None) -> None:
    """Raise unless a figure, if one is wanted, can be drawn and written to ``path``; nothing is written."""
    if path is not None:
        from lsc_snn.plots import new_figure

        _check_output(path, ".png")
        new_figure(1, 1)  # ImportError now, not after the work


def check_checkpoint(path: Path, *, force: bool) -> None:
    """Raise unless a network can be saved as ``path``: a new file, or any with ``force``; nothing is written."""
    _check_output(path, ".safetensors")
    for file in (path, path.with_suffix(".json")):
        if file.exists() and not force:
            raise ValueError(f"{file}: expected a new file, got one that exists; pass --force to replace it")
    if path.with_name("config.json").exists():
        raise ValueError(f"{path}: expected a folder without a training run, got {path.parent}; choose another")


def _check_output(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise ValueError(f"{path}: expected a file name that ends in {suffix}, got {path.name!r}; rename it")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: expected a file in a folder that exists and can be written; choose another")


def set_threads(threads: int | None) -> None:
    """Limit the threads that torch computes on, if a number is given."""
    if threads is not None:
        _checks.check_count("--threads", threads)
        torch.set_num_threads(threads)
