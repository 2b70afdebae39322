"""The same recurrent LIF network in this library, snnTorch, Norse and sinabs, each as its users write it, and fastest.

All have weight matrices of the same shapes (input and recurrent, no bias) and, but for Norse, of the same values, time
constants of 10 steps and threshold 1. Nobody but us also learns time constants and thresholds of every unit, which is
this library's default and costs it, not them.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsc_snn.events import Inputs
from lsc_snn.layers import LIF

TAU = 10.0
"""Membrane time constant, in steps."""
_NORSE_GAIN = 2.7


class Sizes(NamedTuple):
    """Sizes of the network and its input."""

    num_steps: int = 100
    batch: int = 64
    num_inputs: int = 700
    num_units: int = 256
    num_layers: int = 2
    density: float = 0.02


Weights = list[tuple[Tensor, Tensor]]
"""Input and recurrent matrix (to, from) of every layer."""


def draw_weights(sizes: Sizes) -> Weights:
    """Return matrices from a fixed seed, scaled so that every contender fires in some percent of all steps.

    The drive of a unit has a standard deviation of half the threshold in every step, from inputs as dense as
    ``sizes.density`` in the first layer and from a tenth of all units in the others.
    """
    generator = torch.Generator().manual_seed(0)
    weights = []
    for layer in range(sizes.num_layers):
        fan_in, density = (sizes.num_units, 0.1) if layer else (sizes.num_inputs, sizes.density)
        scale = 1 / (2 * math.sqrt(fan_in * density))
        first = scale * torch.randn(sizes.num_units, fan_in, generator=generator)
        recurrent = torch.randn(sizes.num_units, sizes.num_units, generator=generator) / math.sqrt(sizes.num_units)
        weights.append((first, recurrent.fill_diagonal_(0.0)))
    return weights


class Ours(nn.Module):
    """Recurrent LIF layers of this library, (T, B, N) or an EventBatch."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(LIF(w.shape[1], w.shape[0], tau=TAU, generator=generator) for w, _ in weights)
        for layer, (weight, recurrent) in zip(self.layers, weights, strict=True):
            _copy(layer.weight, weight)
            _copy(layer.recurrent_raw, recurrent)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the spikes of the last layer."""
        for layer in self.layers:
            inputs, _ = layer(inputs)
        if not isinstance(inputs, Tensor):
            raise TypeError("weights: expected one layer or more, got none; pass some")
        return inputs


class SnnTorch(nn.Module):
    """Linear and RLeaky with all-to-all recurrence, step by step, as in snnTorch's tutorials."""

    def __init__(self, weights: Weights) -> None:
        import snntorch

        super().__init__()
        self.inputs, self.neurons = nn.ModuleList(), nn.ModuleList()
        for weight, recurrent in weights:
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            neuron = snntorch.RLeaky(beta=math.exp(-1 / TAU), linear_features=weight.shape[0])
            neuron.recurrent = nn.Linear(*recurrent.shape, bias=False)
            _copy(linear.weight, weight)
            _copy(neuron.recurrent.weight, recurrent)
            self.inputs.append(linear)
            self.neurons.append(neuron)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the spikes of the last layer."""
        states = [neuron.reset_mem() for neuron in self.neurons]
        outputs = []
        for signal in inputs.unbind(0):
            for index, (linear, neuron) in enumerate(zip(self.inputs, self.neurons, strict=True)):
                states[index] = neuron(linear(signal), *states[index])
                signal = states[index][0]
            outputs.append(signal)
        return torch.stack(outputs)


class Norse(nn.Module):
    """LIFRecurrent, Norse's sequence module; it loops over the steps of a cell with a synaptic current."""

    def __init__(self, weights: Weights) -> None:
        import norse.torch

        super().__init__()
        # Its membrane takes a tenth of the current of a synapse of 5 steps: to fire alike it needs larger weights.
        self.layers = nn.ModuleList(
            norse.torch.LIFRecurrent(
                w.shape[1],
                w.shape[0],
                input_weights=nn.Parameter(_NORSE_GAIN * w),
                recurrent_weights=nn.Parameter(_NORSE_GAIN * r),
                autapses=True,  # else a hook on every gradient clears the diagonal, which nobody else does
            )
            for w, r in weights
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the spikes of the last layer."""
        for layer in self.layers:
            inputs, _ = layer(inputs)
        return inputs


class Sinabs(nn.Module):
    """Linear over all steps, then LIFRecurrent, batch first; its states are reset before every sequence."""

    def __init__(self, weights: Weights) -> None:
        import sinabs.activation
        import sinabs.layers

        super().__init__()
        self.inputs, self.neurons = nn.ModuleList(), nn.ModuleList()
        for weight, recurrent in weights:
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            back = nn.Linear(*recurrent.shape, bias=False)
            _copy(linear.weight, weight)
            _copy(back.weight, recurrent)
            self.inputs.append(linear)
            self.neurons.append(
                sinabs.layers.LIFRecurrent(
                    tau_mem=TAU,
                    rec_connect=back,
                    norm_input=False,
                    spike_fn=sinabs.activation.SingleSpike,
                )
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the spikes of the last layer, time first."""
        signal = inputs.transpose(0, 1)
        for linear, neuron in zip(self.inputs, self.neurons, strict=True):
            neuron.reset_states()  # sinabs.reset_states(model) passes over layers that hold a recurrent module
            signal = neuron(linear(signal))
        return signal.transpose(0, 1)


PEERS: dict[str, type[nn.Module]] = {"snnTorch": SnnTorch, "Norse": Norse, "sinabs": Sinabs}


def make_peer(name: str, weights: Weights) -> nn.Module | None:
    """Return the network of a peer, or None where it is not installed; the global random state is as before."""
    try:
        with torch.random.fork_rng([]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their imports warn of things of their own
            return PEERS[name](weights)
    except ImportError:
        return None


def matrices(network: nn.Module) -> list[tuple[int, ...]]:
    """Return the shapes of all weight matrices that a network learns, sorted.

    >>> matrices(Ours(draw_weights(Sizes(num_inputs=6, num_units=4))))
    [(4, 4), (4, 4), (4, 4), (4, 6)]
    """
    return sorted(tuple(p.shape) for p in network.parameters() if p.dim() == 2 and p.requires_grad)


@torch.no_grad()
def _copy(parameter: Any, value: Tensor) -> None:
    parameter.copy_(value)
