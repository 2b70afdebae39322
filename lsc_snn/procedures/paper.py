"""The ``paper`` procedure: LSC pre-training as published, the baseline that ``fast`` is measured against.

L. Herranz-Celotti and J. Rouat, "Stabilizing RNN Gradients through Pre-training", arXiv 2308.12075, and its code.
At every visited time step: dense batch Jacobians, radii by eigenvalues, one gradient step on the squared distance of
the mean radii to their targets, a multiplicative correction, and at times a shuffle of every weight matrix. It stops
once every radius has stayed within the tolerance (0.08 there) for more than 20 steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from lsc_snn.optim import AdaBelief, Lookahead
from lsc_snn.procedures.goal import Goal, Sighting
from lsc_snn.procedures.meter import Meter
from lsc_snn.procedures.objective import correct, descend, differentiable_radii

_LEARNING_RATE, _WEIGHT_DECAY = 7.2e-3, 1e-4
_LOOKAHEAD_STEPS, _LOOKAHEAD_SHARE = 6, 0.5
_SHUFFLE = 1 / 3
_STEADY = 20
"""Steps in a row within the tolerance after which it stops."""


def run(goal: Goal, meter: Meter, parameters: list[nn.Parameter], max_sweeps: int) -> Iterator[Sighting]:
    """Train until steady or ``max_sweeps`` time steps are spent; yield what is seen at every visited step.

    The first and the last report are over all points.
    """
    generator = torch.Generator().manual_seed(meter.seed)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        yield goal.sighting(meter.report())
        return
    optimizer = Lookahead(
        AdaBelief(trained, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY), k=_LOOKAHEAD_STEPS, alpha=_LOOKAHEAD_SHARE
    )
    yield goal.sighting(meter.report())
    steady = 0
    for _ in range(max_sweeps):
        report, radii = differentiable_radii(meter.one_step(generator), "exact", lambda: generator)
        dials, sighting = goal.dials(report), goal.sighting(report)
        yield sighting
        steady = steady + 1 if sighting.badness <= 1 else 0
        if steady > _STEADY:
            break
        distance = [(mean - dial.target) ** 2 for mean, dial in zip(radii, dials, strict=True)]
        descend(torch.stack(distance).sum(), trained, optimizer)
        correct(goal, dials)
        if float(torch.rand((), generator=generator)) < _SHUFFLE:
            _shuffle(trained, generator)
    yield goal.sighting(meter.report())


@torch.no_grad()
def _shuffle(parameters: list[nn.Parameter], generator: torch.Generator) -> None:
    for parameter in parameters:
        if parameter.dim() >= 2:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
