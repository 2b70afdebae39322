"""Tables of the benchmarks, the machine that they ran on, and timing by turns."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lsc_snn.experiments.records import plain_dict

Value = str | int | float | bool | None
Row = dict[str, Value]


@dataclass(frozen=True)
class Table:
    """What one benchmark measured."""

    name: str
    """Its key in the JSON output."""
    title: str
    columns: tuple[str, ...]
    """Keys of the rows in the order in which they are shown; each names its unit."""
    rows: tuple[Row, ...]
    note: str
    """What was measured, how, and what it should be."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "rows": [plain_dict(row) for row in self.rows]}

    def __str__(self) -> str:
        """Return title, note and an aligned Markdown table.

        >>> print(Table("t", "Speed", ("who", "ms"), ({"who": "a", "ms": 12.345}, {"who": "b"}), "Lower is better."))
        ## Speed
        Lower is better.
        <BLANKLINE>
        | who | ms   |
        | --- | ---- |
        | a   | 12.3 |
        | b   |      |
        """
        cells = [list(self.columns), *([_cell(row.get(column)) for column in self.columns] for row in self.rows)]
        widths = [max(3, *(len(line[index]) for line in cells)) for index in range(len(self.columns))]
        cells.insert(1, ["-" * width for width in widths])
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in cells
        ]
        return "\n".join([f"## {self.title}", self.note, "", *lines])


def _cell(value: Value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"
    return str(value)


def interleaved(contenders: Mapping[str, Callable[[], object]], *, rounds: int, warm_ups: int) -> dict[str, float]:
    """Return the median seconds of each contender, timed by turns: A B C, A B C, ..., after ``warm_ups`` such rounds.

    By turns, because a machine that slows down for a while then slows all of them.

    >>> sorted(interleaved({"a": lambda: 1, "b": lambda: 2}, rounds=3, warm_ups=1))
    ['a', 'b']
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_ups + rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            elapsed = time.perf_counter() - start
            if turn >= warm_ups:
                seconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> Row:
    """Return what the numbers depend on: processor, cores, threads, versions, and the date."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "processor": _processor(),
        "cores": available,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def ratio(slow: float, fast: float) -> float:
    """Return slow / fast."""
    return slow / fast if fast > 0 else math.nan


def joined(values: Sequence[float], digits: int = 3) -> str:
    """Return numbers as one cell: "0.01 to 0.2", or a single one."""
    low, high = min(values), max(values)
    first, last = f"{low:.{digits}g}", f"{high:.{digits}g}"
    return first if first == last else f"{first} to {last}"
