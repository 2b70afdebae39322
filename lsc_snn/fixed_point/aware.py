"""Quantisation-aware training: a network computes with rounded parameters while its own stay as fine as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lsc_snn import _parametrize
from lsc_snn.fixed_point.formats import NumberFormat
from lsc_snn.fixed_point.quantise import Scale, check_scales
from lsc_snn.network import Network


class RoundedWeights(nn.Module):
    """Weights as ``quantise`` rounds and clips them, straight through: d rounded / d weight = 1 within the range.

    A weight beyond the range gets no gradient. Source: Bengio et al. 2013, "Estimating or propagating gradients through
    stochastic neurons for conditional computation", arXiv 1308.3432.
    """

    def __init__(self, unit: Tensor, largest: int) -> None:
        super().__init__()
        self._unit, self._largest = unit.unsqueeze(1), largest

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weights."""
        unit = self._unit.to(weight.device)
        whole = torch.round(weight.detach().double() / unit)
        clipped = whole.clamp(-self._largest, self._largest)
        rounded = (clipped * unit).to(weight.dtype)
        return torch.where(clipped == whole, weight + (rounded - weight).detach(), rounded)


class RoundedDecays(nn.Module):
    """Raw decays that stand for decays which the format has, straight through in the raw value."""

    def __init__(self, number_format: NumberFormat) -> None:
        super().__init__()
        self._format = number_format

    def forward(self, raw: Tensor) -> Tensor:
        """Return the raw values of the rounded decays."""
        with torch.no_grad():
            alpha = self._format.decay_value(self._format.stored_decay(_parametrize.decay(raw)))
            rounded = _parametrize.raw_decay(alpha).to(raw.dtype)
        return raw + (rounded - raw).detach()


@contextlib.contextmanager
def rounded(network: Network, number_format: NumberFormat, scales: Sequence[Scale]) -> Iterator[Network]:
    """Run a block in which a network computes with weights and decays rounded as ``quantise`` rounds them.

    Gradients pass straight through to its parameters, so that whatever trains the network inside the block makes it
    aware of the rounding. ``scales`` are those of ``scales_of``, and stay fixed: pass them to ``quantise`` afterwards.
    The network leaves the block with its own, unrounded parameters under their own names. Thresholds, biases and
    potentials, which have the more bits, are not rounded. Raises TypeError or ValueError as ``quantise`` does.

    >>> from lsc_snn import NetworkConfig
    >>> from lsc_snn.fixed_point import scales_of
    >>> network = Network(NetworkConfig(num_inputs=3, num_classes=2, num_layers=1, num_units=4, neuron="LIF"))
    >>> number_format = NumberFormat(weight_bits=2)
    >>> with rounded(network, number_format, scales_of(network, torch.ones(5, 1, 3), number_format)):
    ...     len(network.layers[0].weight.unique()) <= 3, round(float(network.layers[0].alpha[0].detach()), 4)
    (True, 0.875)
    >>> len(network.layers[0].weight.unique())
    12
    """
    check_scales(network, scales)
    changed: list[tuple[nn.Module, str]] = []
    order = {module: [name for name, _ in module.named_parameters(recurse=False)] for module in _parts(network)}
    try:
        for module, scale in zip(_parts(network), scales, strict=True):
            weights = RoundedWeights(scale.weight, number_format.weight_max)
            decays = RoundedDecays(number_format)
            for name, rounding in (
                ("weight", weights),
                ("recurrent_raw", weights),
                ("alpha_raw", decays),
                ("rho_raw", decays),
            ):
                if isinstance(getattr(module, name, None), nn.Parameter):
                    parametrize.register_parametrization(module, name, rounding)
                    changed.append((module, name))
        yield network
    finally:
        for module, name in changed:
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        for module, names in order.items():  # what was removed stands last now; optimisers go by the order
            for name in names:
                parameter = module.get_parameter(name)
                delattr(module, name)
                module.register_parameter(name, parameter)


def _parts(network: Network) -> list[nn.Module]:
    return [*network.layers, network.readout]
