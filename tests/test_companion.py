"""Whether a threshold goes along with the weights in front of it: the other way once the radius does not follow."""

import math

import pytest

from lsc_snn.procedures.companion import Companion

UP, DOWN = math.log(2.0), -math.log(2.0)


def test_a_threshold_goes_along_but_not_up_in_the_first_layer():
    assert [Companion(first=False).goes(step) for step in (UP, DOWN)] == [True, True]
    assert [Companion(first=True).goes(step) for step in (UP, DOWN)] == [False, True]


def test_weights_go_alone_once_the_radius_did_not_follow_at_the_same_rate_and_the_threshold_goes_back():
    for radius, rate, threshold, due in (
        (0.5, 0.1, UP, -UP),
        (0.6, 0.1, UP, 0.0),  # it followed
        (0.5, 0.15, UP, 0.0),  # something else changed the rate
        (0.5, 0.1, 2 * UP, 0.0),  # the threshold also turned for the rate
    ):
        companion = Companion(first=False)
        companion.note(UP, True, 0.5, 0.1, threshold)
        assert companion.judge(radius, rate) == pytest.approx(due)
        assert companion.goes(UP) is (due == 0)


def test_a_threshold_goes_along_once_weights_alone_did_not_raise_the_radius_and_catches_up():
    for radius, due in ((0.7, 0.0), (0.5, UP - 0.1), (0.3, UP - 0.1)):
        companion = Companion(first=True)
        companion.note(UP, False, 0.5, 0.1, 0.1)
        assert companion.judge(radius, 0.3) == pytest.approx(due)
        assert companion.goes(UP) is (due != 0)


def test_short_moves_are_judged_together():
    companion = Companion(first=False)
    for _ in range(3):
        companion.note(0.12, True, 0.5, 0.1, 0.12)
        due = companion.judge(0.51, 0.1)
    assert due == pytest.approx(-0.36)
    companion.note(0.12, False, 0.5, 0.1, 0.0)
    assert companion.judge(0.5, 0.1) == pytest.approx(0.12)  # to all digits where it was: that is no chance


def test_a_threshold_that_turned_for_the_rate_breaks_a_row_of_moves_and_excuses_weights():
    companion = Companion(first=True)
    companion.note(0.2, False, 0.5, 0.1, 0.05)
    companion.note(0.2, False, 0.51, 0.1, 0.0)
    assert companion.judge(0.52, 0.1) == 0  # of the second alone
    companion.note(UP, False, 0.5, 0.1, UP)
    assert companion.judge(0.5, 0.1) == 0
    assert not companion.goes(UP)


def test_a_move_that_is_forgotten_is_not_judged():
    companion = Companion(first=False)
    companion.note(UP, True, 0.5, 0.1, UP)
    companion.forget()
    assert companion.judge(0.5, 0.1) == 0
    companion.note(UP, True, 0.5, 0.1, UP)
    assert companion.judge(0.0, 0.0) == 0  # dead: no slope


def test_moves_of_silence_and_overflow_are_not_judged():
    for radius, rate in ((math.inf, 0.1), (0.0, 0.1), (math.nan, 0.1), (0.5, 0.0), (0.5, math.inf)):
        companion = Companion(first=False)
        companion.note(UP, True, radius, rate, UP)
        assert companion.judge(0.5, 0.1) == 0
        companion.note(UP, True, 0.5, 0.1, UP)
        assert companion.judge(radius, rate) == 0


def test_a_layer_whose_radius_follows_no_way_stays_with_one():
    companion = Companion(first=False)
    ways = []
    for _ in range(10):
        along = companion.goes(UP)
        companion.note(UP, along, 0.5, 0.1, UP if along else 0.0)
        companion.judge(0.5, 0.1)
        ways.append(along)
    assert len(set(ways[:4])) == 2
    assert len(set(ways[5:])) == 1


def test_another_way_is_left_only_to_weights_that_went_alone():
    for along in (True, False):
        companion = Companion(first=True)
        companion.note(UP, along, 0.5, 0.1, UP)
        assert companion.go_along() is not along
        assert companion.goes(UP)
        assert not companion.go_along()  # there is no third
