"""Smooth random manifolds as spike latencies: a classification task whose difficulty is chosen, drawn from a seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lsc_snn._checks import check_count, check_positive
from lsc_snn.datasets.events_dataset import EventDataset
from lsc_snn.datasets.splits import EventSplits

_HARMONICS = 100
"""Terms of each series: with alpha 1, the first one left out weighs a hundredth of the first."""
_PARTS = (0.8, 0.9)
"""Where train ends and validation ends, as fractions of the samples of a class."""

Floats = npt.NDArray[np.float64]


def manifold_points(
    points: Floats, num_units: int, *, alpha: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Map points (S, D) of the unit cube onto a smooth random manifold in ``num_units`` = N dimensions, (S, N).

    x_n(u) = prod over d of sum over k = 1..100 of k^-alpha a_ndk sin(2 pi (k b_ndk u_d + c_ndk)), a, b, c uniform in
    [0, 1), then scaled so that the points of every dimension span 0..1. The larger ``alpha``, the smoother.

    >>> x = manifold_points(np.linspace(0, 1, 5)[:, None], 3, alpha=2.0, generator=np.random.default_rng(0))
    >>> x.shape, x.min(), x.max()
    ((5, 3), np.float64(0.0), np.float64(1.0))
    """
    harmonics = np.arange(1, _HARMONICS + 1)
    product = np.ones((len(points), num_units))
    for dimension in points.T:
        amplitude, frequency, phase = generator.random((3, num_units, _HARMONICS))
        for unit in range(num_units):
            angle = np.outer(dimension, harmonics * frequency[unit]) + phase[unit]
            product[:, unit] *= np.sin(2 * np.pi * angle) @ (amplitude[unit] * harmonics**-alpha)
    low, high = product.min(0), product.max(0)
    scaled: Floats = (product - low) / np.where(high > low, high - low, 1.0)
    return scaled


def load_manifolds(
    *,
    num_classes: int = 10,
    num_units: int = 20,
    num_steps: int = 100,
    dimension: int = 2,
    alpha: float = 2.0,
    samples_per_class: int = 1000,
    seed: int = 0,
) -> EventSplits:
    """Draw a manifold for every class, and points on it as spike latencies: each unit fires once, in floor(x T) of T.

    A class is one smooth random manifold of ``dimension`` D in the space of ``num_units`` firing times; its samples are
    uniform in the cube that parametrises it. No firing rate tells the classes apart. More classes, fewer units, a
    larger D and a smaller ``alpha`` make the task harder, the last with D of 1 or 2: a product of many rough factors
    stays near 0, and its scaled place then tells the class. Of each class 80 % train, 10 % validation and 10 % test;
    all follows ``seed``.

    Raises TypeError or ValueError for numbers that are no integers or too small (10 samples of a class at least), and
    for an ``alpha`` that is not above 0.

    Source: Zenke and Vogels 2021, "The Remarkable Robustness of Surrogate Gradient Learning for Instilling Complex
    Function in Spiking Neural Networks".

    >>> train, validation, test, _ = load_manifolds(num_classes=2, samples_per_class=20)
    >>> len(train), len(validation), len(test), train.num_units
    (32, 4, 4, 20)
    """
    sizes = {"num_classes": num_classes, "num_units": num_units, "num_steps": num_steps, "dimension": dimension}
    for name, size in sizes.items():
        check_count(name, size)
    check_count("samples_per_class", samples_per_class, minimum=10)
    check_count("seed", seed, minimum=0)
    check_positive("alpha", alpha)
    steps = []
    for label in range(num_classes):
        generator = np.random.default_rng((seed, label))
        points = generator.random((samples_per_class, dimension))
        x = manifold_points(points, num_units, alpha=alpha, generator=generator)
        steps.append(np.minimum(np.floor(x * num_steps), num_steps - 1).astype(np.int64))
    ends = [0, *(round(part * samples_per_class) for part in _PARTS), samples_per_class]
    train, validation, test = (_events(np.stack(steps)[:, first:last], num_steps) for first, last in pairwise(ends))
    return EventSplits(train, validation, test)


def _events(steps: npt.NDArray[np.int64], num_steps: int) -> EventDataset:
    """Return the dataset of firing steps (classes, samples, units)."""
    num_classes, num_samples, num_units = steps.shape
    flat = steps.reshape(-1, num_units)
    units = np.argsort(flat, axis=1, kind="stable")
    return EventDataset(
        np.take_along_axis(flat, units, 1).ravel().astype(np.min_scalar_type(num_steps - 1)),
        units.ravel().astype(np.min_scalar_type(num_units - 1)),
        np.arange(len(flat) + 1) * num_units,
        np.repeat(np.arange(num_classes), num_samples),
        np.full(len(flat), num_steps),
        num_steps=num_steps,
        num_units=num_units,
        num_classes=num_classes,
    )
