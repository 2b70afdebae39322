"""Random manifolds: what is drawn, that it follows the seed, and that difficulty is controlled."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from lsc_snn.datasets import EventDataset, load_manifolds
from lsc_snn.datasets.manifolds import manifold_points


def times_of(dataset: EventDataset) -> np.ndarray:
    """Return the firing step of every unit, (samples, units)."""
    x = dataset.batch(np.arange(len(dataset)))[0].to_dense()
    assert set(x.sum(0).flatten().tolist()) == {1.0}, "each unit fires once"
    return x.argmax(0).numpy()


def test_every_unit_fires_once_and_the_parts_are_balanced() -> None:
    splits = load_manifolds(num_classes=3, num_units=7, num_steps=30, samples_per_class=40)
    for part, size in zip(splits[:3], (32, 4, 4), strict=True):
        assert np.bincount(part.labels).tolist() == [size] * 3
        assert times_of(part).shape == (3 * size, 7)
        assert (part.num_steps, part.num_units, part.num_classes) == (30, 7, 3)
    times = np.concatenate([times_of(part) for part in splits[:3]])
    labels = np.concatenate([part.labels for part in splits[:3]])
    for label in range(3):
        assert times[labels == label].min(0).tolist() == [0] * 7
        assert times[labels == label].max(0).tolist() == [29] * 7


def test_the_seed_decides_and_the_global_state_does_not() -> None:
    sizes = {"num_classes": 2, "samples_per_class": 20}
    state = np.random.get_state()[1].tolist()
    first, again, other = load_manifolds(**sizes), load_manifolds(**sizes), load_manifolds(**sizes, seed=1)
    assert np.array_equal(times_of(first.train), times_of(again.train))
    assert not np.array_equal(times_of(first.train), times_of(other.train))
    assert np.random.get_state()[1].tolist() == state


def test_the_formula_term_by_term() -> None:
    points = np.random.default_rng(1).random((6, 2))
    got = manifold_points(points, 3, alpha=1.5, generator=np.random.default_rng(2))
    generator = np.random.default_rng(2)
    a, b, c = zip(*(generator.random((3, 3, 100)) for _ in range(2)), strict=True)
    x = np.ones((6, 3))
    for s in range(6):
        for n in range(3):
            for d in range(2):
                x[s, n] *= sum(
                    k**-1.5 * a[d][n, k - 1] * np.sin(2 * np.pi * (k * b[d][n, k - 1] * points[s, d] + c[d][n, k - 1]))
                    for k in range(1, 101)
                )
    np.testing.assert_allclose(got, (x - x.min(0)) / (x.max(0) - x.min(0)), atol=1e-12)


def test_larger_alpha_is_smoother() -> None:
    line = np.linspace(0, 1, 400)[:, None]
    lengths = [
        np.abs(np.diff(manifold_points(line, 20, alpha=alpha, generator=np.random.default_rng(0)), axis=0)).sum()
        for alpha in (1.0, 2.0, 4.0)
    ]
    assert lengths[0] > 1.5 * lengths[1]
    assert lengths[1] > 1.2 * lengths[2]


def accuracy(**options: float) -> float:
    sizes = {"num_classes": 10, "num_units": 5, "samples_per_class": 200}
    splits = load_manifolds(**(sizes | options))  # type: ignore[arg-type]
    model = KNeighborsClassifier(1).fit(times_of(splits.train), splits.train.labels)
    return float(model.score(times_of(splits.test), splits.test.labels))


def test_difficulty_is_controlled_and_rates_say_nothing() -> None:
    rough, middle, smooth = (accuracy(alpha=alpha, dimension=2) for alpha in (0.5, 1.0, 3.0))
    assert 0.2 < rough < middle < smooth - 0.2
    line, plane, space = (accuracy(alpha=2.0, dimension=dimension) for dimension in (1, 2, 4))
    assert line - 0.1 > plane > space + 0.1
    assert accuracy(num_classes=3) > plane > accuracy(num_classes=30)
    assert accuracy(num_units=20) > plane
    rates = load_manifolds(num_classes=5, samples_per_class=20).train
    totals = rates.batch(np.arange(len(rates)))[0].to_dense().sum(0)
    assert torch.equal(totals, torch.ones_like(totals))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes: expected an integer >= 1, got 0"),
        ({"samples_per_class": 9}, ValueError, "samples_per_class: expected an integer >= 10, got 9"),
        ({"dimension": 1.5}, TypeError, "dimension: expected an integer, got float"),
        ({"alpha": 0.0}, ValueError, "alpha: expected a finite number above 0"),
        ({"seed": -1}, ValueError, "seed: expected an integer >= 0"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_manifolds(**options)  # type: ignore[arg-type]
