"""Adapters of SpikingJelly: its neurons and recurrent containers, in single-step and in multi-step mode.

Layers in between (``layer.Linear``, ``layer.Conv2d``, ``SeqToANNContainer``) need none. Written for release 2.0; the
neurons of 0.0.0.0.14 work too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from spikingjelly.activation_based import base, layer, neuron
from torch import Tensor, nn

from lsc_snn.adapters.base import StepAdapter, register_adapter
from lsc_snn.grid import Memory
from lsc_snn.knobs import Knob, Knobs, changed, multiplied, together
from lsc_snn.recording import attributes_kept

_NOT_CARRIED = ("v_seq", "mask", "dropped_w", "dropped_b")
"""Registered memories that are a record or a draw of noise, and nothing that one step hands to the next."""
_FASTEST, _SLOWEST = 1e-3, math.exp(-1 / 200)
"""Bounds of a decay that a time knob sets, the last that of 200 steps. The input is scaled by 1 - decay
(``decay_input``), and a slower neuron would hardly hear it."""


class NeuronAdapter(StepAdapter):
    """Every neuron built on ``BaseNode``, such as IFNode, LIFNode and ParametricLIFNode, in both step modes.

    The memory is all that the module registers as memory: v, and what else its kind has. Knobs: the module in front
    moves the depth radius; the learnable w of a ParametricLIFNode, whose potential decays by 1 - sigmoid(w) in a step,
    moves the time radius. tau and the threshold are plain numbers, which no knob moves. What ``store_v_seq`` collects
    is not there while a model is measured.
    """

    spiking = True

    def over_time(self, module: Any) -> bool:
        """Say whether the module is in multi-step mode."""
        return bool(module.step_mode == "m")

    def unpack(self, module: Any, x: Tensor) -> tuple[Tensor, Memory]:
        """Return the input and what the module holds, filled as its forward does where it holds nothing yet."""
        first = x[0] if self.over_time(module) else x
        held = [getattr(owner, name) for owner, name in _carried(module)]
        if all(isinstance(value, Tensor) and len(value) == len(first) for value in held):
            return x, tuple(held)
        with torch.no_grad(), attributes_kept(module):  # one step tells the shapes
            _, after = self._forward(module, first)
        resets = [owner._memories_rv[name] for owner, name in _carried(module)]
        return x, tuple(map(_started, held, resets, after))

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Run the module's own forward in single-step mode."""
        _hold(module, memory)
        return self._forward(module, arrived)

    def pack(self, module: Any, output: Tensor, memory: Memory) -> Tensor:
        """Return the output; the module holds its memory itself."""
        _hold(module, memory)
        return output

    def knobs(self, module: Any) -> Knobs:
        """Return the knob of w, where the module has one."""
        return Knobs(time=_leaks(module))

    def _forward(self, module: Any, arrived: Tensor) -> tuple[Tensor, Memory]:
        module.step_mode = "s"
        for inner in module.modules():
            # In eval mode 0.0.0.0.14 spikes without surrogate. A neuron with buffers has batch statistics to spare.
            if isinstance(inner, neuron.BaseNode) and next(inner.buffers(), None) is None:
                inner.training = True
        output = module.forward(arrived)
        return output, tuple(getattr(owner, name) for owner, name in _carried(module))


class RecurrentAdapter(NeuronAdapter):
    """The containers that feed the output y of what they hold back into its input. The memory is y, and its memory.

    Of a LinearRecurrentContainer, the columns of ``rc`` that act on the input are the depth knob, those that act on y
    the time knob. Of an ElementWiseRecurrentContainer all parameters inside are the time knob, and the module in front
    is the depth knob.
    """

    def spikes(self, module: Any) -> bool:
        """Say whether what the container holds ends in a neuron."""
        inside = module.sub_module
        return isinstance(inside[-1] if isinstance(inside, nn.Sequential) else inside, neuron.BaseNode)

    def knobs(self, module: Any) -> Knobs:
        """Return the knobs of the container, with that of w of the neurons inside."""
        leaks, depth = _leaks(module), None
        if isinstance(module, layer.LinearRecurrentContainer):
            inputs = module.rc.out_features
            depth = together(_columns(module.rc.weight, slice(None, inputs)), multiplied([module.rc.bias]))
            recurrent: Knob | None = _columns(module.rc.weight, slice(inputs, None))
        else:
            moved = () if leaks is None else {id(w) for w in leaks.parameters}
            recurrent = multiplied(p for p in module.sub_module.parameters() if id(p) not in moved)
        time = together(recurrent, leaks)
        return Knobs(depth=depth, time=time and replace(time, floor=max(map(_fixed_leak, module.modules()))))


def _carried(module: nn.Module) -> list[tuple[Any, str]]:
    """Return owner and name of every tensor that a module, or one inside it, carries to the next step."""
    owners = [inner for inner in module.modules() if isinstance(inner, base.MemoryModule)]
    return [(owner, name) for owner in owners for name, _ in owner.named_memories() if name not in _NOT_CARRIED]


def _hold(module: nn.Module, memory: Memory) -> None:
    for (owner, name), value in zip(_carried(module), memory, strict=True):
        setattr(owner, name, value)


def _started(held: Any, reset: Any, after: Tensor) -> Tensor:
    """Return the tensor that a step starts from, where a module holds a number, nothing, or another batch's state."""
    if isinstance(held, Tensor) and held.shape == after.shape:
        return held
    value = reset if held is None or isinstance(held, Tensor) else held
    return torch.full_like(after, value) if isinstance(value, int | float) else torch.zeros_like(after)


def _leaks(module: nn.Module) -> Knob | None:
    """Return the knob that multiplies the decay 1 - sigmoid(w) of every ParametricLIFNode of a module."""

    def change(w: Tensor, factor: float) -> Tensor:
        decay = torch.sigmoid(-w.double())
        return -torch.logit((decay * factor).clamp(min=_FASTEST).minimum(decay.clamp(min=_SLOWEST)))

    return changed((inner.w for inner in module.modules() if isinstance(inner, neuron.ParametricLIFNode)), change)


def _fixed_leak(module: nn.Module) -> float:
    """Return by what a potential decays in a step where no parameter moves that, else 0."""
    if isinstance(module, neuron.ParametricLIFNode):
        return 0.0 if module.w.requires_grad else torch.sigmoid(-module.w.detach()).item()
    if isinstance(module, neuron.LIFNode):
        return 1 - 1 / float(module.tau)
    return float(isinstance(module, neuron.IFNode))


def _columns(weight: nn.Parameter, columns: slice) -> Knob:
    @torch.no_grad()
    def turn(factor: float) -> None:
        if weight.requires_grad:
            weight[:, columns].mul_(factor)

    return Knob((weight,), turn)


register_adapter(neuron.BaseNode, NeuronAdapter())
for _container in (layer.LinearRecurrentContainer, layer.ElementWiseRecurrentContainer):
    register_adapter(_container, RecurrentAdapter())
