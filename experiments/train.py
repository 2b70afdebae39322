"""Train a network from a configuration into a folder, so that the run can be killed at any moment and go on."""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn

from lsc_snn.datasets import EventDataset
from lsc_snn.experiments.checkpoint import (
    Checkpoint,
    check_same_run,
    load_optimizer,
    load_parameters,
    optimizer_tensors,
    read_checkpoint,
    snapshot,
    write_checkpoint,
)
from lsc_snn.experiments.config import TrainConfig, read_config
from lsc_snn.experiments.data import SplitsLike, check_splits, describe_difference, identity, shuffled
from lsc_snn.experiments.files import make_folder, write_json
from lsc_snn.experiments.loop import DivergedError, evaluate, fit_epoch, layers_of
from lsc_snn.experiments.records import (
    EpochMetrics,
    Evaluation,
    RunResult,
    evaluation_from,
    plain,
    plain_dict,
    read_result,
    write_metrics,
)
from lsc_snn.measure import measure
from lsc_snn.network import Network
from lsc_snn.stabilize import stabilize

FILES = (
    "config.json",
    "stabilize.json",
    "metrics.csv",
    "best.safetensors",
    "best.json",
    "last.safetensors",
    "last.json",
    "results.json",
)
"""What a run writes into its folder."""
T = TypeVar("T")


@dataclass(frozen=True)
class _Progress:
    """What a run has to remember besides tensors."""

    data: dict[str, Any]
    radii: dict[str, Any]
    stabilized: bool | None
    initial: Evaluation
    validation: Evaluation
    best_epoch: int = 0
    epoch: int = 0
    seconds: float = 0.0
    history: tuple[EpochMetrics, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return plain_dict(asdict(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> _Progress:
        history = tuple(map(EpochMetrics.from_dict, data["history"]))
        evaluations = {name: evaluation_from(data[name]) for name in ("initial", "validation")}
        return cls(**{**data, **evaluations, "history": history})

    def after(self, row: EpochMetrics, seconds: float) -> _Progress:
        """Return the progress after one more epoch."""
        got = Evaluation(row.validation_loss, row.validation_accuracy, row.rates)
        progress = replace(self, epoch=row.epoch, seconds=self.seconds + seconds, history=(*self.history, row))
        best = self.validation
        if got.accuracy > best.accuracy or (got.accuracy == best.accuracy and got.loss < best.loss):
            return replace(progress, best_epoch=row.epoch, validation=got)
        return progress


def train(
    config: TrainConfig,
    splits: SplitsLike,
    folder: str | Path,
    *,
    resume: bool = False,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
) -> RunResult:
    """Train the network of a configuration, and return what became of it.

    The network is built from the seed, stabilised on one training batch if the configuration has a target, and trained
    by AdamW on the cross-entropy of its readout over the valid steps, until the epochs are over, validation has not
    improved for ``patience`` epochs, or a loss or gradient is NaN or infinite ("diverged", no exception). The epoch
    with the best validation accuracy (ties: the lower loss; epoch 0 is the network before training) is then evaluated
    on the test samples, once. Runs on the CPU, one GPU, or, under ``torchrun``, on all processes together.

    ``splits`` has the parts ``train``, ``validation`` and ``test``. ``on_epoch`` is called with the metrics of each
    epoch, once they are on the disk; what it raises ends the run there. ``folder`` receives config.json, stabilize.json
    (if there is a target), metrics.csv, best and last checkpoints (.safetensors, and their headers as .json) and, at
    the end, results.json, each written whole or not at all. With ``resume``, an unfinished run in the folder continues
    from its last epoch, to the same result as if it had never stopped, a finished one is only read, and an empty folder
    starts a run.

    On the CPU the same configuration, data and number of threads give the same parameters and metrics bit for bit. The
    global random state is neither used nor changed.

    Raises ValueError, with nothing changed, for a folder that cannot be written or holds another run (or any run,
    without ``resume``), for data that do not fit the network, and for a broken or foreign checkpoint; TypeError or
    ValueError for options that a layer does not take.

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
    folder, data = Path(folder), identity(splits)
    network = Network(config.network, seed=config.seed)
    fabric = _launched_fabric()
    found = _on_main(fabric, lambda: _find_run(folder, config, data, resume))
    if isinstance(found, RunResult):
        return found

    network.to(fabric.device)
    report = None
    if found is None:
        radii, report = _on_main(fabric, lambda: _prepare(network, config, splits.train, fabric.device))
    else:
        load_parameters(network, found.network, folder / "last.safetensors")
    adamw = _optimizer(network, config)
    module, optimizer = fabric.setup(network, adamw)
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}

    if found is None:
        initial = evaluate(fabric, network, splits.validation, config)
        stabilized = None if report is None else bool(report["converged"])
        progress = _Progress(data, radii, stabilized, initial, validation=initial)
        if fabric.is_global_zero:
            write_json(folder / "config.json", config.to_dict())
            if report is not None:
                write_json(folder / "stabilize.json", plain(report))
    else:
        load_optimizer(adamw, names, found.optimizer)
        progress = _Progress.from_dict(found.info)

    def store() -> None:
        if fabric.is_global_zero:
            tensors = snapshot(network.state_dict()), snapshot(optimizer_tensors(adamw, names))
            _store(folder, Checkpoint(config, progress.epoch, progress.to_dict(), *tensors), progress)

    # Also on resuming: a kill may have come between the files of one epoch.
    store()
    while not (ended := _ended(progress, config)):
        start = time.perf_counter()
        try:
            fitted = fit_epoch(fabric, module, network, optimizer, splits.train, config, progress.epoch + 1)
            got = evaluate(fabric, network, splits.validation, config)
            if not math.isfinite(got.loss):
                raise DivergedError(f"validation loss was {got.loss} after epoch {progress.epoch + 1}")
        except DivergedError as error:
            ended = "diverged", str(error)
            break
        row = EpochMetrics(
            progress.epoch + 1,
            fitted.loss,
            fitted.accuracy,
            got.loss,
            got.accuracy,
            tuple(layers_of(network)),
            fitted.gradient_mean,
            fitted.gradient_max,
            got.rates,
        )
        progress = progress.after(row, time.perf_counter() - start)
        store()
        if on_epoch is not None and fabric.is_global_zero:
            on_epoch(row)

    best = _on_main(fabric, lambda: read_checkpoint(folder / "best.safetensors"))
    load_parameters(network, best.network, folder / "best.safetensors")
    test = evaluate(fabric, network, splits.test, config)
    result = _result(config, progress, ended, test)
    _on_main(fabric, lambda: write_json(folder / "results.json", result.to_dict()))
    return result


def _launched_fabric() -> Fabric:
    """One process on one device, or what ``torchrun`` says."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", processes)) // processes
    # Not "auto", which would take Apple's GPU: it has no float64.
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=processes, num_nodes=nodes)
    first = not _in_group()
    fabric.launch()
    if first and _in_group():
        # Fabric does so for NCCL alone; a gloo group that is left to the interpreter may abort the process.
        atexit.register(_leave_group)
    return fabric


