"""Dropout that knows its seed, and does not depend on how many processes share a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def seeded_dropout(
    network: nn.Module, device: torch.device, key: tuple[int, ...], rank: int, world_size: int, size: int
) -> Iterator[None]:
    """Run a block in which the ``nn.Dropout`` of a network draw from a seed, the ``key``, and from nothing else.

    Each draws its mask for the whole batch of ``size`` samples and applies the samples ``rank::world_size`` of it,
    those of this process (``data.shares``). Signals are (T, B, ...). torch's global random state is neither used nor
    changed; the training flags are as before afterwards.
    """
    generator = torch.Generator(device).manual_seed(
        int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    )
    active = [m for m in network.modules() if isinstance(m, nn.Dropout) and m.training and m.p > 0]
    with contextlib.ExitStack() as stack:
        for module in active:
            handle = module.register_forward_hook(_dropping(module.p, generator, rank, world_size, size))
            stack.callback(handle.remove)
            stack.callback(module.train)
            module.eval()
        yield


def _dropping(
    probability: float, generator: torch.Generator, rank: int, world_size: int, size: int
) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def drop(_module: nn.Module, _inputs: Any, signal: Tensor) -> Tensor:
        whole = torch.empty(len(signal), size, *signal.shape[2:], device=signal.device, dtype=signal.dtype)
        kept = whole.bernoulli_(1 - probability, generator=generator)[:, rank % size :: world_size]
        return signal * kept / (1 - probability)

    return drop
