"""Every check passes what it should, and its error names the argument, what came and what to do."""

import math
import re

import numpy as np
import pytest
import torch

from lsc_snn import _checks as checks


@pytest.mark.parametrize("value", [1, 0.5, 1e-30, np.float32(2.0), np.int64(3)])
def test_positive_numbers_pass(value):
    assert checks.is_number(value)
    assert checks.check_positive("lr", value) is None


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, -math.inf])
def test_positive_refuses_other_numbers(value):
    with pytest.raises(ValueError, match=re.escape(f"lr: expected a finite number above 0, got {value}; choose")):
        checks.check_positive("lr", value)


@pytest.mark.parametrize("value", ["1", None, True, 1j, torch.ones(1)])
def test_positive_refuses_other_types(value):
    with pytest.raises(TypeError, match=rf"lr: expected a number, got {type(value).__name__}; pass"):
        checks.check_positive("lr", value)


def test_count():
    assert checks.check_count("steps", 1) is None
    assert checks.check_count("steps", np.int64(0), minimum=0) is None
    with pytest.raises(ValueError, match=r"steps: expected an integer >= 2, got 1; choose at least 2"):
        checks.check_count("steps", 1, minimum=2)
    for value in (1.0, True, "1"):
        with pytest.raises(TypeError, match=rf"steps: expected an integer, got {type(value).__name__}; pass an int"):
            checks.check_count("steps", value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_tensors_pass(dtype):
    assert checks.check_float("x", torch.zeros(2, dtype=dtype)) is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_float_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match=rf"x: expected a floating-point tensor, got {dtype}; convert"):
        checks.check_float("x", torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize(
    "check", [checks.check_float, checks.check_finite, lambda name, value: checks.check_rank(name, value, 1, "(T,)")]
)
def test_tensor_checks_refuse_arrays(check):
    with pytest.raises(TypeError, match=r"x: expected a torch.Tensor, got ndarray; convert it with torch.as_tensor"):
        check("x", np.zeros(2))


def test_finite_counts_what_is_not():
    assert checks.check_finite("x", torch.tensor([1e38, -1e38])) is None
    with pytest.raises(ValueError, match=r"x: expected finite values, got 1 NaN and 2 infinite of 4; clean"):
        checks.check_finite("x", torch.tensor([math.nan, math.inf, -math.inf, 0.0]))


def test_rank():
    assert checks.check_rank("x", torch.zeros(2, 3, 4), 3, "(T, B, N)") is None
    with pytest.raises(ValueError, match=r"x: expected shape \(T, B, N\), got \(2, 3\); reshape it to 3 axes"):
        checks.check_rank("x", torch.zeros(2, 3), 3, "(T, B, N)")
    with pytest.raises(ValueError, match=r"x: expected shape \(T, B, N\) without empty axes, got \(0, 3, 4\); pass"):
        checks.check_rank("x", torch.zeros(0, 3, 4), 3, "(T, B, N)")


def test_in_names_the_nearest_choice():
    assert checks.check_in("target", "half", ["one", "half"]) is None
    with pytest.raises(ValueError, match=r"target: expected one of 'one', 'half', got 'Halve'; did you mean 'half'\?"):
        checks.check_in("target", "Halve", ["one", "half"])
    with pytest.raises(ValueError, match=r"got 'xyz'; choose one of these"):
        checks.check_in("target", "xyz", ["one", "half"])
    with pytest.raises(TypeError, match=r"target: expected a string, got int; choose from 'one', 'half'"):
        checks.check_in("target", 3, ["one", "half"])
