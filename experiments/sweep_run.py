"""Run a sweep: what is done is read, what is not is given to a pool, and an arm's other seeds follow its tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lsc_snn.experiments.batches import check_sequences
from lsc_snn.experiments.compare import CLAIM, best_of
from lsc_snn.experiments.data import check_splits, identity, sizes_of
from lsc_snn.experiments.files import alone_in, make_folder, write_json
from lsc_snn.experiments.records import RunResult
from lsc_snn.experiments.sweep import Cell, Job, Sweep, check_claim, expand, result_at
from lsc_snn.experiments.sweep_workers import Event, Pool, load_counted
from lsc_snn.experiments.table import Run
from lsc_snn.network import Network


@dataclass(frozen=True)
class Row:
    """A run of the table."""

    data: str
    """Label of the data set."""
    network: str
    """Label of the network."""
    run: Run


@dataclass(frozen=True)
class SweepResult:
    """What became of a sweep."""

    rows: tuple[Row, ...]
    """The runs that are done, in the order of the grid, whatever the order in which they ended."""
    failures: tuple[tuple[str, str], ...]
    """Place and reason of each run that failed; the next call tries it again."""
    total: int
    """Runs in all."""
    disk_full: str = ""
    """What said that the disk is full, for which the sweep stopped; "" if it is not."""
    dropped: tuple[tuple[str, int], ...] = ()
    """Label and number of spikes of each data set of which some were cropped away."""


OnEvent = Callable[[Event, int, int], None]
"""Called with an event, how many runs are done, and how many there are."""


def run_sweep(
    sweep: Sweep,
    folder: str | Path,
    make_pool: Callable[[], Pool],
    *,
    root: Path | None = None,
    on_event: OnEvent | None = None,
) -> SweepResult:
    """Do the runs of a sweep that its folder does not hold yet, and return all of them.

    Of each arm the first seed is trained at every learning rate, the best on validation is chosen, and the other seeds
    are trained at it, as by ``compare``. Each run has a folder of its own, such as ``digits/LIF/depth-2/half/rate-0.001
    /seed-0``, in which ``train`` resumes it; the folder of the sweep may be that of one which this sweep contains.
    ``make_pool`` returns where the runs are computed; it is not called where nothing is left to do. ``root`` is the
    folder of named data sets. A run that raises fails alone; on a full disk the sweep stops, and runs that were not
    done stay as their last checkpoints are.

    Raises ValueError, before anything is trained, for data that do not fit, for a folder of another sweep, one that
    another process works in, or that cannot be written, and for broken files in it; and what readers of data raise.
    """
    folder = Path(folder)
    counted = {source.label: load_counted(source, root) for source in sweep.data}
    splits = {label: parts for label, (parts, _) in counted.items()}
    dropped = tuple((label, number) for label, (_, number) in counted.items() if number)
    cells = expand(sweep, {label: sizes_of(parts.train) for label, parts in splits.items()})
    for job in (job for cell in cells for job in cell.tuning):
        check_splits(splits[job.source.label], job.config.network)
        check_sequences(splits[job.source.label], job.config)
    _check_layers(cells)
    identities = {label: identity(parts) for label, parts in splits.items()}
    del counted, splits
    wanted = check_claim(folder, sweep, identities, cells)
    make_folder(folder)
    with alone_in(folder):
        write_json(folder / CLAIM, wanted)
        return replace(_run(folder, cells, make_pool, sweep.num_runs, on_event), dropped=dropped)


def _check_layers(cells: Sequence[Cell]) -> None:
    """Raise TypeError or ValueError, naming the network, for options that its layers do not take."""
    jobs = (job for cell in cells for job in cell.tuning)
    networks = {(job.network, job.config.network.num_inputs): job.config.network for job in jobs}
    for (label, _), config in networks.items():
        try:
            Network(replace(config, num_layers=1))
        except (TypeError, ValueError) as error:
            raise type(error)(f"network {label}: {error}") from None


def _run(
    folder: Path, cells: Sequence[Cell], make_pool: Callable[[], Pool], total: int, on_event: OnEvent | None
) -> SweepResult:
    found: dict[str, RunResult] = {}
    failures: dict[str, str] = {}
    taken: set[str] = set()

    def due(cell: Cell) -> list[Job]:
        """Return the runs of a cell that can start now; those that are done are put with the others."""
        new = []
        for _ in range(2):  # what is found of the tuning may make the other seeds due
            for job in _due(cell, found):
                if job.place not in taken:
                    taken.add(job.place)
                    result = result_at(folder, job)
                    if result is None:
                        new.append(job)
                    else:
                        found[job.place] = result
        return new

    waiting = {job.place: cell for cell in cells for job in (*cell.tuning, *(j for row in cell.others for j in row))}
    first = [job for cell in cells for job in due(cell)]
    full = ""
    if first:
        with make_pool() as pool:
            for job in first:
                pool.submit(job)
            under_way = len(first)
            while under_way and not full:
                event = pool.next()
                if event.kind == "end":
                    under_way -= 1
                    result = result_at(folder, event.job) if not event.error else None
                    if result is not None:
                        found[event.job.place] = result
                    elif event.full:
                        full = event.error
                    else:
                        failures[event.job.place] = event.error or "it left no results.json"
                    for job in due(waiting[event.job.place]):
                        pool.submit(job)
                        under_way += 1
                if on_event is not None:
                    on_event(event, len(found), total)
    if full:
        remove_half_files(folder)
    rows = tuple(row for cell in cells for row in _rows(cell, found))
    ordered = sorted(failures.items(), key=lambda pair: list(waiting).index(pair[0]))
    return SweepResult(rows, tuple(ordered), total, full)


def remove_half_files(folder: Path) -> None:
    """Remove what writes that found no space have left below a folder in which nobody writes."""
    for left in folder.glob("**/.*.tmp"):
        left.unlink(missing_ok=True)


def _winner(cell: Cell, found: dict[str, RunResult]) -> int | None:
    """Return which learning rate the other seeds take, None as long as the tuning is not done."""
    if len(cell.tuning) == 1:
        return 0
    results = [found[job.place] for job in cell.tuning if job.place in found]
    return best_of(results) if len(results) == len(cell.tuning) else None


def _due(cell: Cell, found: dict[str, RunResult]) -> tuple[Job, ...]:
    winner = _winner(cell, found)
    return cell.tuning if winner is None else (*cell.tuning, *cell.others[winner])


def _rows(cell: Cell, found: dict[str, RunResult]) -> Iterator[Row]:
    winner = _winner(cell, found)
    for index, job in enumerate(cell.tuning):
        if job.place in found:
            yield _row(job, found[job.place], chosen=index == winner)
    for job in () if winner is None else cell.others[winner]:
        if job.place in found:
            yield _row(job, found[job.place], chosen=True)


def _row(job: Job, result: RunResult, *, chosen: bool) -> Row:
    return Row(job.source.label, job.network, Run.of(result, job.place, chosen=chosen))
