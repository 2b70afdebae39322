"""A network's parameters as the integers of a number format, and back.

In layer l the potential has the unit u, and weights have the unit s = u 2^f: a chip shifts them left by f when it adds
them up. s is that of the largest weight, input or recurrent, but not below the unit in which the largest potential
still fits twice (and the largest weight once), because finer weights would be lost; f is as large as that leaves room
for. So

    W  -> round(W / s),  clipped to n bits          b, threshold, (1 - rho) beta -> round(. / u), b bits

Input and recurrent weights share s, because they add up in one potential; spikes carry no unit, so no other layer is
concerned, and s may differ from unit to unit (``per_channel``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsc_snn import _checks, _parametrize
from lsc_snn.events import Inputs
from lsc_snn.fixed_point.formats import NumberFormat, to_power_of_two, whole_shift
from lsc_snn.layers import LI, SpikingLayer
from lsc_snn.network import Network
from lsc_snn.neurons import Reset

HEADROOM = 2.0
"""The largest potential that is seen on the calibration input fits this many times."""


class Scale(NamedTuple):
    """Units of one layer, (N,) float64, in units of the float network's potential: of weights and of the potential."""

    weight: Tensor
    potential: Tensor
    shift: int
    """f: weight = potential 2^f."""


@dataclass(frozen=True)
class IntegerLayer:
    """One layer in integers (int64 tensors). The readout has no threshold, and no spikes."""

    name: str
    """As in the network's ``named_modules``."""
    scale: Scale
    weight: Tensor
    """(N, inputs)."""
    recurrent: Tensor | None
    """(N, N), to and from."""
    bias: Tensor
    """(N,)."""
    decay: Tensor
    """(N,) k or m of the potential."""
    threshold: Tensor | None
    """(N,)."""
    adaptation_decay: Tensor | None
    """(N,) k or m of the adaptation."""
    jump: Tensor | None
    """(N,) by how much a spike raises the adaptation, in the unit of the potential."""
    reset: Reset
    refractory: int


@dataclass(frozen=True)
class IntegerNetwork:
    """A network in integers: its spiking layers from the input up, then the readout."""

    format: NumberFormat
    layers: tuple[IntegerLayer, ...]

    @property
    def readout(self) -> IntegerLayer:
        """The last of them."""
        return self.layers[-1]


def scales_of(network: Network, inputs: Inputs, number_format: NumberFormat) -> tuple[Scale, ...]:
    """Return the units of every layer, from its weights and the largest potential that it reaches on an input.

    Raises ValueError for a network whose layers are not LIF, ALIF or LSNN, and for parameters that are not finite.

    >>> from lsc_snn import NetworkConfig
    >>> network = Network(NetworkConfig(num_inputs=3, num_classes=2, num_layers=1, num_units=4, neuron="LIF"))
    >>> [scale.shift for scale in scales_of(network, torch.ones(5, 1, 3), NumberFormat(8, 16))]
    [5, 6]
    """
    _check_spiking(network)
    for name, parameter in network.named_parameters():
        _checks.check_finite(f"parameter {name}", parameter)
    scales, signal = [], inputs
    with torch.no_grad():
        for module in network.layers:
            layer = _spiking(module)
            signal, _, states = layer.run(signal)
            peak = torch.maximum(states.v.abs().amax((0, 1)), layer.threshold)
            if layer.rho is not None and layer.beta is not None:
                peak = torch.maximum(peak, layer.threshold + layer.beta.abs())
            scales.append(_scale(_matrices(layer), peak.double(), number_format))
        potentials = network.readout(signal)
        potentials = potentials[0] if isinstance(network.readout, LI) else potentials
        peak = potentials.abs().amax((0, 1)).double()
        scales.append(_scale([network.readout.weight], peak, number_format))
    return tuple(scales)


def quantise(network: Network, number_format: NumberFormat, scales: Sequence[Scale]) -> IntegerNetwork:
    """Return a network in integers, in the units that ``scales_of`` found; the network stays as it is.

    Values beyond the range are clipped to its ends. Raises ValueError for another kind of network.

    >>> from lsc_snn import NetworkConfig
    >>> network = Network(NetworkConfig(num_inputs=3, num_classes=2, num_layers=1, num_units=4, neuron="LIF"))
    >>> number_format = NumberFormat(weight_bits=4)
    >>> integers = quantise(network, number_format, scales_of(network, torch.ones(5, 1, 3), number_format))
    >>> int(integers.layers[0].weight.abs().max()) <= 7
    True
    """
    check_scales(network, scales)
    with torch.no_grad():
        layers = [
            _spiking_integers(f"layers.{index}", _spiking(layer), scale, number_format)
            for index, (layer, scale) in enumerate(zip(network.layers, scales, strict=False))
        ]
        layers.append(_readout_integers(network.readout, scales[-1], number_format))
    return IntegerNetwork(number_format, tuple(layers))


