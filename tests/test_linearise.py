"""Closed forms of a step's Jacobians against the same transitions by autograd."""

import pytest
import torch
from torch import nn

from cases import normal, seeded
from lsc_snn.adapters.own import SpikingAdapter
from lsc_snn.grid import LayerRecord, Points
from lsc_snn.layers import ALIF
from lsc_snn.linearise import Behind, Mixing
from lsc_snn.spectral import radius
from lsc_snn.surrogate import SURROGATES
from lsc_snn.trace import trace
from lsc_snn.transition import Block, Source, square
from lsc_snn.unitwise import Unitwise
from reference import KINDS, drive, make_layer, some_state, time_jacobian

MATRICES = {
    "feed-forward": {"recurrent": False},
    "recurrent": {"recurrent": True},
    "no diagonal": {"recurrent": True, "zero_diagonal": True},
}
POINTS = Points(torch.tensor([0, 1, 4, 8]), torch.tensor([2, 1, 0, 1]))


def record_of(layer, dtype=torch.float64, device="cpu"):
    """A layer in the middle of a sequence, from a state in which its units are in all stages of the refractory."""
    first = some_state(layer)
    layer = layer.to(device, dtype)
    first = type(first)(*(None if tensor is None else tensor.to(device, dtype) for tensor in first))
    x = drive().to(device, dtype)
    points = Points(POINTS.times.to(device), POINTS.samples.to(device))
    step, memory = SpikingAdapter().run(layer, x, first).at(points)
    arrived = points.take(x).requires_grad_()
    return LayerRecord("", layer, step, arrived, Source((arrived,)), memory, 0.0)


def by_autograd(transition):
    transition.closed = None
    return transition


def check_products(op, plain, tolerance=1e-10):
    """Compare all products of two operators; entries of the Jacobians here are of order one."""
    assert (op.batch, op.rows, op.cols) == (plain.batch, plain.rows, plain.cols)
    like = {"dtype": op.dtype, "device": op.device.type}
    u, v = normal(op.batch, op.rows, seed=7, **like), normal(op.batch, op.cols, seed=8, **like)
    for found, expected in (
        (op.rmatvec(u), plain.rmatvec(u)),
        (op.matvec(v), plain.matvec(v)),
        (op.to_dense(), plain.to_dense()),
        (op.rmatvec(u, create_graph=True), plain.rmatvec(u, create_graph=True)),
    ):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def check_layer(layer, device="cpu"):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        record = record_of(layer, dtype, device)
        time, depth = record.time(), record.depth()
        assert isinstance(time.closed, Unitwise if layer.recurrent_raw is None else Mixing)
        assert isinstance(depth.closed, Mixing)
        check_products(time, by_autograd(record.time()), tolerance)
        check_products(depth, by_autograd(record.depth()), tolerance)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("refractory", [0, 2])
@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_autograd(kind, reset, detach_reset, refractory, matrix, device):
    options = MATRICES[matrix] | {"reset": reset, "detach_reset": detach_reset, "refractory": refractory}
    check_layer(make_layer(kind, **options)[0], device)


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_is_seen(name):
    check_layer(make_layer("ALIF", surrogate=name, detach_reset=False)[0])


def test_spikes_and_units_that_cannot_spike_are_among_the_cases():
    record = record_of(make_layer("ALIF", refractory=2)[0])
    ((after, weight, before),) = record.time().closed.through
    assert float(after.terms[0].derivative.abs().min()) == 1.0, "the current enters the potential as it is"
    assert weight.shape == (6, 6)
    (slope,) = [term.derivative for term in before.terms if term.col == 0]
    assert float(slope.abs().amax()) > 0.1, "the surrogate is active"
    assert 0 < int((slope == 0).sum()) < slope.numel(), "units that cannot spike pass no gradient"


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
def test_the_time_transition_is_the_dense_jacobian_of_one_step(reset):
    layer, _ = make_layer("ALIF", reset=reset, detach_reset=False)
    record = record_of(layer)
    state = type(some_state(layer))(*record.memory)
    dense = [
        time_jacobian(layer, record.arrived[k : k + 1].detach(), state._replace(v=state.v[k, None], a=state.a[k, None]))
        for k in range(4)
    ]
    torch.testing.assert_close(record.time().to_dense(), torch.stack(dense), rtol=1e-10, atol=1e-10)


def test_a_block_is_a_smaller_closed_form():
    record = record_of(make_layer("LIF")[0])
    block, expected = square(record.depth(), seeded(3)), square(by_autograd(record.depth()), seeded(3))
    assert isinstance(block, Block)
    assert isinstance(block.closed, Mixing)
    assert expected.closed is None
    check_products(block, expected)
    assert Block(record.time(), torch.tensor([0, 2]), torch.tensor([1, 4])).closed is None


