"""What the commands of ``lsc-snn`` print and write: results on stdout, progress and errors on stderr, files whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lsc_snn.events import EventBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def say(line: str) -> None:
    """Print one line on stderr."""
    print("lsc-snn: " + " ".join(line.split()), file=sys.stderr)


def tell(*parts: RenderableType | None) -> None:
    """Print tables and lines on stdout; a part that is None is left out."""
    console = Console(highlight=False)
    for part in parts:
        if part is not None:
            console.print(part, markup=False, soft_wrap=isinstance(part, str))


def print_json(data: Any) -> None:
    """Print JSON on stdout; ValueError for NaN and infinities, which JSON cannot say."""
    print(json.dumps(data, indent=2, allow_nan=False))


def progress_bar() -> Progress:
    """Return a progress bar on stderr that vanishes when it is done."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def status(doing: str) -> Iterator[None]:
    """Show on stderr what is being done while a block runs."""
    with Console(stderr=True).status(f"{doing} ..."):
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


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    from lsc_snn.experiments.files import write_bytes
    from lsc_snn.plots import to_png

    write_bytes(path, to_png(figure))


def written(path: Path | None) -> str | None:
    """Return the line that says that a file was written, or None for no file."""
    return None if path is None else f"wrote {path}"
