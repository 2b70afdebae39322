"""Adapters of this library's own layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn import _parametrize
from lsc_snn.adapters.base import Pass, SequenceAdapter, register_adapter
from lsc_snn.adapters.ssm import BlockAdapter, StateSpaceAdapter
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.grid import Memory, Points, Step
from lsc_snn.knobs import Knob, Knobs, changed, movable, multiplied, together
from lsc_snn.layers import LI, SpikingLayer
from lsc_snn.neurons import NeuronState, step
from lsc_snn.ssm_layers import SSMBlock, StateSpaceLayer

_CUT = 0.5
"""Factor of the input weights below which the scale of the potential goes with them."""


def _before(sequence: Tensor, first: Tensor, points: Points) -> Tensor:
    """Return rows (K, ...) of what was there before the step: of the sequence one step earlier, or of ``first``."""
    earlier = sequence[(points.times - 1).clamp(min=0), points.samples]
    at_start = (points.times == 0).reshape(-1, *[1] * (earlier.dim() - 1))
    return torch.where(at_start, first[points.samples], earlier)


def _steps_of(inputs: Inputs) -> Iterable[Tensor]:
    return (inputs.to_dense() if isinstance(inputs, EventBatch) else inputs).unbind(0)


class SpikingAdapter(SequenceAdapter):
    """LIF, ALIF, LSNN. The memory is (v,) or (v, a).

    Knobs: input weights and bias move the depth radius; a cut below one half takes threshold and beta along, without
    which the layer would fall silent. Recurrent weights, both decays and beta move the time radius together, which
    scales the whole time transition and keeps the balance of leak and recurrence; so does the threshold where the soft
    reset passes gradient, since it is then a part of that transition.
    """

    spiking = True

    def run(self, module: SpikingLayer, inputs: Inputs, state: NeuronState | None = None) -> Pass:
        """Run the layer once, with the fused scan."""
        first = module.initial_state(inputs.shape[1]) if state is None else state
        z, final, after = module.run(inputs, first)

        def at(points: Points) -> tuple[Step, Memory]:
            pairs = zip(after, first, strict=True)
            v, a, refractory = (None if s is None or f is None else _before(s, f, points) for s, f in pairs)

            def one_step(arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
                # The refractory counters pass no gradient: they are part of the step.
                before = NeuronState(memory[0], memory[1] if len(memory) > 1 else None, refractory)
                output, now = module.step(arrived, before)
                return output, _memory_of(now)

            return one_step, tuple(row for row in (v, a) if row is not None)

        return Pass(inputs, z, lambda output: (output, final), at)

    def unroll(
        self, module: SpikingLayer, inputs: Inputs, state: NeuronState | None = None
    ) -> tuple[Any, list[Memory]]:
        """Loop over the pure step."""
        parameters = module.neuron_parameters()
        now = module.initial_state(inputs.shape[1]) if state is None else state
        if not now.v.requires_grad:  # else frozen parameters would leave the memories without a graph
            now = now._replace(v=now.v.detach().requires_grad_())
        outputs, memories = [], []
        for current in module.current(inputs).unbind(0):
            output, now = step(current, now, parameters)
            outputs.append(output)
            memories.append(_memory_of(now))
        return (torch.stack(outputs), now), memories

    def knobs(self, module: SpikingLayer) -> Knobs:
        """Return the knobs of the layer; a feed-forward layer has no recurrent weights in its time knob."""
        scale = _positive(module.threshold_raw, module.beta_raw)
        attached = module.reset == "soft" and not module.detach_reset
        drive = multiplied([module.weight, module.bias])
        return Knobs(
            depth=_louder(drive, scale),
            time=together(
                multiplied([module.recurrent_raw]),
                scale if attached else _positive(module.beta_raw),
                _decays(module.alpha_raw, module.rho_raw),
            ),
            threshold=scale,
        )


def _louder(drive: Knob | None, scale: Knob | None) -> Knob | None:
    """Return the knob of the input weights, which takes the scale of the potential along where it cuts deeper."""
    both = together(drive, scale)
    if drive is None or both is None or not movable(drive):
        return drive  # frozen weights: a threshold that moved alone would not set the radius
    return Knob(both.parameters, lambda factor: (both if factor < _CUT else drive).turn(factor), carries=_CUT)


class ReadoutAdapter(SequenceAdapter):
    """The leaky-integrator readout LI. Its memory is its potential; its depth knob, the weights, moves the decoder."""

    role = "readout"

    def run(self, module: LI, inputs: Inputs, state: Tensor | None = None) -> Pass:
        """Run the readout once."""
        first = module.initial_state(inputs.shape[1]) if state is None else state
        output, final = module(inputs, first)

        def one_step(arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
            v, now = module.step(arrived, memory[0])
            return v, (now,)

        def at(points: Points) -> tuple[Step, Memory]:
            return one_step, (_before(output.detach(), first, points),)

        return Pass(inputs, output, lambda replaced: (replaced, final), at)

    def unroll(self, module: LI, inputs: Inputs, state: Tensor | None = None) -> tuple[Any, list[Memory]]:
        """Return what forward returns, which is differentiable to any order as it is, and the potentials."""
        output, final = module(inputs, state)
        return (output, final), [(v,) for v in output.unbind(0)]

    def knobs(self, module: LI) -> Knobs:
        """Return the weight knob. The readout's own time transition is no part of the grid."""
        return Knobs(depth=multiplied([module.weight, module.bias]), time=None)


def _memory_of(state: NeuronState) -> Memory:
    return (state.v,) if state.a is None else (state.v, state.a)


def _positive(*parameters: nn.Parameter | None) -> Knob | None:
    """Return the knob that multiplies the positive values behind raw parameters."""
    return changed(parameters, lambda p, factor: _parametrize.raw_positive(_parametrize.positive(p) * factor))


def _decays(*parameters: nn.Parameter | None) -> Knob | None:
    """Return the knob that multiplies the decays behind raw parameters."""
    return changed(parameters, lambda p, factor: _parametrize.raw_decay(_parametrize.decay(p) * factor))


register_adapter(SpikingLayer, SpikingAdapter())
register_adapter(LI, ReadoutAdapter())
register_adapter(StateSpaceLayer, StateSpaceAdapter())
register_adapter(SSMBlock, BlockAdapter())
