"""A network that training starts from, and the network with its optimiser as it goes on: into a checkpoint and back."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from lsc_snn import baselines
from lsc_snn.experiments.batches import first_batch
from lsc_snn.experiments.checkpoint import Checkpoint, load_optimizer, optimizer_tensors, snapshot
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.data import Part
from lsc_snn.experiments.loop import Fitted, fit_epoch, layers_of
from lsc_snn.experiments.optimisers import make_optimizer, set_learning_rate
from lsc_snn.experiments.records import EpochMetrics, Evaluation
from lsc_snn.measure import measure
from lsc_snn.network import Network
from lsc_snn.stabilize import stabilize


def prepare(
    network: Network, config: TrainConfig, part: Part, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Stabilise or initialise a network as its configuration says, on one batch drawn by its seed.

    Returns the radii afterwards, and the report of stabilising, None without a target.
    """
    batch = first_batch(part, config).to(device)
    generator = torch.Generator().manual_seed(config.seed)
    if config.target is not None:
        report = stabilize(network, batch, target=config.target, generator=generator)
        return report.after.to_dict(), report.to_dict()
    if config.initialisation == "lsuv":
        baselines.lsuv(network, batch, generator=generator)
    elif config.initialisation == "fluctuation":
        baselines.fluctuation_driven(network, batch, generator=generator)
    elif config.initialisation is not None:
        getattr(baselines, config.initialisation)(network, generator=generator)
    return measure(network, batch, generator=generator).to_dict(), None


class Fitting:
    """A network on its way: ``network`` as ``fabric.setup`` wrapped it, and the optimiser of its configuration."""

    def __init__(self, fabric: Fabric, network: Network, config: TrainConfig) -> None:
        self.fabric, self.network, self.config = fabric, network, config
        self._inner = make_optimizer(network, config)
        self._module, self._optimizer = fabric.setup(network, self._inner)
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}

    def epoch(self, part: Part, epoch: int, learning_rate: float) -> Fitted:
        """Fit the network to a part of the data for one epoch; raises DivergedError as ``loop.fit_epoch`` does."""
        set_learning_rate(self._inner, learning_rate)
        return fit_epoch(self.fabric, self._module, self.network, self._optimizer, part, self.config, epoch)

    def metrics(self, epoch: int, learning_rate: float, fitted: Fitted, got: Evaluation | None) -> EpochMetrics:
        """Return the row of an epoch, with its result on validation samples, if there are any that it did not train."""
        return EpochMetrics(
            epoch=epoch,
            train_loss=fitted.loss,
            train_accuracy=fitted.accuracy,
            validation_loss=None if got is None else got.loss,
            validation_accuracy=None if got is None else got.accuracy,
            layers=tuple(layers_of(self.network)),
            gradient_mean=fitted.gradient_mean,
            gradient_max=fitted.gradient_max,
            rates=() if got is None else got.rates,
            learning_rate=learning_rate,
        )

    def checkpoint(self, epoch: int, info: dict[str, Any]) -> Checkpoint:
        """Return all that training needs to go on from here; ``info`` is what else the caller has to remember."""
        if scaler := self.fabric.strategy.precision.state_dict():
            info = {**info, "scaler": scaler}
        tensors = snapshot(self.network.state_dict()), snapshot(optimizer_tensors(self._inner, self._names))
        return Checkpoint(self.config, epoch, info, *tensors)

    def load_optimizer(self, checkpoint: Checkpoint) -> None:
        """Take up the optimiser of a checkpoint; the network has its parameters already."""
        load_optimizer(self._inner, self._names, checkpoint.optimizer)
        if "scaler" in checkpoint.info:
            self.fabric.strategy.precision.load_state_dict(checkpoint.info["scaler"])
