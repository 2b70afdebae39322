"""Knobs that remember what was done to them, and reports that say anything, for tests of the fast procedure."""

import math

import torch
from torch import nn

import lsc_snn as lsc
from lsc_snn.knobs import Knob, Knobs
from lsc_snn.procedures.goal import Goal
from lsc_snn.procedures.sweep import Fast


class Dummy:
    """A knob that remembers its factors, and turns a parameter that is 1 at first."""

    def __init__(self, floor=0.0):
        self.factors = []
        self.value = nn.Parameter(torch.ones(1))
        self.knob = Knob((self.value,), self.turn, floor)

    @torch.no_grad()
    def turn(self, factor):
        self.factors.append(factor)
        self.value.mul_(factor)


def report(time, depth, rate):
    return lsc.RadiusReport(("a",), torch.tensor([time]), torch.tensor([]), depth, math.nan, torch.tensor([rate]))


def fast(depth, time, threshold=None):
    knobs = Knobs(depth.knob, time.knob, threshold)
    return Fast(Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), (knobs,), None))


def failing(procedure, rate, sweeps=6):
    """Sweep on radii, right in time, of which none in depth is nearer to the target 1/2 than the first."""
    for index in range(sweeps):
        assert procedure.sweep(report(0.5, 1.0 + 0.9 * (index % 2), rate))


def above_a_layer_that_is_right(depth, threshold):
    """Return a procedure, and how to sweep on the radius and the rate of a second layer with these knobs."""
    still, time = Dummy(), Dummy()
    knobs = (Knobs(still.knob, time.knob), Knobs(depth, time.knob, threshold.knob))
    procedure = Fast(Goal(lsc.Target(0.5, 0.5), 0.05, (0.01, 0.5), knobs, None))

    def sweep(radius, rate):
        half, rates = torch.tensor([0.5, 0.5]), torch.tensor([0.1, rate])
        return procedure.sweep(lsc.RadiusReport(("a", "b"), half, torch.tensor([radius]), 0.5, math.nan, rates))

    return sweep
