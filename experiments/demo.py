"""The demo: a deep spiking network on the embedded digits, untreated against stabilised, and a report of what was seen.

What is run is one constant, ``CONFIG``, at one learning rate, for the three ``ARMS``.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsc_snn.datasets import load_digits
from lsc_snn.experiments.config import TargetOption, TrainConfig, parse_target, target_label
from lsc_snn.experiments.data import SplitsLike, check_splits, describe_difference, shuffled
from lsc_snn.experiments.files import make_folder, read_json, write_bytes, write_json
from lsc_snn.experiments.records import RunResult, plain
from lsc_snn.experiments.train import FILES, train
from lsc_snn.measure import RadiusReport, gradient_profile, measure
from lsc_snn.network import Network, NetworkConfig
from lsc_snn.stabilize import StabilizeReport, stabilize

# --- what the demo runs: all of it stands here ---

CONFIG = TrainConfig(
    network=NetworkConfig(
        num_inputs=64,
        num_classes=10,
        num_layers=5,
        num_units=64,
        neuron="ALIF",
    ),
    seed=0,
    epochs=30,
    patience=30,
    batch_size=64,
    learning_rate=3e-3,
)
ARMS: tuple[TargetOption, ...] = (None, "one", "half")
TOLERANCE = 0.05
"""Of the radii, as in ``stabilize``."""

# --- what it leaves behind ---

MARKER = "demo.json"
REPORTS = ("report.png", "report.html", "results.json")


@dataclass(frozen=True)
class Arm:
    """One arm of the demo: the network before training, and the run."""

    label: str
    """ "untreated", or the name of its target."""
    before: RadiusReport
    """Radii of the network as it is initialised, the same for all arms."""
    treated: StabilizeReport | None
    """What stabilising did; None where the network is left untreated."""
    profile: Tensor
    """(T, L) gradient norms of the network that training starts from."""
    run: RunResult
    """What became of its training."""

    @property
    def after(self) -> RadiusReport:
        """Radii of the network that training starts from."""
        return self.before if self.treated is None else self.treated.after

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "label": self.label,
            "before": self.before.to_dict(),
            "stabilize": None if self.treated is None else self.treated.to_dict(),
            "gradient_profile": plain(self.profile.tolist()),
            "run": self.run.to_dict(),
        }


@dataclass(frozen=True)
class DemoResult:
    """All that the report shows. ``to_dict`` is what results.json holds."""

    config: TrainConfig
    """What was run, but for the target."""
    arms: tuple[Arm, ...]
    """Untreated, and one for each target."""
    folder: Path
    """Where report.png, report.html and results.json were written."""
    machine: dict[str, Any]
    """Versions and threads."""
    seconds: float
    """Wall-clock time of the measurements and, over all sessions, of all training."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "config": self.config.to_dict(),
            "machine": self.machine,
            "seconds": self.seconds,
            "arms": [arm.to_dict() for arm in self.arms],
        }


Progress = Callable[[str, int, int], None]
"""Called with the label of an arm, the epochs that it has behind it, and the most that it may take."""


def run_demo(
    folder: str | Path,
    *,
    config: TrainConfig = CONFIG,
    targets: Sequence[TargetOption] = ARMS,
    splits: SplitsLike | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> DemoResult:
    """Train one network untreated and stabilised to each of ``targets``, and write a report of it into ``folder``.

    Every arm starts from the same weights, sees the same samples in the same order at the same learning rate, and its
    test samples once. The radii and the gradient are those of the network that training starts from, measured on the
    batch that it is stabilised on. ``splits`` are the embedded digits by default; ``on_progress`` is called at the
    start of each arm and after each of its epochs.

    A second call with the same settings continues what the folder holds: arms that are finished are only read, one that
    was interrupted goes on from its last epoch, and the report is written anew. With ``overwrite`` the files of the
    earlier demo are removed first.

    Raises ValueError, with nothing written, for a folder with a demo of other settings (unless ``overwrite``), one that
    holds anything else, and one that cannot be written; ImportError without matplotlib or scikit-learn; and whatever
    ``train`` raises.
    """
    from lsc_snn.experiments.report import report_figure, report_html
    from lsc_snn.plots import new_figure, to_png

    new_figure(1, 1)  # ImportError now, not after the work
    folder = Path(folder)
    configs = [replace(config, target=parse_target(target)) for target in targets]
    parts = load_digits() if splits is None else splits
    check_splits(parts, config.network)
    settings = {"config": config.to_dict(), "arms": [target_label(each.target) for each in configs]}
    if not configs or len(set(settings["arms"])) < len(configs):
        raise ValueError(f"targets: expected one or more, each once, got {list(targets)}; name each once")
    _claim(folder, settings, overwrite)
    arms, seconds = [], 0.0
    for each in configs:
        label = target_label(each.target)
        tell = _teller(on_progress, label, each.epochs)
        tell(0)
        start = time.perf_counter()
        before, treated, profile = _prepare(each, parts)
        seconds += time.perf_counter() - start
        run = train(each, parts, folder / label, resume=True, on_epoch=lambda row, tell=tell: tell(row.epoch))
        tell(each.epochs)
        arms.append(Arm(label, before, treated, profile, run))
    seconds += sum(arm.run.seconds for arm in arms)
    result = DemoResult(config, tuple(arms), folder, _machine(), seconds)
    write_json(folder / "results.json", plain(result.to_dict()))
    write_bytes(folder / "report.png", to_png(report_figure(result), dpi=110))
    write_bytes(folder / "report.html", report_html(result).encode())
    return result


def _machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _teller(on_progress: Progress | None, label: str, total: int) -> Callable[[int], None]:
    def tell(done: int) -> None:
        if on_progress is not None:
            on_progress(label, done, total)

    return tell


def _prepare(config: TrainConfig, parts: SplitsLike) -> tuple[RadiusReport, StabilizeReport | None, Tensor]:
    """Make the network as ``train`` will, from the same seed and batch; return its radii and its gradient."""
    network = Network(config.network, seed=config.seed)
    order = shuffled(len(parts.train), config.seed, 0)
    batch, _ = parts.train.batch(order[: config.stabilize_batch])
    generator = torch.Generator().manual_seed(config.seed)
    if config.target is None:
        report = measure(network, batch, generator=generator)
        return report, None, gradient_profile(network, batch)
    treated = stabilize(network, batch, target=config.target, tolerance=TOLERANCE, generator=generator)
    return treated.before, treated, gradient_profile(network, batch)


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder this demo's, or raise ValueError where it is not free for it."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise ValueError(f"{folder}: expected an empty folder or one of a demo, got other files; choose another")
        found = read_json(folder / MARKER)
        if overwrite:
            _remove(folder, found)
        elif difference := describe_difference(found, settings):
            raise ValueError(
                f"{folder}: expected a demo of these settings, got one with {difference}; choose another folder, or "
                "overwrite it (--force)"
            )
    make_folder(folder)
    write_json(folder / MARKER, settings)


def _remove(folder: Path, found: dict[str, Any]) -> None:
    """Remove what a demo wrote, and nothing else."""
    for label in found.get("arms", ()):
        for name in FILES:
            (folder / Path(label).name / name).unlink(missing_ok=True)
    for name in (*REPORTS, MARKER):
        (folder / name).unlink(missing_ok=True)
