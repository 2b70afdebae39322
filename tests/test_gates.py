"""The knobs of a gate that keeps memory: which weights follow them, and how far."""

import pytest
import torch
from torch import nn

from cases import normal
from lsc_snn import stabilize
from lsc_snn.adapters import find_adapters
from lsc_snn.knobs import movable


def test_the_input_weights_of_the_gate_follow_by_the_square_root():
    cell = nn.GRUCell(3, 4)
    (_, _, adapter), *_ = find_adapters(cell)
    before = cell.weight_ih.detach().clone()
    adapter.knobs(cell).depth.turn(9.0)
    expected = torch.cat([9 * before[:4], 3 * before[4:8], 9 * before[8:]])
    torch.testing.assert_close(cell.weight_ih.detach(), expected)


def test_the_input_weights_of_a_gate_follow_the_time_knob_down_and_not_up():
    (_, _, adapter), *_ = find_adapters(cell := nn.LSTMCell(3, 4))
    before = cell.weight_ih.detach().clone()
    adapter.knobs(cell).time.turn(2.0)
    torch.testing.assert_close(cell.weight_ih.detach(), before)
    adapter.knobs(cell).time.turn(0.95)  # nor by a small step, of which there are many about a target
    torch.testing.assert_close(cell.weight_ih.detach(), before)
    adapter.knobs(cell).time.turn(0.45)
    expected = torch.cat([before[:4], 0.5 * before[4:8], before[8:]])
    torch.testing.assert_close(cell.weight_ih.detach(), expected)


def test_the_input_weights_of_a_gate_alone_are_no_time_knob():
    cell = nn.GRUCell(3, 4)
    for name, parameter in cell.named_parameters():
        parameter.requires_grad_(name == "weight_ih")
    (_, _, adapter), *_ = find_adapters(cell)
    assert not movable(adapter.knobs(cell).time)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_gate_that_strong_inputs_hold_open_is_brought_down_and_recurrent_weights_stay(kind):
    torch.manual_seed(0)
    model = kind(64, 32)
    before = model.weight_hh_l0.norm().item()
    result = stabilize(model, 2 * normal(20, 16, 64, dtype=torch.float32).abs(), target="half")
    assert result.before.time[0] > 0.9
    assert result.converged, str(result)
    assert result.sweeps < 8
    assert model.weight_hh_l0.norm().item() > 0.2 * before


def test_a_gate_that_nothing_moves_holds_the_time_radius():
    torch.manual_seed(0)
    model = nn.GRU(8, 16)
    model.bias_ih_l0.requires_grad_(False)
    model.bias_hh_l0.requires_grad_(False)
    result = stabilize(model, normal(10, 8, 8, dtype=torch.float32), target="half", max_sweeps=12)
    assert not result.converged
    (reason,) = result.reasons
    assert reason.startswith(": time radius")
    assert reason.endswith("target 0.5: not reached")
