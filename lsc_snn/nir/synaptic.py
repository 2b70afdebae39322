"""Neurons with a synaptic current, as NIR's CubaLIF, snnTorch's Synaptic and RSynaptic and Norse's LIFRecurrent."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsc_snn import _parametrize
from lsc_snn.adapters.base import StepAdapter, register_adapter
from lsc_snn.adapters.own import SpikingAdapter
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.grid import Memory
from lsc_snn.knobs import Knobs, changed, multiplied, together
from lsc_snn.neurons import NeuronState, spike
from lsc_snn.nir.units import Units, check_sequence


class SynapticState(NamedTuple):
    """The membrane potential and the synaptic current, (B, N)."""

    v: Tensor
    i: Tensor


class Synaptic(nn.Module):
    """Spiking neurons of any shape whose input passes a synaptic current: (T, B, *shape) to (T, B, *shape).

    In one step, with x the input and z the spikes of the step before::

        i' = gamma i + x + W z,    v' = alpha v + i' - reset,    z' = H(v' - threshold)

    ``gamma`` is a decay per step, and ``neurons`` are the membranes, ``Units``, whose options this takes. Source of the
    equation: Pedersen et al. 2024, "Neuromorphic intermediate representation", Nature Communications 15, CubaLIF.

    Args:
        shape: of the neurons, N altogether.
        tau_synapse: time constant of the current in steps, 0.1 to 10,000; learnable.
        recurrent: whether spikes feed back into the current through a matrix ``recurrent_weight``, zero at first.
        feedback: whether they also feed back into the membranes, past the current: ``neurons.recurrent_weight``.

    Raises ValueError for an input of another shape or type.

    >>> spikes, state = Synaptic((4,), reset="hard")(torch.zeros(10, 2, 4))
    >>> spikes.shape, state.i.shape
    (torch.Size([10, 2, 4]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        tau_synapse: float = 5.0,
        recurrent: bool = False,
        feedback: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.neurons = Units(shape, recurrent=feedback, **options)
        like = self.neurons.threshold_raw
        decays = torch.full_like(like, math.exp(-1 / tau_synapse))
        self.gamma_raw = nn.Parameter(_parametrize.raw_decay(decays))
        self.recurrent_weight = nn.Parameter(like.new_zeros(len(like), len(like))) if recurrent else None

    @property
    def gamma(self) -> Tensor:
        """Decay of the current per step, (N,)."""
        return _parametrize.decay(self.gamma_raw)

    def initial_state(self, batch_size: int) -> SynapticState:
        """Return the state at rest."""
        v = self.neurons.initial_state(batch_size).v
        return SynapticState(v, torch.zeros_like(v))

    def step(self, inputs: Tensor, state: SynapticState) -> tuple[Tensor, SynapticState]:
        """Advance by one step: (B, *shape) and a state to spikes (B, *shape) and the next state."""
        before, drive = NeuronState(state.v), inputs.flatten(1)
        if self.recurrent_weight is not None:
            z = spike(before, self.neurons.neuron_parameters())
            drive = torch.addmm(drive, z, self.recurrent_weight.T)
        i = torch.addcmul(drive, self.gamma, state.i)
        z, after = self.neurons.step(i.reshape(inputs.shape), before)
        return z, SynapticState(after.v, i)

    def forward(self, inputs: Inputs, state: SynapticState | None = None) -> tuple[Tensor, SynapticState]:
        """Run a sequence; return the spikes and the final state."""
        check_sequence(inputs, self.neurons.shape, self.neurons.threshold_raw)
        dense = inputs.to_dense() if isinstance(inputs, EventBatch) else inputs
        now = self.initial_state(dense.shape[1]) if state is None else state
        spikes = []
        for arrived in dense.unbind(0):
            z, now = self.step(arrived, now)
            spikes.append(z)
        return torch.stack(spikes), now


class SynapticAdapter(StepAdapter):
    """Synaptic. The memory is (v, i); the recurrent weights and both decays move the time radius."""

    spiking = True

    def over_time(self, module: Any) -> bool:
        """Say that one call runs the whole sequence."""
        return True

    def unpack(self, module: Any, inputs: Inputs, state: SynapticState | None = None) -> tuple[Tensor, Memory]:
        """Return the input as a dense tensor, and the state."""
        dense = inputs.to_dense() if isinstance(inputs, EventBatch) else inputs
        return dense, tuple(module.initial_state(dense.shape[1]) if state is None else state)

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Do one step."""
        z, after = module.step(arrived, SynapticState(*memory))
        return z, tuple(after)

    def pack(self, module: Any, output: Tensor, memory: Memory) -> Any:
        """Return the spikes and the final state."""
        return output, SynapticState(*memory)

    def knobs(self, module: Any) -> Knobs:
        """Return the knobs; that of the depth radius is the linear layer in front."""
        membranes = SpikingAdapter().knobs(module.neurons)
        decays = changed([module.gamma_raw], lambda p, factor: _parametrize.raw_decay(_parametrize.decay(p) * factor))
        return membranes._replace(time=together(membranes.time, multiplied([module.recurrent_weight]), decays))


register_adapter(Synaptic, SynapticAdapter())
