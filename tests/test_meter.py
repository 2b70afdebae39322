"""What a procedure measures: no more than it has to, and the same numbers as in full."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

import lsc_snn as lsc
from cases import normal, seeded
from lsc_snn.procedures.goal import FULL, Effort
from lsc_snn.procedures.meter import Meter

ROUGH = Effort(2, 8)


class Stack(nn.Module):
    """Three recurrent layers and a readout."""

    def __init__(self):
        super().__init__()
        sizes = (5, 12, 12, 12)
        self.layers = nn.ModuleList(nn.RNN(a, b) for a, b in itertools.pairwise(sizes))
        self.head = nn.Linear(12, 3)
        for index, parameter in enumerate(self.parameters()):
            nn.init.normal_(parameter, std=0.3, generator=seeded(index))

    def forward(self, x):
        for layer in self.layers:
            x, _ = layer(x)
        return self.head(x)


def batches(count=1):
    """Go through some batches without end; the first again and again if there is but one."""
    made = [normal(9, 4, 5, seed=index).float() for index in range(count)]
    while True:
        yield from made


def meter(model, count=1, calls=None):
    """Return a meter of some batches; ``calls`` collects the steps of each pass."""

    def call(model, x):
        if calls is not None:
            calls.append(len(x))
        return model(x)

    return Meter(model, batches(count), call, None)


def radii(report):
    return [report.encoder, *report.depth.tolist(), *report.time.tolist(), report.decoder]


def test_a_full_report_is_that_of_measure_and_a_refined_one_needs_no_pass():
    model, calls = Stack(), []
    made = meter(model, calls=calls)
    assert radii(made.report()) == radii(lsc.measure(model, next(batches())))
    made.report(ROUGH)
    passes = calls.count(9)  # others are of what stands between the layers, at the points alone
    refined = made.refined()
    assert calls.count(9) == passes
    assert radii(refined) == radii(made.report())
    assert calls.count(9) == passes + 1


def test_what_has_not_moved_is_as_if_measured_again():
    model = Stack()
    made = meter(model)
    earlier = made.report(ROUGH)
    with torch.no_grad():
        model.layers[1].weight_hh_l0.mul_(2.0)
    whole, rest = made.report(ROUGH), made.report(ROUGH, earlier, 1)
    assert radii(rest) == radii(whole)
    assert rest.time[1] != earlier.time[1]
    # And it is not measured again: a reading that cannot be is handed on.
    marked = dataclasses.replace(earlier, time=torch.full((3,), 9.0), depth=torch.full((2,), 9.0), encoder=9.0)
    kept = made.report(ROUGH, marked, 2)
    assert (kept.time == 9.0).tolist() == [True, True, False]
    assert (kept.depth == 9.0).tolist() == [True, False]
    assert kept.encoder == 9.0


def test_a_full_report_takes_from_another_what_would_come_out_the_same_alone():
    def marked(report):
        return dataclasses.replace(report, time=torch.full((3,), 9.0), decoder=9.0)

    made = meter(Stack())
    again = made.report(FULL, marked(made.report()), 2)
    assert again.time.tolist()[:2] == [9.0, 9.0]
    assert 9.0 not in (again.time[2], again.decoder)
    whole = radii(made.report())
    assert radii(made.report(FULL, marked(made.report(ROUGH)), 3)) == whole
    other = meter(Stack(), 2)
    second = radii(lsc.measure(Stack(), list(itertools.islice(batches(2), 2))[1]))
    assert radii(other.report(FULL, marked(other.report()), 3)) == second != whole


def test_a_decoder_that_nothing_moves_is_left_out_on_the_way_alone():
    model = Stack()
    made = meter(model)
    marked = dataclasses.replace(made.report(), decoder=9.0)
    assert made.report(ROUGH, marked).decoder != 9.0
    model.head.requires_grad_(False)
    assert made.report(ROUGH, marked).decoder == 9.0
    assert made.report(FULL, marked).decoder != 9.0


def test_the_pass_that_is_looked_at_first_is_that_of_the_first_report():
    model, calls = Stack(), []
    made = meter(model, 2, calls)
    grid = made.peek()
    first = made.report()
    assert grid.num_steps == 9
    assert calls.count(9) == 1
    assert radii(first) == radii(lsc.measure(model, next(batches(2))))
    assert radii(made.report()) != radii(first)


def test_stabilising_runs_one_pass_for_each_sweep_and_one_before():
    calls = []
    model = nn.ModuleList([lsc.LIF(16, 48, generator=seeded()), lsc.LIF(48, 48, generator=seeded(1))])

    def call(layers, x):
        calls.append(len(x))
        for layer in layers:
            x, _ = layer(x)
        return x

    events = (torch.rand(30, 8, 16, generator=seeded()) < 0.1).float()
    result = lsc.stabilize(model, events, target="half", call=call)
    assert result.converged
    assert sum(steps == 30 for steps in calls) == result.sweeps + 1


def test_a_refined_report_needs_one_before():
    with pytest.raises(RuntimeError, match="expected a report before"):
        meter(Stack()).refined()
