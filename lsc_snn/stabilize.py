"""Bring a model to the Local Stability Condition, in place, by a procedure; or leave it exactly as it was."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lsc_snn import _checks
from lsc_snn._kept import cycled, restore, snapshot
from lsc_snn.events import Inputs
from lsc_snn.measure import RadiusReport
from lsc_snn.procedures import fast, gradient, paper
from lsc_snn.procedures.goal import FARTHEST, Goal, knobs_of
from lsc_snn.procedures.meter import Meter
from lsc_snn.theory import Target
from lsc_snn.trace import Call, handled_modules

PROCEDURES = ("fast", "gradient", "paper")
RATE_BAND = (0.01, 0.5)
"""Default band of the mean firing rate, in spikes per unit and step: a layer outside is silent or saturated."""


@dataclass(frozen=True)
class StabilizeReport:
    """What stabilize did. ``print(report)`` shows the radii before and after, and what could not be reached."""

    before: RadiusReport
    after: RadiusReport
    target: Target
    converged: bool
    """Whether every radius is within the tolerance, none of them carried by few points, and every rate in the band."""
    sweeps: int
    seconds: float
    history: tuple[RadiusReport, ...]
    """The report before each sweep, in order, and the last. With ``fast``, those in between are measured more roughly,
    as is the last of a run that nothing helped, and radii of what has not moved are those of the report before."""
    reasons: tuple[str, ...]
    """One line for each transition and rate that is not where it should be: layer, what, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "target": {"time": self.target.time, "depth": self.target.depth},
            "converged": self.converged,
            "sweeps": self.sweeps,
            "seconds": self.seconds,
            "history": [report.to_dict() for report in self.history],
            "reasons": list(self.reasons),
        }

    def __str__(self) -> str:
        """Return the two tables, the outcome, and the reasons."""
        outcome = "converged" if self.converged else "did not converge"
        lines = [
            f"target: time {self.target.time:.3g}, depth {self.target.depth:.3g}",
            "before",
            str(self.before),
            "after",
            str(self.after),
            f"{outcome} in {self.sweeps} sweeps, {self.seconds:.1f} s",
            *self.reasons,
        ]
        return "\n".join(lines)


def stabilize(
    model: nn.Module,
    batches: Inputs | Iterable[Inputs],
    *,
    target: str | Target | tuple[float, float] = "half",
    procedure: str = "fast",
    tolerance: float = 0.05,
    max_sweeps: int = 50,
    rate_band: tuple[float, float] = RATE_BAND,
    call: Call | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> StabilizeReport:
    """Bring the mean radius of every transition of a model within ``tolerance`` of its target, in place.

    Each sweep measures the model on the next of ``batches`` (a tensor (T, B, ...), an EventBatch, or an iterable of
    either, gone through again and again) and turns the knobs that its adapters name; the firing rate of every layer is
    kept inside ``rate_band``, spikes per unit and step. ``fast`` is ours; ``gradient`` descends on the objective with
    every parameter, for models whose radii no knob moves (``max_sweeps`` are its steps: allow some hundreds); ``paper``
    is the procedure of Herranz-Celotti and Rouat 2024 (arXiv 2308.12075), the baseline, slower by orders of magnitude.

    ``target`` is "one", "half", "balanced", a pair (time, depth) or a Target; by name it is 1 for a feed-forward model.
    ``call(model, inputs)`` runs a model whose forward is unusual; ``generator`` (CPU) draws what is random, the same
    every time without one; ``progress`` shows a line for every sweep.

    Frozen parameters (``requires_grad`` False) are not moved. A target that cannot be reached ends with ``converged``
    False and the ``reasons``; the parameters are then those with each layer that comes no nearer where it was nearest,
    and all others at their targets, or, if it does not get so far, those seen nearest in all radii and rates together.
    On any error, an interrupt included, the parameters are as they were.

    Raises ValueError or TypeError for bad inputs, a target outside (0, 2], a model without a known layer, and
    parameters shared between layers.

    >>> from lsc_snn import LIF, NetworkConfig, Network
    >>> network = Network(NetworkConfig(num_inputs=16, num_classes=2, num_units=64))
    >>> batch = torch.rand(30, 8, 16, generator=torch.Generator().manual_seed(0)).round()
    >>> result = stabilize(network, batch, target="half")
    >>> result.converged, bool((result.after.time - 0.5).abs().max() < 0.05)
    (True, True)
    """
    _checks.check_in("procedure", procedure, PROCEDURES)
    _checks.check_positive("tolerance", tolerance)
    _checks.check_count("max_sweeps", max_sweeps)
    low, high = rate_band
    if not 0 <= low < high:
        raise ValueError(f"rate_band: expected 0 <= low < high, got {rate_band}; the default is {RATE_BAND}")
    handled_modules(model)
    stream = cycled(batches)
    first = next(stream)
    start = time.perf_counter()
    meter = Meter(model, itertools.chain([first], stream), call, generator)
    history: list[RadiusReport] = []
    nearest = FARTHEST
    kept = best_parameters = snapshot(model.parameters())
    try:
        grid = meter.peek()  # every procedure begins with the model as it is
        wanted = Target.parse(target, grid.num_steps, len(grid.layers))
        if isinstance(target, str) and not any(layer.memory for layer in grid.layers):
            wanted = Target.one()  # without time there is one path to every layer, and nothing to cancel
        goal = Goal(wanted, tolerance, (low, high), *knobs_of(grid))
        # A layer may hold parameters in a plain tuple, as Norse's do: its knobs know them, the model does not.
        held = [parameter for knobs in goal.knobs for knob in knobs if knob for parameter in knob.parameters]
        movable = [*model.parameters(), *held]
        kept = best_parameters = snapshot(movable)
        del grid  # or all that it recorded would live to the end
        if procedure == "fast":
            reports = fast.run(goal, meter, max_sweeps)
        elif procedure == "gradient":
            reports = gradient.run(goal, meter, list(model.parameters()), max_sweeps)
        else:
            reports = paper.run(goal, meter, list(model.parameters()), max_sweeps)
        for report, distance, badness in reports:
            history.append(report)
            if distance <= nearest and distance < FARTHEST:
                nearest, best_parameters = distance, snapshot(movable)
            if progress:
                print(f"sweep {len(history) - 1}: worst error {badness:.2f} times what is allowed", file=sys.stderr)
        after = history[-1]
        if badness > 1:
            restore(best_parameters)
            after = meter.report()
    except BaseException:
        restore(kept)
        raise
    return StabilizeReport(
        before=history[0],
        after=after,
        target=goal.target,
        converged=not goal.reasons(after),
        sweeps=len(history) - 1,
        seconds=time.perf_counter() - start,
        history=tuple(history),
        reasons=goal.reasons(after),
    )
