"""The grid of transitions: what ``trace`` records of a forward pass, and the Jacobians that follow from it.

Every record holds K *points*: (time step, sample) pairs drawn from the pass. A transition is the batch of K Jacobians
at those points, kept as a linear operator: products by differentiation, or in a closed form where the step has one
(``linearise``), never a matrix unless asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lsc_snn.knobs import Knob, Knobs
from lsc_snn.linearise import Behind, closed_form
from lsc_snn.transition import ClosedForm, Source, Transition

Memory = tuple[Tensor, ...]
"""The differentiable tensors that a layer carries to its next step, each (K, ...): (v, a) for ALIF."""
Step = Callable[[Tensor, Memory], tuple[Tensor, Memory]]
"""One time step of a layer, pure: what arrives (K, ...) and the memory, to what leaves and the next memory."""


@dataclass(frozen=True)
class Points:
    """K (time step, sample) pairs, sample fastest: ``times`` and ``samples`` are (K,) indices."""

    times: Tensor
    samples: Tensor

    def take(self, sequence: Tensor) -> Tensor:
        """Return the rows (K, ...) of a sequence (T, B, ...) at the points."""
        return sequence[self.times, self.samples]


_NO_KNOBS = Knobs()


@dataclass(frozen=True)
class LayerRecord:
    """What one layer did at the K points, and what moves its radii.

    ``arrived`` (K, ...) is its input, with a graph back to ``below`` (the layer underneath, or the model's input);
    ``memory`` is what it carried into the step; ``rate`` is the firing rate over valid steps, NaN where there are no
    spikes. ``later`` are the inputs of the steps after, one for each step of latency: a cell that integrates first and
    emits a step later hands its input up only then. ``own`` is the layer's output of the step before, where the user's
    forward feeds it back into ``arrived``; ``fed`` are (index, source) of tensors of its memory that it feeds back.
    """

    name: str
    module: nn.Module
    step: Step
    arrived: Tensor
    below: Source
    memory: Memory
    rate: float
    knobs: Knobs = _NO_KNOBS
    later: tuple[Tensor, ...] = ()
    own: Source | None = None
    fed: tuple[tuple[int, Source], ...] = ()

    def time(self) -> Transition:
        """Return the time transition dm'/dm: memory after the step by memory before it.

        What the user's forward feeds back counts as memory: as a function of the memory it adds no eigenvalue.
        """
        memory = tuple(tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in self.memory)
        with torch.enable_grad():
            looped = self.own is not None or bool(self.fed)
            output, after = self.step(self.arrived if looped else self.arrived.detach(), memory)
            own = () if self.own is None else (output,)
            carried = (*after, *own, *(after[index] for index, _ in self.fed))
            outputs = torch.cat([tensor.flatten(1) for tensor in carried if tensor.is_floating_point()], 1)
        sources = [Source((leaf,)) for leaf in memory if leaf.requires_grad]
        if looped:
            own_sources = () if self.own is None else (self.own,)
            return Transition(outputs, [*sources, *own_sources, *(source for _, source in self.fed)])
        return Transition(outputs, sources, lambda: closed_form(self._carried, self.memory))

    def _carried(self, memory: Memory) -> list[Tensor]:
        after = self.step(self.arrived.detach(), memory)[1]
        return [tensor for tensor in after if tensor.is_floating_point()]

    def depth(self) -> Transition:
        """Return the depth transition dy/d(below): output of the step by what left the layer underneath."""
        with torch.enable_grad():
            (output,) = self._left((self.arrived,))
        return Transition(output, [self.below], self._closed_depth)

    def _closed_depth(self) -> ClosedForm | None:
        closed = closed_form(self._left, (self.arrived,))
        if closed is None or self.arrived is self.below.leaves[0]:
            return closed
        return Behind(closed, Transition(self.arrived, [self.below]))

    def _left(self, arrived: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        output, memory = self.step(arrived[0], self.memory)
        for later in self.later:
            output, memory = self.step(later, memory)
        return (output,)


@dataclass(frozen=True)
class Decoder:
    """The way from the last layer to the output: ``transition()`` makes d output / d y_L; ``knob`` moves its radius."""

    name: str
    transition: Callable[[], Transition]
    knob: Knob | None


@dataclass(frozen=True)
class Grid:
    """A model as transitions at K ``points`` of ``num_steps`` steps: its layers from the input up, and the decoder."""

    points: Points
    layers: tuple[LayerRecord, ...]
    decoder: Decoder | None
    num_steps: int
