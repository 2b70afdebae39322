"""Adapters of the state-space layers LRU and S5, and of the residual block around either."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn.adapters.base import Pass, SequenceAdapter
from lsc_snn.grid import Memory, Points, Step
from lsc_snn.knobs import Knob, Knobs
from lsc_snn.recording import undisturbed
from lsc_snn.ssm_layers import LRU, S5, SSMBlock, StateSpaceLayer

Layer = StateSpaceLayer | SSMBlock


class StateSpaceAdapter(SequenceAdapter):
    """LRU, S5. The memory is the complex state as (Re, Im), (K, P) each.

    The time transition turns and shrinks each pair by its lambda: its radius is max |lambda|, which the time knob
    multiplies exactly, up to ``ssm.MAX_MAGNITUDE``. The depth transition is Re(C B) + D, with the gain of the input
    in B: the depth knob multiplies D by its factor, B and C by the root of it each, and with them the radius exactly.
    """

    def run(self, module: Layer, inputs: Tensor, state: Tensor | None = None) -> Pass:
        """Run the layer once, with the parallel scan."""
        output, final, states = module.run(inputs, state)
        first = module.initial_state(inputs.shape[1]) if state is None else state
        before = torch.cat([first[None], states[:-1]])

        def step(arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
            with undisturbed(module):  # the user may be training, with dropout
                shown, after = module.step(arrived, torch.complex(*memory))
            return shown, (after.real, after.imag)

        def at(points: Points) -> tuple[Step, Memory]:
            rows = points.take(before)
            return step, (rows.real, rows.imag)

        return Pass(inputs, output, lambda replaced: (replaced, final), at)

    def unroll(self, module: Layer, inputs: Tensor, state: Tensor | None = None) -> tuple[Any, list[Memory]]:
        """Loop over the step; the memories are the complex states, whose gradients have the norms of the pairs'."""
        with torch.no_grad():
            module(inputs, state)  # raises what the user's forward would raise; a step checks nothing
        now = module.initial_state(inputs.shape[1]) if state is None else state
        if not now.requires_grad:  # else frozen parameters would leave the memories without a graph
            now = now.detach().requires_grad_()
        outputs: list[Tensor] = []
        memories: list[Memory] = []
        for arrived in inputs.unbind(0):
            output, now = module.step(arrived, now)
            outputs.append(output)
            memories.append((now,))  # not a view, which the way from state to output would not pass through
        return (torch.stack(outputs), now), memories

    def knobs(self, module: Any) -> Knobs:
        """Return the knobs of the layer."""
        return Knobs(depth=_depth_knob(module), time=_time_knob(module))


class BlockAdapter(StateSpaceAdapter):
    """SSMBlock: one row of the grid, with the layer inside, whose time transition and time knob it has.

    The depth transition is that of a residual and a branch. A factor of the depth knob multiplies the residual scale,
    and its square the branch, by the rows of the gate that pass it on; the other rows, which open and close the gate,
    stay, and so does the layer before the GELU.

    The residual is to lead. Behind a LayerNorm the derivative of a branch grows as its input shrinks, which a target
    below 1 makes happen layer by layer. With equal factors the residual scale of the fifth block of 32 units came down
    to 0.03 for a target of 1/2 and the branch was all that was left; with the square it stays at 0.15.
    """

    def knobs(self, module: SSMBlock) -> Knobs:
        """Return the knobs of the block."""
        scale, gate = module.residual_scale, tuple(module.gate.parameters())

        @torch.no_grad()
        def turn(factor: float) -> None:
            if scale.requires_grad:
                scale.mul_(factor)
            for parameter in gate:
                if parameter.requires_grad:
                    parameter.chunk(2)[0].mul_(factor**2)

        return Knobs(depth=Knob((scale, *gate), turn), time=_time_knob(module.ssm))


def _inner(module: Layer) -> StateSpaceLayer:
    return module.ssm if isinstance(module, SSMBlock) else module


def _depth_knob(layer: StateSpaceLayer) -> Knob:
    @torch.no_grad()
    def turn(factor: float) -> None:
        maps = [parameter for parameter in (layer.B, layer.C) if parameter.requires_grad]
        for parameter in maps:
            parameter.mul_(factor ** (1 / len(maps)))
        if layer.D.requires_grad:
            layer.D.mul_(factor)

    return Knob((layer.B, layer.C, layer.D), turn)


def _time_knob(layer: StateSpaceLayer) -> Knob | None:
    moved: tuple[nn.Parameter, ...]
    if isinstance(layer, LRU):
        moved = (layer.nu_log,)
    elif isinstance(layer, S5):
        moved = (layer.rate_log,) if layer.discretisation == "zoh" else (layer.rate_log, layer.omega)
    else:
        return None

    @torch.no_grad()
    def turn(factor: float) -> None:
        frozen = [(parameter, parameter.clone()) for parameter in moved if not parameter.requires_grad]
        layer.scale_eigenvalues(factor)
        for parameter, value in frozen:
            parameter.copy_(value)

    return Knob(moved, turn)
