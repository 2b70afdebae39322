"""What stands between sequence modules, run again on the measured points alone.

A sequence module hands up all T steps of B samples at once, so a product with what comes next would pass through T * B
rows, where K are asked for: 250 x 32 against 256, say. The user's forward is therefore run once more, on one step of K
samples, with each module handing up what it had at the points. That is the same only where what stands in between acts
on every step and sample by itself; whether it does is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsc_snn.events import EventBatch, Inputs
from lsc_snn.grid import Points
from lsc_snn.recording import Row, SequenceRow
from lsc_snn.transition import Source

Outputs = Mapping[str, Tensor]
"""What each layer hands up, by its name."""
Replay = Callable[[Inputs, Outputs], tuple[dict[str, Row], Any]]
"""Runs the model's forward with these outputs; returns the recorded rows, and what the model returned."""
_CLOSE = 1e-4
"""Relative difference of a signal in the two passes that is rounding: sums of float32 in another order."""


class Between(NamedTuple):
    """A pass of T steps of B samples: its rows, its input and output, and the measured points in it."""

    rows: Mapping[str, Row]
    start: Inputs
    output: Any
    points: Points
    shape: tuple[int, int]
    """(T, B)."""

    def arrived(self, row: Row) -> Tensor:
        """Return what arrived at the points of a row, (K, ...), with its graph."""
        return self.rows[row.name].arrived(self.points)

    def left(self, row: Row) -> Source:
        """Return where the output of the points of a row starts."""
        return self.rows[row.name].left(self.points)


def at_points(whole: Between, time_first: bool, replay: Replay) -> Between:
    """Return the pass at the points alone, or ``whole`` where that is not the same, or no less."""
    rows, points = whole.rows, whole.points
    sequences = [row for row in rows.values() if isinstance(row, SequenceRow)]
    count = len(points.times)
    if len(sequences) < len(rows) or 2 * count > math.prod(whole.shape):
        return whole
    start: Inputs
    if isinstance(whole.start, EventBatch):
        start = EventBatch.from_dense(whole.start.rows(points.times, points.samples)[None])
    else:
        picked = points.take(whole.start if time_first else whole.start.transpose(0, 1)).detach()
        start = (picked[None] if time_first else picked[:, None]).requires_grad_()
    try:
        again, output = replay(start, {row.name: points.take(row.leaf)[None] for row in sequences})
    except Exception:  # whatever a forward raises that does not take a batch of another size
        return whole
    zero = torch.zeros_like(points.times)
    short = Between(again, start, output, Points(zero, torch.arange(count, device=zero.device)), (1, count))
    same = again.keys() == rows.keys() and all(close(short.arrived(row), whole.arrived(row)) for row in sequences)
    return short if same else whole


def close(one: Tensor, other: Tensor) -> bool:
    """Say whether two signals differ by no more than rounding."""
    if one.shape != other.shape:
        return False
    return bool(((one - other).abs().max() <= _CLOSE * other.abs().max()).item())
