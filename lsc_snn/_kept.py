"""What stabilize and the initialisations share: batches without end, and parameters as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from lsc_snn.events import EventBatch, Inputs


def cycled(batches: Inputs | Iterable[Inputs]) -> Iterator[Inputs]:
    """Go through the batches again and again; those of a one-shot iterable are kept as they come."""
    if isinstance(batches, Tensor | EventBatch):
        batches = [batches]
    elif not isinstance(batches, Iterable):
        raise TypeError(
            f"batches: expected a tensor, an EventBatch or an iterable of them, got {type(batches).__name__}"
        )
    seen: list[Inputs] = []
    for batch in batches:
        seen.append(batch)
        yield batch
    if not seen:
        raise ValueError("batches: expected at least one batch, got none")
    while True:
        yield from seen


def snapshot(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """Return parameters with copies of their values."""
    return [(parameter, parameter.detach().clone()) for parameter in parameters]


@torch.no_grad()
def restore(kept: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Give parameters the values of a snapshot back."""
    for parameter, value in kept:
        parameter.copy_(value)
