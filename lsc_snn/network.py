"""A stack of layers with a readout, built from a small configuration that can be written to JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn import _checks
from lsc_snn.events import Inputs
from lsc_snn.layers import ALIF, LI, LIF, LSNN, SpikingLayer

NEURONS: dict[str, Callable[..., SpikingLayer]] = {"LIF": LIF, "ALIF": ALIF, "LSNN": LSNN}


@dataclass(frozen=True)
class NetworkConfig:
    """What a Network is made of; checked when it is made. Raises ValueError for a value out of its range."""

    num_inputs: int
    """Channels of the input."""
    num_classes: int
    """Units of the readout."""
    num_layers: int = 2
    """Spiking layers."""
    num_units: int = 256
    """Units of each spiking layer."""
    neuron: str = "ALIF"
    """LIF, ALIF or LSNN."""
    dropout: float = 0.0
    """Probability with which a spike between layers is dropped in training."""
    readout_tau: float = 10.0
    """Time constant of the readout, in steps."""
    layer: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further options of every spiking layer (tau, threshold, recurrent, surrogate, reset, ...)."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("num_inputs", "num_classes", "num_layers", "num_units"):
            _checks.check_count(name, getattr(self, name))
        _checks.check_in("neuron", self.neuron, tuple(NEURONS))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a probability from 0 to below 1, got {self.dropout!r}")


class Network(nn.Module):
    """Spiking layers in a stack and a leaky-integrator readout: (T, B, num_inputs) to (T, B, num_classes).

    ``seed`` fixes the initial weights; torch's global random state is neither used nor changed.

    >>> network = Network(NetworkConfig(num_inputs=64, num_classes=10, num_layers=3, num_units=32), seed=0)
    >>> network(torch.zeros(20, 2, 64)).shape
    torch.Size([20, 2, 10])
    """

    def __init__(self, config: NetworkConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        sizes = [config.num_inputs] + [config.num_units] * config.num_layers
        make = NEURONS[config.neuron]
        self.layers = nn.ModuleList(
            make(size, config.num_units, generator=generator, **config.layer) for size in sizes[:-1]
        )
        self.dropout = nn.Dropout(config.dropout)
        self.readout = LI(config.num_units, config.num_classes, tau=config.readout_tau, generator=generator)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the readout's potentials (T, B, num_classes) for a dense tensor or an EventBatch."""
        signal: Inputs = inputs
        for index, layer in enumerate(self.layers):
            if index:
                signal = self.dropout(signal)
            signal, _ = layer(signal)
        output: Tensor = self.readout(self.dropout(signal))[0]
        return output
