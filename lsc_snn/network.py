"""A stack of layers with a readout, built from a small configuration that can be written to JSON."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn import _checks
from lsc_snn.events import Inputs
from lsc_snn.first_layer import EventLinear, FirstLayer
from lsc_snn.layers import ALIF, LI, LIF, LSNN, SpikingLayer
from lsc_snn.ssm_layers import LRU, S5, SSMBlock, StateSpaceLayer

SPIKING: dict[str, Callable[..., SpikingLayer]] = {"LIF": LIF, "ALIF": ALIF, "LSNN": LSNN}
GATED: dict[str, Callable[..., nn.RNNBase]] = {"GRU": nn.GRU, "LSTM": nn.LSTM, "RNN": nn.RNN}
STATE_SPACE: dict[str, Callable[..., StateSpaceLayer]] = {"LRU": LRU, "S5": S5}
NEURONS = (*SPIKING, *GATED, *STATE_SPACE)

_OF_LIF = (
    "recurrent", "bias", "tau", "threshold", "surrogate", "reset", "detach_reset", "refractory", "zero_diagonal",
)  # fmt: skip
_OF_ALIF = (*_OF_LIF, "tau_adaptation", "beta")
OPTIONS: dict[str, tuple[str, ...]] = {
    "LIF": _OF_LIF,
    "ALIF": _OF_ALIF,
    "LSNN": (*_OF_ALIF, "num_adaptive"),
    "GRU": ("bias",),
    "LSTM": ("bias",),
    "RNN": ("bias", "nonlinearity"),
    "LRU": ("num_states", "r_min", "r_max", "max_phase"),
    "S5": ("num_states", "discretisation", "dt_min", "dt_max"),
}
"""What ``NetworkConfig.layer`` may hold for each kind of neuron."""


@dataclass(frozen=True)
class NetworkConfig:
    """What a Network is made of; checked when it is made. Raises TypeError or ValueError for what it does not take."""

    num_inputs: int
    """Channels of the input."""
    num_classes: int
    """Units of the readout."""
    num_layers: int = 2
    """Recurrent layers."""
    num_units: int = 256
    """Units of each of them."""
    neuron: str = "ALIF"
    """LIF, ALIF or LSNN (spiking); GRU, LSTM or RNN (of torch.nn); LRU or S5 (blocks of a state-space layer)."""
    dropout: float = 0.0
    """Probability with which an output between layers is dropped in training; of LRU and S5, one of a block's branch.
    """
    readout_tau: float | None = 10.0
    """Time constant of the leaky readout, in steps; None for a linear readout, W y + b at each step."""
    layer: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further options of every layer, by ``OPTIONS``: tau, threshold, recurrent, surrogate, reset, ..."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("num_inputs", "num_classes", "num_layers", "num_units"):
            _checks.check_count(name, getattr(self, name))
        _checks.check_in("neuron", self.neuron, NEURONS)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a probability from 0 to below 1, got {self.dropout!r}")
        if self.readout_tau is not None:
            _checks.check_positive("readout_tau", self.readout_tau)
        known = OPTIONS[self.neuron]
        for name in self.layer:
            if name not in known:
                nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
                raise TypeError(f"layer: expected options of {self.neuron}, got {name!r}; did you mean {nearest!r}?")
        if self.neuron in GATED:
            if not isinstance(self.layer.get("bias", True), bool):
                raise TypeError(f"bias: expected True or False, got {type(self.layer['bias']).__name__}")
            _checks.check_in("nonlinearity", self.layer.get("nonlinearity", "tanh"), ("tanh", "relu"))

    @property
    def spiking(self) -> bool:
        """Whether the layers hand up spikes."""
        return self.neuron in SPIKING


class Network(nn.Module):
    """Recurrent layers in a stack and a readout: (T, B, num_inputs) to (T, B, num_classes).

    The input is a dense tensor or an EventBatch. LIF, ALIF and LSNN sum over its active channels, as does the linear
    encoder in front of the blocks of LRU and S5; of the layers of torch.nn the first gets the dense tensor, and all
    start as torch starts them, U(-k, k) with k = 1 / sqrt(num_units). ``seed`` fixes the initial weights; torch's
    global random state is neither used nor changed.

    >>> network = Network(NetworkConfig(num_inputs=64, num_classes=10, num_layers=3, num_units=32), seed=0)
    >>> network(torch.zeros(20, 2, 64)).shape
    torch.Size([20, 2, 10])
    """

    readout: LI | nn.Linear

    def __init__(self, config: NetworkConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(_layer(config, index, generator) for index in range(config.num_layers))
        self.dropout = nn.Dropout(config.dropout)
        if config.readout_tau is None:
            self.readout = _linear(config.num_units, config.num_classes, generator)
        else:
            self.readout = LI(config.num_units, config.num_classes, tau=config.readout_tau, generator=generator)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the readout's outputs (T, B, num_classes) for a dense tensor or an EventBatch."""
        return self.run(inputs)[0]

    def run(self, inputs: Inputs, states: Sequence[Any] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """Do as ``forward``, from the states that an earlier call returned; return outputs and final states.

        There is one state for each layer, and one for the readout, which is None for a linear one.
        """
        before = (None,) * (len(self.layers) + 1) if states is None else states
        signal: Inputs = inputs
        after: list[Any] = []
        for index, (layer, state) in enumerate(zip(self.layers, before, strict=False)):
            if index and not isinstance(layer, SSMBlock):
                signal = self.dropout(signal)
            signal, final = _called(layer, signal, state)
            after.append(final)
        if self.config.neuron not in STATE_SPACE:
            signal = self.dropout(signal)
        if isinstance(self.readout, LI):
            output, final = _called(self.readout, signal, before[-1])
        else:
            output, final = self.readout(signal), None
        return output, (*after, final)


def _layer(config: NetworkConfig, index: int, generator: torch.Generator) -> nn.Module:
    size = config.num_units if index else config.num_inputs
    if config.neuron in SPIKING:
        return SPIKING[config.neuron](size, config.num_units, generator=generator, **config.layer)
    if config.neuron in GATED:
        layer: nn.Module = _torch_layer(GATED[config.neuron], size, config, generator)
        return layer if index else FirstLayer(layer)
    encoder = None if index else _linear(size, config.num_units, generator)
    options = {"num_states": config.num_units, **config.layer}
    inner = STATE_SPACE[config.neuron](config.num_units, generator=generator, **options)
    block = SSMBlock(inner, dropout=config.dropout, generator=generator)
    return block if encoder is None else FirstLayer(block, encoder)


def _torch_layer(
    kind: Callable[..., nn.RNNBase], size: int, config: NetworkConfig, generator: torch.Generator
) -> nn.RNNBase:
    """Return a layer of torch.nn that drew its weights from ``generator``, as torch draws them from its global one."""
    layer = kind(size, config.num_units, device="meta", **config.layer).to_empty(device="cpu")
    bound = 1 / math.sqrt(config.num_units)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def _linear(num_inputs: int, num_units: int, generator: torch.Generator) -> EventLinear:
    """Return a linear layer with weights N(0, 1/fan-in), as those of the other layers, and a bias of 0."""
    layer = EventLinear(num_inputs, num_units, device="meta").to_empty(device="cpu")
    nn.init.normal_(layer.weight, std=1 / math.sqrt(num_inputs), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _called(layer: nn.Module, signal: Inputs, state: Any) -> Any:
    """Call a layer; the fused steps of our own compute in the dtype of their weights, also inside ``torch.autocast``.

    A potential that decays by a thousandth a step would not decay at all in half precision.
    """
    kind = signal.device.type
    own = isinstance(layer, LI | SpikingLayer | SSMBlock) or getattr(layer, "encoder", None) is not None
    if not (own and torch.is_autocast_enabled(kind)):
        return layer(signal, state)
    dtype = next(layer.parameters()).dtype
    with torch.autocast(kind, enabled=False):
        return layer(signal.to(dtype=dtype), state)
