"""What a sweep leaves to read: a tidy table, and a summary with mean, deviation and paired comparisons of the arms."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsc_snn.experiments.files import write_bytes, write_csv
from lsc_snn.experiments.sweep_run import Row, SweepResult
from lsc_snn.experiments.table import Run, summarize, to_markdown

METRICS = {"test_accuracy": "test accuracy", "unseen": "unseen speakers"}
"""What the arms are compared in: accuracies of a run, by its field."""
_SURE = 0.05
_NOTES = """
Mean ± standard deviation over the seeds (n - 1). The learning rate of each arm is the best on validation at the first
seed; the epoch is chosen on validation too, and each run reads the test samples once. Diverged runs count, with their
best epoch before that.

Differences are between runs of the same seed, in percentage points, with the 95 % interval of the paired t over the
seeds, which supposes differences that are roughly normal; it is that of this pair alone. p is that of the paired t
test, corrected (Holm) for the number of pairs at the same depth in the same metric; below 0.05 an arm is called better.
All of it speaks of other seeds on the same samples and the same split; how far other test samples would move an
accuracy is not in it. With few seeds "not told apart" is no proof that arms are alike: read the interval.
"""


@dataclass(frozen=True)
class Comparison:
    """Two arms at one depth of one network on one data set, compared over the seeds that both have."""

    depth: int
    metric: str
    """A key of ``METRICS``."""
    first: str
    second: str
    num_seeds: int
    difference: float
    """Mean of second minus first."""
    half_width: float
    """Of the 95 % interval; NaN for one seed, or where the differences are all the same."""
    p: float
    """Two-sided, corrected after Holm; NaN likewise."""

    @property
    def told_apart(self) -> bool:
        """Whether the arms differ by more than chance explains: p below 0.05."""
        return self.p < _SURE

    def verdict(self) -> str:
        """Say in words how sure one can be."""
        if self.num_seeds < 2:
            return "one seed says nothing"
        if math.isnan(self.p):
            return "the same difference at every seed: no interval"
        if self.told_apart:
            better, worse = (self.second, self.first) if self.difference > 0 else (self.first, self.second)
            return f"{better} is better than {worse}"
        return "not told apart"


def write_outputs(folder: Path, result: SweepResult, *, parquet: bool = False, figure: bytes | None = None) -> None:
    """Write table.csv, seconds.csv, summary.md and, if asked, table.parquet and accuracy.png, each whole or not at all.

    The same runs give the same files, byte for byte, but for seconds.csv, which holds the wall-clock times alone.
    Raises ImportError for Parquet without pyarrow, and OSError where the disk is full.
    """
    header, rows = table_of(result.rows)
    content = _parquet(header, rows) if parquet else None
    write_csv(folder / "table.csv", header, rows)
    if content is not None:
        write_bytes(folder / "table.parquet", content)
    write_csv(folder / "seconds.csv", ("folder", "seconds"), ((r.run.folder, r.run.seconds) for r in result.rows))
    write_bytes(folder / "summary.md", markdown(result).encode())
    if figure is not None:
        write_bytes(folder / "accuracy.png", figure)


def table_of(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Return the tidy table, a row a run: its columns and values; wall-clock times are left out."""
    names = [field.name for field in dataclasses.fields(Run) if field.name != "seconds"]
    return ["data", "network", *names], [[r.data, r.network, *(getattr(r.run, name) for name in names)] for r in rows]


def markdown(result: SweepResult) -> str:
    """Return the summary: how many runs there are, and for each data set and network its arms, and which is better."""
    done = f"{len(result.rows)} of {result.total} runs done, {sum(row.run.chosen for row in result.rows)} of them count"
    lines = ["# Sweep", "", f"{done}; those that only tuned a learning rate do not."]
    if result.disk_full:
        lines += ["", f"Stopped, because the disk is full: {result.disk_full}."]
    lines += [line for label, number in result.dropped for line in ("", f"Cropped away from {label}: {number} spikes.")]
    if result.failures:
        lines += ["", "Failed, and left out:", "", *(f"- `{place}`: {reason}" for place, reason in result.failures)]
    for (data, network), runs in grouped(result.rows).items():
        lines += ["", f"## {network} on {data}", "", to_markdown(summarize(runs))]
        pairs = compare_arms(runs)
        if pairs:
            lines += ["", *_comparisons(pairs)]
    return "\n".join(lines) + "\n" + _NOTES


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs of each (data, network), in the order of the table."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for row in rows:
        groups.setdefault((row.data, row.network), []).append(row.run)
    return groups


