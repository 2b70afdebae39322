"""``lsc-snn export``, ``inspect`` and ``peers``: a trained network as a file, what a file is, and who runs it alike."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lsc_snn import _checks
from lsc_snn._cli_inputs import check_checkpoint, describe, first_batch, load_splits, set_threads
from lsc_snn._cli_options import DATA, OUTPUT, BinMs, Data, Json, Threads
from lsc_snn._cli_output import print_json, say, status, tell
from lsc_snn._cli_tables import rows_table
from lsc_snn.events import EventBatch
from lsc_snn.network import Network

_SAMPLES = 64

Source = Annotated[
    Path, typer.Argument(metavar="RUN|FILE", help="A run's folder, or a .safetensors file of `stabilize` or `export`.")
]


def export_command(
    run: Source,
    format: Annotated[str, typer.Option(metavar="nir|safetensors|onnx", help="Kind of file.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file; its model card goes to FILE.card.json. [default: network.FORMAT]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Read the file and run it; keep it only if it gives what the network gives."),
    ] = False,
    dt: Annotated[
        float, typer.Option(help="Of NIR: seconds of a time step; snnTorch expects 1e-4.", rich_help_panel="NIR")
    ] = 1e-4,
    importer: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="any|snntorch|norse",
            help="Write the same graph as an importer needs it: all thresholds 1 for snntorch, all r 1 for norse.",
            rich_help_panel="NIR",
        ),
    ] = "any",
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate",
            help="Write every layer as LIF nodes, for importers that know no other; loses soft reset and adaptation.",
            rich_help_panel="NIR",
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Data of the run, for --check and the sample of --approximate. [default: random spikes]",
            rich_help_panel=DATA,
        ),
    ] = None,
    bin_ms: BinMs = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the card.")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Export the network of a run to NIR, ONNX or safetensors, with a model card.

    ONNX holds one time step, from input and states to output and next states. Exit code 1, and no file, if --check
    finds that the file does not give what the network gives.

    For example:

        lsc-snn export runs/a --format nir --check --data digits

        lsc-snn export runs/a --format nir --for norse --out norse.nir

        lsc-snn export runs/a --format onnx --check
    """
    from lsc_snn.experiments import export
    from lsc_snn.experiments.model_card import card_path, model_card
    from lsc_snn.experiments.peer_graphs import FORMS
    from lsc_snn.experiments.peers import load_run

    set_threads(threads)
    _checks.check_in("--format", format, export.FORMATS)
    _checks.check_in("--for", importer, tuple(FORMS))
    _checks.check_positive("--dt", dt)
    if format != "nir" and (importer != "any" or approximate or dt != 1e-4):
        raise ValueError(f"--for, --approximate, --dt: expected --format nir with them, got {format}; leave them out")
    if check and approximate:
        raise ValueError("--check: expected an exact export with it, got --approximate; compare it by lsc-snn peers")
    path = Path(f"network.{format}") if out is None else out
    _check_new(path, format, force)
    form = FORMS[importer]
    if approximate:
        form = replace(form, approximate=True)
    with status("exporting"):
        network, config = load_run(run)
        sample, samples = _samples(network, data, bin_ms)
        card = model_card(run, network, data=data, licence=licence)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            made = Path(folder) / path.name
            export.write_network(made, network, config, form=form, dt=dt, sample=sample)
            card["file"] = {"format": format, **({"dt": dt, "form": str(form)} if format == "nir" else {})}
            checked = export.check_file(made, network, samples, dt=dt) if check else None
            if checked is not None and not checked.same:
                say(
                    f"{path}: not written: {checked.differing} of {checked.outputs} outputs differ from the network's, "
                    f"by up to {checked.largest:.3g}"
                )
                raise typer.Exit(1)
            _write_card(card_path(made), card)
            files = sorted(file.name for file in Path(folder).iterdir())
            for name in files:
                os.replace(Path(folder) / name, path.parent / name)
    written = [str(path.parent / name) for name in files]
    if as_json:
        result = None if checked is None else {**checked._asdict(), "same": checked.same}
        print_json({"run": str(run), "format": format, "files": written, "check": result, "card": card})
        return
    line = None
    if checked is not None:
        line = (
            f"checked {checked.outputs} outputs: {checked.differing} differ, largest difference {checked.largest:.2g}"
        )
    tell(f"{describe(network.config)}, as {format}", line, *(f"wrote {file}" for file in written))


