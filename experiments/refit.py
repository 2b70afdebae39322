"""The second network of a run with ``refit``: on train and validation together, for the epochs that were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_fabric import Fabric

from lsc_snn.experiments.checkpoint import (
    Checkpoint,
    check_same_run,
    load_parameters,
    read_checkpoint,
    write_checkpoint,
)
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.data import SplitsLike, joined
from lsc_snn.experiments.fitting import Fitting, prepare
from lsc_snn.experiments.launch import on_main
from lsc_snn.experiments.loop import DivergedError
from lsc_snn.experiments.records import EpochMetrics, rows_from
from lsc_snn.network import Network

FILE = "refit.safetensors"


def refit(
    fabric: Fabric, config: TrainConfig, splits: SplitsLike, folder: Path, learning_rates: Sequence[float]
) -> tuple[Network, tuple[EpochMetrics, ...], str | None]:
    """Train a network anew from the seed, one epoch for each learning rate, and keep it in ``folder`` as ``FILE``.

    A file that is there is continued. Returns the network, its history, and why it diverged, if it did: then it is as
    after the last whole epoch.
    """
    dataset, path = joined(splits.train, splits.validation), folder / FILE
    network = Network(config.network, seed=config.seed).to(fabric.device)
    found = on_main(fabric, lambda: _found(path, config))
    if found is None:
        on_main(fabric, lambda: prepare(network, config, dataset, fabric.device))
    else:
        load_parameters(network, found.network, path)
    fitting = Fitting(fabric, network, config)
    history: tuple[EpochMetrics, ...] = ()
    if found is not None:
        fitting.load_optimizer(found)
        history = rows_from(found.info["history"])

    def store() -> None:
        checkpoint = fitting.checkpoint(len(history), {"history": [row.to_dict() for row in history]})
        if fabric.is_global_zero:
            write_checkpoint(path, checkpoint)

    store()
    for epoch in range(len(history) + 1, len(learning_rates) + 1):
        try:
            fitted = fitting.epoch(dataset, epoch, learning_rates[epoch - 1])
        except DivergedError as error:
            whole = on_main(fabric, lambda: read_checkpoint(path))
            load_parameters(network, whole.network, path)
            return network, history, str(error)
        history = (*history, fitting.metrics(epoch, learning_rates[epoch - 1], fitted, None))
        store()
    return network, history, None


def _found(path: Path, config: TrainConfig) -> Checkpoint | None:
    if not path.exists():
        return None
    checkpoint = read_checkpoint(path)
    check_same_run(checkpoint, config, path)
    return checkpoint
