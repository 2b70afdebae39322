"""The batches of a pass over one part of the data: samples in a shuffled order, or stretches of a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lsc_snn.datasets.text import TokenStream
from lsc_snn.events import EventBatch
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.data import PARTS, Part, Share, SplitsLike, shares, shuffled


class Batch(NamedTuple):
    """What one step works on: this process's share of a batch."""

    events: EventBatch
    labels: Tensor
    """One for each sample, (B,), or for each step of a text, (T, B)."""
    share: Share


def training_batches(part: Part, config: TrainConfig, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
    """Yield the batches of an epoch, from 1: of all samples once, shuffled and augmented, or of a text in its order."""
    if isinstance(part, TokenStream):
        yield from _stretches(part, config, rank, world_size)
        return
    for share in shares(shuffled(len(part), config.seed, epoch), config.batch_size, rank, world_size):
        if config.augment:
            events, labels = config.augment.batch(part, share.indices, seed=config.seed, epoch=epoch)
        else:
            events, labels = part.batch(share.indices)
        yield Batch(events, labels, share)


def evaluation_batches(part: Part, config: TrainConfig, rank: int, world_size: int) -> Iterator[Batch]:
    """Yield every sample, or every step of a text, in one of the processes, once."""
    if isinstance(part, TokenStream):
        yield from (batch for batch in _stretches(part, config, rank, world_size) if batch.share.weight)
        return
    for first in range(rank * config.batch_size, len(part), world_size * config.batch_size):
        chosen = np.arange(first, min(first + config.batch_size, len(part)))
        events, labels = part.batch(chosen)
        yield Batch(events, labels, Share(chosen, len(chosen), 1.0))


def first_batch(part: Part, config: TrainConfig) -> EventBatch:
    """Return the batch on which a network is measured and stabilised: drawn by the seed, or the beginning of a text."""
    if isinstance(part, TokenStream):
        columns = min(config.stabilize_batch, len(part) - 1)
        return next(part.batches(columns, config.bptt_steps or 1))[0]
    events: EventBatch = part.batch(shuffled(len(part), config.seed, 0)[: config.stabilize_batch])[0]
    return events


def check_sequences(splits: SplitsLike, config: TrainConfig) -> None:
    """Raise ValueError unless texts come with ``bptt_steps`` and are long enough, and samples without.

    >>> from lsc_snn import NetworkConfig
    >>> from lsc_snn.experiments.data import Splits
    >>> config = TrainConfig(NetworkConfig(3, 3))
    >>> check_sequences(Splits(*[TokenStream(np.array([0, 1, 2]), 3)] * 3), config)
    Traceback (most recent call last):
    ValueError: bptt_steps: expected a number of steps for text, got None; pass for example 35
    """
    for name in PARTS:
        part = getattr(splits, name)
        if not isinstance(part, TokenStream):
            if config.bptt_steps is not None:
                raise ValueError("bptt_steps: expected text with it, got samples with one label each; leave it out")
            continue
        if config.bptt_steps is None:
            raise ValueError("bptt_steps: expected a number of steps for text, got None; pass for example 35")
        if config.augment:
            raise ValueError("augment: expected samples with it, got text; leave it out")
        part.num_batches(config.batch_size, config.bptt_steps)  # ValueError for too short a text


def _stretches(stream: TokenStream, config: TrainConfig, rank: int, world_size: int) -> Iterator[Batch]:
    columns: npt.NDArray[np.int64] = np.arange(config.batch_size)
    (share,) = shares(columns, config.batch_size, rank, world_size)
    for events, labels in stream.batches(config.batch_size, config.bptt_steps or 1):
        if world_size > 1:
            events, labels = events.select(torch.from_numpy(share.indices)), labels[:, share.indices]
        yield Batch(events, labels, share)
