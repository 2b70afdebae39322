"""The reports of one call of ``stabilize``: a forward pass for each, and no more of it than a procedure needs to know.

The same points at the same effort, and always the same blocks and starting vectors: common random numbers make a radius
a smooth function of the knobs, which secant steps need.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lsc_snn.assemble import Assembly
from lsc_snn.events import Inputs
from lsc_snn.grid import Grid
from lsc_snn.knobs import movable
from lsc_snn.measure import RadiusReport, draw_seed, report_of
from lsc_snn.procedures.goal import FULL, Effort
from lsc_snn.trace import Call, record

_WIDE = 1024
"""Layers with more variables are measured at fewer points: a product costs the square of their number, and a mean over
many varies little."""


class Meter:
    """Measures a model as it is, every pass on the next of its batches."""

    def __init__(
        self, model: nn.Module, batches: Iterator[Inputs], call: Call | None, generator: torch.Generator | None
    ) -> None:
        self._model, self._batches, self._call = model, batches, call
        self._draws = generator is not None
        self.seed = draw_seed(generator)
        self._pass: Assembly | None = None
        self._inputs: Inputs | None = None
        self._effort: Effort | None = None
        """That of the last report."""
        self._ahead: Grid | None = None

    def peek(self) -> Grid:
        """Return the grid of the first pass, of which the first report, a full one, is still to be taken."""
        self._ahead = self.grid()
        return self._ahead

    def grid(self, effort: Effort = FULL) -> Grid:
        """Return the grid of the next pass."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return ahead
        self._next()
        return self._of_last(effort)

    def one_step(self, generator: torch.Generator) -> Grid:
        """Return the grid of the next pass at one step of each sample, drawn by a generator, whatever the width."""
        self._next()
        return self._last().grid(1, generator)

    def _next(self) -> None:
        self._pass = None  # before another one is recorded: together they may not fit into memory
        self._inputs = next(self._batches)
        self._pass = record(self._model, self._inputs, self._call)

    def report(self, effort: Effort = FULL, earlier: RadiusReport | None = None, held: int = 0) -> RadiusReport:
        """Return the report of the next pass.

        The first ``held`` layers, which have not moved since the ``earlier`` report, are not measured again, nor is, on
        the way, a decoder that nothing moves. A full report spares only layers that would come out the same to the last
        digit: those of a full report of the same batch.
        """
        before = self._inputs, self._effort
        grid = self.grid(effort)
        if effort == FULL and (self._inputs is not before[0] or before[1] != FULL):
            earlier = None
        fixed = effort != FULL and grid.decoder is not None and not movable(grid.decoder.knob)
        return self._report_of(grid, effort, earlier=earlier, held=held, same_decoder=fixed)

    def refined(self) -> RadiusReport:
        """Return a full report of the pass that the last report was taken of."""
        return self._report_of(self._of_last(FULL), FULL)

    def _of_last(self, effort: Effort) -> Grid:
        drawn = torch.Generator().manual_seed(self.seed) if self._draws else None
        return self._last().grid(effort.num_times, drawn, _WIDE)

    def _last(self) -> Assembly:
        if self._pass is None:
            raise RuntimeError("expected a report before one that refines it")
        return self._pass

    def _report_of(self, grid: Grid, effort: Effort, **known: Any) -> RadiusReport:
        self._effort = effort
        return report_of(grid, num_matvecs=effort.num_matvecs, seed=self.seed, **known)
