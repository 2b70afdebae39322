import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_snn.fixed_point import NumberFormat
from lsc_snn.fixed_point.formats import SHIFT_MAX, to_power_of_two, whole_shift

INTEGERS = st.integers(-(2**15), 2**15 - 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(INTEGERS, min_size=1, max_size=8), st.integers(0, SHIFT_MAX))
def test_shifts_are_floored_divisions(values, k):
    got = NumberFormat(decay="shift").decayed(torch.tensor(values), torch.full((len(values),), k))
    assert got.tolist() == [v - v // 2**k for v in values]


@settings(deadline=None, max_examples=50)
@given(st.lists(INTEGERS, min_size=1, max_size=8), st.integers(0, SHIFT_MAX))
def test_xylo_loses_at_least_one_until_it_is_zero(values, k):
    number_format = NumberFormat(decay="xylo")
    stored = torch.full((len(values),), k)
    got = number_format.decayed(torch.tensor(values), stored).tolist()
    for before, after in zip(values, got, strict=True):
        lost = before // 2**k
        assert before - after == (1 if lost == 0 and before > 0 else lost)
        assert abs(after) < abs(before) or before == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(INTEGERS, min_size=1, max_size=8), st.integers(0, 2**12 - 1))
def test_multiplication_rounds_to_the_nearest(values, m):
    got = NumberFormat(decay="multiply").decayed(torch.tensor(values), torch.full((len(values),), m))
    assert got.tolist() == [(2 * v * m + 2**12) // 2**13 for v in values]


def test_what_xylosim_decays_to():
    # v_mem of xylosim 0.1.3 with dash_mem 2 and no input, from 53 and from -48.
    positive, negative = [53], [-48]
    for values in (positive, negative):
        while values[-1]:
            values.append(int(NumberFormat(decay="xylo").decayed(torch.tensor([values[-1]]), torch.tensor([2]))))
    assert negative[1:4] == [-36, -27, -20]
    assert positive[-6:] == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("rule", ["shift", "xylo", "multiply"])
def test_stored_decays_are_the_nearest(rule):
    number_format = NumberFormat(decay=rule, decay_bits=8)
    choices = torch.arange(256 if rule == "multiply" else SHIFT_MAX + 1)
    values = number_format.decay_value(choices)
    assert torch.equal(number_format.stored_decay(values), choices)
    alphas = torch.linspace(0, 0.99, 50, dtype=torch.float64)
    scale = (lambda a: a) if rule == "multiply" else (lambda a: torch.log2(1 - a))
    distance = (scale(alphas).unsqueeze(1) - scale(values)).abs()
    chosen = number_format.stored_decay(alphas)
    assert torch.allclose(distance.gather(1, chosen.unsqueeze(1)).squeeze(1), distance.amin(1), atol=1e-12)


def test_scales():
    assert to_power_of_two(torch.tensor([0.26, 1.0])).tolist() == [0.5, 1.0]
    assert [whole_shift(torch.tensor([r, 9.0])) for r in (0.3, 1.0, 7.9, 8.0)] == [0, 0, 2, 3]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_bits": 33}, ValueError, "weight_bits: expected 2 to 32 bits, got 33"),
        ({"weight_bits": 0}, ValueError, "weight_bits: expected an integer >= 2, got 0; choose at least 2"),
        ({"potential_bits": 1}, ValueError, "potential_bits: expected an integer >= 2, got 1; choose at least 2"),
        ({"decay_bits": 31}, ValueError, "decay_bits"),
        ({"weight_bits": 8.0}, TypeError, "weight_bits: expected an integer, got float"),
        ({"decay": "shfit"}, ValueError, "did you mean 'shift'"),
        ({"per_channel": 1}, TypeError, "per_channel: expected True or False, got int"),
    ],
)
def test_bad_formats(options, error, message):
    with pytest.raises(error, match=message):
        NumberFormat(**options)
