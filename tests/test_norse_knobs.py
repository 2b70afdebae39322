"""Knobs of Norse's neurons: what each moves, by how much, and what it leaves alone."""

import norse.torch as norse
import pytest
import torch
from norse.torch.functional.izhikevich import tonic_spiking
from norse.torch.functional.lif_adex import LIFAdExParameters
from norse.torch.functional.lif_ex import LIFExParameters
from torch import nn

from lsc_snn.adapters.norse import NeuronAdapter, ReadoutAdapter
from lsc_snn.knobs import movable

STEP = 0.001
"""dt of Norse's modules, in seconds."""


def number(value, *, trained=True):
    return nn.Parameter(torch.tensor(value), requires_grad=trained)


def test_knobs_multiply_weights_decays_and_the_distance_of_the_threshold_from_rest():
    rates = {name: nn.Parameter(torch.tensor(rate)) for name, rate in (("tau_mem_inv", 100.0), ("tau_syn_inv", 700.0))}
    p = norse.LIFParameters(**rates, v_leak=torch.tensor(-65.0), v_th=nn.Parameter(torch.tensor(-50.0)))
    cell = norse.LIFRecurrentCell(4, 6, p=p)
    weight, recurrent = cell.input_weights.detach().clone(), cell.recurrent_weights.detach().clone()
    knobs = NeuronAdapter().knobs(cell)
    knobs.depth.turn(3.0)
    torch.testing.assert_close(cell.input_weights, 3 * weight)
    knobs.time.turn(0.5)
    torch.testing.assert_close(cell.recurrent_weights, 0.5 * recurrent)
    assert [rate.item() for rate in rates.values()] == pytest.approx([550.0, 850.0])  # 0.9 -> 0.45, 0.3 -> 0.15
    knobs.time.turn(3.0)  # upwards the recurrent weights suffice: decays come back to where they were at most
    torch.testing.assert_close(cell.recurrent_weights, 1.5 * recurrent)
    assert [rate.item() for rate in rates.values()] == pytest.approx([100.0, 700.0])
    knobs.time.turn(0.25)
    knobs.time.turn(2.0)
    assert [rate.item() for rate in rates.values()] == pytest.approx([550.0, 850.0])
    knobs.threshold.turn(2.0)
    assert p.v_th.item() == pytest.approx(-35.0)
    assert knobs.time.floor == 0
    cell.recurrent_weights.requires_grad_(False)
    NeuronAdapter().knobs(cell).time.turn(2.0)
    assert [rate.item() for rate in rates.values()] == pytest.approx([100.0, 700.0])
    rates["tau_mem_inv"].requires_grad_(False)
    assert NeuronAdapter().knobs(norse.LIFRecurrentCell(4, 6, p=p)).time.floor == pytest.approx(0.9)


def test_there_are_no_knobs_but_parameters():
    for neuron in (norse.LIFCell(), norse.LIF(), norse.IAF(), norse.IzhikevichCell(tonic_spiking)):
        assert NeuronAdapter().knobs(neuron) == (None, None, None)
    constant = norse.LIFRecurrentCell(4, 6, input_weights=torch.ones(6, 4), recurrent_weights=torch.ones(6, 6))
    assert NeuronAdapter().knobs(constant) == (None, None, None)
    refractory = norse.LIFRefracParameters(norse.LIFParameters(v_th=nn.Parameter(torch.tensor(1.0))))
    assert NeuronAdapter().knobs(norse.LIFRefracCell(refractory)).threshold.parameters == (refractory.lif.v_th,)
    readout = norse.LI(p=norse.LIParameters(tau_mem_inv=nn.Parameter(torch.tensor(100.0))))
    assert ReadoutAdapter().knobs(readout) == (None, None, None)


def test_where_recurrent_weights_raise_the_radius_decays_and_upstroke_come_back_no_farther():
    fast, slow = number(1000.0), number(100.0)  # a decay of 0 stays one
    p = LIFExParameters(delta_T=number(0.5), v_th=number(1.0), tau_mem_inv=slow, tau_syn_inv=fast)
    cell = norse.LIFExRecurrentCell(4, 6, p=p)
    time = NeuronAdapter().knobs(cell).time
    for factor in (0.5, 1.5, 1.5):
        time.turn(factor)
    values = [value.item() for value in (slow, fast, p.delta_T)]
    assert values == pytest.approx([100.0, 1000.0, 0.5])
    alone = LIFExParameters(delta_T=number(0.5), v_th=number(1.0))  # no decay to come back with
    time = NeuronAdapter().knobs(norse.LIFExRecurrentCell(4, 6, p=alone)).time
    for factor in (0.5, 1.5, 1.5):
        time.turn(factor)
    assert alone.delta_T.item() == pytest.approx(0.5)


