"""The reports of one call of ``stabilize``: a forward pass for each, and no more of it than a procedure needs to know.

The same points at the same effort, and always the same blocks and starting vectors: common random numbers make a radius
a smooth function of the knobs, which secant steps need.
"""

from __future__ import annotations

from collections.abc import Iterator

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
        self._ahead = False
        self._batch: Inputs | None = None
        self._effort: Effort | None = None

    def peek(self) -> Grid:
        """Return the grid of the next pass, which the next report is still to be taken of."""
        grid = self.grid()
        self._ahead = True
        return grid

    def grid(self, effort: Effort = FULL, times: torch.Generator | None = None) -> Grid:
        """Return the grid of the next pass; where a generator is given, at steps that it draws, whatever the width."""
        if not self._ahead:
            self._pass = None  # before another one is recorded: together they may not fit into memory
            self._batch = next(self._batches)
            self._pass = record(self._model, self._batch, self._call)
        self._ahead = False
        return self._of_last(effort, times)

    def report(self, effort: Effort = FULL, earlier: RadiusReport | None = None, held: int = 0) -> RadiusReport:
        """Return the report of the next pass.

        The first ``held`` layers have not moved since the ``earlier`` report, the last one, and are not measured again;
        nor, on the way, is a decoder that nothing moves. A full report has radii of one batch and full ones alone.
        """
        again, before = self._batch, self._effort
        grid = self.grid(effort)
        full = effort == FULL
        if full and (before != FULL or self._batch is not again):
            held = 0
        self._effort = effort
        same_decoder = not full and grid.decoder is not None and not movable(grid.decoder.knob)
        return report_of(
            grid,
            num_matvecs=effort.num_matvecs,
            seed=self.seed,
            earlier=earlier,
            held=held,
            same_decoder=same_decoder,
        )

    def refined(self) -> RadiusReport:
        """Return a full report of the pass that the last report was taken of."""
        self._effort = FULL
        return report_of(self._of_last(FULL, None), num_matvecs=FULL.num_matvecs, seed=self.seed)

    def _of_last(self, effort: Effort, times: torch.Generator | None) -> Grid:
        if self._pass is None:
            raise RuntimeError("expected a report before one that refines it")
        if times is not None:
            return self._pass.grid(effort.num_times, times, None)
        drawn = torch.Generator().manual_seed(self.seed) if self._draws else None
        return self._pass.grid(effort.num_times, drawn, _WIDE)
