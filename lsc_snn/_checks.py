"""Argument checks: one line naming what was expected, what came, and what to do."""

import difflib
import math
import numbers
from collections.abc import Iterable

import torch
from torch import Tensor


def is_number(value: object) -> bool:
    """Whether a value is a real number, of Python or NumPy; a bool is not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_positive(name: str, value: float) -> None:
    """Raise unless the value is a finite number above zero: TypeError for another type, ValueError for another number.

    >>> check_positive("sharpness", 0.0)
    Traceback (most recent call last):
    ValueError: sharpness: expected a finite number above 0, got 0.0; choose a positive value
    """
    if not is_number(value):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}; pass an int or a float")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number above 0, got {value}; choose a positive value")


def check_count(name: str, value: int, minimum: int = 1) -> None:
    """Raise unless the value is an integer of at least `minimum`: TypeError for another type, else ValueError.

    >>> check_count("num_layers", 0)
    Traceback (most recent call last):
    ValueError: num_layers: expected an integer >= 1, got 0; choose at least 1
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}; pass an int")
    if value < minimum:
        raise ValueError(f"{name}: expected an integer >= {minimum}, got {value}; choose at least {minimum}")


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless the value is a tensor.

    >>> check_tensor("inputs", [1.0])
    Traceback (most recent call last):
    TypeError: inputs: expected a torch.Tensor, got list; convert it with torch.as_tensor
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}; convert it with torch.as_tensor")


def check_float(name: str, tensor: Tensor) -> None:
    """Raise TypeError unless the argument is a tensor of real floating-point numbers.

    >>> check_float("inputs", torch.zeros(2, dtype=torch.int64))
    Traceback (most recent call last):
    TypeError: inputs: expected a floating-point tensor, got torch.int64; convert it with .float()
    """
    check_tensor(name, tensor)
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {tensor.dtype}; convert it with .float()")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError if a tensor holds NaN or an infinity, and say how many; TypeError if it is no tensor.

    >>> check_finite("inputs", torch.tensor([1.0, float("nan")]))
    Traceback (most recent call last):
    ValueError: inputs: expected finite values, got 1 NaN and 0 infinite of 2; clean or clip the values first
    """
    check_tensor(name, tensor)
    if not bool(torch.isfinite(tensor).all()):
        nans, infinities = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
        raise ValueError(
            f"{name}: expected finite values, got {nans} NaN and {infinities} infinite of {tensor.numel()}; "
            "clean or clip the values first"
        )


def check_rank(name: str, tensor: Tensor, rank: int, layout: str) -> None:
    """Raise ValueError unless a tensor has `rank` axes, all non-empty; `layout` names them, as in "(T, B, N)".

    >>> check_rank("inputs", torch.zeros(4, 3), 3, "(T, B, N)")
    Traceback (most recent call last):
    ValueError: inputs: expected shape (T, B, N), got (4, 3); reshape it to 3 axes
    """
    check_tensor(name, tensor)
    if tensor.ndim != rank:
        raise ValueError(f"{name}: expected shape {layout}, got {tuple(tensor.shape)}; reshape it to {rank} axes")
    if tensor.numel() == 0:
        raise ValueError(
            f"{name}: expected shape {layout} without empty axes, got {tuple(tensor.shape)}; pass at least one entry"
        )


def check_in(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless the value is one of the choices, and name the nearest one; TypeError if it is no string.

    >>> check_in("method", "powr", ["exact", "power"])
    Traceback (most recent call last):
    ValueError: method: expected one of 'exact', 'power', got 'powr'; did you mean 'power'?
    """
    known = list(choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {type(value).__name__}; choose from {_quoted(known)}")
    if value not in known:
        nearest = difflib.get_close_matches(value.lower(), known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "choose one of these"
        raise ValueError(f"{name}: expected one of {_quoted(known)}, got {value!r}; {hint}")


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names))