def _in_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _leave_group() -> None:
    if _in_group():
        distributed.destroy_process_group()


def _on_main(fabric: Fabric, function: Callable[[], T]) -> T:
    """Call a function in the main process; every process returns its value or raises its error."""
    outcome: tuple[T | None, Exception | None] = None, None
    if fabric.is_global_zero:
        try:
            outcome = function(), None
        except Exception as error:
            outcome = None, error
    value, failure = fabric.broadcast(outcome)
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


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
    difference = describe_difference(stored, data)
    if difference:
        raise ValueError(f"{folder}: expected the data of the run that it holds, {difference}; pass those splits")


def _prepare(
    network: Network, config: TrainConfig, dataset: EventDataset, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Stabilise the network if there is a target; return its radii, and the report of stabilising."""
    batch, _ = dataset.batch(shuffled(len(dataset), config.seed, 0)[: config.stabilize_batch])
    batch = batch.to(device)
    generator = torch.Generator().manual_seed(config.seed)
    if config.target is None:
        return measure(network, batch, generator=generator).to_dict(), None
    report = stabilize(network, batch, target=config.target, generator=generator)
    return report.after.to_dict(), report.to_dict()


def _optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def _ended(progress: _Progress, config: TrainConfig) -> tuple[str, str] | None:
    """Return status and reason of a run that is over, None for one that goes on."""
    if progress.epoch >= config.epochs:
        return "finished", f"all {config.epochs} epochs"
    if progress.epoch - progress.best_epoch >= config.patience:
        return "stopped early", f"no better validation in {config.patience} epochs"
    return None


def _store(folder: Path, checkpoint: Checkpoint, progress: _Progress) -> None:
    """Write the files of an epoch. The last checkpoint comes first: all others follow from it."""
    write_checkpoint(folder / "last.safetensors", checkpoint)
    if progress.best_epoch == progress.epoch:
        info = {"validation": plain(asdict(progress.validation))}
        write_checkpoint(folder / "best.safetensors", replace(checkpoint, info=info, optimizer={}))
    if progress.history:
        write_metrics(folder / "metrics.csv", progress.history)


def _result(config: TrainConfig, progress: _Progress, ended: tuple[str, str], test: Evaluation) -> RunResult:
    status, reason = ended
    return RunResult(
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
    )
