"""The optimiser of a run, and its learning rate in each epoch: a function of the configuration and of the past."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from lsc_snn.experiments.config import TrainConfig
from lsc_snn.optim import AdaBelief, Lookahead


def make_optimizer(network: nn.Module, config: TrainConfig) -> Optimizer:
    """Return the optimiser of a network; weight decay acts on parameters of two axes or more alone."""
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    kind = AdamW if config.optimizer == "adamw" else AdaBelief
    optimizer: Optimizer = kind(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return Lookahead(optimizer) if config.lookahead else optimizer


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every parameter group a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def learning_rate_of(config: TrainConfig, epoch: int, scores: Sequence[tuple[float, ...]]) -> float:
    """Return the learning rate of an epoch, from 1, by ``config.schedule``.

    ``scores`` are those of ``score_of`` on validation before training and after each epoch so far. "cosine" gives
    lr (1 + cos(pi (epoch - 1) / epochs)) / 2. "plateau" multiplies lr by ``plateau_factor`` once for every
    ``plateau_epochs`` epochs in a row without a higher one; a higher score, and every multiplication, starts the count
    anew.

    >>> from lsc_snn import NetworkConfig
    >>> config = TrainConfig(NetworkConfig(8, 2), learning_rate=1.0, epochs=4, schedule="cosine")
    >>> [round(learning_rate_of(config, epoch, [(0.1, -1.0)]), 2) for epoch in (1, 2, 3, 4)]
    [1.0, 0.85, 0.5, 0.15]
    >>> config = TrainConfig(NetworkConfig(8, 2), learning_rate=1.0, schedule="plateau", plateau_epochs=2)
    >>> learning_rate_of(config, 4, [(0.1, -1.0), (0.2, -1.0), (0.2, -1.0), (0.1, -0.5)])
    0.5
    """
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / config.epochs)) / 2
    rate = config.learning_rate
    if config.schedule == "plateau":
        best, waited = scores[0], 0
        for score in scores[1:epoch]:
            waited += 1
            if score > best:
                best, waited = score, 0
            elif waited == config.plateau_epochs:
                rate, waited = rate * config.plateau_factor, 0
    return rate


def score_of(accuracy: float, loss: float, config: TrainConfig) -> tuple[float, ...]:
    """Return by what epochs and learning rates are chosen, higher is better: of a text the loss, else the accuracy.

    Of equal accuracies the lower loss is better.

    >>> from lsc_snn import NetworkConfig
    >>> config = TrainConfig(NetworkConfig(8, 2))
    >>> score_of(0.5, 2.0, config) > score_of(0.4, 1.0, config), score_of(0.5, 2.0, config) > score_of(0.5, 1.0, config)
    (True, False)
    """
    return (accuracy, -loss) if config.bptt_steps is None else (-loss,)
