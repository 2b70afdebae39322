"""From recorded rows to the grid: which layer stands below which, what acts in between, and at which points."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn.events import EventBatch, Inputs
from lsc_snn.graph import passed, reached
from lsc_snn.grid import Decoder, Grid, LayerRecord, Points, Source, Transition
from lsc_snn.knobs import Knob, multiplied, together
from lsc_snn.recording import CellRow, Row, SequenceRow


class Assembly:
    """From rows to the grid: which layer stands below which, what acts in between, and at which points."""

    def __init__(self, rows: list[Row], start: Inputs, model: nn.Module) -> None:
        self._start, self._model = start, model
        inputs = [] if isinstance(start, EventBatch) else [start]
        self._data = inputs + [leaf for row in rows for leaf in row.leaves()]
        self._steps, self._batch = rows[0].shape
        self._middle = self._steps // 2
        self._probes = {row.name: self._probe(row) for row in rows}
        self._readouts = [row for row in rows if row.adapter.role == "readout" and self._on_top(row)]
        self._layers = [row for row in rows if row not in self._readouts]

    def grid(self, output: Any, num_times: int, generator: torch.Generator | None) -> Grid:
        """Return the grid of the pass, whose model returned ``output``."""
        rows = [*self._layers, *self._readouts[-1:]]
        looped = {row.name: self._fed_back(row) for row in rows}
        latency = {row.name: _latency(row, self._steps) for row in rows}
        lengths = self._lengths()
        first, last = int(any(loop is not None for loop in looped.values())), lengths - max(latency.values())
        points = _choose_points(first, last, num_times, generator)
        valid = torch.arange(self._steps, device=lengths.device)[:, None] < lengths
        records = []
        for index, row in enumerate(rows):
            records.append(self._record(row, rows[:index], looped[row.name], latency[row.name], points, valid))
        layers = records[: len(self._layers)]
        if self._readouts:
            last_one = records[-1]
            return Grid(
                points, tuple(layers), Decoder(last_one.name, last_one.depth, last_one.knobs.depth), self._steps
            )
        return Grid(points, tuple(layers), self._decoder(output, points), self._steps)

    def _lengths(self) -> Tensor:
        start = self._start
        if isinstance(start, EventBatch) and start.shape[0] == self._steps:
            return start.lengths
        return torch.full((self._batch,), self._steps, device=start.device)

    def _probe(self, row: Row) -> Tensor:
        """Return what arrived at a step in the middle, for all that its graph says."""
        zero = torch.zeros(1, dtype=torch.long, device=self._start.device)
        return row.arrived(Points(zero + self._middle, zero))

    def _on_top(self, row: Row) -> bool:
        """Say whether no layer gets what this one hands up: a readout that feeds a layer is a layer."""
        return not any(reached(probe, row.leaves(self._middle)) for probe in self._probes.values())

    def _fed_back(self, row: Row) -> list[nn.Parameter] | None:
        """Return the parameters by which the user's forward feeds a cell's output back, or None if it does not."""
        probe = self._probes[row.name]
        if not isinstance(row, CellRow) or self._steps < 2:
            return None
        (before,) = row.leaves(self._middle - 1)
        return passed(probe, before, self._data) if reached(probe, [before]) else None

    def _record(
        self,
        row: Row,
        lower: list[Row],
        looped: list[nn.Parameter] | None,
        latency: int,
        points: Points,
        valid: Tensor,
    ) -> LayerRecord:
        probe = self._probes[row.name]
        below = next((r for r in reversed(lower) if reached(probe, r.leaves(self._middle))), None)
        start = None if isinstance(self._start, EventBatch) else self._start
        leaf = start if below is None else below.leaves(self._middle)[0]
        if isinstance(row, SequenceRow) and (row.done.inputs is leaf or isinstance(row.done.inputs, EventBatch)):
            arrived = row.arrived(points).detach().requires_grad_()  # nothing stands in between
            source = Source((arrived,))
        elif below is None:
            source, points = self._from_input(row, points)
            arrived = row.arrived(points)
        else:
            arrived, source = row.arrived(points), below.left(points)
        step, memory = row.at(points)
        knobs = row.adapter.knobs(row.module)
        if knobs.depth is None and leaf is not None:
            knobs = knobs._replace(depth=self._in_front(passed(probe, leaf, self._data)))
        rate = row.activity(valid) if row.adapter.spikes(row.module) else math.nan
        own = None
        if looped is not None:
            own = row.left(Points(points.times - 1, points.samples))
            knobs = knobs._replace(time=together(knobs.time, multiplied(looped)))
        later = tuple(row.arrived(Points(points.times + 1 + k, points.samples)).detach() for k in range(latency))
        return LayerRecord(row.name, row.module, step, arrived, source, memory, rate, knobs, later, own)

    def _in_front(self, parameters: list[nn.Parameter]) -> Knob | None:
        """Return the knob of the module that acted last: all its parameters, weights and bias alike."""
        owners = {id(p): id(module) for module in self._model.modules() for p in module._parameters.values()}
        return multiplied(p for p in parameters if owners.get(id(p)) == owners.get(id(parameters[0])))

    def _from_input(self, row: Row, points: Points) -> tuple[Source, Points]:
        """Return where the model's input starts at the points, and the points, fewer if need be."""
        start, here = self._start, (self._steps, self._batch)
        if isinstance(start, EventBatch):
            raise ValueError(
                f"layer {row.name!r}: expected the model's EventBatch as its input, got a tensor made from it; "
                "give the model inputs.to_dense() to measure what stands in between"
            )
        if start.dim() > 2 and start.shape[:2] == here:
            return Source((start,), (points.times, points.samples)), points
        if start.dim() > 2 and start.shape[:2] == here[::-1]:
            return Source((start,), (points.samples, points.times)), points
        if start.shape[0] != self._batch:
            raise ValueError(
                f"inputs: expected (time steps, batch, ...) = {here} or a batch of {self._batch} samples, as layer "
                f"{row.name!r} has, got shape {tuple(start.shape)}"
            )
        # The same sample at every step: one point of each, or the gradients of its steps would come mixed.
        kept = torch.stack([(points.samples == sample).nonzero()[0, 0] for sample in torch.unique(points.samples)])
        points = Points(points.times[kept], points.samples[kept])
        return Source((start,), (points.samples,)), points

    def _decoder(self, output: Any, points: Points) -> Decoder | None:
        """Return the decoder of a model without a known readout: output by y_L, if the output has a time axis."""
        tensor = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(tensor, Tensor) or tensor.dim() < 2:
            return None
        top = self._layers[-1]
        index: tuple[Tensor, ...] | None = None
        if tensor.dim() > 2 and tensor.shape[:2] == (self._steps, self._batch):
            index = (points.times, points.samples)
        elif tensor.dim() > 2 and tensor.shape[:2] == (self._batch, self._steps):
            index = (points.samples, points.times)
        elif self._steps == 1 and tensor.shape[0] == self._batch:
            index = (points.samples,)
        if index is None or not reached(tensor, top.leaves(self._middle)):
            return None
        picked = index

        def transition() -> Transition:
            with torch.enable_grad():
                return Transition(tensor[picked], [top.left(points)])

        (leaf,) = top.leaves(self._middle)
        return Decoder("output", transition, self._in_front(passed(tensor, leaf, self._data)))


