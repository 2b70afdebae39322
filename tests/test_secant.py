"""How far a knob is turned: secant steps in log space."""

import math

import pytest

from lsc_snn.procedures.secant import RateDial, Secant


def test_a_knob_is_stuck_after_three_large_moves_without_response():
    secant = Secant()
    for _ in range(3):
        secant.step(0.0, -3.0)
        assert not secant.stuck
    secant.step(0.0, -3.0)
    assert secant.stuck
    responding = Secant()
    for reading in (0.0, -0.5, -1.0, -1.5, -2.0):
        responding.step(reading, -5.0)
    assert not responding.stuck


def test_a_step_is_shorter_after_a_reading_that_went_the_other_way():
    steps = []
    for after in (-2.9, -3.1):
        secant = Secant()
        secant.step(-3.0, 0.0)
        steps.append(math.exp(secant.step(after, 0.0)))
    assert steps == pytest.approx([3.0, 1.5])


def test_near_its_targets_a_layer_that_spikes_little_is_left_alone_and_one_that_saturates_is_not():
    for rate, near, moves in ((0.015, True, False), (0.015, False, True), (0.4, True, True), (0.005, True, True)):
        assert (RateDial((0.01, 0.5)).step(rate, near=near) != 0) is moves


def test_a_rate_that_is_accepted_is_moved_only_from_outside_its_band():
    dial = RateDial((0.01, 0.5))
    assert dial.wants(0.4)
    dial.accept()
    assert not dial.wants(0.4)
    assert dial.wants(0.6)


def test_a_rate_as_good_as_silence_is_woken_up_in_a_band_from_zero_and_no_band_is_missed():
    assert RateDial((0.0, 1.0)).step(1e-4) < 0
    assert not RateDial((0.0, 1.0)).fires(1e-4)
    low = RateDial((1e-4, 5e-4))
    assert low.wants(8e-4)
    assert not low.wants(2.5e-4)
    assert low.fires(2e-4)


def test_a_slope_is_that_of_the_step_that_was_taken():
    secant = Secant()
    assert secant.step(-3.0, 0.0, longest=0.4) == 0.4
    secant.step(-2.6, 0.0)
    assert secant._slope == pytest.approx(1.0)
