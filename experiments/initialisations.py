"""Classical initialisations of feed-forward nets: radii against width, and deep nets before and after LSC.

Glorot (with tanh at 0), He (with ReLU) and orthogonal matrices (linear) satisfy the condition with target 1, the first
two as the width grows: the spectrum of an n x n matrix of variance 1/n fills the unit disc, and its edge is blurred by
about sqrt(log(n) / n). The deep nets are those of the paper: 30 layers of 128 units with ReLU, sin or cos.

Source: L. Herranz-Celotti and J. Rouat, "Stabilizing RNN Gradients through Pre-training", arXiv 2308.12075.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

import lsc_snn as lsc
from lsc_snn import baselines
from lsc_snn._checks import check_count, check_in
from lsc_snn._initialisations_figure import Curve, Floats, Profile
from lsc_snn.spectral import radius

WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"ReLU": torch.relu, "sin": torch.sin, "cos": torch.cos}
ARMS = ("PyTorch default", "Glorot", "He", "LSC")
"""How a deep net starts; LSC is the PyTorch default after ``stabilize``."""
_RESETS = {"Glorot": baselines.glorot, "He": baselines.he, "orthogonal": baselines.orthogonal}
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"Glorot": torch.tanh, "He": torch.relu, "orthogonal": torch.clone}
_NUM_INPUTS = 16
_WIDEST_EXACT = 512
_COUNTED_ONCE = 2048
_TOLERANCE = 0.02
"""What ``stabilize`` is asked for, so that new inputs stay within 0.05."""


class Pointwise(nn.Module):
    """A function of each unit, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        return self.function(x)


def expected_radius(width: int) -> float:
    """Return the expected spectral radius of a Gaussian n x n matrix of variance 1/n, to leading order in large n.

        P(radius <= r)^2 = exp(-N(r)) prod_k P(Gamma(k) <= n r^2),    k = 1..n

    The product belongs to complex matrices, whose squared moduli are independent Gamma(k) / n (Kostlan 1992). Of a real
    one they come in conjugate pairs, hence the square (Rider and Sinclair 2014, "Extremal laws for the real Ginibre
    ensemble"); N(r) real ones, known from Edelman, Kostlan and Shub 1994, lie beyond +-r and stand in for half a pair
    each. The result is 6 % too near to 1 at n = 64, and nearer with n. It tends to 1 as sqrt(log(n) / n). For entries
    that are not Gaussian the edge is the same (universality).

    Raises TypeError or ValueError unless the width is an integer above 1.

    >>> [round(expected_radius(width), 3) for width in (64, 4096)]
    [1.053, 1.014]
    """
    check_count("width", width, minimum=2)
    # Far inside the edge the probability is 0, far outside it is 1; and only the largest moduli reach it.
    blur = 1 / math.sqrt(width)
    r = torch.linspace(max(0.0, 1 - 4 * blur), 1 + 6 * blur, 1001, dtype=torch.float64)
    k = torch.arange(max(1, width - 16 * math.isqrt(width)), width + 1, dtype=torch.float64)
    log_product = torch.stack([torch.special.gammainc(k, width * x * x).log().sum() for x in r])
    density = _density_of_real(width, r * math.sqrt(width)) * math.sqrt(width)
    beyond = 2 * torch.cumulative_trapezoid(density.flip(0), r).flip(0)
    log_below = 0.5 * (log_product[:-1] - beyond)
    return float(r[0] + torch.trapezoid(1 - log_below.exp(), r[:-1]))


