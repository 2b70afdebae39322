"""One pass over the data: to fit, with the gradient of every layer recorded, or to evaluate."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from lsc_snn.experiments.batches import Batch, evaluation_batches, training_batches
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.data import Part
from lsc_snn.experiments.dropout import seeded_dropout
from lsc_snn.experiments.losses import rate_penalty, scored
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


def layers_of(network: Network) -> dict[str, nn.Module]:
    """Return the recurrent layers and the readout, from the input up, by their names in the network."""
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


def fit_epoch(
    fabric: Fabric,
    module: Any,
    network: Network,
    optimizer: Optimizer,
    part: Part,
    config: TrainConfig,
    epoch: int,
) -> Fitted:
    """Take one optimiser step for each batch of an epoch; ``module`` is ``network`` as ``fabric.setup`` wrapped it.

    Of a text, ``config.bptt_steps`` steps are a batch, which begins in the state that the one before it left, without
    its gradient: truncated back-propagation through time. Raises DivergedError, before the step is taken, where the
    loss or the gradient of a layer is NaN or infinite; in "16-mixed" a gradient that overflows is left out, and the
    scale of the loss lowered, as is usual.
    """
    layers = layers_of(network)
    rank, world_size = fabric.global_rank, fabric.world_size
    scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
    totals, states = np.zeros(3), None
    norms: list[list[float]] = []
    module.mark_forward_method("run")
    network.train()
    for step, batch in enumerate(training_batches(part, config, epoch, rank, world_size), start=1):
        optimizer.zero_grad()
        key = (config.seed, epoch, step)
        with seeded_dropout(network, fabric.device, key, rank, world_size, batch.share.size):
            of_batch, states = _backward(fabric, module, network, batch, states, config)
        if scaled:
            fabric.strategy.precision.unscale_gradients(optimizer.optimizer)  # type: ignore[attr-defined]
        items, loss, correct, *of_layers = torch.cat([of_batch, gradient_norms(layers)]).tolist()
        overflow = scaled and not all(map(math.isfinite, of_layers))
        if not overflow:
            _check_finite(
                {"loss": loss, **{f"gradient of {n}": v for n, v in zip(layers, of_layers, strict=True)}},
                f"epoch {epoch}, step {step}",
            )
            norms.append(of_layers)
            if config.gradient_clip is not None:
                _clip(network, math.hypot(*of_layers), config.gradient_clip)
        optimizer.step()
        totals += (items, loss, correct)
    norms = norms or [[math.nan] * len(layers)]
    mean, largest = np.mean(norms, 0), np.max(norms, 0)
    items, loss, correct = totals.tolist()
    return Fitted(loss / items, correct / items, tuple(mean.tolist()), tuple(largest.tolist()))


def evaluate(fabric: Fabric, network: Network, part: Part, config: TrainConfig) -> Evaluation:
    """Return loss, accuracy and firing rates over a part of the data, in eval mode and without gradients."""
    return evaluate_samples(fabric, network, part, config)[0]


def evaluate_samples(
    fabric: Fabric, network: Network, part: Part, config: TrainConfig
) -> tuple[Evaluation, list[float]]:
    """Do as ``evaluate``, and also return 1 for each sample whose label was hit, and 0 for the others; () for text."""
    totals = torch.zeros(4 + len(network.layers) * network.config.spiking, dtype=torch.float64, device=fabric.device)
    per_sample = torch.zeros(len(part), dtype=torch.float64, device=fabric.device)
    states, of_text = None, False
    network.eval()
    with torch.no_grad(), recorded_spikes(network) as spikes:
        for events, labels, share in evaluation_batches(part, config, fabric.global_rank, fabric.world_size):
            events, labels = events.to(fabric.device), labels.to(fabric.device)
            mask, of_text = events.mask(), labels.dim() == 2
            spikes.clear()
            output, after = network.run(events, states)
            states = after if of_text else None
            losses, hits = scored(output, labels, mask, config.readout)
            of_batch = [mask.new_tensor(len(losses), dtype=torch.int64), losses.sum(), hits.sum(), mask.sum()]
            of_batch += [z.mean(2)[mask].sum() for z in spikes]
            totals += torch.stack([value.double() for value in of_batch])
            if not of_text:
                per_sample[share.indices] = hits.double()
    items, loss, correct, steps, *rates = _summed(fabric, totals).tolist()
    evaluation = Evaluation(loss / items, correct / items, tuple(rate / steps for rate in rates))
    return evaluation, [] if of_text else _summed(fabric, per_sample).tolist()


def _backward(
    fabric: Fabric, module: Any, network: Network, batch: Batch, states: Any, config: TrainConfig
) -> tuple[Tensor, Any]:
    """Run a batch forwards and backwards; return (items, summed loss, hits) over all processes, and a text's states.

    The gradient is that of the mean over the whole batch, whoever computes which share.
    """
    events, labels = batch.events.to(fabric.device), batch.labels.to(fabric.device)
    mask, share, of_text = events.mask(), batch.share, labels.dim() == 2
    with recorded_spikes(network) as spikes:
        if of_text:
            output, states = module.run(events, states)
        else:
            output = module(events)
    losses, hits = scored(output, labels, mask, config.readout)
    items = torch.tensor(len(losses), dtype=torch.float64, device=fabric.device)
    of_batch = torch.stack([items, losses.detach().double().sum(), hits.double().sum()])
    of_batch = _summed(fabric, share.weight * of_batch)
    loss = losses.sum() / of_batch[0].to(losses.dtype)
    if config.rate_band is not None:
        loss = loss + config.rate_strength * rate_penalty(spikes, mask, config.rate_band).sum() / share.size
    # Processes average their gradients: this makes the average that of the whole batch.
    fabric.backward(loss * (fabric.world_size * share.weight))
    return of_batch, _detached(states)


def _detached(state: Any) -> Any:
    """Return a state, of nested tuples of tensors and None, without its graph."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):
        values = map(_detached, state)
        return type(state)(*values) if hasattr(state, "_fields") else tuple(values)
    return state


def _check_finite(values: dict[str, float], when: str) -> None:
    for what, value in values.items():
        if not math.isfinite(value):
            raise DivergedError(f"{what} was {value} in {when}")


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
    """Run a block in which each forward pass appends the spikes of each spiking layer, (T, B, N), to the list given."""
    spikes: list[Tensor] = []

    def record(_layer: nn.Module, _inputs: object, output: tuple[Tensor, object]) -> None:
        spikes.append(output[0])

    layers = network.layers if network.config.spiking else ()
    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield spikes
    finally:
        for handle in handles:
            handle.remove()
