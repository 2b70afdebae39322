"""The ``gradient`` procedure: gradient descent of every parameter on the LSC objective, for what no knob knows.

The loss is the sum over transitions of log(mean radius / target)^2; radii and their gradients are matrix-free. All
parameters that are not frozen move; the knobs of layers that do not spike are turned too, as in the ``paper``
procedure. It takes many more passes than ``fast``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from lsc_snn.optim import AdaBelief
from lsc_snn.procedures.goal import Goal, Sighting
from lsc_snn.procedures.meter import Meter
from lsc_snn.procedures.objective import correct, descend, differentiable_radii

_SHARE = 0.03
"""Share of its own size, root mean square, by which a parameter may move in one step."""
_LEAST = 1e-2
"""Size that a parameter counts as at least: a bias of zeros moves too."""


def run(goal: Goal, meter: Meter, parameters: list[nn.Parameter], max_sweeps: int) -> Iterator[Sighting]:
    """Descend until every radius is within the tolerance or ``max_sweeps`` steps are spent.

    Yield what is seen before every step, and the last.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [{"params": [p], "lr": _SHARE * max(float(p.detach().square().mean().sqrt()), _LEAST)} for p in trained]
    optimizer = AdaBelief(groups) if trained else None
    for _ in range(max_sweeps if trained else 0):
        report, radii = differentiable_radii(meter.grid(), "power", lambda: torch.Generator().manual_seed(meter.seed))
        dials, sighting = goal.dials(report), goal.sighting(report)
        if sighting.badness <= 1:
            break
        yield sighting
        pairs = zip(radii, dials, strict=True)
        # A dead or infinite radius has no logarithm, and no gradient.
        terms = [(mean / dial.target).log() ** 2 for mean, dial in pairs if 0 < dial.radius < math.inf]
        if optimizer is not None and terms:
            descend(torch.stack(terms).sum(), trained, optimizer)
        # A correction moves spikes, which the gradient does not see: only where there are none.
        spiking = {index for index, rate in enumerate(report.rates.tolist()) if not math.isnan(rate)}
        correct(goal, [dial for dial in dials if dial.layer not in spiking])
    yield goal.sighting(meter.report())
