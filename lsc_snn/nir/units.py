"""Neurons and integrators without input weights, for graphs in which a convolution or nothing stands in front."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lsc_snn import _checks
from lsc_snn.adapters.base import register_adapter
from lsc_snn.adapters.own import SpikingAdapter
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.grid import Memory
from lsc_snn.layers import LI, SpikingLayer
from lsc_snn.neurons import NeuronState


def check_sequence(inputs: Inputs, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise TypeError or ValueError unless an input is (T, B, *shape), of the type and device of ``like``."""
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


def _stop_leak(layer: SpikingLayer | LI) -> None:
    """Take the decay out of the parameters, which no value makes 1; what is left tells type and device alone."""
    raw = layer.alpha_raw.detach()
    del layer.alpha_raw
    layer.register_buffer("alpha_raw", torch.zeros_like(raw))


class Units(SpikingLayer):
    """Spiking neurons of any shape, whose input is their current: (T, B, *shape) to (T, B, *shape).

    Takes the options of ALIF; without ``beta`` it is a LIF, and with ``leaky=False``, where nothing decays, an IF.

    >>> import torch
    >>> Units((2, 3, 3), reset="hard")(torch.zeros(10, 4, 2, 3, 3))[0].shape
    torch.Size([10, 4, 2, 3, 3])
    """

    def __init__(self, shape: tuple[int, ...], *, recurrent: bool = False, leaky: bool = True, **options: Any) -> None:
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
        check_sequence(inputs, self.shape, self.alpha_raw)

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
        check_sequence(inputs, self.shape, self.alpha_raw)

    def extra_repr(self) -> str:
        """Return the shape, for ``print(layer)``."""
        return f"{self.shape}"


class UnitsAdapter(SpikingAdapter):
    """Units: a spiking layer whose output has a shape of its own; its memory, (v,) or (v, a), is flat."""

    def unroll(self, module: Any, inputs: Inputs, state: NeuronState | None = None) -> tuple[Any, list[Memory]]:
        """Loop over the pure step."""
        (z, final), memories = super().unroll(module, inputs, state)
        return (z.reshape(*z.shape[:-1], *module.shape), final), memories


register_adapter(Units, UnitsAdapter())
