"""Modules with memory that no adapter knows are named, with a remedy that works as it stands."""

import pytest
import torch
from torch import nn

import lsc_snn as lsc
from cases import normal, seeded


class Cell(nn.Module):
    """A cell as a user writes one: no package, no adapter."""

    def __init__(self, num_inputs, num_units):
        super().__init__()
        self.num_units = num_units
        self.input_weight = nn.Parameter(normal(num_units, num_inputs, seed=1) / num_inputs**0.5)
        self.recurrent_weight = nn.Parameter(normal(num_units, num_units, seed=2) / num_units**0.5)

    def forward(self, x, state):
        state = torch.tanh(x @ self.input_weight.T + state @ self.recurrent_weight.T)
        return state, state


class WithLinear(nn.Module):
    """Memory over linear layers, which are known as feed-forward."""

    def __init__(self, size):
        super().__init__()
        self.linear, self.back = nn.Linear(size, size), nn.Linear(size, size)
        self.double()

    def forward(self, x, state):
        state = torch.tanh(self.linear(x) + self.back(state))
        return state, state


class Net(nn.Module):
    def __init__(self, *cells):
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, x):
        states, outputs = [x.new_zeros(x.shape[1], 6) for _ in self.cells], []
        for y in x:
            for index, cell in enumerate(self.cells):
                y, states[index] = cell(y, states[index])
            outputs.append(y)
        return torch.stack(outputs)


class Root(WithLinear):
    """Memory in the model's own forward."""

    def forward(self, x):
        state, outputs = x.new_zeros(x.shape[1], 6), []
        for y in x:
            state = super().forward(y, state)[0]
            outputs.append(state)
        return torch.stack(outputs)


class Gated(nn.Module):
    def forward(self, x, state):
        return x, torch.sigmoid(x) * state


class Beside(nn.Module):
    """A known cell, and an unknown one behind it."""

    def __init__(self, unknown):
        super().__init__()
        self.lif = lsc.LIF(6, 6, generator=seeded(), dtype=torch.float64)
        self.cell = unknown

    def forward(self, x):
        spikes, state, outputs = self.lif(x)[0], x.new_ones(x.shape[1], 6), []
        for y in spikes:
            y, state = self.cell(y, state)
            outputs.append(y)
        return torch.stack(outputs)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Net(WithLinear(6)), "layer 'cells.0': .* got WithLinear, which carries memory"),
        (Root(6), "layer 'model': .* got Root, which carries memory"),
        (Beside(WithLinear(6)), "layer 'cell': .* got WithLinear, which carries memory"),
        (Beside(Gated()), "layer 'cell': .* got Gated, which carries memory"),
    ],
)
def test_a_module_with_unknown_memory_is_named(model, named):
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    with pytest.raises(ValueError, match=named):
        lsc.measure(model, normal(7, 3, 6))
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks


@pytest.mark.usefixtures("registry")
def test_the_lines_that_the_error_shows_are_an_adapter_that_works():
    inputs = normal(20, 8, 6, seed=4)
    with pytest.raises(ValueError, match="got Cell, which carries memory") as error:
        lsc.measure(Beside(Cell(6, 6)), inputs)
    exec(str(error.value).partition("for example with")[2], {"lsc_snn": lsc, "Cell": Cell})
    model = Net(Cell(6, 6), Cell(6, 6))
    report = lsc.measure(model, inputs)
    assert report.names == ("cells.0", "cells.1")
    assert bool((report.time > 0).all())
    assert lsc.stabilize(model, inputs, target="half").converged


def test_modules_without_memory_between_known_layers_are_no_trouble():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = lsc.LIF(6, 6, generator=seeded(1), dtype=torch.float64)
            self.norm = nn.LayerNorm(6, dtype=torch.float64)
            self.second = lsc.LIF(6, 6, generator=seeded(2), dtype=torch.float64)

        def forward(self, x):
            y = self.norm(self.norm(self.first(x)[0]))
            return self.second(y)[0]

    assert len(lsc.measure(Between(), 3 * normal(9, 3, 6)).time) == 2
