"""Targets, and the sum over gradient paths that they tame.

A network T steps wide and L layers deep is a grid; the gradient across dt steps of time and dl layers is a sum over
C(dt + dl, dl) lattice paths. With every time transition of radius a and every depth transition of radius b, the sum is

    S(dt, dl) = a^dt b^dl C(dt + dl, dl).

It is the exact gradient where transitions are scalars (`PascalRNN`). All of it is in log space, where T = 10,000 and
L = 100 neither overflow nor lose precision.

Source: L. Herranz-Celotti and J. Rouat, "Stabilizing RNN Gradients through Pre-training", arXiv 2308.12075.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lsc_snn._checks import check_count, check_float, check_in, check_positive

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """Radii that a stable network should have: `time` for each time transition, `depth` for each depth transition.

    Both are without unit and in (0, 2]. Raises TypeError for what is no number, ValueError for a number outside.

    >>> Target(time=0.5, depth=0.5) == Target.half()
    True
    """

    time: float
    depth: float

    def __post_init__(self) -> None:
        for name, value in (("time", self.time), ("depth", self.depth)):
            check_positive(f"target {name}", value)
            if value > 2:
                raise ValueError(f"target {name}: expected a radius in (0, 2], got {value}; choose at most 2")
            object.__setattr__(self, name, float(value))

    @classmethod
    def one(cls) -> "Target":
        """Both radii 1, the classical choice: each path is stable, their sum grows as C(T + L, L)."""
        return cls(1.0, 1.0)

    @classmethod
    def half(cls) -> "Target":
        """Both radii 1/2, the paper's remedy: the sum over paths is at most 1."""
        return cls(0.5, 0.5)

    @classmethod
    def balanced(cls, num_steps: int, num_layers: int) -> "Target":
        """Radii T / (T + L) and L / (T + L), which carry most gradient from corner to corner of a T x L grid.

        Arguments: T = `num_steps` and L = `num_layers`, at least 1. Raises TypeError or ValueError for other values.

        >>> Target.balanced(num_steps=90, num_layers=10)
        Target(time=0.9, depth=0.1)
        """
        check_count("num_steps", num_steps)
        check_count("num_layers", num_layers)
        return cls(num_steps / (num_steps + num_layers), num_layers / (num_steps + num_layers))

    @classmethod
    def parse(cls, value: "TargetLike", num_steps: int, num_layers: int) -> "Target":
        """Return the target that a name ("one", "half", "balanced"), a pair (time, depth) or a target stands for.

        Arguments: `num_steps` and `num_layers`, the size of the grid; only "balanced" depends on it.
        Raises ValueError for an unknown name (and names the nearest), or a pair that is none or out of range; TypeError
        for another type.

        >>> Target.parse("half", 100, 5), Target.parse((0.9, 0.1), 100, 5)
        (Target(time=0.5, depth=0.5), Target(time=0.9, depth=0.1))
        """
        if isinstance(value, Target):
            return value
        if isinstance(value, str):
            check_in("target", value, ("one", "half", "balanced"))
            return {"one": cls.one, "half": cls.half}.get(value, lambda: cls.balanced(num_steps, num_layers))()
        if not isinstance(value, list | tuple):
            got = type(value).__name__
            raise TypeError(f"target: expected a name, a pair or a Target, got {got}; pass (time, depth)")
        if len(value) != 2:
            raise ValueError(f"target: expected a pair (time, depth), got {len(value)} values; pass two radii")
        return cls(value[0], value[1])


TargetLike = str | Sequence[float] | Target


