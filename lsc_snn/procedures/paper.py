"""The ``paper`` procedure: LSC pre-training as published, the baseline that ``fast`` is measured against.

L. Herranz-Celotti and J. Rouat, "Stabilizing RNN Gradients through Pre-training", arXiv 2308.12075, and its code.
At every visited time step: dense batch Jacobians, radii by eigenvalues, one gradient step on the squared distance of
the mean radii to their targets, a multiplicative correction, and at times a shuffle of every weight matrix. It stops
once every radius has stayed within the tolerance (0.08 there) for more than 20 steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lsc_snn.grid import Grid, Transition, square
from lsc_snn.knobs import movable
from lsc_snn.measure import RadiusReport, report_from
from lsc_snn.optim import AdaBelief, Lookahead
from lsc_snn.procedures.goal import Goal
from lsc_snn.spectral import radius

_LEARNING_RATE, _WEIGHT_DECAY = 7.2e-3, 1e-4
_LOOKAHEAD_STEPS, _LOOKAHEAD_SHARE = 6, 0.5
_FACTORS = (0.85, 1.15)
"""Bounds of the multiplicative correction target / radius in one step."""
_SHUFFLE = 1 / 3
_STEADY = 20
"""Steps in a row within the tolerance after which it stops."""


def run(
    goal: Goal,
    visit: Callable[[torch.Generator], Grid],
    measure: Callable[[], RadiusReport],
    parameters: list[nn.Parameter],
    max_sweeps: int,
    generator: torch.Generator,
) -> Iterator[tuple[RadiusReport, float]]:
    """Train until steady or ``max_sweeps`` time steps are spent; yield the report and badness of every visited step.

    ``visit(generator)`` traces the model at one time step drawn from the generator. The first and the last report are
    taken by ``measure``, over all points.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]

    def judged(report: RadiusReport) -> tuple[RadiusReport, float]:
        return report, goal.badness(report)

    if not trained:
        yield judged(measure())
        return
    optimizer = Lookahead(
        AdaBelief(trained, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY), k=_LOOKAHEAD_STEPS, alpha=_LOOKAHEAD_SHARE
    )
    yield judged(measure())
    steady = 0
    for _ in range(max_sweeps):
        report, radii = _radii(visit(generator), generator)
        yield judged(report)
        steady = steady + 1 if goal.badness(report) <= 1 else 0
        if steady > _STEADY:
            break
        _descend(goal, report, radii, trained, optimizer)
        _correct(goal, report)
        if float(torch.rand((), generator=generator)) < _SHUFFLE:
            _shuffle(trained, generator)
    yield judged(measure())


def _radii(grid: Grid, generator: torch.Generator) -> tuple[RadiusReport, list[Tensor]]:
    """Return the report of a grid and its mean radii, differentiable, in the order of ``Goal.dials``."""

    def mean_radius(transition: Transition) -> Tensor:
        return radius(square(transition, generator), method="exact", create_graph=True).mean()

    means, depth, time, decoder = [], [], [], math.nan
    for layer in grid.layers:
        means.append(mean_radius(layer.depth()))
        depth.append(float(means[-1].detach()))
        if layer.memory:
            means.append(mean_radius(layer.time()))
            time.append(float(means[-1].detach()))
    if grid.decoder is not None:
        means.append(mean_radius(grid.decoder.transition()))
        decoder = float(means[-1].detach())
    return report_from(grid, time, depth, decoder), means


def _descend(
    goal: Goal, report: RadiusReport, radii: list[Tensor], trained: list[nn.Parameter], optimizer: Lookahead
) -> None:
    """Take one step on the sum of squared distances; the caller's own ``.grad`` is left as it is."""
    dials = goal.dials(report)
    loss = sum((mean - dial.target) ** 2 for mean, dial in zip(radii, dials, strict=True))
    if not isinstance(loss, Tensor) or not loss.requires_grad or not bool(torch.isfinite(loss)):
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


def _correct(goal: Goal, report: RadiusReport) -> None:
    """Multiply what moves each radius by target / radius, within bounds; thresholds and beta go with the input."""
    for dial in goal.dials(report):
        if dial.knob is None or not movable(dial.knob) or not 0 < dial.radius < math.inf:
            continue  # a dead transition has no ratio: growing its input and its threshold alike would never wake it
        low, high = _FACTORS
        factor = min(max(dial.target / dial.radius, low), high)
        dial.knob.turn(factor)
        if dial.kind in ("encoder", "depth"):
            threshold = goal.knobs[dial.layer].threshold
            if threshold is not None and movable(threshold):
                threshold.turn(factor)


@torch.no_grad()
def _shuffle(parameters: list[nn.Parameter], generator: torch.Generator) -> None:
    for parameter in parameters:
        if parameter.dim() >= 2:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
