"""Train a network from a configuration into a folder, so that the run can be killed at any moment and go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from lsc_snn.experiments import logs
from lsc_snn.experiments.batches import check_sequences
from lsc_snn.experiments.checkpoint import (
    Checkpoint,
    check_same_run,
    load_parameters,
    read_checkpoint,
    write_checkpoint,
)
from lsc_snn.experiments.config import TrainConfig, read_config
from lsc_snn.experiments.data import SplitsLike, check_splits, describe_difference, identity, other_data, speakers_of
from lsc_snn.experiments.files import make_folder, write_json
from lsc_snn.experiments.fitting import Fitting, prepare
from lsc_snn.experiments.launch import launched_fabric, on_main
from lsc_snn.experiments.loop import DivergedError, evaluate, evaluate_samples
from lsc_snn.experiments.progress import Progress
from lsc_snn.experiments.records import EpochMetrics, RunResult, epochs_to, plain, read_result, write_metrics
from lsc_snn.experiments.refit import refit
from lsc_snn.experiments.speakers import SpeakerAccuracy, accuracy_of, by_speaker
from lsc_snn.network import Network

FILES = (
    "config.json",
    "stabilize.json",
    "metrics.csv",
    "best.safetensors",
    "best.json",
    "last.safetensors",
    "last.json",
    "refit.safetensors",
    "refit.json",
    "results.json",
)
"""What a run writes into its folder."""
OnEpoch = Callable[[EpochMetrics], None]


def train(
    config: TrainConfig,
    splits: SplitsLike,
    folder: str | Path,
    *,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    tensorboard: bool = False,
) -> RunResult:
    """Train the network of a configuration, and return what became of it.

    The network is built from the seed, stabilised or initialised on one training batch if the configuration says so,
    and trained on the cross-entropy of its readout over the valid steps, until the epochs are over, validation has not
    improved for ``patience`` epochs, or a loss or gradient is NaN or infinite ("diverged", no exception). The epoch
    with the best validation accuracy (ties: the lower loss; of a text, the lowest loss; epoch 0 is the network before
    training), or with ``config.keep`` "last" the last one, is then evaluated on the test samples, once; with
    ``config.refit`` it is a network trained for as many epochs, with the same learning rates, on train and validation
    together. Runs on the CPU, one GPU, or, under ``torchrun``, on all processes together, to the same result up to
    rounding.

    ``splits`` has the parts ``train``, ``validation`` and ``test``. ``on_epoch`` is called with the metrics of each
    epoch, once they are on the disk; what it raises ends the run there. ``folder`` receives config.json, stabilize.json
    (if there is a target), metrics.csv, best, last and refit checkpoints (.safetensors, and their headers as .json)
    and, at the end, results.json, each written whole or not at all; with ``tensorboard`` also event files, in a folder
    of that name. With ``resume``, an unfinished run in the folder continues
    from its last epoch, to the same result as if it had never stopped, a finished one is only read, and an empty folder
    starts a run.

    On the CPU the same configuration, data and number of threads give the same parameters and metrics bit for bit. The
    global random state is neither used nor changed.

    Raises ValueError, with nothing changed, for a folder that cannot be written or holds another run (or any run,
    without ``resume``), for data that do not fit the network, and for a broken or foreign checkpoint; TypeError or
    ValueError for options that a layer does not take; ImportError for a missing package.

    >>> import tempfile
    >>> from lsc_snn import NetworkConfig
    >>> from lsc_snn.datasets import load_digits
    >>> from lsc_snn.experiments.data import Splits
    >>> splits = Splits(*(part.subset(range(20)) for part in load_digits(num_steps=10)))
    >>> config = TrainConfig(NetworkConfig(num_inputs=64, num_classes=10, num_units=16), epochs=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = train(config, splits, folder)
    >>> result.status, result.epochs
    ('finished', 1)
    """
    check_splits(splits, config.network)
    check_sequences(splits, config)
    folder, data = Path(folder), identity(splits)
    network = Network(config.network, seed=config.seed)
    if tensorboard:
        logs.summary_writer()  # ImportError now, not after the work
    fabric = launched_fabric(config.precision)
    found = on_main(fabric, lambda: _find_run(folder, config, data, resume))
    if isinstance(found, RunResult):
        return found

    progress, (status, reason) = _search(fabric, config, splits, folder, network, found, data, on_epoch, tensorboard)
    refitted = None
    if config.refit:
        rates = [_rate(row, config) for row in progress.history[: progress.best_epoch]]
        network, refitted, failure = refit(fabric, config, splits, folder, rates)
        if failure is not None:
            status, reason = "diverged", f"refit: {failure}"
    else:
        best = on_main(fabric, lambda: read_checkpoint(folder / "best.safetensors"))
        load_parameters(network, best.network, folder / "best.safetensors")
    test, hits = evaluate_samples(fabric, network, splits.test, config)
    speakers: tuple[SpeakerAccuracy, ...] = ()
    if (spoken := speakers_of(splits.test)) is not None and (met := _met(config, splits)):
        speakers = by_speaker(hits, spoken, met)
    result = RunResult(
        status=status,
        reason=reason,
        config=config,
        data=progress.data,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        validation=progress.validation,
        test=test,
        initial=progress.initial,
        radii=progress.radii,
        stabilized=progress.stabilized,
        seconds=progress.seconds,
        history=progress.history,
        speakers=speakers,
        known=accuracy_of(speakers, known=True),
        unseen=accuracy_of(speakers, known=False),
        epochs_to_80=epochs_to(0.8, progress.accuracies()),
        refit=refitted,
        best_on_test=progress.best_on_test,
    )
    on_main(fabric, lambda: write_json(folder / "results.json", result.to_dict()))
    return result


def _rate(row: EpochMetrics, config: TrainConfig) -> float:
    return config.learning_rate if row.learning_rate is None else row.learning_rate


def _met(config: TrainConfig, splits: SplitsLike) -> set[int]:
    """Return the speakers that the network which is tested was trained on."""
    parts = (splits.train, splits.validation) if config.refit else (splits.train,)
    return {speaker for part in parts if (named := speakers_of(part)) is not None for speaker in named.tolist()}


def _search(
    fabric: Fabric,
    config: TrainConfig,
    splits: SplitsLike,
    folder: Path,
    network: Network,
    found: Checkpoint | None,
    data: dict[str, Any],
    on_epoch: OnEpoch | None,
    tensorboard: bool,
) -> tuple[Progress, tuple[str, str]]:
    """Train until the run is over, and leave its best epoch in ``folder``; return the progress, status and reason."""
    network.to(fabric.device)
    report = None
    if found is None:
        radii, report = on_main(fabric, lambda: prepare(network, config, splits.train, fabric.device))
    else:
        load_parameters(network, found.network, folder / "last.safetensors")
    fitting = Fitting(fabric, network, config)
    if found is None:
        initial = evaluate(fabric, network, splits.validation, config)
        stabilized = None if report is None else bool(report["converged"])
        progress = Progress(data, radii, stabilized, initial, validation=initial)
        if fabric.is_global_zero:
            write_json(folder / "config.json", config.to_dict())
            if report is not None:
                write_json(folder / "stabilize.json", plain(report))
    else:
        fitting.load_optimizer(found)
        progress = Progress.from_dict(found.info)
    log = None
    if tensorboard and fabric.is_global_zero:
        log = logs.TensorBoardLog(folder / "tensorboard", progress.history)

    def store() -> None:
        if fabric.is_global_zero:
            _store(folder, fitting.checkpoint(progress.epoch, progress.to_dict()), progress)

    # Also on resuming: a kill may have come between the files of one epoch.
    store()
    try:
        while not (ended := progress.ended(config)):
            start = time.perf_counter()
            epoch, learning_rate = progress.epoch + 1, progress.learning_rate(config)
            try:
                fitted = fitting.epoch(splits.train, epoch, learning_rate)
                got = evaluate(fabric, network, splits.validation, config)
                if not math.isfinite(got.loss):
                    raise DivergedError(f"validation loss was {got.loss} after epoch {epoch}")
            except DivergedError as error:
                return progress, ("diverged", str(error))
            row = fitting.metrics(epoch, learning_rate, fitted, got)
            on_test = evaluate(fabric, network, splits.test, config).accuracy if config.track_test else None
            progress = progress.after(row, got, time.perf_counter() - start, config, on_test)
            store()
            if log is not None:
                log.add(row)
            if on_epoch is not None and fabric.is_global_zero:
                on_epoch(row)
    finally:
        if log is not None:
            log.close()
    return progress, ended


def _find_run(folder: Path, config: TrainConfig, data: dict[str, Any], resume: bool) -> RunResult | Checkpoint | None:
    """Return the result of a finished run, the last checkpoint of another, None for a new one."""
    present = [name for name in FILES if (folder / name).exists()]
    if present and not resume:
        raise ValueError(
            f"{folder}: expected a folder without a run, got one with {present[0]}; resume it or choose another"
        )
    if present and present[0] != "config.json":
        raise ValueError(f"{folder}: expected config.json of a run, got {present[0]} without it; choose another folder")
    if present:
        difference = describe_difference(read_config(folder / "config.json").to_dict(), config.to_dict())
        if difference:
            raise ValueError(f"{folder}: expected the run that it holds, {difference}; choose another folder")
    make_folder(folder)
    if "results.json" in present:
        result = read_result(folder)
        _check_same_data(folder, result.data, data)
        return result
    if "last.safetensors" in present:
        file = folder / "last.safetensors"
        checkpoint = read_checkpoint(file)
        check_same_run(checkpoint, config, file)
        _check_same_data(folder, checkpoint.info["data"], data)
        return checkpoint
    return None


def _check_same_data(folder: Path, stored: dict[str, Any], data: dict[str, Any]) -> None:
    difference = other_data(stored, data)
    if difference:
        raise ValueError(f"{folder}: expected the data of the run that it holds, {difference}; pass those splits")


def _store(folder: Path, checkpoint: Checkpoint, progress: Progress) -> None:
    """Write the files of an epoch. The last checkpoint comes first: all others follow from it."""
    write_checkpoint(folder / "last.safetensors", checkpoint)
    if progress.best_epoch == progress.epoch:
        info = {"validation": plain(asdict(progress.validation))}
        write_checkpoint(folder / "best.safetensors", replace(checkpoint, info=info, optimizer={}))
    if progress.history:
        write_metrics(folder / "metrics.csv", progress.history)
