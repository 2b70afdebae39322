"""The LSC objective, its gradient, and the multiplicative correction: what the procedures by descent share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lsc_snn.grid import Grid
from lsc_snn.knobs import movable
from lsc_snn.measure import Mean, RadiusReport, mean_of, report_from
from lsc_snn.procedures.goal import Dial, Goal
from lsc_snn.spectral import Method, radius
from lsc_snn.transition import Transition, square

_FACTORS = (0.85, 1.15)
"""Bounds of the multiplicative correction target / radius in one step."""


def differentiable_radii(
    grid: Grid, method: Method, draw: Callable[[], torch.Generator]
) -> tuple[RadiusReport, list[Tensor]]:
    """Return the report of a grid, and its mean radii with their graph in the order of ``Goal.dials``.

    ``draw()`` gives the generator of blocks and starting vectors, for each transition.
    """
    means, depth, time, decoder = list[Tensor](), list[Mean](), list[Mean](), None

    def taken(transition: Transition) -> Mean:
        generator = draw()
        block = square(transition, generator)
        radii = radius(block, method=method, generator=generator, create_graph=True)
        means.append(radii.mean())
        return mean_of(radii)

    for layer in grid.layers:
        depth.append(taken(layer.depth()))
        if layer.memory:
            time.append(taken(layer.time()))
    if grid.decoder is not None:
        decoder = taken(grid.decoder.transition())
    return report_from(grid, time, depth, decoder), means


def descend(loss: Tensor, trained: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Take one step on a loss, if it has a gradient; the caller's own ``.grad`` is left as it is."""
    if not loss.requires_grad or not bool(torch.isfinite(loss)):
        return
    gradients = torch.autograd.grad(loss, trained, materialize_grads=True)
    before = [parameter.grad for parameter in trained]
    try:
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        optimizer.step()
    finally:
        for parameter, gradient_before in zip(trained, before, strict=True):
            parameter.grad = gradient_before


def correct(goal: Goal, dials: Iterable[Dial]) -> None:
    """Multiply what moves each radius by target / radius, within bounds; thresholds and beta go with the input."""
    for dial in dials:
        if dial.knob is None or not movable(dial.knob) or not 0 < dial.radius < math.inf:
            continue  # a dead transition has no ratio: growing its input and its threshold alike would never wake it
        low, high = _FACTORS
        factor = min(max(dial.target / dial.radius, low), high)
        dial.knob.turn(factor)
        if dial.kind in ("encoder", "depth"):
            threshold = goal.knobs[dial.layer].threshold
            if threshold is not None and movable(threshold):
                threshold.turn(factor)
