"""What training minimises: cross-entropy over the valid steps, and a penalty on firing rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lsc_snn import _checks
from lsc_snn.experiments.config import READOUTS


class Scored(NamedTuple):
    """Cross-entropy in nats, and whether the highest score is the label's, of each sample or valid step, (items,)."""

    losses: Tensor
    hits: Tensor


def class_scores(output: Tensor, mask: Tensor, readout: str) -> Tensor:
    """Return one score for each class, (B, C), of an output (T, B, C) over the valid steps of a mask (T, B).

    ``readout`` is the "mean" or "sum" over the valid steps, the "last" of them, or the "max" over them.

    >>> output, mask = torch.tensor([[[1.0]], [[3.0]], [[9.0]]]), torch.tensor([[True], [True], [False]])
    >>> [class_scores(output, mask, readout).item() for readout in READOUTS]
    [2.0, 3.0, 3.0, 4.0]
    """
    _checks.check_in("readout", readout, READOUTS)
    if readout == "max":
        return output.masked_fill(~mask.unsqueeze(2), -math.inf).amax(0)
    lengths = mask.sum(0)
    if readout == "last":
        return output[lengths - 1, torch.arange(output.shape[1], device=output.device)]
    # Not a product with the mask: what comes after the end may be NaN, and 0 * NaN is NaN.
    total = output.masked_fill(~mask.unsqueeze(2), 0.0).sum(0)
    return total if readout == "sum" else total / lengths.unsqueeze(1)


def scored(output: Tensor, labels: Tensor, mask: Tensor, readout: str) -> Scored:
    """Compare an output (T, B, C) with labels (B,), one for each sample, or (T, B), one for each step.

    Samples are scored by ``class_scores``; steps each by its own output, where the mask says that it is valid.

    >>> output, mask = torch.tensor([[[0.0, 9.0]], [[9.0, 0.0]]]), torch.ones(2, 1, dtype=torch.bool)
    >>> scored(output, torch.tensor([[1], [1]]), mask, "mean").hits
    tensor([ True, False])
    """
    per_step = labels.dim() == 2
    scores = output[mask] if per_step else class_scores(output, mask, readout)
    wanted = labels[mask] if per_step else labels
    return Scored(functional.cross_entropy(scores, wanted, reduction="none"), scores.argmax(1) == wanted)


def rate_penalty(spikes: Sequence[Tensor], mask: Tensor, band: tuple[float, float]) -> Tensor:
    """Return for each sample, (B,), how far firing rates are outside a band (low, high), summed over layers.

    With r_i the rate of unit i on a sample, in spikes per valid step, a layer of N units adds

        1/N sum_i max(0, low - r_i)^2  +  max(0, 1/N sum_i r_i - high)^2:

    no unit may be silent, and the population not too active. Equal bounds make them a target. ``spikes`` holds a
    tensor (T, B, N) for each layer, ``mask`` (T, B) says which steps are valid.

    Source: Zenke and Vogels 2021, "The Remarkable Robustness of Surrogate Gradient Learning for Instilling Complex
    Function in Spiking Neural Networks", and Cramer et al. 2020, "The Heidelberg Spiking Data Sets", who bound spike
    counts from below by unit and from above by population; here rates, so that bounds do not depend on durations.

    >>> silent, busy = torch.zeros(10, 1, 4), torch.ones(10, 1, 4)
    >>> rate_penalty([silent, busy], torch.ones(10, 1, dtype=torch.bool), (0.1, 0.5))
    tensor([0.2600])
    """
    low, high = band
    lengths = mask.sum(0).unsqueeze(1)
    penalty = torch.zeros(mask.shape[1], device=mask.device)
    for z in spikes:
        rates = z.masked_fill(~mask.unsqueeze(2), 0.0).sum(0) / lengths
        silent, busy = functional.relu(low - rates), functional.relu(rates.mean(1) - high)
        penalty = penalty + silent.square().mean(1) + busy.square()
    return penalty
