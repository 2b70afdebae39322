"""Adapters of sinabs: its neurons, each over time (B, T, ...), without and with recurrence, and the readout ExpLeak."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from sinabs.layers import ALIF, LIF, ALIFRecurrent, ExpLeak, LIFRecurrent, SqueezeMixin
from torch import Tensor, nn

from lsc_snn.adapters.base import StepAdapter, register_adapter
from lsc_snn.grid import Memory
from lsc_snn.knobs import Knob, Knobs, multiplied, together

_DECAYING = ("mem", "syn", "adapt")
_FASTEST, _SLOWEST = math.exp(-1 / 0.1), math.exp(-1 / 200)
"""Bounds of a decay that a time knob sets: 0.1 and 200 steps. The input is scaled by 1 - decay (``norm_input``), and a
slower neuron would hardly hear it."""


class NeuronAdapter(StepAdapter):
    """LIF, IAF and ALIF, with their recurrent and their squeezed forms, (B * T, ...).

    The memory is all state buffers (v_mem, i_syn, b, ...), followed by what a recurrent module adds to its next input.
    Knobs: the module in front moves the depth radius; the parameters of ``rec_connect`` and the decays exp(-1/tau) of
    potential, synapse and adaptation move the time radius together, so far as they are learnable; a threshold that the
    user made learnable moves the firing rate. What ``record_states`` collects is not there while a model is measured.
    """

    spiking = True

    def over_time(self, module: Any) -> bool:
        """Return True: all of sinabs is called on sequences."""
        return True

    def unpack(self, module: Any, input_data: Tensor) -> tuple[Tensor, Memory]:
        """Return the input, time first, and the states, made anew where forward would."""
        if isinstance(module, SqueezeMixin):
            input_data = input_data.reshape(module.batch_size, module.num_timesteps, *input_data.shape[1:])
        arrived = input_data.transpose(0, 1)
        _fit_states(module, arrived.shape[1:])
        # Its forward starts states in float32 and lets them grow into the dtype of the input with the first step.
        kept = _states(module).values()
        states = tuple(state.to(torch.promote_types(state.dtype, arrived.dtype)) for state in kept)
        return arrived, (*states, torch.zeros_like(arrived[0])) if _is_recurrent(module) else states

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Run the module's own forward on a sequence of one step, which adds no recurrent input of its own."""
        names = _hold(module, memory)
        module.record_states = True  # ALIF keeps i_syn nowhere else
        if _is_recurrent(module):
            arrived = arrived + memory[-1]
        if isinstance(module, SqueezeMixin):
            module.batch_size, module.num_timesteps = -1, 1
            output = module.forward(arrived)
        else:
            output = module.forward(arrived[:, None])[:, 0]
        output = output.to(arrived.dtype)  # spikes of sinabs are float32 whatever arrives
        after = tuple(module.recordings[name][:, 0] for name in names)
        if _is_recurrent(module):
            after = (*after, module.rec_connect(output).reshape(arrived.shape))
        return output, after

    def pack(self, module: Any, output: Tensor, memory: Memory) -> Tensor:
        """Return the output, batch first; the module holds its states itself."""
        _hold(module, memory)
        rows = output.transpose(0, 1).contiguous()
        return rows.flatten(0, 1) if isinstance(module, SqueezeMixin) else rows

    def knobs(self, module: Any) -> Knobs:
        """Return the knobs of those parameters that the module has."""
        recurrent = multiplied(module.rec_connect.parameters()) if _is_recurrent(module) else None
        taus = _valued(module, [f"tau_{name}" for name in _DECAYING], _scaled_tau)
        alphas = _valued(module, [f"alpha_{name}" for name in _DECAYING], _scaled_decay)
        time = together(recurrent, taus, alphas)
        threshold = _valued(module, ["spike_threshold"], lambda value, factor: value * factor)
        return Knobs(time=time and replace(time, floor=_fixed_decay(module)), threshold=threshold)


class ReadoutAdapter(NeuronAdapter):
    """The leaky integrator ExpLeak, whose output is its potential."""

    role = "readout"
    spiking = False


def _is_recurrent(module: nn.Module) -> bool:
    return isinstance(module, LIFRecurrent | ALIFRecurrent)


def _states(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_buffers(recurse=False, remove_duplicate=False))


def _hold(module: nn.Module, memory: Memory) -> list[str]:
    """Put the states into the buffers of a module; return their names."""
    names = list(_states(module))
    for name, state in zip(names, memory, strict=False):
        setattr(module, name, state)
    return names


def _fit_states(module: Any, shape: tuple[int, ...]) -> None:
    """Do with the states what forward does before the first step: start them, or fit them to another batch size."""
    started = module.is_state_initialised()
    if started and module.state_has_shape(shape):
        return
    draws = isinstance(module, LIF) and not _is_recurrent(module)
    if started and draws and module.has_trailing_dimension(shape[1:]):
        module.handle_state_batch_size_mismatch(shape[0])
    else:
        module.init_state_with_shape(shape)


@torch.enable_grad()
def _fixed_decay(module: nn.Module) -> float:
    """Return the largest decay of a module that no parameter moves, or 0."""
    decays = [getattr(module, f"alpha_{name}_calculated", None) for name in _DECAYING]
    return max((decay.max().item() for decay in decays if decay is not None and not decay.requires_grad), default=0.0)


def _valued(module: nn.Module, names: list[str], scaled: Callable[[Tensor, float], Tensor]) -> Knob | None:
    """Return the knob that sets parameters, those of the names that a module has, to ``scaled(value, factor)``."""
    found = [module._parameters.get(name) for name in names]
    parameters = tuple(parameter for parameter in found if parameter is not None)

    @torch.no_grad()
    def turn(factor: float) -> None:
        for parameter in (parameter for parameter in parameters if parameter.requires_grad):
            # Not in place: all layers that were given no threshold have one tensor, the default, behind theirs.
            parameter.data = scaled(parameter.double(), factor).to(parameter.dtype)

    return Knob(parameters, turn) if parameters else None


def _scaled_decay(decay: Tensor, factor: float) -> Tensor:
    return (decay * factor).clamp(min=_FASTEST).minimum(decay.clamp(min=_SLOWEST))


def _scaled_tau(tau: Tensor, factor: float) -> Tensor:
    return -1 / _scaled_decay(torch.exp(-1 / tau), factor).log()


for _neuron in (LIF, ALIF):
    register_adapter(_neuron, NeuronAdapter())
register_adapter(ExpLeak, ReadoutAdapter())
