"""A first layer for layers that take tensors: it takes events too, and is measured as one row of the grid."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lsc_snn.adapters.base import Pass, SequenceAdapter, StepAdapter, find_adapters, register_adapter
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.grid import Memory, Points, Step
from lsc_snn.knobs import Knobs
from lsc_snn.recording import run_by_steps, unrolled


class EventLinear(nn.Linear):
    """A linear map W x + b of a dense input (..., num_inputs) or of an EventBatch, for which it sums over events."""

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the map of every time step."""
        if not isinstance(inputs, EventBatch):
            return super().forward(inputs)
        product = inputs.project(self.weight)
        return product if self.bias is None else product + self.bias


class FirstLayer(nn.Module):
    """A layer of torch.nn or a state-space block that takes a dense input (T, B, num_inputs) or an EventBatch.

    With an ``encoder`` the layer gets what that makes of the input, without one the dense tensor. Returns what the
    layer returns.

    >>> import torch
    >>> events = EventBatch.from_dense(torch.ones(5, 2, 8))
    >>> FirstLayer(nn.GRU(3, 4), EventLinear(8, 3))(events)[0].shape
    torch.Size([5, 2, 4])
    """

    def __init__(self, layer: nn.Module, encoder: EventLinear | None = None) -> None:
        super().__init__()
        self.encoder, self.layer = encoder, layer

    def encoded(self, inputs: Inputs) -> Tensor:
        """Return what the layer gets."""
        if self.encoder is not None:
            signal: Tensor = self.encoder(inputs)
            return signal
        return inputs.to_dense() if isinstance(inputs, EventBatch) else inputs

    def forward(self, inputs: Inputs, state: Any = None) -> Any:
        """Run a sequence; return the outputs (T, B, num_units) and the final state."""
        return self.layer(self.encoded(inputs), state)


class FirstLayerAdapter(SequenceAdapter):
    """The layer inside, whose input is that of the whole: the encoder is part of its depth transition."""

    def run(self, module: FirstLayer, inputs: Inputs, state: Any = None) -> Pass:
        """Run the layer inside once, as its own adapter does."""
        adapter, signal = _adapter_of(module), module.encoded(inputs)
        if isinstance(adapter, SequenceAdapter):
            done = adapter.run(module.layer, signal, state)
        else:
            done = _run_by_steps(adapter, module.layer, signal, state)

        def at(points: Points) -> tuple[Step, Memory]:
            step, memory = done.at(points)
            return lambda arrived, memory: step(module.encoded(arrived), memory), memory

        return Pass(inputs, done.output, done.returned, at)

    def unroll(self, module: FirstLayer, inputs: Inputs, state: Any = None) -> tuple[Any, list[Memory]]:
        """Do as the adapter of the layer inside."""
        into: dict[str, list[Memory]] = {}
        returned = unrolled("", module.layer, _adapter_of(module), into, (module.encoded(inputs), state), {})
        (memories,) = into.values()
        return returned, memories

    def knobs(self, module: FirstLayer) -> Knobs:
        """Return the knobs of the layer inside."""
        adapter = _adapter_of(module)
        parts = adapter.parts(module.layer) if isinstance(adapter, StepAdapter) else (module.layer,)
        return adapter.knobs(parts[0])


def _adapter_of(module: FirstLayer) -> StepAdapter | SequenceAdapter:
    ((_, _, adapter),) = find_adapters(module.layer)
    return adapter


def _run_by_steps(adapter: StepAdapter, layer: nn.Module, signal: Tensor, state: Any) -> Pass:
    """Run a sequence module of one layer."""
    arrived, memory = adapter.unpack(layer, signal, state)
    (part,) = adapter.parts(layer)
    done, last = run_by_steps(adapter, part, arrived, memory)
    return done._replace(returned=lambda output: adapter.pack(layer, output, last))


register_adapter(FirstLayer, FirstLayerAdapter())
