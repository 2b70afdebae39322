"""``lsc-snn bench``: a grid of runs, several at once, that may be interrupted, and one table of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TaskID

from lsc_snn import _checks
from lsc_snn._cli_inputs import numbers_of
from lsc_snn._cli_options import OUTPUT, Json, Root
from lsc_snn._cli_output import print_json, progress_bar, say, tell
from lsc_snn._cli_tables import comparison_table

if TYPE_CHECKING:
    from lsc_snn.experiments.sweep import Sweep
    from lsc_snn.experiments.sweep_run import SweepResult
    from lsc_snn.experiments.sweep_workers import Event, Pool

GRID = "Grid (in place of what the file says)"
WHERE = "Where it runs"
FAILED = 1


def bench(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the runs and the table go.", show_default=False)],
    grid: Annotated[
        str | None,
        typer.Argument(
            metavar="[GRID.yaml|shd|ssc]", help="A file, or a published protocol that comes with the package."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data sets by name, or folders of recordings, with commas.", rich_help_panel=GRID)
    ] = None,
    bin_ms: Annotated[
        float | None, typer.Option(help="Length of a time step in milliseconds.", rich_help_panel=GRID)
    ] = None,
    networks: Annotated[
        str | None, typer.Option(help="Kinds of layers, with commas. [default: ALIF]", rich_help_panel=GRID)
    ] = None,
    units: Annotated[
        int | None, typer.Option(help="Units of each layer, in all networks. [default: 256]", rich_help_panel=GRID)
    ] = None,
    depths: Annotated[
        str | None, typer.Option(help="Numbers of layers, with commas. [default: 2,5]", rich_help_panel=GRID)
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Arms, with commas: none, one, half, balanced, A:B, or an initialisation: orthogonal, glorot, he, "
            "lsuv, fluctuation. [default: none,one,half]",
            rich_help_panel=GRID,
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each arm, with seeds 0, 1, ... [default: 3]", rich_help_panel=GRID)
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            help="Rates to choose from, with commas; each arm takes the best on validation at the first seed. "
            "[default: 0.001,0.003]",
            rich_help_panel=GRID,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Most passes over the training samples. [default: 50]", rich_help_panel=GRID)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples of each step. [default: 64]", rich_help_panel=GRID)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Epochs without better validation after which a run stops. [default: 10]", rich_help_panel=GRID
        ),
    ] = None,
    root: Root = None,
    workers: Annotated[
        int, typer.Option(help="Runs at once, each in a process of its own.", rich_help_panel=WHERE)
    ] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of each run.", rich_help_panel=WHERE)] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster instead: auto, HOST:PORT, ray://HOST:PORT, or local.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            help="GPUs of each run on Ray; 0.25 lets four share one. [default: 1 if there are any]",
            rich_help_panel=WHERE,
        ),
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Also write table.parquet; needs pyarrow.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a grid, data set x network x depth x arm x seed, and compare the arms in one table.

    The grid is a YAML file, flags, or both; `lsc-snn bench shd` is a published protocol. Each arm is tuned alike: the
    first seed tries every learning rate, and the best on validation is taken for the others. The folder receives each
    run with its checkpoints, table.csv with a row a run, summary.md with mean, deviation and paired comparison of the
    arms, and accuracy.png.

    Killed or stopped by Ctrl-C it goes on when it is called again, to the same table; what is done is only read. A run
    whose process dies goes on in a new one. Depths, targets, seeds and rates may be added to a finished grid.

    For example:

        lsc-snn bench --data digits --networks LIF,GRU --depths 2,5 --targets none,half --out runs/digits --workers 4

        lsc-snn bench shd --root data/ --out runs/shd --ray auto

        lsc-snn bench grid.yaml --seeds 1 --out runs/trial

    A file has the keys data, networks, depths, targets, seeds, learning_rates, train, train_by_depth; such as:

        data: [digits, {folder: recordings/, bin_ms: 8}]

        networks: [LIF, {neuron: GRU, num_units: 118, targets: [none, orthogonal]}]

        targets: [none, one, half]

        train: {epochs: 30, batch_size: 64, augment: {time_shift: 2}}
    """
    from lsc_snn.experiments.sweep_run import remove_half_files, run_sweep
    from lsc_snn.experiments.sweep_summary import import_parquet, write_outputs
    from lsc_snn.experiments.sweep_workers import LocalPool, RayPool
    from lsc_snn.plots import new_figure

    training = {"epochs": epochs, "batch_size": batch_size, "patience": patience}
    given = {"data": data, "networks": networks, "targets": targets, "seeds": seeds}
    values: dict[str, Any] = {
        name: value.split(",") if isinstance(value, str) else value
        for name, value in given.items()
        if value is not None
    }
    if depths is not None:
        values["depths"] = numbers_of("--depths", depths, int)
    if learning_rates is not None:
        values["learning_rates"] = numbers_of("--learning-rates", learning_rates, float)
    sweep = _sweep(grid, values, {key: value for key, value in training.items() if value is not None}, bin_ms, units)
    for flag, count in (("--workers", workers), ("--threads", threads)):
        _checks.check_count(flag, count)
    if gpus is not None and ray is None:
        raise ValueError(f"--gpus: expected --ray with it, got {gpus}; leave it out")
    if parquet:
        import_parquet()  # ImportError now, not after the work
    new_figure(1, 1)

    def make_pool() -> Pool:
        pool: Pool
        if ray is None:
            pool = LocalPool(out, root, workers=workers, threads=threads)
        else:
            pool = RayPool(out, root, ray, threads=threads, gpus=gpus)
        return pool

    with progress_bar() as bar:
        result = run_sweep(sweep, out, make_pool, root=root, on_event=_Shown(bar, sweep.num_runs))
    _show(result, as_json)
    try:
        write_outputs(out, result, parquet=parquet, figure=_figure(result))
    except OSError as error:
        remove_half_files(out)
        reason = f"could not write all of the table, which is above: {error.strerror or error}"
        raise OSError(f"{out}: {reason}; free space, and call again to go on") from None
    if result.disk_full:
        raise OSError(f"{out}: the disk is full ({result.disk_full}); free space, and call again to go on")
    if result.failures:
        place, reason = result.failures[0]
        say(f"{len(result.failures)} of {result.total} runs failed, first {place}: {reason}; call again to retry them")
        raise typer.Exit(FAILED)


