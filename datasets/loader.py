"""The loader that cuts batches from an event dataset: shuffled, augmented, in worker processes, moved to a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.types import Device
from torch.utils.data import DataLoader, Dataset

from lsc_snn._checks import check_count
from lsc_snn.datasets.augment import Augmentation
from lsc_snn.datasets.events_dataset import EventDataset
from lsc_snn.events import EventBatch

Batch = tuple[EventBatch, Tensor]


class EventLoader:
    """Batches of an event dataset, in order or shuffled; each pass yields (EventBatch, labels) pairs.

    The order is a pure function of (``seed``, epoch), what ``augmentation`` does to a sample one of (``seed``, epoch,
    sample), and the global random state is not touched: every number of worker processes yields the same batches.
    ``num_workers`` 0 cuts them in this process, which is fast enough unless augmentation is heavy. The epoch is 0 until
    ``set_epoch`` changes it, so a training loop calls ``set_epoch`` before each pass and can resume at any of them.
    With ``drop_last`` an incomplete last batch is left out. After ``to`` the batches come on that device.

    Raises TypeError or ValueError for sizes that are not integers in range, for an augmentation of another type, and
    where ``drop_last`` leaves no batch.

    >>> dataset = EventDataset([0] * 5, [0] * 5, range(6), range(5), [1] * 5, num_steps=1, num_units=1, num_classes=5)
    >>> loader = EventLoader(dataset, batch_size=2)
    >>> [labels.tolist() for _, labels in loader]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: EventDataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        augmentation: Augmentation | None = None,
        num_workers: int = 0,
    ) -> None:
        check_count("batch_size", batch_size)
        check_count("seed", seed, minimum=0)
        check_count("num_workers", num_workers, minimum=0)
        if drop_last and batch_size > len(dataset):
            raise ValueError(f"batch_size: expected at most {len(dataset)} samples with drop_last, got {batch_size}")
        if augmentation is not None and not isinstance(augmentation, Augmentation):
            got = type(augmentation).__name__
            raise TypeError(f"augmentation: expected an Augmentation or None, got {got}; pass Augmentation(...)")
        self.dataset, self.batch_size = dataset, batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.augmentation, self.num_workers = augmentation, num_workers
        self.epoch = 0
        self.device: Device = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, an integer >= 0, whose order and augmentation the next passes follow."""
        check_count("epoch", epoch, minimum=0)
        self.epoch = epoch

    def to(self, device: Device) -> Self:
        """Let the batches come on this device, as indices, through pinned memory where it is a GPU; return self."""
        self.device = device
        return self

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        cuts = _Cuts(self, order)
        if self.num_workers:
            # A generator of its own, or torch draws from the global one.
            batches: Any = DataLoader(
                cuts, batch_size=None, num_workers=self.num_workers, generator=torch.Generator().manual_seed(0)
            )
        else:
            batches = (cuts[index] for index in range(len(cuts)))
        for batch, labels in batches:
            if self.device is None:
                yield batch, labels
            elif torch.device(self.device).type == "cuda":
                pinned = batch.pin_memory(), labels.pin_memory()
                yield pinned[0].to(self.device, non_blocking=True), pinned[1].to(self.device, non_blocking=True)
            else:
                yield batch.to(self.device), labels.to(self.device)


class _Cuts(Dataset[Batch]):
    """The batches of one pass, by their number."""

    def __init__(self, loader: EventLoader, order: npt.NDArray[np.int64]) -> None:
        self.dataset, self.augmentation = loader.dataset, loader.augmentation
        self.seed, self.epoch, self.batch_size = loader.seed, loader.epoch, loader.batch_size
        self.order, self.num_batches = order, len(loader)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        if self.augmentation is None:
            return self.dataset.batch(chosen)
        return self.augmentation.batch(self.dataset, chosen, seed=self.seed, epoch=self.epoch)
