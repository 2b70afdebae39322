"""``python -m lsc_snn.experiments.architectures``: every supported kind of layer, stabilised, in one table.

Five layers of each kind in a plain forward, as a user writes it, on random events: radii before and after, and how long
it took next to this library's own ALIF layers. A kind whose package is not installed is named, and left out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

import lsc_snn as lsc
from lsc_snn.experiments.architecture_kinds import FAMILIES, Build, Size
from lsc_snn.experiments.bench_table import Row, Table, machine

COLUMNS = (
    "kind",
    "target",
    "time",
    "depth",
    "time after",
    "depth after",
    "rates",
    "sweeps",
    "s",
    "CPU s",
    "x own",
    "reached",
)


WITHOUT_TIME = ("nn.Linear", "nn.Conv2d")


def architectures_table(size: Size, families: Sequence[str], targets: Sequence[str], density: float = 0.02) -> Table:
    """Return a row for each kind and target; ``x own`` is its time divided by that of this library's ALIF."""
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.rand(size.steps, size.batch, size.inputs, generator=generator) < density).float()
    rows: list[Row] = []
    missing = []
    own: dict[str, float] = {}
    for family in ("lsc_snn", *(name for name in families if name != "lsc_snn")):
        try:
            kinds = FAMILIES[family]()
        except ModuleNotFoundError:
            missing.append(family)
            continue
        for kind, build in kinds.items():
            for target in targets:
                row = _row(kind, build, inputs, size, target)
                print(f"{kind}, {target}: {row['CPU s']:.1f} CPU s, {row['reached']}", file=sys.stderr, flush=True)
                own.setdefault(target, float(row["CPU s"] or math.nan))
                rows.append({**row, "x own": float(row["CPU s"] or math.nan) / own[target]})
    note = f"{size.layers} x {size.units} units, {size.inputs} inputs, {size.steps} steps, batch {size.batch}, "
    note += f"{100 * density:g} % random events, seed 0 (convolutional: {size.conv_layers} x {size.channels} channels "
    note += f"on 4 x 4 pixels, {size.conv_steps} steps); "
    note += "smallest and largest radius of each kind; CPU seconds are of all threads together."
    note += f" Not installed: {', '.join(missing)}." if missing else ""
    return Table("architectures", "Every supported kind, before and after", COLUMNS, tuple(rows), note)


def inputs_of(kind: str, inputs: Tensor, size: Size) -> Tensor:
    """Return what a network of a kind gets: fewer steps for a convolution, the mean over steps for one without time."""
    if kind in WITHOUT_TIME:
        return inputs.mean(0)
    return inputs[: size.conv_steps] if "conv" in kind.lower() else inputs


def _row(kind: str, build: Build, inputs: Tensor, size: Size, target: str) -> Row:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages warn about while they build and run
        torch.default_generator.manual_seed(0)
        model = build(size)
        start = time.process_time()
        result = lsc.stabilize(model, inputs_of(kind, inputs, size), target=target)
        seconds = time.process_time() - start
    before, after = result.before, result.after
    return {
        "kind": kind,
        "target": target,
        "time": _range(before.time.tolist()),
        "depth": _range([before.encoder, *before.depth.tolist()]),
        "time after": _range(after.time.tolist()),
        "depth after": _range([after.encoder, *after.depth.tolist()]),
        "rates": _range(after.rates.tolist()),
        "sweeps": result.sweeps,
        "s": result.seconds,
        "CPU s": seconds,
        "reached": "yes" if result.converged else result.reasons[0],
    }


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return ""
    low, high = f"{min(known):.2f}", f"{max(known):.2f}"
    return low if low == high else f"{low} to {high}"


def to_markdown(table: Table) -> str:
    """Return the table with one line for each kind: radii (time; depth) untreated and at each target.

    In brackets what a target could not be brought to, and why.
    """
    targets = list(dict.fromkeys(str(row["target"]) for row in table.rows))
    kinds: dict[str, dict[str, Row]] = {}
    for row in table.rows:
        kinds.setdefault(str(row["kind"]), {})[str(row["target"])] = row
    header = ["layer", "untreated (time; depth)", *(f"`{name}`" for name in targets), "CPU s"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for kind, rows in kinds.items():
        first = next(iter(rows.values()))
        cells = [kind, _radii(first["time"], first["depth"])]
        for name in targets:
            row = rows.get(name)
            target = (
                " (target 1)" if kind in WITHOUT_TIME else ""
            )  # whatever the name: there is one path to every layer
            cells.append("" if row is None else _radii(row["time after"], row["depth after"]) + target + _missed(row))
        cells.append(", ".join(f"{row['CPU s']:.0f}" for row in rows.values()))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _radii(time: object, depth: object) -> str:
    return f"{time}; {depth}" if time else f"depth {depth}"


def _missed(row: Row) -> str:
    return "" if row["reached"] == "yes" else f" ({row['reached']})"


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 0. ``argv`` are the command-line arguments, those of the process if None."""
    parser = argparse.ArgumentParser(prog="python -m lsc_snn.experiments.architectures", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--markdown", action="store_true", help="one line for each kind")
    parser.add_argument("--targets", default="one,half", help="targets, separated by commas")
    parser.add_argument("--families", default=",".join(FAMILIES), help="packages, separated by commas")
    parser.add_argument("--layers", type=int, default=Size().layers, help="layers of each network")
    parser.add_argument("--units", type=int, default=Size().units, help="units of each layer")
    parser.add_argument("--steps", type=int, default=Size().steps, help="time steps")
    options = parser.parse_args(argv)
    families = options.families.split(",")
    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        parser.error(f"--families: expected some of {', '.join(FAMILIES)}, got {unknown[0]!r}")
    size = Size(options.layers, options.units, steps=options.steps)
    table = architectures_table(size, families, options.targets.split(","))
    if options.json:
        print(json.dumps({"machine": machine(), "tables": [table.to_dict()]}, indent=2))
        return 0
    print(", ".join(f"{key}: {value}" for key, value in machine().items()))
    print(f"\n{table.note}\n\n{to_markdown(table)}" if options.markdown else f"\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
