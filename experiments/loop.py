"""One pass over the data: to fit, with the gradient of every layer recorded, or to evaluate."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from lsc_snn import _checks
from lsc_snn.datasets import EventDataset
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.data import shares, shuffled
from lsc_snn.experiments.records import Evaluation
from lsc_snn.network import Network


class DivergedError(ArithmeticError):
    """A loss or a gradient became NaN or infinite; the message says which, and when."""


class Fitted(NamedTuple):
    """What one epoch of training saw; gradients as in ``EpochMetrics``."""

    loss: float
    accuracy: float
    gradient_mean: tuple[float, ...]
    gradient_max: tuple[float, ...]


def class_scores(output: Tensor, mask: Tensor, readout: str) -> Tensor:
    """Return one score for each class, (B, C), of an output (T, B, C) over the valid steps of a mask (T, B).

    ``readout`` is "mean" over the valid steps, the "last" of them, or the "max" over them.

    >>> output, mask = torch.tensor([[[1.0]], [[3.0]], [[9.0]]]), torch.tensor([[True], [True], [False]])
    >>> [class_scores(output, mask, readout).item() for readout in ("mean", "last", "max")]
    [2.0, 3.0, 3.0]
    """
    _checks.check_in("readout", readout, ("mean", "last", "max"))
    if readout == "max":
        return output.masked_fill(~mask.unsqueeze(2), -math.inf).amax(0)
    lengths = mask.sum(0)
    if readout == "last":
        return output[lengths - 1, torch.arange(output.shape[1], device=output.device)]
    # Not a product with the mask: what comes after the end may be NaN, and 0 * NaN is NaN.
    return output.masked_fill(~mask.unsqueeze(2), 0.0).sum(0) / lengths.unsqueeze(1)


def layers_of(network: Network) -> dict[str, nn.Module]:
    """Return the spiking layers and the readout, from the input up, by their names in the network."""
    return {**{f"layers.{index}": layer for index, layer in enumerate(network.layers)}, "readout": network.readout}


def gradient_norms(layers: dict[str, nn.Module]) -> Tensor:
    """Return the norm of the gradient in all parameters of each layer, (layers,) float64.

    In float64, because the square of a large float32 gradient overflows long before the gradient does.
    """

    def norm(layer: nn.Module) -> Tensor:
        gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
        whole: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return whole

    return torch.stack([norm(layer) for layer in layers.values()])


@contextlib.contextmanager
def seeded(device: torch.device, *key: int) -> Iterator[None]:
    """Run a block with torch's global random state seeded by a key of integers, and put the state back afterwards.

    Dropout knows no other source; so it depends on the key alone, and nobody else's random numbers on dropout.
    """
    on_gpu = device.type == "cuda"
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng([device] if on_gpu else []):
        # torch.manual_seed would reseed every device, and only these come back.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def fit_epoch(
    fabric: Fabric,
    module: nn.Module,
    network: Network,
    optimizer: Optimizer,
    dataset: EventDataset,
    config: TrainConfig,
    epoch: int,
) -> Fitted:
    """Take one optimiser step for each batch of an epoch; ``module`` is ``network`` as ``fabric.setup`` wrapped it.

    Raises DivergedError, before the step is taken, where the loss or the gradient of a layer is NaN or infinite.
    """
    layers = layers_of(network)
    order = shuffled(len(dataset), config.seed, epoch)
    totals, norms = np.zeros(2), []
    samples = 0
    network.train()
    for step, (share, size) in enumerate(shares(order, config.batch_size, fabric.global_rank, fabric.world_size)):
        batch, labels = dataset.batch(share)
        batch, labels = batch.to(fabric.device), labels.to(fabric.device)
        optimizer.zero_grad()
        with seeded(fabric.device, config.seed, epoch, step, fabric.global_rank):
            scores = class_scores(module(batch), batch.mask(), config.readout)
            losses = functional.cross_entropy(scores, labels, reduction="none")
            # Processes average their gradients: this makes the average that of the whole batch.
            fabric.backward(losses.sum() * (fabric.world_size / size))
        of_batch = torch.stack([losses.detach().double().sum(), (scores.argmax(1) == labels).double().sum()])
        of_batch = _summed(fabric, of_batch)
        loss, correct, *of_layers = torch.cat([of_batch, gradient_norms(layers)]).tolist()
        for what, value in zip(("loss", *(f"gradient of {name}" for name in layers)), (loss, *of_layers), strict=True):
            if not math.isfinite(value):
                raise DivergedError(f"{what} was {value} in epoch {epoch}, step {step + 1}")
        if config.gradient_clip is not None:
            _clip(network, math.hypot(*of_layers), config.gradient_clip)
        optimizer.step()
        totals += (loss, correct)
        norms.append(of_layers)
        samples += size
    mean, largest = np.mean(norms, 0), np.max(norms, 0)
    loss, accuracy = (totals / samples).tolist()
    return Fitted(loss, accuracy, tuple(mean.tolist()), tuple(largest.tolist()))


def evaluate(fabric: Fabric, network: Network, dataset: EventDataset, config: TrainConfig) -> Evaluation:
    """Return loss, accuracy and firing rates over all samples of a dataset, in eval mode and without gradients."""
    totals = torch.zeros(3 + len(network.layers), dtype=torch.float64, device=fabric.device)
    network.eval()
    with torch.no_grad(), recorded_spikes(network) as spikes:
        for first in range(fabric.global_rank * config.batch_size, len(dataset), fabric.world_size * config.batch_size):
            batch, labels = dataset.batch(np.arange(first, min(first + config.batch_size, len(dataset))))
            batch, labels = batch.to(fabric.device), labels.to(fabric.device)
            spikes.clear()
            mask = batch.mask()
            scores = class_scores(network(batch), mask, config.readout)
            of_batch = [functional.cross_entropy(scores, labels, reduction="sum"), (scores.argmax(1) == labels).sum()]
            of_batch.append(mask.sum())
            of_batch += [z.mean(2)[mask].sum() for z in spikes]
            totals += torch.stack([value.double() for value in of_batch])
    loss, correct, steps, *rates = _summed(fabric, totals).tolist()
    return Evaluation(loss / len(dataset), correct / len(dataset), tuple(rate / steps for rate in rates))


def _clip(network: nn.Module, norm: float, limit: float) -> None:
    """Scale the gradient down to a norm; torch's own would take the square of a large one in float32, which is inf."""
    if norm > limit:
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(limit / norm)


def _summed(fabric: Fabric, values: Tensor) -> Tensor:
    """Return the sum over processes."""
    total: Tensor = fabric.all_reduce(values, reduce_op="sum")  # type: ignore[assignment]
    return total


@contextlib.contextmanager
def recorded_spikes(network: Network) -> Iterator[list[Tensor]]:
    """Run a block in which each forward pass appends the spikes of each layer, (T, B, N), to the list given."""
    spikes: list[Tensor] = []

    def record(_layer: nn.Module, _inputs: object, output: tuple[Tensor, object]) -> None:
        spikes.append(output[0])

    handles = [layer.register_forward_hook(record) for layer in network.layers]
    try:
        yield spikes
    finally:
        for handle in handles:
            handle.remove()
