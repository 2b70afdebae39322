"""``lsc-snn data``: which datasets there are, the card of each, and a picture of its samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lsc_snn import _checks
from lsc_snn._cli_inputs import DEFAULT_BIN_MS, check_bins, check_figure, load_splits
from lsc_snn._cli_options import Download, Json, Root
from lsc_snn._cli_output import print_json, status, tell, write_figure, written
from lsc_snn._cli_tables import rows_table
from lsc_snn.events import EventBatch

if TYPE_CHECKING:
    from lsc_snn.datasets import Card, TextSplits

_TEXT_STEPS, _TITLE_TOKENS = 100, 6

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="NAME", help="A dataset, as `lsc-snn data list` names it.")]


@app.callback(invoke_without_command=True)
def root_command(ctx: typer.Context) -> None:
    """Say which datasets there are, what each of them is, and how its samples look."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command("list")
def list_command(root: Root = None, as_json: Json = False) -> None:
    """List the datasets by name, with their sizes and whether their files are here.

    For example:

        lsc-snn data list
    """
    from lsc_snn import datasets

    cards = [datasets.card(name) for name in datasets.names()]
    if as_json:
        print_json([{**card.to_dict(), "files_are": _whereabouts(card, root)} for card in cards])
        return
    rows = [
        (card.name, f"{card.classes:,}", f"{card.channels:,}", _whereabouts(card, root), card.title) for card in cards
    ]
    table = rows_table(("name", "classes", "inputs", "files", "title"), rows, "datasets")
    table.columns[-1].justify = "left"
    tell(table)


@app.command("info")
def info(name: Name, root: Root = None, as_json: Json = False) -> None:
    """Show the card of a dataset: sizes, bins, splits, options, licence, citation, source and files.

    For example:

        lsc-snn data info shd
    """
    from lsc_snn import datasets
    from lsc_snn.datasets.cards import spellings
    from lsc_snn.datasets.registry import request

    card, options = datasets.card(name), datasets.options(name)
    asked = request(name, root)
    found = {file: asked.find(*spellings(file)) for file in card.files}
    if as_json:
        paths = {file: None if path is None else str(path) for file, path in found.items()}
        print_json({**card.to_dict(), "options": options, "found": paths})
        return
    facts = {
        "classes": f"{card.classes:,}",
        "inputs": f"{card.channels:,}",
        "duration": card.duration,
        "time step": card.bins,
        "samples": ", ".join(f"{part} {size:,}" for part, size in card.samples),
        "splits": card.splits,
        "options": ", ".join(f"{option}={value}" for option, value in options.items()),
        "licence": card.licence,
        "source": card.source,
        "cite": card.citation,
    }
    lines = [f"{label + ':':<11} {value}" for label, value in facts.items() if value]
    for file, path in found.items():
        where = f"{path}" if path else f"expected as {asked.places[0] / file}"
        lines.append(f"{'file:':<11} {file}: {where}")
    tell(f"{card.name}: {card.title}", *lines)


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER", help="A dataset by name, or a folder with train.h5 and test.h5 as of SHD."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="The picture; it may replace a file. [default: NAME.png, here]"),
    ] = None,
    samples: Annotated[int, typer.Option(help="Training samples to draw.")] = 6,
    seed: Annotated[int, typer.Option(help="Chooses the samples.")] = 0,
    bin_ms: Annotated[float | None, typer.Option(help="Length of a time step in milliseconds, for recordings.")] = None,
    root: Root = None,
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Draw training samples of a dataset: a dot for each event, over time and input unit.

    For example:

        lsc-snn data show digits --out digits.png

        lsc-snn data show shd --download

        lsc-snn data show recordings/ --bin-ms 8
    """
    from lsc_snn import datasets
    from lsc_snn._raster_figure import raster_figure

    picture = Path(f"{Path(name).resolve().name}.png") if out is None else out
    _checks.check_count("--samples", samples)
    check_figure(picture)
    folder = name not in datasets.names() and Path(name).is_dir()
    card = None if folder else datasets.card(name)
    title = Path(name).resolve().name if card is None else card.title
    with status("reading data"):
        parts: Any
        if card is not None and card.text:
            check_bins(name, bin_ms)
            parts = datasets.load(name, root)
            batch, names = _first_columns(parts, samples)
        else:
            parts = load_splits(name, bin_ms, root=root, download=download)
            loader = datasets.EventLoader(parts.train, samples, shuffle=True, seed=seed)
            batch, labels = next(iter(loader))
            names = [f"class {label}" for label in labels.tolist()]
        default = DEFAULT_BIN_MS if card is None else datasets.options(name).get("bin_ms")
        write_figure(picture, raster_figure(title, batch, names, default if bin_ms is None else bin_ms))
    told = {
        "name": name,
        "samples": {part: len(getattr(parts, part)) for part in ("train", "validation")},
        "drawn": {"steps": batch.num_steps, "samples": batch.batch_size, "units": batch.num_units},
        "events_per_sample": batch.num_events / batch.batch_size,
        "figure": str(picture),
    }
    if as_json:
        print_json(told)
        return
    drawn = f"{batch.batch_size} samples, {batch.num_steps} steps, {batch.num_units} inputs"
    tell(f"{title}: drew {drawn}, {told['events_per_sample']:.0f} events a sample", written(picture))


def _first_columns(parts: TextSplits, columns: int) -> tuple[EventBatch, list[str]]:
    """Return the first steps of a training text cut into columns, and how each of them begins."""
    batch, _ = next(parts.train.batches(columns, _TEXT_STEPS))
    tokens = batch.units.view(batch.num_steps, columns)[:_TITLE_TOKENS].T.tolist()
    return batch, [" ".join(parts.vocabulary.symbols[token] for token in column) for column in tokens]


def _whereabouts(card: Card, root: Path | None) -> str:
    """Say in a word where the files of a dataset are, or come from."""
    from lsc_snn.datasets.cards import spellings
    from lsc_snn.datasets.registry import request

    if not card.files:
        return "none needed"
    asked = request(card.name, root)
    if all(asked.find(*spellings(file)) for file in card.files):
        return "here"
    return "download" if card.downloads else "by hand"
