"""Which axes of a user's tensor are time and samples: told by size, and where sizes agree, by a derivative.

No sample depends on another. Where two orders of the axes fit, the right one is that in which the last sample of one
end of the graph comes from the last sample of the other end alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lsc_snn.grid import Points


class Layout(NamedTuple):
    """How a tensor holds T ``steps`` of B samples (``batch``): which comes first, on two axes or ``flat`` on one."""

    steps: int
    batch: int
    time_first: bool
    flat: bool = False

    def at(self, points: Points) -> tuple[Tensor, ...]:
        """Return the index that picks the points, (K, ...)."""
        times, samples = points.times, points.samples
        if self.flat:
            return (times * self.batch + samples if self.time_first else samples * self.steps + times,)
        return (times, samples) if self.time_first else (samples, times)

    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor has the sizes of this layout."""
        if self.flat:
            return tensor.dim() >= 2 and tensor.shape[0] == self.steps * self.batch
        sizes = (self.steps, self.batch) if self.time_first else (self.batch, self.steps)
        return tensor.dim() > 2 and tensor.shape[:2] == sizes

    def last_sample(self, like: Tensor) -> Points:
        """Return all steps of the last sample."""
        times = torch.arange(self.steps, device=like.device)
        return Points(times, torch.full_like(times, self.batch - 1))


def layouts(tensor: Tensor, steps: int, batch: int) -> list[Layout]:
    """Return the layouts that fit a tensor by size, time first before batch first; none where it has no time axis."""
    every = [Layout(steps, batch, time_first, flat) for flat in (False, True) for time_first in (True, False)]
    found = [layout for layout in every if layout.fits(tensor)]
    return found[:1] if steps == 1 or batch == 1 else found  # then all that fit pick the same


def of_input(found: Sequence[Layout], start: Tensor, arrived: Tensor) -> Layout:
    """Return which of the layouts that fit an input is its own: all but one need a derivative, and take one.

    ``arrived`` is what a layer received at all steps of the last sample, with its graph to ``start``.
    """
    if len(found) == 1 or not arrived.requires_grad:
        return found[0]
    (used,) = torch.autograd.grad(arrived, start, _direction(arrived), retain_graph=True, materialize_grads=True)
    used = used.abs().flatten(1 if found[0].flat else 2).sum(-1)
    return max(found, key=lambda layout: float(used[layout.at(layout.last_sample(start))].sum()))


def of_output(found: Sequence[Layout], output: Tensor, leaves: Sequence[Tensor], sample_axis: int = 0) -> Layout:
    """Return which of the layouts that fit an output is its own, by one derivative where there are two.

    ``leaves`` are what a layer handed up, or carried, at all steps.
    """
    first, *others = found
    if not others or not output.requires_grad:
        return first
    picked = output[first.at(first.last_sample(output))]
    used = torch.autograd.grad(picked, leaves, _direction(picked), retain_graph=True, materialize_grads=True)
    elsewhere = any(bool(gradient.transpose(0, sample_axis)[:-1].any()) for gradient in used)
    return others[0] if elsewhere else first


def _direction(like: Tensor) -> Tensor:
    """Return a random direction: along a plain sum, what a normalisation hands up has no derivative."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(like.device, like.dtype)