def dequantised(network: Network, integers: IntegerNetwork) -> Network:
    """Return a copy of a network with the parameters that its integers stand for: what radii are measured on.

    >>> from lsc_snn import NetworkConfig
    >>> network = Network(NetworkConfig(num_inputs=3, num_classes=2, num_layers=1, num_units=4, neuron="LIF"))
    >>> number_format = NumberFormat(weight_bits=24, potential_bits=32)
    >>> scales = scales_of(network, torch.ones(5, 1, 3), number_format)
    >>> again = dequantised(network, quantise(network, number_format, scales))
    >>> alpha = float(again.layers[0].alpha[0].detach())
    >>> torch.allclose(again.layers[0].weight, network.layers[0].weight), round(alpha, 4)
    (True, 0.875)
    """
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for module, layer in zip([*twin.layers, twin.readout], integers.layers, strict=True):
            unit = layer.scale.potential
            _assign(module.weight, layer.weight * layer.scale.weight.unsqueeze(1))
            _assign(module.bias, layer.bias * unit)
            if hasattr(module, "alpha_raw"):
                _assign(module.alpha_raw, _parametrize.raw_decay(integers.format.decay_value(layer.decay)))
            if layer.threshold is not None:
                _assign(module.threshold_raw, _parametrize.raw_positive(layer.threshold * unit))
            if layer.recurrent is not None:
                _assign(module.recurrent_raw, layer.recurrent * layer.scale.weight.unsqueeze(1))
            if layer.jump is not None and layer.adaptation_decay is not None:
                rho = integers.format.decay_value(layer.adaptation_decay)
                _assign(module.rho_raw, _parametrize.raw_decay(rho))
                strength = (layer.jump * unit).abs() / (1 - rho)
                _assign(module.beta_raw, _parametrize.raw_positive(strength))
    return twin


def _assign(parameter: Tensor | nn.Module | None, values: Tensor) -> None:
    if isinstance(parameter, Tensor):
        parameter.copy_(values)


def _check_spiking(network: Network) -> None:
    if not isinstance(network, Network):
        raise TypeError(f"network: expected an lsc_snn.Network, got {type(network).__name__}; build one")
    if not network.config.spiking:
        raise ValueError(
            f"network: expected layers of LIF, ALIF or LSNN, got {network.config.neuron}; "
            "fixed point has no rule for its states"
        )


def check_scales(network: Network, scales: Sequence[Scale]) -> None:
    """Raise unless a network is one of spiking layers, and there is a scale for each of them and the readout."""
    _check_spiking(network)
    if len(scales) != len(network.layers) + 1:
        raise ValueError(
            f"scales: expected one for each of {len(network.layers)} layers and the readout, got {len(scales)}; "
            "pass what scales_of returned"
        )


def _spiking(module: nn.Module) -> SpikingLayer:
    if not isinstance(module, SpikingLayer):
        raise TypeError(f"layer: expected LIF, ALIF or LSNN, got {type(module).__name__}")
    return module


def _matrices(layer: SpikingLayer) -> list[Tensor]:
    recurrent = layer.recurrent_weight
    return [layer.weight] if recurrent is None else [layer.weight, recurrent]


def _scale(matrices: Sequence[Tensor], peak: Tensor, number_format: NumberFormat) -> Scale:
    largest = torch.stack([matrix.double().abs().amax(1) for matrix in matrices]).amax(0)
    if not number_format.per_channel:
        largest, peak = largest.max().expand_as(largest), peak.max().expand_as(peak)
    # Of a layer without any weight or potential any unit will do.
    finest = (torch.maximum(HEADROOM * peak, largest) / number_format.potential_max).clamp(min=1e-30)
    weight = torch.maximum(largest / number_format.weight_max, finest)
    if number_format.power_of_two:
        weight = to_power_of_two(weight)
    shift = whole_shift(weight / finest)
    return Scale(weight, weight / 2.0**shift, shift)


def _rounded(values: Tensor, unit: Tensor, low: int, high: int) -> Tensor:
    return torch.round(values.double() / unit).clamp(low, high).long()


def _weights(values: Tensor, scale: Scale, number_format: NumberFormat) -> Tensor:
    return _rounded(values, scale.weight.unsqueeze(1), -number_format.weight_max, number_format.weight_max)


def _potentials(values: Tensor, scale: Scale, number_format: NumberFormat, low: int | None = None) -> Tensor:
    low = -number_format.potential_max if low is None else low
    return _rounded(values, scale.potential, low, number_format.potential_max)


def _spiking_integers(name: str, layer: SpikingLayer, scale: Scale, number_format: NumberFormat) -> IntegerLayer:
    recurrent, adaptation_decay, jump = layer.recurrent_weight, None, None
    if layer.rho is not None and layer.beta is not None:
        adaptation_decay = number_format.stored_decay(layer.rho)
        share = 1 - number_format.decay_value(adaptation_decay)
        jump = _potentials(share * layer.beta.double(), scale, number_format)
    return IntegerLayer(
        name=name,
        scale=scale,
        weight=_weights(layer.weight, scale, number_format),
        recurrent=None if recurrent is None else _weights(recurrent, scale, number_format),
        bias=_bias(layer.bias, scale, number_format),
        decay=number_format.stored_decay(layer.alpha),
        threshold=_potentials(layer.threshold, scale, number_format, low=1),
        adaptation_decay=adaptation_decay,
        jump=jump,
        reset=layer.reset,
        refractory=layer.refractory,
    )


def _readout_integers(readout: LI | nn.Linear, scale: Scale, number_format: NumberFormat) -> IntegerLayer:
    # A linear readout is a leaky one without memory.
    alpha = readout.alpha if isinstance(readout, LI) else torch.zeros_like(scale.potential)
    return IntegerLayer(
        name="readout",
        scale=scale,
        weight=_weights(readout.weight, scale, number_format),
        recurrent=None,
        bias=_bias(readout.bias, scale, number_format),
        decay=number_format.stored_decay(alpha),
        threshold=None,
        adaptation_decay=None,
        jump=None,
        reset="none",
        refractory=0,
    )


def _bias(bias: Tensor | None, scale: Scale, number_format: NumberFormat) -> Tensor:
    values = torch.zeros_like(scale.potential) if bias is None else bias
    return _potentials(values, scale, number_format)
