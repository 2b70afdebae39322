"""A network in integers, stepped as a chip would: sums, shifts, comparisons, and potentials that saturate.

One step of a layer, in integers, with z the spikes of the step before::

    v' = sat( decay(v) + ((W x + W_rec z) << f) + b - reset )
    B' = sat( decay(B) + jump z )                              adaptation, in the unit of v
    z' = v' > threshold + B'

The resets are those of ``lsc_snn.neurons``: ``soft`` subtracts ``threshold + B``, ``hard`` decays 0 instead of v. The
sum of a step saturates once, when it is complete, so that the order of its terms does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsc_snn import _checks
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.fixed_point.formats import NumberFormat
from lsc_snn.fixed_point.quantise import IntegerLayer, IntegerNetwork
from lsc_snn.neurons import can_spike, count_down

EXACT, LARGEST = 2**53, 2**62
"""Below the first, float64 holds every integer: products of matrices are exact in it, and fast. Below the second, sums
of int64 cannot overflow."""


class IntegerRun(NamedTuple):
    """What a network in integers did."""

    spikes: tuple[Tensor, ...]
    """Of each spiking layer, (T, B, N) bool."""
    potentials: Tensor
    """Of the readout, (T, B, C) int64."""
    saturated: tuple[float, ...]
    """Share of the potentials of each layer, the readout the last, that were clipped."""


def simulate(network: IntegerNetwork, inputs: Inputs) -> IntegerRun:
    """Run a network in integers from rest on an input (T, B, units) of whole numbers, or an EventBatch.

    Raises ValueError for another shape, for inputs that are no whole numbers, and where sums could pass 2^53.

    >>> from lsc_snn import Network, NetworkConfig
    >>> from lsc_snn.fixed_point import quantise, scales_of
    >>> network = Network(NetworkConfig(num_inputs=3, num_classes=2, num_layers=1, num_units=4, neuron="LIF"))
    >>> inputs = torch.ones(5, 1, 3)
    >>> number_format = NumberFormat(weight_bits=8, potential_bits=16)
    >>> run = simulate(quantise(network, number_format, scales_of(network, inputs, number_format)), inputs)
    >>> run.spikes[0].shape, run.potentials.shape, run.saturated
    (torch.Size([5, 1, 4]), torch.Size([5, 1, 2]), (0.0, 0.0))
    """
    check_whole(inputs, network.layers[0].weight.shape[1])
    signal: Inputs = inputs
    spikes, saturated = [], []
    for layer in network.layers:
        drive = _product(layer.weight, signal, layer.scale.shift) + layer.bias
        potentials, clipped = _stepped(layer, drive, network.format)
        saturated.append(clipped)
        if layer.threshold is not None:
            spikes.append(potentials.bool())
            signal = potentials.double()
    return IntegerRun(tuple(spikes), potentials, tuple(saturated))


def check_whole(inputs: Inputs, num_inputs: int) -> None:
    """Raise unless inputs are (T, B, num_inputs), or an EventBatch of as many units, and all whole numbers."""
    if isinstance(inputs, EventBatch):
        values, units = inputs.counts, inputs.num_units
    else:
        _checks.check_rank("inputs", inputs, 3, f"(time steps, batch, {num_inputs})")
        values, units = inputs, inputs.shape[2]
    if units != num_inputs:
        raise ValueError(f"inputs: expected {num_inputs} units, got {units}; pass the network's own input")
    if values is not None and not bool((values == values.round()).all()):
        raise ValueError("inputs: expected whole numbers, which integer hardware takes, got others; round them")


def _product(weight: Tensor, signal: Inputs, shift: int) -> Tensor:
    """Return W x 2^shift, (T, B, N) int64; W x is computed in float64, which is exact for sums below 2^53."""
    if isinstance(signal, EventBatch):
        largest = 1.0 if signal.counts is None else float(signal.counts.max()) if len(signal.counts) else 0.0
    else:
        largest = float(signal.abs().max())
    bound = float(weight.abs().sum(1).max()) * largest
    if bound >= EXACT or bound * 2.0**shift >= LARGEST:
        raise ValueError(f"inputs: expected sums below 2^53, got up to {bound:.3g}; use smaller inputs or fewer bits")
    wide = weight.double()
    if isinstance(signal, EventBatch):
        return signal.project(wide).long() << shift
    return (signal.double() @ wide.T).long() << shift


def _stepped(layer: IntegerLayer, drive: Tensor, number_format: NumberFormat) -> tuple[Tensor, float]:
    """Return the spikes of a layer, or its potentials where it has none, (T, B, N) int64, and the share clipped."""
    z = v = torch.zeros_like(drive[0])
    adaptation, counter = torch.zeros_like(v), torch.zeros_like(v)
    threshold = torch.zeros_like(v[0]) if layer.threshold is None else layer.threshold
    feedback = None if layer.recurrent is None else layer.recurrent.double().T
    clipped, kept = 0, []
    for current in drive:
        total = number_format.decayed(torch.where(z > 0, 0, v) if layer.reset == "hard" else v, layer.decay) + current
        if feedback is not None:
            total = total + ((z.double() @ feedback).long() << layer.scale.shift)
        if layer.reset == "soft":
            total = total - (threshold + adaptation) * z
        v = number_format.saturate(total)
        clipped += int((v != total).sum())
        if layer.threshold is None:
            kept.append(v)
            continue
        if layer.jump is not None and layer.adaptation_decay is not None:
            raised = number_format.decayed(adaptation, layer.adaptation_decay) + layer.jump * z
            adaptation = number_format.saturate(raised)
        crossed = v > threshold + adaptation
        if layer.refractory:
            counter = count_down(counter, crossed, layer.refractory)
            crossed = crossed & can_spike(counter, layer.refractory)
        z = crossed.long()
        kept.append(z)
    return torch.stack(kept), clipped / drive.numel()
