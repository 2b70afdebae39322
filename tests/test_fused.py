"""The equations of fused cells against torch's own, and closed forms of steps that call these."""

import pytest
import torch
from torch import nn

from cases import normal, seeded
from lsc_snn.fused import FUSED
from lsc_snn.linearise import Mixing, closed_form

CELLS = {
    "RNN": lambda **options: nn.RNNCell(5, 4, **options),
    "ReLU RNN": lambda **options: nn.RNNCell(5, 4, nonlinearity="relu", **options),
    "GRU": lambda **options: nn.GRUCell(5, 4, **options),
    "LSTM": lambda **options: nn.LSTMCell(5, 4, **options),
}
FUNCTIONS = dict(zip(CELLS, FUSED, strict=True))


def made(name, bias):
    cell = CELLS[name](bias=bias, dtype=torch.float64)
    for parameter in cell.parameters():
        nn.init.normal_(parameter, generator=seeded(parameter.numel()))
    return cell


def state_of(name):
    state = normal(40, 4, seed=3), normal(40, 4, seed=4)
    return state if name == "LSTM" else state[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_equations_are_those_of_torch(name, bias):
    cell, x = made(name, bias), normal(40, 5)
    expected, found = cell(x, state_of(name)), FUSED[FUNCTIONS[name]](x, state_of(name), *cell.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_step_that_calls_one_has_a_closed_form(name, bias):
    cell, x = made(name, bias), normal(40, 5)
    memory = state_of(name) if name == "LSTM" else (state_of(name),)

    def after(memory):
        found = cell(x, memory if name == "LSTM" else memory[0])
        return found if name == "LSTM" else (found,)

    form = closed_form(after, memory)
    assert isinstance(form, Mixing)
    leaves = tuple(tensor.clone().requires_grad_() for tensor in memory)
    outputs = torch.cat(after(leaves), 1)
    u = normal(*outputs.shape, seed=7)
    expected = torch.cat(torch.autograd.grad(outputs, leaves, u), 1)
    torch.testing.assert_close(form.rmatvec(u), expected, rtol=1e-10, atol=1e-10)
