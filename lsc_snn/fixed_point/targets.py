"""Limits of integer hardware, and which of them a network exceeds.

Numbers of the Xylo family (SynSense): the overview of Rockpool's documentation, rockpool.ai/devices/xylo-overview.html,
and the mappers of rockpool 3.1.0 (``rockpool/devices/xylo/syns*/xylo_mapper.py``), whose numbers count where the two
differ (Audio 3: 992 hidden neurons there, 1000 in the overview; 32 outputs, 8 in the overview). Bits, events and
spikes per step: ``XyloIAFNeuron.h`` of xylosim 0.1.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lsc_snn import _checks
from lsc_snn.fixed_point.quantise import IntegerLayer, IntegerNetwork


@dataclass(frozen=True)
class Platform:
    """What a chip can hold."""

    name: str
    inputs: int
    """Input channels."""
    hidden: int
    """Spiking neurons, over all layers."""
    outputs: int
    """Readout neurons."""
    weight_bits: int
    potential_bits: int
    fan_out: int
    """Connections from one hidden neuron to others."""
    synapses: int
    """Connections between hidden neurons altogether: the average fan-out, times the neurons."""
    input_events: int
    """Events of one channel in one time step."""


PLATFORMS: dict[str, Platform] = {
    "xylo-audio-2": Platform("xylo-audio-2", 16, 1000, 8, 8, 16, 64, 32 * 1000, 15),
    "xylo-audio-3": Platform("xylo-audio-3", 16, 992, 32, 8, 16, 64, 32 * 992, 15),
    "xylo-imu": Platform("xylo-imu", 16, 496, 16, 8, 16, 512, 64 * 496, 15),
}


class Exceeded(NamedTuple):
    """A limit that a network exceeds."""

    what: str
    limit: int | str
    got: int | str

    def __str__(self) -> str:
        """Return the limit in words, with both numbers."""
        return f"{self.what}: expected at most {self.limit}, got {self.got}"


def exceeded_limits(network: IntegerNetwork, platform: str, *, input_events: int = 1) -> tuple[Exceeded, ...]:
    """Return every limit of a platform that a network in integers exceeds; none if it fits.

    ``platform`` is one of ``PLATFORMS``; ``input_events`` is the largest number of events that a channel gets in one
    step. Connections of weight 0 take no room. Raises ValueError for an unknown platform.

    >>> import torch
    >>> from lsc_snn import Network, NetworkConfig
    >>> from lsc_snn.fixed_point import NumberFormat, quantise, scales_of
    >>> network = Network(NetworkConfig(num_inputs=64, num_classes=8, num_layers=1, num_units=4, neuron="LIF"))
    >>> number_format = NumberFormat(weight_bits=8)
    >>> integers = quantise(network, number_format, scales_of(network, torch.ones(5, 1, 64), number_format))
    >>> [str(limit) for limit in exceeded_limits(integers, "xylo-audio-2")]
    ['input channels: expected at most 16, got 64']
    """
    _checks.check_in("platform", platform, PLATFORMS)
    chip, hidden = PLATFORMS[platform], network.layers[:-1]
    fan_out = [_fan_out(layer, after) for layer, after in zip(hidden, [*hidden[1:], None], strict=True)]
    counted: list[tuple[str, int, int]] = [
        ("input channels", chip.inputs, network.layers[0].weight.shape[1]),
        ("hidden neurons", chip.hidden, sum(len(layer.weight) for layer in hidden)),
        ("output neurons", chip.outputs, len(network.readout.weight)),
        ("bits of a weight", chip.weight_bits, network.format.weight_bits),
        ("bits of a potential", chip.potential_bits, network.format.potential_bits),
        ("connections from one hidden neuron", chip.fan_out, max(max(counts) for counts in fan_out)),
        ("connections between hidden neurons", chip.synapses, sum(sum(counts) for counts in fan_out)),
        ("events of a channel in a step", chip.input_events, input_events),
    ]
    found = [Exceeded(what, limit, got) for what, limit, got in counted if got > limit]
    for layer in hidden:
        found += _rules(layer)
    if network.format.decay == "multiply":
        found.append(Exceeded("decay", "a shift of 15", "a multiplication"))
    return tuple(found)


def check_limits(network: IntegerNetwork, platform: str, *, input_events: int = 1) -> None:
    """Raise ValueError, naming every limit with both numbers, unless a network fits a platform.

    Arguments as of ``exceeded_limits``.
    """
    found = exceeded_limits(network, platform, input_events=input_events)
    if found:
        listed = "; ".join(map(str, found))
        raise ValueError(f"{platform}: {listed}; make the network smaller, or choose another platform")


def _fan_out(layer: IntegerLayer, after: IntegerLayer | None) -> list[int]:
    """Return how many hidden neurons each neuron of a layer feeds."""
    counts = (layer.weight[:, :1] * 0).squeeze(1)
    if layer.recurrent is not None:
        counts = counts + (layer.recurrent != 0).sum(0)
    if after is not None:
        counts = counts + (after.weight != 0).sum(0)
    numbers: list[int] = counts.tolist()
    return numbers


def _rules(layer: IntegerLayer) -> list[Exceeded]:
    found = []
    if layer.reset != "soft":
        found.append(Exceeded(f"reset of {layer.name}", "a subtraction", layer.reset))
    if layer.jump is not None and bool(layer.jump.any()):
        found.append(Exceeded(f"adaptation of {layer.name}", "none", "a moving threshold"))
    if layer.refractory:
        found.append(Exceeded(f"refractory steps of {layer.name}", 0, layer.refractory))
    return found