def log_path_count(dt: npt.ArrayLike, dl: npt.ArrayLike) -> Floats:
    """Logarithm of the number of lattice paths across `dt` time steps and `dl` layers, log C(dt + dl, dl).

    With n = dt + dl and log n! = n log n - n + log(2 pi n) / 2 + e(n), the large terms cancel on paper instead of in
    floating point, as they would between log-gammas. The relative error stays below 1e-13.

    Arguments: `dt`, `dl`, integers >= 0 or arrays of them, broadcast together. Returns float64 of the broadcast shape.
    Raises TypeError for what is not integer, ValueError for negative counts.
    Source: C. Loader, "Fast and Accurate Computation of Binomial Probabilities" (2000).

    >>> round(float(np.exp(log_path_count(99, 10))))  # C(109, 10)
    42634215112710
    """
    i, j = _counts("dt", dt), _counts("dl", dl)
    n = i + j
    with np.errstate(divide="ignore", invalid="ignore"):  # an edge of the grid has one path; np.where sets it below
        entropy = i * np.log1p(j / i) + j * np.log1p(i / j)
        log_count = entropy + 0.5 * np.log(n / (2 * np.pi * i * j)) + _stirling(n) - _stirling(i) - _stirling(j)
    return np.where((i == 0) | (j == 0), 0.0, log_count)


def log_path_sum(target: Target | tuple[float, float], dt: npt.ArrayLike, dl: npt.ArrayLike) -> Floats:
    """Logarithm of the path sum, log S(dt, dl) = dt log a + dl log b + log C(dt + dl, dl).

    Arguments: `target`, a Target or a pair (a, b) of positive radii; `dt`, `dl` as for `log_path_count`.
    Returns float64 of the broadcast shape. Raises TypeError or ValueError for bad radii or counts.

    >>> float(log_path_sum(Target.half(), 10_000, 100)) > -6500  # a^dt alone is 2^-10000, which float64 cannot hold
    True
    """
    a, b = _pair(target)
    return _counts("dt", dt) * math.log(a) + _counts("dl", dl) * math.log(b) + log_path_count(dt, dl)


def log_path_bound(target: Target | tuple[float, float], dt: npt.ArrayLike, dl: npt.ArrayLike) -> Floats:
    """Bound of the path sum for any pair of radii, log S(dt, dl) <= (dt + dl) log(a + b).

    S(dt, dl) is one term of the binomial expansion of (a + b)^(dt + dl), whose terms are all positive. So where
    a + b <= 1 the sum over paths between any two nodes of any grid is at most 1. Bounded is the sum over paths of the
    products of a and b: the gradient itself for scalar transitions, the norm of the gradient if a and b bound the
    operator norms of the transitions; radii alone do not bound it where matrices are far from normal.

    Arguments, result and errors as for `log_path_sum`.

    >>> bool(log_path_sum((0.7, 0.3), 70, 30) <= log_path_bound((0.7, 0.3), 70, 30))
    True
    """
    a, b = _pair(target)
    return np.asarray((_counts("dt", dt) + _counts("dl", dl)) * math.log(a + b))


def log_sum_over_time(target: Target | tuple[float, float], num_layers: int) -> float:
    """Logarithm of the PascalRNN's input-output gradient summed over all delays, L log(b / (1 - a)).

    The negative binomial series sum_dt a^dt b^L C(L - 1 + dt, dt) = (b / (1 - a))^L converges for a < 1. At every depth
    it is at most 1 where a + b <= 1, exactly 1 on the critical line a + b = 1, and above it grows exponentially in L.

    Arguments: `target`, a Target or a pair (a, b); `num_layers` L >= 1. Returns infinity for a >= 1.
    Raises TypeError or ValueError for bad radii or a bad depth.

    >>> log_sum_over_time(Target.half(), num_layers=10)
    0.0
    """
    a, b = _pair(target)
    check_count("num_layers", num_layers)
    return num_layers * (math.log(b) - math.log1p(-a)) if a < 1 else math.inf


def growth_rate(a: float, b: float) -> float:
    """Growth of the log path sum per step of a path, in the direction where it is largest: log(a + b).

    Along a fraction p of steps in time, (1/n) log S tends to H(p) + p log a + (1 - p) log b, H the entropy in nats; its
    maximum over p is log(a + b), at p = `direction(a, b)`. So a + b = 1 is the critical line.
    Raises TypeError or ValueError unless both radii are positive numbers.

    >>> growth_rate(0.5, 0.5), growth_rate(1, 1) == math.log(2)
    (0.0, True)
    """
    a, b = _pair((a, b))
    return math.log(a + b)


