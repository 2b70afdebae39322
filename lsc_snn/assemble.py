"""From recorded rows to the grid: which layer stands below which, what acts in between, and at which points."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn.axes import Layout, layouts, of_input, of_output
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.graph import leaf_ids, passed, slices, tensors_in
from lsc_snn.grid import Decoder, Grid, LayerRecord, Points
from lsc_snn.knobs import Knob, multiplied, together
from lsc_snn.recording import CellRow, Row, SequenceRow, source_of
from lsc_snn.replay import Between, Replay, at_points, close
from lsc_snn.transition import Source, Transition

_FEWEST = 8
"""Points over which a mean radius is taken, however wide the layers are."""


class Assembly:
    """From rows to the grid: which layer stands below which, what acts in between, and at which points."""

    def __init__(self, rows: list[Row], start: Inputs, output: Any, model: nn.Module, replay: Replay) -> None:
        self._start, self._output, self._model, self._replay = start, output, model, replay
        self._rows = {row.name: row for row in rows}
        inputs = [] if isinstance(start, EventBatch) else [start]
        self._data = inputs + [leaf for row in rows for leaves in row.candidates() for leaf in leaves]
        self._steps, self._batch = rows[0].shape
        self._middle = self._steps // 2
        self._probes = {row.name: self._probe(row) for row in rows}
        self._sources = {name: leaf_ids([probe]) for name, probe in self._probes.items()}
        self._choose_shown(rows)
        readouts = [row for row in rows if row.is_readout and self._on_top(row)]
        known = [row for row in readouts if row.adapter.role == "readout"]
        # A lone neuron whose potential is the output is a layer, and no readout of nothing.
        self._readouts = readouts if len(readouts) < len(rows) else known
        self._layers = [row for row in rows if row not in self._readouts]
        self._layout = self._input_layout(rows)

    def _choose_shown(self, rows: list[Row]) -> None:
        """Find where a user's forward takes a memory of a cell and not its output, for a layer above or for the end."""
        end = leaf_ids(tensors_in(self._output))
        for row in rows:
            if not isinstance(row, CellRow):
                continue
            above = set().union(*(ids for name, ids in self._sources.items() if name != row.name))
            middle = [[column[self._middle]] for column in row.candidates()]
            for taken, columns in ((above, middle), (end, row.candidates())):
                uses = [sum(id(leaf) in taken for leaf in column) for column in columns]
                if any(uses):
                    row.shown = uses.index(max(uses)) - 1 if max(uses) > uses[0] else None
                    break

    def _input_layout(self, rows: list[Row]) -> Layout | None:
        """Return how the model's input is laid out; None where it has no time axis."""
        start = self._start
        if isinstance(start, EventBatch):
            return Layout(self._steps, self._batch, True) if start.shape[0] == self._steps else None
        found = layouts(start, self._steps, self._batch)
        if len(found) < 2:
            return found[0] if found else None
        first = next((row for row in rows if self._gets(row, [start])), None)
        return found[0] if first is None else of_input(found, start, first.arrived(found[0].last_sample(start)))

    def _gets(self, row: Row, leaves: list[Tensor]) -> bool:
        """Say whether what arrives at a row depends on one of these leaves."""
        return any(id(leaf) in self._sources[row.name] for leaf in leaves)

    @torch.enable_grad()
    def grid(self, num_times: int, generator: torch.Generator | None, wide: int | None = None) -> Grid:
        """Return the grid of the pass, at points that ``trace`` describes.

        Where a layer carries more than ``wide`` variables, fewer of them are taken, by the square of their number, down
        to 8.
        """
        rows = [*self._layers, *self._readouts[-1:]]
        looped = {row.name: self._fed_back(row) for row in rows}
        latency = {row.name: _latency(row, self._steps) for row in rows}
        lengths = self._lengths()
        first, last = int(any(looped.values())), lengths - max(latency.values())
        points = _choose_points(first, last, num_times, generator)
        if wide is not None:
            points = _thinned(points, max(wide, *(_width(row) for row in self._layers)) / wide)
        valid = torch.arange(self._steps, device=lengths.device)[:, None] < lengths
        whole = Between(self._rows, self._start, self._output, points, (self._steps, self._batch))
        layout = self._layout
        between = whole if layout is None or layout.flat else at_points(whole, layout.time_first, self._replay)
        records = []
        for index, row in enumerate(rows):
            records.append(self._record(row, rows[:index], looped[row.name], latency[row.name], points, between, valid))
        layers = records[: len(self._layers)]
        if self._readouts:
            last_one = records[-1]
            return Grid(
                points, tuple(layers), Decoder(last_one.name, last_one.depth, last_one.knobs.depth), self._steps
            )
        return Grid(points, tuple(layers), self._decoder(whole, between), self._steps)

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
        return not any(self._gets(other, row.leaves(self._middle)) for other in self._rows.values())

    def _fed_back(self, row: Row) -> dict[int | None, list[nn.Parameter]]:
        """Return what of a cell the user's forward feeds back, and the parameters on the way.

        That is what the cell hands up (None), or a tensor of its memory (its index).
        """
        if not isinstance(row, CellRow) or self._steps < 2:
            return {}
        (handed,) = row.leaves(self._middle - 1)
        before: dict[int | None, Tensor] = {None: handed}
        for index, leaves in enumerate(row.candidates()[1:]):
            if leaves[self._middle - 1] is not handed:
                before[index] = leaves[self._middle - 1]
        probe = self._probes[row.name]
        return {key: passed(probe, leaf, self._data) for key, leaf in before.items() if self._gets(row, [leaf])}

    def _record(
        self,
        row: Row,
        lower: list[Row],
        looped: dict[int | None, list[nn.Parameter]],
        latency: int,
        points: Points,
        between: Between,
        valid: Tensor,
    ) -> LayerRecord:
        probe = self._probes[row.name]
        below = next((r for r in reversed(lower) if self._gets(row, r.leaves(self._middle))), None)
        start = None if isinstance(self._start, EventBatch) else self._start
        leaf = start if below is None else below.leaves(self._middle)[0]
        direct = isinstance(row, SequenceRow) and (row.done.inputs is leaf or isinstance(row.done.inputs, EventBatch))
        embedded = not lower and start is not None and not self._gets(row, [start])
        if direct or embedded:  # nothing stands in between, or what no gradient passes, such as an embedding
            arrived = row.arrived(points)
            if not looped:
                arrived = arrived.detach().requires_grad_()
            source = Source((arrived,))
        elif below is None:
            if lower and start is not None and not self._gets(row, [start]):
                raise ValueError(
                    f"layer {row.name!r}: expected a gradient to the layers below, got none: what arrives is detached, "
                    "or computed under torch.no_grad or without a derivative; measure the model without that"
                )
            source, between, points = self._from_input(row, between, points)
            arrived = between.arrived(row)
            if between.start is start:
                source = self._by_steps(source, arrived, points)
        else:
            arrived, source = between.arrived(row), between.left(below)
        if leaf is not None and (isinstance(below, CellRow) or (below is None and self._steps == 1)):
            self._check_samples(row, leaf)
        step, memory = row.at(points)
        knobs = row.adapter.knobs(row.module)
        if knobs.depth is None and leaf is not None:
            knobs = knobs._replace(depth=self._in_front(passed(probe, leaf, self._data)))
        rate = row.activity(valid) if row.spikes else math.nan
        earlier = Points(points.times - 1, points.samples)
        own = row.left(earlier) if None in looped else None
        fed = tuple((index, row.carried(index, earlier)) for index in looped if index is not None)
        acting = {id(parameter): parameter for parameters in looped.values() for parameter in parameters}
        knobs = knobs._replace(time=together(knobs.time, multiplied(acting.values())))
        later = tuple(row.arrived(Points(points.times + 1 + k, points.samples)).detach() for k in range(latency))
        return LayerRecord(row.name, row.module, step, arrived, source, memory, rate, knobs, later, own, fed)

    def _check_samples(self, row: Row, leaf: Tensor) -> None:
        """Raise ValueError where what arrives for one sample depends on others: a transition is that of one sample."""
        probe = self._probes[row.name]
        if probe.requires_grad and leaf.shape[0] == self._batch:
            (used,) = torch.autograd.grad(probe.square().sum(), leaf, retain_graph=True, materialize_grads=True)
            if bool((used[1:].abs() > 0).any()):
                raise ValueError(
                    f"layer {row.name!r}: expected samples that do not depend on each other, got an input that mixes "
                    f"those of a batch of {self._batch}; bring the batch to the axis where the model keeps it, or "
                    "let normalisations keep running statistics"
                )

    def _in_front(self, parameters: list[nn.Parameter]) -> Knob | None:
        """Return the knob of the module that acted last: all its parameters, weights and bias alike."""
        owners = {id(p): id(module) for module in self._model.modules() for p in module._parameters.values()}
        return multiplied(p for p in parameters if owners.get(id(p)) == owners.get(id(parameters[0])))

    def _from_input(self, row: Row, between: Between, whole: Points) -> tuple[Source, Between, Points]:
        """Return where the model's input starts at the points, the pass, and the points of the whole one, or fewer."""
        start, points = between.start, between.points
        if isinstance(start, EventBatch):
            raise ValueError(
                f"layer {row.name!r}: expected the model's EventBatch as its input, got a tensor made from it; "
                "give the model inputs.to_dense() to measure what stands in between"
            )
        if self._layout is not None:
            steps, batch = between.shape
            return Source((start,), self._layout._replace(steps=steps, batch=batch).at(points)), between, whole
        if start.shape[0] != self._batch:
            raise ValueError(
                f"inputs: expected (time steps, batch, ...) = {between.shape}, (batch, time steps, ...) or a batch of "
                f"{self._batch} samples, as layer {row.name!r} has, got shape {tuple(start.shape)}; bring the axes in "
                "this order, and undo it in call=lambda model, x: model(...)"
            )
        # The same sample at every step: one point of each, or the gradients of its steps would come mixed.
        kept = torch.stack([(points.samples == sample).nonzero()[0, 0] for sample in torch.unique(points.samples)])
        points = Points(points.times[kept], points.samples[kept])
        return Source((start,), (points.samples,)), between._replace(points=points), points

    def _by_steps(self, source: Source, arrived: Tensor, points: Points) -> Source:
        """Return the steps of the input as a source, where the forward takes them one by one, else the whole input."""
        start, layout = self._start, self._layout
        if isinstance(start, EventBatch) or layout is None or layout.flat:
            return source
        axis = 0 if layout.time_first else 1
        edges = slices(arrived, start, axis)
        if not edges.keys() >= set(points.times.tolist()):
            return source
        return source_of(start.detach().unbind(axis), points, edges)

    def _decoder(self, whole: Between, between: Between) -> Decoder | None:
        """Return the decoder of a model without a known readout: output by y_L, if the output has a time axis."""
        top = self._layers[-1]
        wanted = {id(leaf) for leaf in top.leaves(self._middle)}
        found = [place for place, tensor in enumerate(_outputs_of(whole)) if wanted & leaf_ids([tensor])]
        if not found:
            return None
        place = found[0]
        tensor = _outputs_of(whole)[place]
        fitting = layouts(tensor, self._steps, self._batch)
        if not fitting:
            return None
        layout = of_output(fitting, tensor, top.leaves(), top.sample_axis)
        picked, end = tensor[layout.at(whole.points)], whole
        if between.shape != whole.shape:
            steps, batch = between.shape
            layout, again = layout._replace(steps=steps, batch=batch), _outputs_of(between)[place:]
            if again and layout.fits(again[0]) and close(again[0][layout.at(between.points)], picked):
                picked, end = again[0][layout.at(between.points)], between

        def transition() -> Transition:
            with torch.enable_grad():
                return Transition(picked, [end.left(top)])

        (leaf,) = top.leaves(self._middle)
        return Decoder("output", transition, self._in_front(passed(tensor, leaf, self._data)))


def _outputs_of(pass_: Between) -> list[Tensor]:
    """Return the output of a pass, or its tensors if it is a tuple or a list."""
    output = pass_.output
    return [entry for entry in (output if isinstance(output, tuple | list) else [output]) if isinstance(entry, Tensor)]


def _width(row: Row) -> int:
    """Return how many variables a layer carries for one sample."""
    zero = torch.zeros(1, dtype=torch.long, device=row.leaves(0)[0].device)
    return sum(tensor.numel() for tensor in row.at(Points(zero, zero))[1])


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


def _thinned(points: Points, ratio: float) -> Points:
    """Return a choice of the points, for layers ``ratio`` times wider than those that are measured at all of them."""
    count = len(points.times)
    kept = min(count, max(_FEWEST, int(count / ratio**2)))
    # Drawn, always in the same way: an even stride through samples within times may meet the same samples every time.
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:kept].sort().values
    index = drawn.to(points.times.device)
    return Points(points.times[index], points.samples[index])
