"""Adapters of Norse: its neurons and leaky integrators, as cells and over time, without and with recurrence.

Containers (``SequentialState``, ``Lift``, ``RecurrentSequential``) need none: the modules inside them are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from norse.torch.functional.leaky_integrator import LIState
from norse.torch.module.leaky_integrator import LI, LICell, LILinearCell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor, nn

from lsc_snn.adapters import norse_knobs
from lsc_snn.adapters.base import StepAdapter, register_adapter
from lsc_snn.grid import Memory
from lsc_snn.knobs import Knobs


class NeuronAdapter(StepAdapter):
    """Every neuron built on Norse's four bases: ``SNNCell``, ``SNNRecurrentCell``, ``SNN`` and ``SNNRecurrent``.

    The memory is all tensors of the state, (z, v, i, ...). Knobs: ``input_weights`` move the depth radius, or, in a
    neuron without, the module in front; ``recurrent_weights`` move the time radius, and so do those constants in ``p``
    that the user made an ``nn.Parameter`` (Norse's own are none): inverse time constants, ``delta_T``, and
    ``adaptation_current`` with ``tau_ada_inv``. A threshold that is one moves the firing rate.
    """

    spiking = True

    def __init__(self) -> None:
        self._forms: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()

    def initial(self, module: Any, like: Tensor) -> Any:
        """Return the state in which the module starts, of any shape that broadcasts to that of its neurons."""
        own = module.__dict__
        kept = {name: value for name, value in own.items() if isinstance(value, tuple)}
        # Norse marks v of the state as requiring a gradient, also where that is a constant of the module itself.
        own.update({name: _detached(value) for name, value in kept.items()})
        try:
            return module.state_fallback(like)
        finally:
            own.update(kept)

    def over_time(self, module: Any) -> bool:
        """Say whether the module is one over time."""
        return isinstance(module, SNN | SNNRecurrent)

    def unpack(self, module: Any, input_tensor: Tensor, state: Any = None) -> tuple[Tensor, Memory]:
        """Return the input and the state, each tensor of it in the shape of the neurons."""
        name = type(module).__name__
        if input_tensor.is_sparse:
            raise TypeError(f"{name}: expected a dense input, got a sparse tensor; give it input.to_dense()")
        if getattr(module, "record_states", False):
            raise ValueError(f"{name}: expected record_states=False, got True; set it to False to measure the model")
        first = self.initial(module, input_tensor) if state is None else state
        shape = tuple(input_tensor.shape[1:] if self.over_time(module) else input_tensor.shape)
        if hasattr(module, "hidden_size"):
            shape = (*shape[:-1], int(module.hidden_size))
        return input_tensor, tuple(
            _shaped(part, shape, input_tensor) for part in _flat(first, self._form(module, input_tensor))
        )

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Run the module's own forward, on a sequence of one step if it is one over time."""
        unfold = self.over_time(module)
        row = arrived[None] if unfold else arrived
        output, state = module.forward(row, self._state(module, row, memory))
        return output[0] if unfold else output, _flat(state, state)

    def pack(self, module: Any, output: Tensor, memory: Memory) -> Any:
        """Return the output and the state."""
        return output, self._state(module, output, memory)

    def knobs(self, module: Any) -> Knobs:
        """Return the knobs of those parameters that the module has."""
        return Knobs(norse_knobs.depth(module), norse_knobs.time(module), norse_knobs.threshold(module))

    def _state(self, module: Any, like: Tensor, memory: Memory) -> Any:
        return _filled(self._form(module, like), iter(memory))

    def _form(self, module: Any, like: Tensor) -> Any:
        """Return the form of a module's states: nested tuples without entries.

        It is kept for each module, since to make a first state takes as long as a step.
        """
        if module not in self._forms:
            self._forms[module] = _emptied(self.initial(module, like))
        return self._forms[module]


class ReadoutAdapter(NeuronAdapter):
    """The leaky integrators LI and LIBox, whose output is their potential."""

    role = "readout"
    spiking = False

    def knobs(self, module: Any) -> Knobs:
        """Return no knob but that of the weights: a readout's time transition is no part of the grid."""
        return Knobs(norse_knobs.depth(module))


class LinearReadoutAdapter(ReadoutAdapter):
    """The leaky integrator with weights, ``LILinearCell``."""

    def initial(self, module: Any, like: Tensor) -> Any:
        """Return the state of a neuron at rest."""
        return LIState(v=module.p.v_leak.detach(), i=like.new_zeros(()))


def _shaped(part: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return an entry of a state, a number or a tensor, in the shape of the neurons."""
    if isinstance(part, Tensor) and part.shape == shape and part.dtype == like.dtype and part.device == like.device:
        return part  # as after every step
    return torch.as_tensor(part).to(like.device, torch.result_type(part, like)).expand(shape)


def _flat(state: Any, like: Any) -> Memory:
    """Return the entries of a state, nested or not, that another one has, in its order."""
    if not isinstance(like, tuple):
        return (state,)
    parts = [getattr(state, name) for name in like._fields] if hasattr(like, "_fields") else state
    return tuple(entry for part, inner in zip(parts, like, strict=True) for entry in _flat(part, inner))


def _filled(state: Any, entries: Iterator[Tensor]) -> Any:
    """Return a state with its entries replaced, in order."""
    if not isinstance(state, tuple):
        return next(entries)
    return _rebuilt(state, [_filled(part, entries) for part in state])


def _emptied(state: Any) -> Any:
    return _rebuilt(state, [_emptied(part) for part in state]) if isinstance(state, tuple) else None


def _detached(value: Any) -> Any:
    if isinstance(value, tuple):
        return _rebuilt(value, [_detached(part) for part in value])
    return value.detach() if isinstance(value, Tensor) else value


def _rebuilt(value: Any, parts: list[Any]) -> Any:
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


for _base in (SNNCell, SNNRecurrentCell, SNN, SNNRecurrent):
    register_adapter(_base, NeuronAdapter())
for _integrator in (LICell, LI, LIBoxCell):
    register_adapter(_integrator, ReadoutAdapter())
register_adapter(LILinearCell, LinearReadoutAdapter())