def test_a_block_without_a_closed_form_uses_that_of_the_whole():
    rows, cols = torch.tensor([0, 7, 3]), torch.tensor([5, 1, 9])
    record = record_of(make_layer("ALIF")[0])
    check_products(Block(record.time(), rows, cols), Block(by_autograd(record.time()), rows, cols))


@pytest.mark.parametrize("part", ["time", "depth"])
def test_only_products_with_a_graph_have_one(part):
    layer, _ = make_layer("ALIF", detach_reset=False)
    op = getattr(record_of(layer), part)()
    u, v = normal(op.batch, op.rows).requires_grad_(), normal(op.batch, op.cols).requires_grad_()
    assert not op.rmatvec(u).requires_grad
    assert not op.matvec(v).requires_grad
    matrix = layer.recurrent_raw if part == "time" else layer.weight
    (gradient,) = torch.autograd.grad(op.rmatvec(u, create_graph=True).square().sum(), matrix)
    assert bool(gradient.any())


@pytest.mark.parametrize("part", ["time", "depth"])
def test_without_gradients_the_closed_form_is_the_same(part):
    record = record_of(make_layer("ALIF")[0])
    expected = getattr(record, part)()
    vectors = normal(expected.batch, expected.rows)
    with torch.no_grad():
        found = getattr(record, part)()
        assert isinstance(found.closed, Mixing)
        assert torch.equal(found.rmatvec(vectors), expected.rmatvec(vectors))
        assert torch.equal(found.to_dense(), expected.to_dense())


def test_products_stay_as_they_were_made():
    layer, _ = make_layer("ALIF")
    record = record_of(layer)
    for make in (record.time, record.depth):
        transition = make()
        u = normal(transition.batch, transition.rows, seed=3)
        before = transition.rmatvec(u)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(1.5)
        assert torch.equal(transition.rmatvec(u), before)
        assert not torch.allclose(make().rmatvec(u), before)


class Doubled(ALIF):
    """Overrides how the current is made."""

    def current(self, inputs):
        return 2 * super().current(inputs)


class Halved(ALIF):
    """Overrides the step."""

    def step(self, inputs, state):
        z, after = super().step(inputs, state)
        return z, after._replace(v=0.5 * after.v)


@pytest.mark.parametrize("kind", [Doubled, Halved])
def test_a_subclass_with_a_step_of_its_own_is_measured_as_it_steps(kind):
    layer, plain = (k(5, 6, generator=seeded(), dtype=torch.float64) for k in (kind, ALIF))
    record = record_of(layer)
    for part in ("time", "depth"):
        found = getattr(record, part)()
        assert found.closed is not None
        check_products(found, by_autograd(getattr(record, part)()))
    changed = record.depth() if kind is Doubled else record.time()
    ordinary = record_of(plain)
    ordinary = ordinary.depth() if kind is Doubled else ordinary.time()
    assert float((changed.to_dense() - ordinary.to_dense()).abs().max()) > 0.1


def test_what_stands_between_two_layers_comes_behind():
    class Between(nn.Module):
        def __init__(self, middle):
            super().__init__()
            self.first, self.middle = ALIF(5, 6, generator=seeded(), dtype=torch.float64), middle
            self.second = ALIF(6, 4, generator=seeded(1), dtype=torch.float64)

        def forward(self, x):
            return self.second(self.middle(self.first(x)[0]))[0]

    x = drive()
    direct = trace(Between(nn.Dropout(0.5)), x).layers
    assert isinstance(direct[1].depth().closed, Mixing), "dropout is nothing in eval mode"
    scaled = trace(Between(nn.Sequential(nn.LayerNorm(6), nn.LeakyReLU(3.0)).double()), x).layers
    assert isinstance(scaled[1].depth().closed, Behind)
    check_products(scaled[1].depth(), by_autograd(scaled[1].depth()))
    assert isinstance(scaled[0].depth().closed, Mixing)


def test_the_radius_and_its_gradient_are_those_of_autograd():
    layer, _ = make_layer("ALIF", detach_reset=False)
    values, gradients = [], []
    for time in (record_of(layer).time(), by_autograd(record_of(layer).time())):
        found = radius(time, create_graph=True)
        values.append(found.detach())
        gradients.append(torch.autograd.grad(found.sum(), layer.recurrent_raw)[0])
    torch.testing.assert_close(values[0], values[1], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-8)
