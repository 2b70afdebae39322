"""The equations of fused cells against torch's own, and closed forms of steps that call these."""

import pytest
import torch
from torch import nn

from cases import normal, seeded
from lsc_snn.fused import FUSED
from lsc_snn.linearise import Mixing, closed_form
from lsc_snn.transition import Source, Transition

CELLS = {
    "RNN": lambda **options: nn.RNNCell(5, 4, **options),
    "ReLU RNN": lambda **options: nn.RNNCell(5, 4, nonlinearity="relu", **options),
    "GRU": lambda **options: nn.GRUCell(5, 4, **options),
    "LSTM": lambda **options: nn.LSTMCell(5, 4, **options),
}
FUNCTIONS = {
    "RNN": torch.rnn_tanh_cell,
    "ReLU RNN": torch.rnn_relu_cell,
    "GRU": torch.gru_cell,
    "LSTM": torch.lstm_cell,
}


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

    check(after, memory)
    check(lambda given: cell(given[0], state_of(name))[:1] if name == "LSTM" else (cell(given[0], memory[0]),), (x,))


def check(run, start):
    form = closed_form(run, start)
    assert isinstance(form, Mixing)
    leaves = tuple(tensor.clone().requires_grad_() for tensor in start)
    plain = Transition(torch.cat(run(leaves), 1), [Source((leaf,)) for leaf in leaves])
    u, v = normal(40, plain.rows, seed=7), normal(40, plain.cols, seed=8)
    torch.testing.assert_close(form.rmatvec(u), plain.rmatvec(u), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(form.matvec(v), plain.matvec(v), rtol=1e-10, atol=1e-10)
