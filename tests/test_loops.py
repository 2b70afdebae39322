"""Transitions of cells in a user's own loop over time, however the loop takes its steps."""

import gc
import weakref

import pytest
import torch
from torch import nn

from cases import normal, seeded
from lsc_snn import LIF, gradient_profile
from lsc_snn.trace import record, trace

STEPS = {
    "takes x[t]": lambda x: [x[t] for t in range(len(x))],
    "takes x[-t]": lambda x: [x[t - len(x)] for t in range(len(x))],
    "takes slices": lambda x: [x[t : t + 1][0] for t in range(len(x))],
    "takes x[t] twice": lambda x: [(x[t] + x[t]) / 2 for t in range(len(x))],
    "takes a function of x": lambda x: (1 * x).unbind(0),
    "takes the mean too": lambda x: [step + 0 * x.mean(0) for step in x],
}


class Cells(nn.Module):
    """Two cells in a user's own loop, with what users do to it."""

    def __init__(self, habit=""):
        super().__init__()
        self.habit = habit
        self.first, self.second = (nn.GRUCell(size, 6, dtype=torch.float64) for size in (5, 6))
        for index, parameter in enumerate(self.parameters()):
            nn.init.normal_(parameter, std=0.6, generator=seeded(index))

    def forward(self, x):
        x = x.expand(7, -1, -1) if self.habit == "static" else x
        if self.habit.startswith("takes"):  # its steps by other operations than a loop over the tensor
            x = STEPS[self.habit](x)
        x = x.transpose(0, 1) if self.habit == "batch first" else x
        h, g, outputs = x[0].new_zeros(len(x[0]), 6), x[0].new_zeros(len(x[0]), 6), []
        for step, arrived in enumerate(x):
            with torch.set_grad_enabled(self.habit != "no_grad"):
                h = self.first(arrived, h)
                if self.habit != "uneven" or step % 2:
                    g = self.second(h, g)
            if self.habit == "truncated":
                h, g = h.detach(), g.detach()
            outputs.append(g)
        return torch.stack(outputs, 1 if self.habit == "batch first" else 0)


@pytest.mark.parametrize(
    ("habit", "message"),
    [
        ("no_grad", "layer 'first': expected a gradient from step to step, got none: called under torch.no_grad"),
        ("truncated", "layer 'first': expected a gradient from step to step, got none: its state is detached"),
        ("uneven", r"layer 'second': expected as many steps and samples as layer 'first' has, \(7, 3\), got \(3, 3\)"),
    ],
)
def test_a_loop_without_a_gradient_is_named(habit, message):
    with pytest.raises(ValueError, match=message):
        trace(Cells(habit), normal(7, 3, 5))


def test_the_order_of_axes_and_a_static_input_change_no_transition_and_no_profile():
    x = normal(7, 3, 5)
    plain, turned = trace(Cells(), x), trace(Cells("batch first"), x.transpose(0, 1))
    for layer, other in zip(plain.layers, turned.layers, strict=True):
        torch.testing.assert_close(other.depth().to_dense(), layer.depth().to_dense())
        torch.testing.assert_close(other.time().to_dense(), layer.time().to_dense())
    torch.testing.assert_close(turned.decoder.transition().to_dense(), plain.decoder.transition().to_dense())
    profile = gradient_profile(Cells(), x)
    torch.testing.assert_close(gradient_profile(Cells("batch first"), x.transpose(0, 1)), profile)
    static = normal(3, 5)
    repeated = static.expand(7, -1, -1)
    torch.testing.assert_close(gradient_profile(Cells("static"), static), gradient_profile(Cells(), repeated))
    once, expected = trace(Cells("static"), static, num_times=1), trace(Cells(), repeated, num_times=1)
    for layer, other in zip(expected.layers, once.layers, strict=True):
        torch.testing.assert_close(other.depth().to_dense(), layer.depth().to_dense())


def test_fewer_points_of_a_static_input_belong_to_one_step_and_sample_each():
    """What arrives is that of a sample, and so are its memory and what it hands up."""
    x = normal(9, 5, seed=4)
    few, every = record(Cells("static"), x).grid(4, None, 1), trace(Cells(), x.expand(7, -1, -1), num_times=4)
    assert few.points.samples[:8].tolist() != sorted(few.points.samples[:8].tolist())
    for ours, theirs in zip(few.layers, every.layers, strict=True):
        found = {tuple(row.tolist()) for row in torch.cat([theirs.arrived.flatten(1), theirs.memory[0].flatten(1)], 1)}
        mine = torch.cat([ours.arrived.flatten(1), ours.memory[0].flatten(1)], 1)
        assert len(mine) in (len(few.points.samples), len(few.points.samples.unique()))
        assert all(tuple(row.tolist()) in found for row in mine)


@pytest.mark.parametrize("habit", STEPS)
def test_steps_of_the_input_may_be_taken_in_any_way(habit):
    """Where they are taken one by one, no gradient of the whole input is made for each product."""
    x = normal(7, 3, 5)
    expected, found = (trace(Cells(kind), x, num_times=3).layers[0] for kind in ("", habit))
    torch.testing.assert_close(found.depth().to_dense(), expected.depth().to_dense())
    v, u = normal(9, 5, seed=1), normal(9, 6, seed=2)
    torch.testing.assert_close(found.depth().matvec(v), expected.depth().matvec(v))
    torch.testing.assert_close(found.depth().rmatvec(u), expected.depth().rmatvec(u))
    assert expected.below.leaves[0].shape == (3, 5)
    assert (found.below.leaves[0].shape == (3, 5)) is (habit in ("takes x[t]", "takes x[-t]"))


def test_an_input_that_reaches_none_of_the_points_is_a_zero_transition():
    x = normal(7, 3, 5)
    grid = trace(
        Cells(), x, num_times=2, call=lambda model, x: model([x[3] if t == 3 else 0 * x[t].detach() for t in range(7)])
    )
    assert 3 not in grid.points.times
    assert not grid.layers[0].depth().to_dense().any()
    assert not grid.layers[0].depth().rmatvec(normal(6, 6)).any()


@pytest.mark.parametrize("turned", [lambda x: x.transpose(0, 1), lambda x: [x[:, t] for t in range(x.shape[1])]])
def test_steps_of_a_batch_first_input_are_taken_by_themselves(turned):
    x = normal(7, 3, 5)
    expected, model = trace(Cells(), x, num_times=2).layers[0], Cells()
    found = trace(model, x.transpose(0, 1), num_times=2, call=lambda model, x: model(turned(x))).layers[0]
    torch.testing.assert_close(found.depth().to_dense(), expected.depth().to_dense())
    assert found.below.leaves[0].shape == (3, 5)


@pytest.mark.parametrize("make", [lambda: nn.GRU(5, 4), lambda: LIF(5, 4), lambda: Cells().float()])
def test_what_was_recorded_is_freed_with_the_grid(make):
    """Not only when the garbage collector next looks: at 5 x 256 units a grid holds hundreds of megabytes."""
    gc.collect()
    gc.disable()
    try:
        grid = trace(make(), torch.rand(6, 2, 5, generator=seeded()))
        recorded = weakref.ref(grid.layers[0].arrived)
        del grid
        assert recorded() is None
    finally:
        gc.enable()
