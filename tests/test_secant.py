"""How far a knob is turned: secant steps in log space."""

import math

import pytest

from lsc_snn.procedures.secant import Secant


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