def inspect_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .nir, .safetensors or .onnx file.")],
    as_json: Json = False,
) -> None:
    """Show what a file holds: nodes or layers, sizes, time constants, and radii where its model card has them.

    For example:

        lsc-snn inspect network.nir
    """
    from lsc_snn.experiments.inspect_file import inspect_file

    found = inspect_file(file)
    if as_json:
        print_json(found)
        return
    unit = {"nir": "s", "safetensors": "steps"}.get(found["format"])
    rows = [
        (
            part["name"],
            part["kind"],
            " x ".join(map(str, part["size"])),
            f"{part['parameters']:,}",
            _range_text(part["tau"]),
            _range_text(part["threshold"]),
        )
        for part in found["parts"]
    ]
    headings = ("name", "kind", "size", "values", f"time constant ({unit})" if unit else "time constant", "threshold")
    tell(
        rows_table(headings, rows, f"{file}: {found['format']}"),
        *(f"{name}: {value}" for name, value in found["facts"].items()),
        *_card_lines(found["card"]),
    )


def peers_command(
    run: Source,
    data: Data = "digits",
    bin_ms: BinMs = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a table for a README.", rich_help_panel=OUTPUT)
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Export a network to NIR, run the file in every simulator that is installed, and compare spikes and accuracy.

    These are snnTorch, Norse, sinabs, SpikingJelly and Spyx. Every layer's spikes on all test samples are compared with
    the network's, with the reason for everything below 100 %.

    For example:

        lsc-snn peers runs/a --data digits
    """
    from lsc_snn.experiments.peers import compare_peers, load_run

    set_threads(threads)
    network, config = load_run(run)
    with status("reading data"):
        test = load_splits(data, bin_ms).test
    with status("running simulators"):
        matrix = compare_peers(network, config, test, data=Path(data).name)
    if as_json:
        print_json(matrix.to_dict())
    elif markdown:
        tell(str(matrix.table()))
    else:
        table = matrix.table()
        rows = [tuple(str(row[column] or "") for column in table.columns) for row in table.rows]
        shown = rows_table(table.columns, rows, table.title)
        shown.columns[-1].justify = "left"
        tell(shown, table.note)


def _samples(network: Network, data: str | None, bin_ms: float | None) -> tuple[EventBatch | None, EventBatch]:
    """Return training samples to export by, None without data, and test samples to check on, or random spikes."""
    if data is None:
        if bin_ms is not None:
            raise ValueError("--bin-ms: expected --data with it, got none; leave it out")
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(50, 8, network.config.num_inputs, generator=generator) < 0.2
        return None, EventBatch.from_dense(noise.float())
    splits = load_splits(data, bin_ms)
    if splits.test.num_units != network.config.num_inputs:
        raise ValueError(
            f"--data: expected {network.config.num_inputs} input units as the network has, got "
            f"{splits.test.num_units}; pass the data that it was trained on"
        )
    test: EventBatch = splits.test.batch(list(range(min(_SAMPLES, len(splits.test)))))[0]
    return first_batch(splits.train, 16, 0), test


def _check_new(path: Path, format: str, force: bool) -> None:
    """Raise unless a file of a format and its card can be written: new ones, or any with ``force``."""
    from lsc_snn.experiments.model_card import card_path

    if path.suffix != f".{format}":
        raise ValueError(f"{path}: expected a file name that ends in .{format}, got {path.name!r}; rename it")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: expected a file in a folder that exists and can be written; choose another")
    if format == "safetensors":
        check_checkpoint(path, force=force)
    for file in (path, card_path(path)):
        if file.exists() and not force:
            raise ValueError(f"{file}: expected a new file, got one that exists; pass --force to replace it")


def _write_card(path: Path, card: dict[str, Any]) -> None:
    from lsc_snn.experiments.files import write_json

    write_json(path, card)


def _range_text(values: tuple[float, float] | None) -> str:
    """Return a range as text.

    >>> _range_text((0.5, 0.5)), _range_text((1.0, 2.0)), _range_text(None)
    ('0.5', '1 to 2', '')
    """
    if values is None:
        return ""
    low, high = (f"{value:.4g}" for value in values)
    return low if low == high else f"{low} to {high}"


def _card_lines(card: dict[str, Any] | None) -> list[str]:
    """Return what a model card says, in lines."""
    if card is None:
        return ["no model card beside it"]
    lines = []
    for when in ("before", "after"):
        radii = (card.get("radii") or {}).get(when)
        if radii:
            time, depth = (", ".join(f"{float(value):.3f}" for value in radii[key]) for key in ("time", "depth"))
            lines.append(f"radii {when}: time {time}; depth {depth or '-'}")
    test = ((card.get("metrics") or {}).get("test") or {}).get("accuracy")
    if test is not None:
        lines.append(f"test accuracy: {100 * float(test):.1f} %")
    lines.append(f"licence: {card.get('licence') or 'not stated'}")
    return lines
