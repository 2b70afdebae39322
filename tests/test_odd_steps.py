"""Closed forms of steps of any kind: found where there is one, right where one is found."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cases import normal
from lsc_snn import Network, NetworkConfig, measure
from lsc_snn.linearise import Mixing, closed_form
from lsc_snn.surrogate import Rectangular
from lsc_snn.transition import Source, Transition
from lsc_snn.unitwise import Unitwise

W, V = normal(4, 4, seed=1), normal(4, 4, seed=2)
linear = nn.functional.linear


def points(count):
    return normal(count, 4, seed=3), normal(count, 4, seed=4)


def transition_of(run, start):
    """The transition of a step as a layer makes it, and the same by differentiation alone."""
    leaves = tuple(tensor.clone().requires_grad_() for tensor in start)
    outputs = torch.cat([tensor.flatten(1) for tensor in run(leaves)], 1)
    sources = [Source((leaf,)) for leaf in leaves]
    return Transition(outputs, sources, lambda: closed_form(run, start)), Transition(outputs, sources)


def check(run, start):
    """Return the closed form, if there is one, once its products are found right."""
    found, plain = transition_of(run, start)
    u, v = normal(plain.batch, plain.rows, seed=7), normal(plain.batch, plain.cols, seed=8)
    torch.testing.assert_close(found.rmatvec(u), plain.rmatvec(u))
    torch.testing.assert_close(found.matvec(v), plain.matvec(v))
    return found.closed


MIXING = {
    "linear": lambda x: (torch.tanh(x[0] + linear(x[1], W)), x[1] * x[0]),
    "linear with a bias": lambda x: (linear(x[1], W, bias=V[0]), x[1] * x[0]),
    "linear with a bias that is no constant": lambda x: (linear(x[1], W, x[0].sin()), x[1] * x[0]),
    "matmul": lambda x: (torch.tanh(x[0] + x[1] @ W), x[1] * x[0]),
    "addmm": lambda x: (torch.addmm(x[0], torch.sin(x[1]), W), x[1] * x[0]),
    "of both variables": lambda x: (torch.tanh(torch.cat(x, 1) @ torch.cat([W, V])), x[1]),
    "four gates": lambda x: tuple((x[0] @ torch.cat([W, V, V, W], 1)).sigmoid().chunk(4, 1)[i] * x[1] for i in (0, 3)),
    "two matrices": lambda x: (x[0] @ W * torch.cos(x[1] @ V), x[0].exp()),
    "one not used": lambda x: (x[0] @ W, x[0] + 0 * x[1].detach(), (x[0] @ W @ V).sum())[:2],
    "one of two variables": lambda x: (x[0] @ W, x[1] @ W),
    "beside a product with a vector": lambda x: (x[0] @ W * (W @ V[0]), x[1]),
}


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("name", MIXING)
def test_a_step_whose_units_act_on_each_other_by_matrices_alone_has_one(name, count):
    assert isinstance(check(MIXING[name], points(count)), Mixing)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_units_by_themselves_have_one(count):
    assert isinstance(check(lambda x: (x[0] * x[1].sin(), x[1].exp()), points(count)), Unitwise)


def test_layers_of_different_widths_have_one_if_a_matrix_is_all_there_is():
    assert isinstance(check(lambda x: (torch.tanh(linear(x[0], W[:3])),), points(40)[:1]), Mixing)


def wrote(x):
    signal = 3 * x[0]
    product = signal @ W
    signal += x[1]
    return product, signal


def wrote_what_is_kept(x):
    signal = torch.tanh(x[0])
    product = signal @ W
    signal += x[1]
    return product, x[1]


def descended(x):
    """A step down an energy, whose gradient a step takes itself."""
    energy = torch.tanh(linear(x[0], W)).square().sum() + x[0].pow(4).sum()
    (gradient,) = torch.autograd.grad(energy, x[0], create_graph=True)
    return x[0] - 0.1 * gradient, x[1]


GRU = nn.GRUCell(4, 4, dtype=torch.float64)
MORE = {
    "one matrix behind another": lambda x: (x[0] @ W @ V, x[1]),
    "a sum over units": lambda x: (x[0] + x[0].sum(1, keepdim=True), x[1]),
    "a sum beside a matrix": lambda x: (x[0] @ W, x[1].softmax(1)),
    "a sum before a matrix": lambda x: (x[0].softmax(1) @ W, x[1]),
    "the largest alone": lambda x: (x[0] - x[0].amax(1, keepdim=True), x[1]),
    "spikes that inhibit all": lambda x: (0.9 * x[0] - Rectangular(1.0)(x[0]).sum(1, keepdim=True), x[1]),
    "a single link": lambda x: (torch.cat([x[0][:, :3], x[0][:, 3:] + x[0][:, :1]], 1), x[1]),
    "a weak link": lambda x: (torch.cat([x[0][:, :3], x[0][:, 3:] + 1e-3 * x[0][:, :1]], 1), x[1]),
    "units in another order": lambda x: (x[0].flip(1), x[1]),
    "a matrix of the points": lambda x: (torch.einsum("kc,cn->kn", x[0], W), x[1]),
    "a product of other rows": lambda x: ((x[0].reshape(-1, 2) @ W[:2, :2]).reshape(x[0].shape), x[1]),
    "both sides": lambda x: ((x[0][:, None] @ (x[1][:, :, None] * W))[:, 0], x[1]),
    "another number of units": lambda x: (x[0] @ W[:, :3], x[1] @ V[:, :3] + x[0][:, :3]),
    "units of two kinds": lambda x: (x[0] @ W[:, :3], x[1]),
    "two types": lambda x: (x[0].float().double() @ W, x[1].float() * 1.5),
    "a signal written into later": wrote,
    "a signal written into later that is kept": wrote_what_is_kept,
    "a gradient inside": descended,
    "computed again in the backward pass": lambda x: (checkpoint(GRU, x[0], x[1], use_reentrant=False), x[1]),
}


@pytest.mark.parametrize("count", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("name", MORE)
def test_any_other_step_has_none(name, count):
    run = MORE[name]
    if name == "a signal written into later that is kept":  # nor can autograd differentiate it
        assert Transition(*transition_parts(run, points(count))).closed is None
    else:
        assert check(run, points(count)) is None


def transition_parts(run, start):
    leaves = tuple(tensor.clone().requires_grad_() for tensor in start)
    return torch.cat(leaves, 1), [Source((leaf,)) for leaf in leaves], lambda: closed_form(run, start)


def test_a_matrix_that_depends_on_what_is_given_is_not_taken_for_one():
    assert closed_form(lambda x: (x[0] @ (W * x[1].mean()), x[1]), points(40)) is None


def test_a_step_that_writes_into_what_is_given_leaves_it_as_it_was():
    start = points(5)

    def run(x):
        with torch.no_grad():
            x[0].mul_(2)
        return x

    before = [tensor.clone() for tensor in start]
    assert isinstance(closed_form(run, start), Unitwise)
    assert all(torch.equal(now, then) for now, then in zip(start, before, strict=True))


def test_without_points_units_or_numbers_to_differentiate_there_is_none():
    for shape in ((0, 4), (3, 0)):
        assert closed_form(lambda x: x, (torch.zeros(shape),)) is None
    assert closed_form(lambda x: x, (torch.zeros(3, 4, dtype=torch.long),)) is None


def test_nothing_that_acts_gives_no_product():
    form = closed_form(lambda x: (x[0].detach(), x[1].sign()), points(40))
    assert not form.rmatvec(torch.ones(40, 8).double()).any()
    assert not form.matvec(torch.ones(40, 8).double()).any()
    assert form.radius() is None


def test_compiled_functions_are_run_as_they_were_written():
    compiled = torch.compile(lambda a: torch.tanh(a @ W), backend="eager")
    compiled(points(2)[0])
    assert isinstance(check(lambda x: (compiled(x[0]), x[1]), points(40)), Mixing)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell])
def test_an_input_of_another_type_than_the_model_is_measured_by_differentiation(cell):
    class Converts(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell(4, 5)

        def forward(self, x):
            state, outputs = torch.zeros(len(x[0]), 5), []
            for row in x.float():
                state = self.cell(row, state)
                outputs.append(state)
            return torch.stack(outputs)

    model, x = Converts(), normal(6, 3, 4)
    found, expected = measure(model, x), measure(model, x.float())
    assert found.encoder == pytest.approx(expected.encoder, rel=1e-4)


def test_an_exact_radius_needs_no_closed_form(monkeypatch):
    def fail(*args):
        raise AssertionError("asked for")

    monkeypatch.setattr("lsc_snn.grid.closed_form", fail)
    model = Network(NetworkConfig(num_inputs=4, num_classes=2, num_units=6))
    assert bool((measure(model, torch.ones(8, 2, 4), method="exact").time > 0).all())
    with pytest.raises(AssertionError, match="asked for"):
        measure(model, torch.ones(8, 2, 4))