def _latency(row: Row, steps: int) -> int:
    """Return after how many steps an input reaches the output: 0 for most, 1 for cells that integrate first.

    A derivative that is 0 at inputs of every size is none: in an alpha synapse the input cancels in its own step.
    """
    zero = torch.zeros(4, dtype=torch.long, device=row.leaves(0)[0].device)
    points = Points(zero, zero)
    step, memory = row.at(points)
    arrived = row.arrived(points).detach()
    spread = torch.randn(arrived.shape, generator=torch.Generator().manual_seed(0)).to(arrived)
    arrived = torch.stack([a + size * s for a, s, size in zip(arrived, spread, (0.25, 1, 4, 16), strict=True)])
    arrived.requires_grad_()
    graphs = []
    with torch.enable_grad():
        output, memory = step(arrived, memory)
        for latency in range(min(steps, 3)):
            if output.requires_grad:
                (used,) = torch.autograd.grad(output.sum(), arrived, retain_graph=True, allow_unused=True)
                if used is not None and used.any():
                    return latency
                graphs += [] if used is None else [latency]
            if latency + 1 < steps:
                output, memory = step(row.arrived(Points(zero + latency + 1, zero)).detach(), memory)
    return graphs[0] if graphs else 0


def _choose_points(first: int, last: Tensor, num_times: int, generator: torch.Generator | None) -> Points:
    """Return points from step ``first`` to before ``last`` (B,)."""
    batch, device = len(last), last.device
    lengths = (last - first).clamp(min=0)
    share = torch.full((), 0.5) if generator is None else torch.rand(num_times, batch, generator=generator)
    # Disjoint whole shares of a sample's steps: a point that came twice would enter its own products twice.
    edges = torch.arange(num_times + 1, device=device)[:, None] * lengths // num_times
    widths = edges.diff(dim=0)
    times = first + edges[:-1] + (share.to(device) * widths).long()
    samples = torch.arange(batch, device=device).expand(num_times, -1)
    return Points(times[widths > 0], samples[widths > 0])