def _sweep(
    grid: str | None, flags: dict[str, Any], training: dict[str, Any], bin_ms: float | None, units: int | None
) -> Sweep:
    """Return the grid of a file, with what flags say in place of what stands there."""
    from lsc_snn.experiments.sweep_yaml import grid_file, read_yaml, sweep_of

    file = None if grid is None else grid_file(grid)
    values = {**({} if file is None else read_yaml(file)), **flags}
    by_depth = values.get("train_by_depth")
    if "depths" in flags and isinstance(by_depth, dict):  # those of the file that the flags leave out
        values["train_by_depth"] = {depth: more for depth, more in by_depth.items() if depth in flags["depths"]}
    train = values.get("train", {})
    if training and isinstance(train, dict):  # what is no mapping is left for the checks of the grid
        values["train"] = {**train, **training}
    if units is not None:
        values["networks"] = _each_with(values.get("networks", ["ALIF"]), "neuron", num_units=units)
    if bin_ms is not None:
        values["data"] = _each_with(values.get("data", []), "name", bin_ms=bin_ms)
    try:
        sweep: Sweep = sweep_of(values)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error) if file is None else f"{file}: {error}") from None
    return sweep


def _each_with(entries: Any, key: str, **more: Any) -> Any:
    """Return the entries of a list as mappings with ``more``; what is no list is left for the checks of the grid."""
    from lsc_snn.datasets import names

    if not isinstance(entries, list):
        return entries
    whole = []
    for entry in entries:
        if isinstance(entry, str):
            entry = {"folder" if key == "name" and entry not in names() else key: entry}
        whole.append({**entry, **more} if isinstance(entry, dict) else entry)
    return whole


def _show(result: SweepResult, as_json: bool) -> None:
    """Print the runs as JSON, or a table for each data set and network."""
    from lsc_snn.experiments.sweep_summary import METRICS, compare_arms, grouped
    from lsc_snn.experiments.table import summarize

    if as_json:
        print_json(
            {
                "runs": [{"data": row.data, "network": row.network, **row.run.to_dict()} for row in result.rows],
                "failures": dict(result.failures),
                "total": result.total,
                "dropped": dict(result.dropped),
            }
        )
        return
    for (data, network), runs in grouped(result.rows).items():
        if any(run.chosen for run in runs):
            tell(comparison_table(summarize(runs), f"{network} on {data}"))
        for pair in compare_arms(runs):
            if pair.told_apart:
                sure = f"p = {pair.p:.2g}, {pair.num_seeds} seeds"
                tell(f"depth {pair.depth}, {METRICS[pair.metric]}: {pair.verdict()} ({sure})")
    for label, number in result.dropped:
        tell(f"{label}: {number:,} spikes after num_steps were cropped away")
    figure = " and accuracy.png" if any(row.run.chosen for row in result.rows) else ""
    tell(f"{len(result.rows)} of {result.total} runs done; see table.csv, summary.md{figure}")


def _figure(result: SweepResult) -> bytes | None:
    from lsc_snn._sweep_figure import sweep_figure
    from lsc_snn.plots import to_png

    chosen = any(row.run.chosen for row in result.rows)
    return to_png(sweep_figure(result.rows)) if chosen else None


class _Shown:
    """Shows the events of a sweep on a bar: one line for all runs, one for each that is under way."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._runs = bar.add_task("runs", total=total)
        self._lines: dict[str, TaskID] = {}

    def __call__(self, event: Event, done: int, total: int) -> None:
        """Take an event; a process that died is also said in a line."""
        place = event.job.place
        self._bar.update(self._runs, completed=done, total=total)
        if event.kind == "epoch":
            if place not in self._lines:
                self._lines[place] = self._bar.add_task(place, total=event.job.config.epochs)
            self._bar.update(self._lines[place], completed=event.epoch)
        elif place in self._lines:
            self._bar.remove_task(self._lines.pop(place))
        if event.kind == "retry":
            say(f"{place}: {event.error}; it goes on from its last epoch")
        if event.kind == "end" and event.error:
            say(f"{place}: {event.error}")
