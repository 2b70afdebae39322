"""Scores, losses and the penalty on rates, against loops over samples, units and steps."""

import math

import pytest
import torch
from torch.nn import functional

from cases import normal
from lsc_snn.experiments.losses import class_scores, rate_penalty, scored

LENGTHS = torch.tensor([7, 1, 3, 5])
MASK = torch.arange(7)[:, None] < LENGTHS


@pytest.mark.parametrize("after_the_end", [0.0, 100.0, math.nan])
@pytest.mark.parametrize("readout", ["mean", "last", "max", "sum"])
def test_class_scores_see_valid_steps_only(readout, after_the_end):
    output = normal(7, 4, 3)
    output[~MASK] = after_the_end
    expected = []
    for sample, length in enumerate(LENGTHS):
        valid = output[:length, sample]
        scores = {"mean": valid.mean(0), "last": valid[-1], "max": valid.max(0).values, "sum": valid.sum(0)}
        expected.append(scores[readout])
    torch.testing.assert_close(class_scores(output, MASK, readout), torch.stack(expected))


def test_class_scores_refuse_another_readout():
    with pytest.raises(ValueError, match="readout: expected one of"):
        class_scores(normal(2, 1, 1), torch.ones(2, 1, dtype=torch.bool), "first")


def test_labels_of_steps_are_compared_step_by_step():
    output, labels = normal(7, 4, 3), torch.randint(3, (7, 4), generator=torch.Generator().manual_seed(0))
    output[~MASK] = math.nan
    losses, hits = [], []
    for step in range(7):
        for sample, length in enumerate(LENGTHS):
            if step < length:
                scores, label = output[step, sample], labels[step, sample]
                losses.append(functional.cross_entropy(scores[None], label[None]))
                hits.append(bool(scores.argmax() == label))
    got = scored(output, labels, MASK, "mean")
    torch.testing.assert_close(got.losses, torch.stack(losses))
    assert got.hits.tolist() == hits


def test_rate_penalty_by_hand():
    """Two layers; what comes after the end of a sample does not count."""
    spikes = [(normal(7, 4, size, seed=size) > 0.5).double() for size in (5, 3)]
    low, high = 0.3, 0.35
    expected = []
    for sample, length in enumerate(LENGTHS):
        total = 0.0
        for z in spikes:
            rates = [float(z[:length, sample, unit].mean()) for unit in range(z.shape[2])]
            total += sum(max(0.0, low - rate) ** 2 for rate in rates) / len(rates)
            total += max(0.0, sum(rates) / len(rates) - high) ** 2
        expected.append(total)
    for z in spikes:
        z[~MASK] = 1.0
    got = rate_penalty(spikes, MASK, (low, high))
    assert got.tolist() == pytest.approx(expected, rel=1e-6)
    assert min(expected) > 0


def test_rate_penalty_is_zero_inside_the_band():
    z = torch.zeros(10, 2, 4)
    z[:2] = 1.0
    assert rate_penalty([z], torch.ones(10, 2, dtype=torch.bool), (0.2, 0.2)).tolist() == pytest.approx([0, 0])
