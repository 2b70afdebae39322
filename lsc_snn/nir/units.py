"""Layers without input weights, for graphs in which a convolution or nothing stands in front, and how they are wired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn import _checks
from lsc_snn.adapters.base import register_adapter
from lsc_snn.adapters.own import SpikingAdapter
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.grid import Memory
from lsc_snn.layers import LI, SpikingLayer
from lsc_snn.neurons import NeuronState


def _flat(inputs: Inputs, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return a sequence (T, B, *shape) as (T, B, N), checked."""
    layout = f"(time steps, batch, {', '.join(map(str, shape))})"
    if isinstance(inputs, EventBatch):
        inputs = inputs.to_dense()
    _checks.check_float("inputs", inputs)
    _checks.check_rank("inputs", inputs, 2 + len(shape), layout)
    if tuple(inputs.shape[2:]) != shape or inputs.dtype != like.dtype or inputs.device != like.device:
        raise ValueError(
            f"inputs: expected shape {layout}, {like.dtype} on {like.device}, got {tuple(inputs.shape)}, "
            f"{inputs.dtype} on {inputs.device}; convert it"
        )
    return inputs.flatten(2)


def _stop_leak(layer: SpikingLayer | LI) -> None:
    """Take the decay out of the parameters: a potential that keeps everything is no value of theirs."""
    raw = layer.alpha_raw.detach()
    del layer.alpha_raw
    layer.register_buffer("alpha_raw", torch.full_like(raw, math.inf))


class Units(SpikingLayer):
    """Spiking neurons of any shape, whose input is their current: (T, B, *shape) to (T, B, *shape).

    Takes the options of ALIF; without ``beta`` it is a LIF, and with ``leaky=False``, where nothing decays, an IF.

    >>> import torch
    >>> Units((2, 3, 3), reset="hard")(torch.zeros(10, 4, 2, 3, 3))[0].shape
    torch.Size([10, 4, 2, 3, 3])
    """

    def __init__(
        self, shape: tuple[int, ...], *, recurrent: bool = False, leaky: bool = True, **options: Any
    ) -> None:
        super().__init__(1, math.prod(shape), recurrent=recurrent, bias=False, **options)
        self.shape, self.leaky = shape, leaky
        self.register_parameter("weight", None)
        if not leaky:
            _stop_leak(self)

    @property
    def alpha(self) -> Tensor:
        """Membrane decay per step, (N,)."""
        return super().alpha if self.leaky else torch.ones_like(self.alpha_raw)

    def current(self, inputs: Inputs) -> Tensor:
        """Return the input (..., *shape) as a current (..., N)."""
        dense = inputs.to_dense() if isinstance(inputs, EventBatch) else inputs
        return dense.flatten(-len(self.shape))

    def run(self, inputs: Inputs, state: NeuronState | None = None) -> tuple[Tensor, NeuronState, NeuronState]:
        """Do as ``SpikingLayer.run``; the states stay flat, (B, N)."""
        z, final, after = super().run(inputs, state)
        return z.reshape(*z.shape[:-1], *self.shape), final, after

    def step(self, inputs: Tensor, state: NeuronState) -> tuple[Tensor, NeuronState]:
        """Advance by one step, (B, *shape) to (B, *shape)."""
        z, after = super().step(inputs, state)
        return z.reshape(-1, *self.shape), after

    def _check(self, inputs: Inputs) -> None:
        _flat(inputs, self.shape, self.alpha_raw)

    def extra_repr(self) -> str:
        """Return the shape, for ``print(layer)``."""
        return f"{self.shape}"


class Integrators(LI):
    """Integrators of any shape, whose input is their current: (T, B, *shape) to (T, B, *shape).

    With ``leaky=False`` nothing decays.

    >>> import torch
    >>> Integrators((4,))(torch.ones(2, 1, 4))[0][0]
    tensor([[1., 1., 1., 1.]], grad_fn=<SelectBackward0>)
    """

    def __init__(self, shape: tuple[int, ...], *, leaky: bool = True, **options: Any) -> None:
        super().__init__(1, math.prod(shape), bias=False, **options)
        self.shape, self.leaky = shape, leaky
        self.register_parameter("weight", None)
        if not leaky:
            _stop_leak(self)

    def initial_state(self, batch_size: int) -> Tensor:
        """Return the potential at rest, zeros (B, *shape)."""
        return self.alpha_raw.new_zeros(batch_size, *self.shape)

    @property
    def alpha(self) -> Tensor:
        """Decay per step, in the shape of the units."""
        alpha = super().alpha if self.leaky else torch.ones_like(self.alpha_raw)
        return alpha.reshape(self.shape)

    def current(self, inputs: Inputs) -> Tensor:
        """Return the input."""
        return inputs.to_dense() if isinstance(inputs, EventBatch) else inputs

    def _check(self, inputs: Inputs) -> None:
        _flat(inputs, self.shape, self.alpha_raw)

    def extra_repr(self) -> str:
        """Return the shape, for ``print(layer)``."""
        return f"{self.shape}"


class UnitsAdapter(SpikingAdapter):
    """Units: a spiking layer whose output has a shape of its own; its memory, (v,) or (v, a), is flat."""

    def unroll(
        self, module: SpikingLayer, inputs: Inputs, state: NeuronState | None = None
    ) -> tuple[Any, list[Memory]]:
        """Loop over the pure step."""
        (z, final), memories = super().unroll(module, inputs, state)
        return (z.reshape(*z.shape[:-1], *_shape_of(module)), final), memories


def _shape_of(module: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = module.shape
    return shape


register_adapter(Units, UnitsAdapter())


class Layers(nn.Module):
    """Layers wired as a graph without loops, over a sequence (T, B, ...): what ``from_nir`` returns.

    Layers with memory take the sequence, those of torch.nn every time step of it. ``sources`` says what each adds up,
    and ``output`` what the output adds up; the input has a name that is no layer's. Layers are in the order of their
    calls.

    >>> import torch
    >>> from lsc_snn import LIF
    >>> wired = Layers({"fc": nn.Linear(3, 2), "lif": LIF(2, 2)}, {"fc": ["input"], "lif": ["fc"]}, ["lif"])
    >>> wired(torch.zeros(5, 1, 3)).shape
    torch.Size([5, 1, 2])
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], sources: Mapping[str, Sequence[str]], output: Sequence[str]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.sources, self.output = {name: tuple(of) for name, of in sources.items()}, tuple(output)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the output, (T, B, ...)."""
        made: dict[str, Tensor] = {}

        def added(names: Sequence[str]) -> Any:
            values: list[Any] = [made.get(name, inputs) for name in names]
            if len(values) > 1:
                values = [value.to_dense() if isinstance(value, EventBatch) else value for value in values]
            return sum(values[1:], start=values[0])

        for name, layer in self.layers.items():
            signal = added(self.sources[name])
            if isinstance(layer, SpikingLayer | LI):
                made[name], _ = layer(signal)
            else:
                dense = signal.to_dense() if isinstance(signal, EventBatch) else signal
                merged: Tensor = layer(dense.flatten(0, 1))
                made[name] = merged.reshape(*dense.shape[:2], *merged.shape[1:])
        output: Tensor = added(self.output)
        return output
