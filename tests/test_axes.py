"""Axes of a user's input and output, where sizes do not tell which is time."""

import pytest
import torch
from torch import nn

from cases import normal
from lsc_snn import gradient_profile, measure
from lsc_snn.axes import Layout, layouts, of_input, of_output
from lsc_snn.grid import Points
from lsc_snn.trace import trace

SQUARE = 5
LAYOUTS = [Layout(4, 3, first, flat) for first in (True, False) for flat in (True, False)]


class Turned(nn.Module):
    """A stack in a user's forward, for which the model's input and output are laid out in some way."""

    def __init__(self, order="time", front="linear", end="plain", cells=False):
        super().__init__()
        self.order, self.cells = order, cells
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.front = nn.Identity() if front == "none" else nn.Linear(6, 6)
            self.norm = nn.LayerNorm(6) if front == "norm" else nn.Identity()
            self.layer = nn.GRUCell(6, 6) if cells else nn.GRU(6, 6)
            self.head, self.end = nn.Linear(6, 3), end
        self.double()

    def forward(self, x):
        if self.order == "flat, batch first":
            x = x.unflatten(0, (-1, SQUARE))
        if self.order == "flat, time first":
            x = x.unflatten(0, (SQUARE, -1))
        x = x.transpose(0, 1) if "batch" in self.order else x
        y = self.head(self.run(self.norm(self.front(x))))
        y = y.cumsum(0) if self.end == "cumulative" else y
        y = y.transpose(0, 1) if "batch" in self.order else y
        return y.flatten(0, 1) if "flat" in self.order else y

    def run(self, x):
        if not self.cells:
            return self.layer(x)[0]
        h, outputs = x.new_zeros(x.shape[1], 6), []
        for step in x:
            h = self.layer(step, h)
            outputs.append(h)
        return torch.stack(outputs)


def laid_out(x, order):
    x = x.transpose(0, 1) if "batch" in order else x
    return x.flatten(0, 1) if "flat" in order else x


@pytest.mark.parametrize("cells", [False, True])
@pytest.mark.parametrize("end", ["plain", "cumulative"])
@pytest.mark.parametrize("front", ["none", "linear", "norm"])
@pytest.mark.parametrize("order", ["batch", "flat, batch first", "flat, time first"])
@pytest.mark.parametrize("batch", [SQUARE, 3])
def test_the_layout_changes_no_transition_and_no_profile(order, front, end, batch, cells):
    x = normal(SQUARE, batch, 6)
    plain, turned = Turned("time", front, end, cells), Turned(order, front, end, cells)
    expected, found = trace(plain, x), trace(turned, laid_out(x, order))
    assert torch.equal(found.points.times, expected.points.times)
    for pick in (lambda g: g.layers[0].depth(), lambda g: g.layers[0].time(), lambda g: g.decoder.transition()):
        torch.testing.assert_close(pick(found).to_dense(), pick(expected).to_dense())
    assert {id(p) for p in found.decoder.knob.parameters} == {id(p) for p in turned.head.parameters()}
    torch.testing.assert_close(gradient_profile(turned, laid_out(x, order)), gradient_profile(plain, x))


def test_only_where_sizes_agree_a_derivative_is_taken(monkeypatch):
    taken, grad = [], torch.autograd.grad

    def counted(outputs, *args, **kwargs):
        taken.append(outputs)
        return grad(outputs, *args, **kwargs)

    def count(batch):
        taken.clear()
        trace(Turned(), normal(SQUARE, batch, 6))
        return len(taken)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    # From the output to the layer, and from the layer to the input: together one backward pass.
    assert count(SQUARE) - count(SQUARE - 1) == 2
    assert count(1) == count(SQUARE - 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_picks_the_points(layout):
    signal = normal(4, 3, 2)
    shaped = signal if layout.time_first else signal.transpose(0, 1)
    shaped = shaped.flatten(0, 1) if layout.flat else shaped
    assert layout.fits(shaped)
    assert layout in layouts(shaped, 4, 3)
    points = Points(torch.tensor([0, 3, 1]), torch.tensor([2, 0, 1]))
    assert torch.equal(shaped[layout.at(points)], points.take(signal))


@pytest.mark.parametrize("layout", LAYOUTS[1::2])
@pytest.mark.parametrize("dead", [False, True])
def test_a_derivative_of_zero_leaves_time_first(layout, dead):
    found, leaf = [Layout(3, 3, True), Layout(3, 3, False)], normal(3, 3, 2).requires_grad_()
    last = found[0].last_sample(leaf)
    arrived = (leaf if layout.time_first else leaf.transpose(0, 1))[last.times, last.samples] * (0 if dead else 2)
    expected = Layout(3, 3, layout.time_first or dead)
    assert of_input(found, leaf, arrived) == expected
    output = (leaf if layout.time_first else leaf.transpose(0, 1)) * (0 if dead else 2)
    assert of_output(found, output, [leaf], sample_axis=1) == expected
    assert of_output(found, output.detach(), [leaf], sample_axis=1) == found[0]


def test_sizes_without_a_time_axis_fit_no_layout():
    assert layouts(torch.zeros(3, 7), 4, 3) == []
    assert layouts(torch.zeros(12), 4, 3) == []
    assert layouts(torch.zeros(1, 3, 2), 1, 3) == [Layout(1, 3, True)]
    assert layouts(torch.zeros(3, 2), 1, 3) == [Layout(1, 3, True, flat=True)]


def test_other_axes_are_told_how_to_come():
    class TimeLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(6, 6)

        def forward(self, x):  # (features, time, batch)
            return self.gru(x.permute(1, 2, 0))[0]

    x, model = normal(6, 4, 3, dtype=torch.float32), TimeLast()
    with pytest.raises(ValueError, match=r"expected .* = \(4, 3\), .* got shape \(6, 4, 3\); bring the axes in this"):
        measure(model, x)
    assert measure(model, x.permute(1, 2, 0), call=lambda model, x: model(x.permute(2, 0, 1))).encoder > 0