def expected_radii(initialisation: str, widths: Sequence[int]) -> Floats | None:
    """Return what ``radius_against_width`` should find, or None where it is 1.

    Zeros of ReLU's slope take half of the rows and columns out: He at width n is a matrix of n/2 and variance 2/n.

    >>> expected_radii("He", [128]) == expected_radii("Glorot", [64])
    array([ True])
    """
    check_in("initialisation", initialisation, tuple(_RESETS))
    if initialisation == "orthogonal":
        return None
    shown = {"Glorot": 1, "He": 2}[initialisation]
    return np.array([expected_radius(width // shown) for width in widths])


def _density_of_real(n: int, x: Tensor) -> Tensor:
    """Return how many real eigenvalues a real Gaussian matrix of variance 1 has per unit length at x >= 0, on average.

    Source: Edelman, Kostlan and Shub 1994, "How many eigenvalues of a random matrix are real?"
    """
    size, squares = torch.tensor(float(n), dtype=torch.float64), x * x
    bulk = torch.special.gammaincc(size - 1, squares) / math.sqrt(2 * math.pi)
    log_edge = torch.xlogy(size - 1, x) - squares / 2 - size / 2 * math.log(2) - torch.lgamma(size / 2)
    return bulk + log_edge.exp() * torch.special.gammainc((size - 1) / 2, squares / 2)


def radius_against_width(initialisation: str, widths: Sequence[int] = WIDTHS, *, num_seeds: int = 8) -> Curve:
    """Return the mean radius of the depth transition W diag(phi'(x)) of nets of these ``widths``, by ``lsc.measure``.

    ``initialisation`` is "Glorot" (phi = tanh, at x = 0), "He" (ReLU, on 4 Gaussian samples) or "orthogonal" (linear).
    There are ``num_seeds`` nets of each width, and more of those below 2048, which vary most and cost least.

    Raises ValueError for another name, TypeError or ValueError for sizes that are no integers, or less than 2 seeds.

    >>> radius_against_width("orthogonal", [256], num_seeds=2).mean.round(4).tolist()
    [1.0]
    """
    check_in("initialisation", initialisation, tuple(_RESETS))
    check_count("num_seeds", num_seeds, minimum=2)
    rows = []
    for width in widths:
        check_count("width", width)
        count = num_seeds * max(1, _COUNTED_ONCE // width)
        rows.append([_radius(initialisation, width, seed) for seed in range(count)])
    return _curve(widths, rows)


def _radius(initialisation: str, width: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    upper = skip_init(nn.Linear, width, width)
    model = nn.Sequential(skip_init(nn.Linear, _NUM_INPUTS, width), Pointwise(_FUNCTIONS[initialisation]), upper)
    _RESETS[initialisation](model, generator=generator)
    inputs = torch.zeros(1, _NUM_INPUTS)
    if initialisation == "He":
        inputs = torch.randn(4, _NUM_INPUTS, generator=generator)
    if initialisation != "orthogonal":
        # The eigenvalues at the edge are 1 / sqrt(n) apart: telling them apart takes that many products.
        products = max(64, 8 * math.isqrt(width))
        return float(lsc.measure(model, inputs, num_matvecs=products, generator=generator).depth)
    # All eigenvalues lie on the edge: Ritz values stay inside it, and no affordable number of products helps.
    if width <= _WIDEST_EXACT:
        return float(lsc.measure(model, inputs, method="exact").depth)
    return largest_singular_value(upper.weight.detach())


def largest_singular_value(matrix: Tensor) -> float:
    """Return sqrt(1 + ||W^T W - I||), at least the largest singular value of W, to rounding for an orthogonal W.

    No eigenvalue is larger. It takes one matrix product, where all eigenvalues would take many minutes.

    >>> round(largest_singular_value(2 * torch.eye(3)), 4)
    2.0
    """
    gram = matrix.T @ matrix
    gram.diagonal().sub_(1)
    return math.sqrt(1 + float(radius(gram)))  # symmetric: the radius is the norm


class Fit(NamedTuple):
    """The slope of a line, and its standard error."""

    slope: float
    error: float


def convergence_rate(curve: Curve) -> Fit:
    """Return the exponent p in |mean - 1| ~ width^p: least squares of the logs, weighted by their standard errors.

    >>> x = np.array([64.0, 256.0, 1024.0])
    >>> fit = convergence_rate(Curve(x, 1 + x**-0.5, x**-0.5, np.full(3, 4.0)))
    >>> round(fit.slope, 6), round(fit.error, 3)
    (-0.5, 0.255)
    """
    away = np.abs(curve.mean - 1)
    weight = (away / curve.std) ** 2 * curve.nets
    x = np.log(curve.x)
    x = x - np.average(x, weights=weight)
    total = (weight * x * x).sum()
    return Fit(float((weight * x * np.log(away)).sum() / total), float(total**-0.5))


def deep_profiles(
    activation: str,
    *,
    num_layers: int = 30,
    width: int = 128,
    num_seeds: int = 4,
    num_samples: int = 32,
    arms: Iterable[str] = ARMS,
) -> dict[str, Profile]:
    """Return radius and gradient norm, layer by layer, of deep nets with an ``activation`` of ``ACTIVATIONS``.

    For each of the ``arms``, the mean and standard deviation over ``num_seeds`` nets, each on ``num_samples`` Gaussian
    inputs that ``stabilize`` has not seen. The radius is that of the transition from the layer below, so that the first
    layer has none. Gradient norms are log10 of those of ``lsc.gradient_profile``, relative to the last layer.

    Raises ValueError for another name, TypeError or ValueError for sizes that are no integers, or less than 2 seeds.

    >>> profiles = deep_profiles("ReLU", num_layers=3, width=16, num_seeds=2, arms=["He", "LSC"])
    >>> list(profiles), profiles["LSC"].gradient.mean.shape
    (['He', 'LSC'], (3,))
    """
    check_in("activation", activation, tuple(ACTIVATIONS))
    for name, value, least in (("num_layers", num_layers, 2), ("width", width, 1), ("num_seeds", num_seeds, 2)):
        check_count(name, value, minimum=least)
    profiles = {}
    for arm in arms:
        check_in("arm", arm, ARMS)
        columns = []
        for seed in range(num_seeds):
            seen, unseen = torch.randn(2, num_samples, width, generator=torch.Generator().manual_seed(seed))
            model = deep_net(activation, arm, num_layers, width, seed)
            if arm == "LSC":
                lsc.stabilize(model, seen, target="one", tolerance=_TOLERANCE)
            columns.append(layer_by_layer(model, unseen))
        radii, gradients = (np.transpose(values).tolist() for values in zip(*columns, strict=True))
        layers = range(1, num_layers + 1)
        profiles[arm] = Profile(_curve(layers[1:], radii), _curve(layers, gradients))
    return profiles


def layer_by_layer(model: nn.Module, inputs: Tensor) -> tuple[list[float], list[float]]:
    """Return the L-1 depth radii of a net, and at its L layers log10 of the gradient norm relative to the last.

    >>> layer_by_layer(nn.Sequential(nn.Linear(3, 3)), torch.ones(1, 3))
    ([], [0.0])
    """
    report = lsc.measure(model, inputs)
    norms = lsc.gradient_profile(model, inputs)[0].detach().double().log10()
    return report.depth.tolist(), (norms - norms[-1]).tolist()


def deep_net(activation: str, arm: str, num_layers: int, width: int, seed: int) -> nn.Sequential:
    """Return a net of Linear layers with an activation between them, drawn by ``arm``; for "LSC" not yet stabilised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the defaults of torch know no generator of their own
        layers = [nn.Linear(width, width) for _ in range(num_layers)]
    modules: list[nn.Module] = [layers[0]]
    for layer in layers[1:]:
        modules += [Pointwise(ACTIVATIONS[activation]), layer]
    model = nn.Sequential(*modules)
    if arm in _RESETS:
        _RESETS[arm](model, generator=torch.Generator().manual_seed(seed))
    return model


def _curve(x: Sequence[int], rows: Sequence[Sequence[float]]) -> Curve:
    """Return the curve of as many values at each x as there are nets."""
    columns = [np.array(x, dtype=np.float64)]
    columns += [np.array([measure(row) for row in rows], dtype=np.float64) for measure in (np.mean, _deviation, len)]
    return Curve(*columns)


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))