def direction(a: float, b: float) -> float:
    """Direction of largest growth, as the fraction of a path's steps that go through time, a / (a + b).

    Raises TypeError or ValueError unless both radii are positive numbers.

    >>> direction(0.75, 0.25)
    0.75
    """
    a, b = _pair((a, b))
    return a / (a + b)


@dataclass(frozen=True)
class PascalRNN:
    """The simplest deep recurrent network: y(t, l) = a y(t-1, l) + b y(t, l-1) on scalars, with y(t, 0) = x(t).

    Its gradient is known: d y(t + dt, L) / d x(t) = a^dt b^L C(L - 1 + dt, dt).

    Arguments: `a`, `b`, positive time and depth radii; `num_layers`, L >= 1. Raises TypeError or ValueError otherwise.

    >>> round(float(PascalRNN(1, 1, num_layers=10).input_output_gradient(99)) / 1e12, 1)
    3.9
    """

    a: float
    b: float
    num_layers: int

    def __post_init__(self) -> None:
        _pair((self.a, self.b))
        check_count("num_layers", self.num_layers)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs y(t, L) for inputs x(t), differentiable.

        A layer is y = b x / (1 - a S), S the shift by one step. It takes log2(T) vector operations, since
        1 / (1 - a S) = (1 + a S) (1 + a^2 S^2) (1 + a^4 S^4) ...

        Argument: `x`, (T, ...), time first. Returns the shape of x. Raises TypeError if x is not floating-point,
        ValueError if it has no time axis.

        >>> PascalRNN(1, 1, num_layers=2)(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
        [1.0, 2.0, 3.0, 4.0]
        """
        check_float("x", x)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(
                f"x: expected shape (T, ...) with T >= 1, got {tuple(x.shape)}; put time on the first axis"
            )
        y = x
        for _ in range(self.num_layers):
            y, shift, factor = self.b * y, 1, self.a
            while shift < len(x):
                y = torch.cat([y[:shift], y[shift:] + factor * y[:-shift]])
                shift, factor = 2 * shift, factor * factor
        return y

    def log_input_output_gradient(self, dt: npt.ArrayLike) -> Floats:
        """Logarithm of the gradient across all layers at delay dt, dt log a + L log b + log C(L - 1 + dt, dt).

        Argument: `dt`, integers >= 0. Returns float64 of its shape. Raises TypeError or ValueError for other delays.
        """
        # The first step into the network goes through depth, so paths cross one layer less than there are.
        return log_path_sum((self.a, self.b), dt, self.num_layers - 1) + math.log(self.b)

    def input_output_gradient(self, dt: npt.ArrayLike) -> Floats:
        """Gradient d y(t + dt, L) / d x(t) = a^dt b^L C(L - 1 + dt, dt); infinite where float64 cannot hold it.

        Argument: `dt`, integers >= 0. Returns float64 of its shape. Raises TypeError or ValueError for other delays.
        """
        with np.errstate(over="ignore"):
            return np.exp(self.log_input_output_gradient(dt))


def _pair(target: Target | tuple[float, float]) -> tuple[float, float]:
    pair = (target.time, target.depth) if isinstance(target, Target) else target
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise TypeError(f"target: expected a Target or a pair (a, b), got {target!r}; pass two radii")
    a, b = pair
    check_positive("a", a)
    check_positive("b", b)
    return float(a), float(b)


def _counts(name: str, values: npt.ArrayLike) -> Floats:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected integers, got {array.dtype}; pass a number of steps")
    if (array < 0).any():
        raise ValueError(f"{name}: expected integers >= 0, got {array.min()}; pass a number of steps")
    return array.astype(np.float64)


def _log_factorial_error(n: int) -> float:
    return math.lgamma(n + 1) - (n * math.log(n) - n + 0.5 * math.log(2 * math.pi * n))


# Below 16 the series converges too slowly; there the error comes from the definition. Index 0 is never used.
_SMALL = np.array([0.0, *(_log_factorial_error(n) for n in range(1, 16))])


def _stirling(n: Floats) -> Floats:
    """Error of Stirling's formula, log n! - (n log n - n + log(2 pi n) / 2)."""
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / n**2) / n**2) / n**2) / n
    return np.where(n < 16, _SMALL[np.minimum(n, 15).astype(np.intp)], series)