def test_the_upstroke_of_an_exponential_neuron_goes_with_its_threshold_and_its_decays():
    p = LIFExParameters(delta_T=number(0.5), v_th=number(1.0), tau_mem_inv=number(100.0))
    knobs = NeuronAdapter().knobs(norse.LIFExCell(p=p))
    knobs.threshold.turn(0.4)  # alone, a threshold of 0.4 below a range of 0.5 would make the neuron fire by itself
    assert (p.v_th.item(), p.delta_T.item()) == pytest.approx((0.4, 0.2))
    knobs.time.turn(0.5)
    assert (p.tau_mem_inv.item(), p.delta_T.item()) == pytest.approx((550.0, 0.2 * 0.5**1.5))
    assert set(knobs.time.parameters) == {p.tau_mem_inv, p.delta_T}
    p.delta_T.requires_grad_(False)
    knobs.time.turn(0.5)
    knobs.threshold.turn(2.0)
    assert (p.v_th.item(), p.delta_T.item()) == pytest.approx((0.8, 0.2 * 0.5**1.5))
    p.v_th.requires_grad_(False)
    p.delta_T.requires_grad_(True)
    knobs.threshold.turn(2.0)
    assert p.delta_T.item() == pytest.approx(0.2 * 0.5**1.5)  # without the threshold nor its range
    assert not movable(NeuronAdapter().knobs(norse.LIFExCell(p=p)).threshold)


def test_a_faster_adaptation_is_driven_as_hard_in_a_step_as_before():
    p = LIFAdExParameters(tau_ada_inv=number(2.0), adaptation_current=number(4.0), tau_mem_inv=number(100.0))
    knobs = NeuronAdapter().knobs(norse.LIFAdExCell(p=p))
    before = STEP * p.tau_ada_inv.item() * p.adaptation_current.item()
    knobs.time.turn(0.5)
    assert p.tau_ada_inv.item() == pytest.approx(501.0)  # decay 0.998 -> 0.499
    assert STEP * p.tau_ada_inv.item() * p.adaptation_current.item() == pytest.approx(before)
    assert knobs.time.floor == pytest.approx(0.8)  # the current's, a constant


def test_a_rate_of_each_unit_may_share_a_gain_and_no_rate_is_zero():
    p = LIFAdExParameters(tau_ada_inv=nn.Parameter(torch.tensor([2.0, 2.0])), adaptation_current=number(4.0))
    knobs = NeuronAdapter().knobs(norse.LIFAdExCell(p=p))
    assert set(knobs.time.parameters) == {p.tau_ada_inv, p.adaptation_current}
    knobs.time.turn(0.5)
    assert p.adaptation_current.item() == pytest.approx(4 * 2 / 501)
    small = LIFAdExParameters(
        tau_ada_inv=nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16)),
        adaptation_current=nn.Parameter(torch.tensor(4.0, dtype=torch.bfloat16)),
    )
    for _ in range(2):
        NeuronAdapter().knobs(norse.LIFAdExCell(p=small)).time.turn(2.0)
    assert small.tau_ada_inv > 0
    assert small.adaptation_current.isfinite()


def test_an_upstroke_is_no_wider_than_the_threshold_is_high():
    p = LIFExParameters(delta_T=number(0.5), tau_mem_inv=number(100.0))
    NeuronAdapter().knobs(norse.LIFExCell(p=p)).time.turn(1.2)
    assert p.delta_T.item() == pytest.approx(0.5 * 1.2**1.5)
    NeuronAdapter().knobs(norse.LIFExCell(p=p)).time.turn(1.5)
    assert p.delta_T.item() == pytest.approx(1.0)


def test_an_adaptation_of_fixed_gain_keeps_its_rate_and_counts_as_a_fixed_leak():
    for gain in (torch.tensor(4.0), number(4.0, trained=False)):
        p = LIFAdExParameters(tau_ada_inv=number(2.0), adaptation_current=gain, tau_mem_inv=number(100.0))
        knobs = NeuronAdapter().knobs(norse.LIFAdExCell(p=p))
        knobs.time.turn(0.5)
        assert (p.tau_ada_inv.item(), p.tau_mem_inv.item()) == pytest.approx((2.0, 550.0))
        assert knobs.time.floor == pytest.approx(0.998)