def compare_arms(runs: Sequence[Run]) -> tuple[Comparison, ...]:
    """Return all pairs of arms at each depth, in each metric that the runs have, over the seeds that both have."""
    cells: dict[int, dict[str, dict[int, Run]]] = {}
    for run in runs:
        if run.chosen:
            cells.setdefault(run.depth, {}).setdefault(run.target, {})[run.seed] = run
    found = []
    for (depth, arms), metric in itertools.product(cells.items(), METRICS):
        family = []
        for first, second in itertools.combinations(arms, 2):
            shared = [seed for seed in arms[first] if seed in arms[second]]
            values = [tuple(getattr(arms[arm][seed], metric) for arm in (first, second)) for seed in shared]
            differences = [b - a for a, b in values]
            if differences and not any(map(math.isnan, differences)):
                family.append(Comparison(depth, metric, first, second, len(shared), *paired_t(differences)))
        corrected = holm([pair.p for pair in family])
        found += [dataclasses.replace(pair, p=p) for pair, p in zip(family, corrected, strict=True)]
    return tuple(found)


def paired_t(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, half width of its 95 % interval, and two-sided p of a t test that it is 0.

    The interval is mean ± t(0.975, n - 1) s / sqrt(n). The last two are NaN for one value, or values all the same.

    >>> [round(value, 4) for value in paired_t([1.0, 2.0, 3.0])]
    [2.0, 2.4841, 0.0742]
    """
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2 or max(differences) - min(differences) < 1e-12:
        return mean, math.nan, math.nan
    error = statistics.stdev(differences) / math.sqrt(count)
    return mean, t_quantile(0.95, count - 1) * error, 1 - t_within(mean / error, count - 1)


def t_within(t: float, degrees: int) -> float:
    """Return P(|T| < |t|) of Student's t with an integer number of degrees of freedom.

    A finite sum, of Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.

    >>> round(t_within(12.706, 1), 4), round(t_within(2.571, 5), 3)
    (0.95, 0.95)
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(within: float, degrees: int) -> float:
    """Return the t with P(|T| < t) = within, by bisection.

    >>> round(t_quantile(0.95, 2), 3)
    4.303
    """
    low, high = 0.0, 1.0
    while t_within(high, degrees) < within:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < within else (low, middle)
    return high


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number after Holm (1979); NaN stays, and does not count.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted((i for i, p in enumerate(values) if not math.isnan(p)), key=lambda i: values[i])
    corrected, largest = list(values), 0.0
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - position) * values[index]))
        corrected[index] = largest
    return corrected


def _comparisons(pairs: Sequence[Comparison]) -> list[str]:
    header = ("layers", "metric", "arms", "difference (points)", "95 % interval", "seeds", "p", "so")
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for pair in pairs:
        low, high = (100 * (pair.difference + side * pair.half_width) for side in (-1, 1))
        known = not math.isnan(pair.p)
        interval = f"{low:+.1f} to {high:+.1f}" if known else "none"
        p = ("< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}") if known else "none"
        arms = f"{pair.second} - {pair.first}"
        cells = (METRICS[pair.metric], arms, f"{100 * pair.difference:+.1f}", interval, str(pair.num_seeds), p)
        lines.append("| " + " | ".join((str(pair.depth), *cells, pair.verdict())) + " |")
    return lines


def _parquet(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    pyarrow, parquet = import_parquet()
    buffer = io.BytesIO()
    columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def import_parquet() -> tuple[Any, Any]:
    """Return pyarrow and its module for Parquet; ImportError, naming it, without it."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("--parquet needs pyarrow; install it with: pip install pyarrow") from error
    return pyarrow, parquet
