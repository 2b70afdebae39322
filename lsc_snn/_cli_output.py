"""What the commands of ``lsc-snn`` print and write: results on stdout, progress and errors on stderr, files whole."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lsc_snn.events import EventBatch
from lsc_snn.experiments.config import arm_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lsc_snn.experiments.compare import CompareEvent


def say(line: str) -> None:
    """Print one line on stderr."""
    print("lsc-snn: " + " ".join(line.split()), file=sys.stderr)


def tell(*parts: RenderableType | None) -> None:
    """Print tables and lines on stdout; a part that is None is left out."""
    # A pipe or file has no width of its own; 80 columns would wrap the wider tables.
    width = None if sys.stdout.isatty() else 120
    console = Console(highlight=False, quiet=not _is_main(), width=width)
    for part in parts:
        if part is not None:
            console.print(part, markup=False, soft_wrap=isinstance(part, str))


def print_json(data: Any) -> None:
    """Print JSON on stdout; ValueError for NaN and infinities, which JSON cannot say."""
    if _is_main():
        print(json.dumps(data, indent=2, allow_nan=False))


def _is_main() -> bool:
    """Say whether this is the process that speaks: of several under torchrun, the first."""
    return os.environ.get("RANK", "0") == "0"


def progress_bar() -> Progress:
    """Return a progress bar on stderr that vanishes when it is done; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (_is_main() and console.is_terminal),
    )


@contextmanager
def status(doing: str) -> Iterator[None]:
    """Show on stderr what is being done while a block runs."""
    with Console(stderr=True, quiet=not _is_main()).status(f"{doing} ..."):
        yield


@contextmanager
def sweeps(batch: EventBatch, max_sweeps: int) -> Iterator[Iterator[EventBatch]]:
    """Yield a batch again and again, with a progress bar on stderr: ``stabilize`` takes one for each sweep."""
    with progress_bar() as bar:
        task = bar.add_task("stabilising", total=max_sweeps)

        def again() -> Iterator[EventBatch]:
            yield batch  # on which stabilize first looks at the model
            while True:
                bar.advance(task)
                yield batch

        yield again()


class CompareProgress:
    """Shows the events of ``experiments.compare`` on a bar: one line for all runs, one for the epochs of this one."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._runs = bar.add_task("runs", total=None)
        self._epochs = bar.add_task("", total=None)

    def __call__(self, event: CompareEvent) -> None:
        """Take an event."""
        config = event.config
        name = f"depth {config.network.num_layers}, {arm_label(config)}, seed {config.seed}"
        done, total = 0, config.epochs
        if event.metrics is not None:
            done = event.metrics.epoch
            name += f": {100 * event.metrics.validation_accuracy:.1f} % on validation"
        finished = event.index if event.kind == "end" else event.index - 1
        self._bar.update(self._runs, completed=finished, total=event.total)
        self._bar.update(self._epochs, completed=done, total=total, description=name)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    from lsc_snn.experiments.files import write_bytes
    from lsc_snn.plots import to_png

    write_bytes(path, to_png(figure))


def written(path: Path | None) -> str | None:
    """Return the line that says that a file was written, or None for no file."""
    return None if path is None else f"wrote {path}"
