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

from lsc_snn.adapters.base import StepAdapter, register_adapter
from lsc_snn.grid import Memory
from lsc_snn.knobs import Knob, Knobs, changed, movable, multiplied, together

_RATES = ("tau_mem_inv", "tau_syn_inv", "tau_adapt_inv", "tau_ada_inv")
"""Parameters that are inverse time constants: what they belong to decays by 1 - dt rate in a step."""
_SLOWEST = 1 - 1e-6
"""Largest decay that a time knob sets."""


class NeuronAdapter(StepAdapter):
    """Every neuron built on Norse's four bases: ``SNNCell``, ``SNNRecurrentCell``, ``SNN`` and ``SNNRecurrent``.

    The memory is all tensors of the state, (z, v, i, ...). Knobs: ``input_weights`` move the depth radius, or, in a
    neuron without, the module in front; ``recurrent_weights`` move the time radius, and so do the decays, where the
    user made an inverse time constant in ``p`` an ``nn.Parameter`` (Norse's own are constants). A threshold that is one
    moves the firing rate.
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
        memory = tuple(
            torch.as_tensor(part).to(input_tensor.device, torch.result_type(part, input_tensor)).expand(shape)
            for part in _flat(first, self._form(module, input_tensor))
        )
        return input_tensor, memory

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
        return Knobs(_depth(module), _time(module), _threshold(module))

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
        return Knobs(_depth(module))


class LinearReadoutAdapter(ReadoutAdapter):
    """The leaky integrator with weights, ``LILinearCell``."""

    def initial(self, module: Any, like: Tensor) -> Any:
        """Return the state of a neuron at rest."""
        return LIState(v=module.p.v_leak.detach(), i=like.new_zeros(()))


def _parameter(module: Any, name: str) -> nn.Parameter | None:
    value = getattr(module, name, None)
    return value if isinstance(value, nn.Parameter) else None


def _depth(module: Any) -> Knob | None:
    return multiplied([_parameter(module, "input_weights")])


def _time(module: Any) -> Knob | None:
    """Return the knob of recurrent weights and decays; recurrent weights alone raise the radius, if they can."""
    recurrent, decays = multiplied([_parameter(module, "recurrent_weights")]), _decays(module)
    both = together(recurrent, decays)
    if both is None or recurrent is None or not movable(recurrent):
        return both

    def turn(factor: float) -> None:
        # Slower neurons also hand less of their input up, so that depth and time radius could not both be large.
        (both if factor < 1 else recurrent).turn(factor)

    return Knob(both.parameters, turn, _slowest_constant(module))


def _slowest_constant(module: Any) -> float:
    """Return the largest decay whose rate is no parameter that may move; 0 without any."""
    rates = [getattr(level, name, None) for level in _levels(module.p) for name in _RATES]
    fixed = [rate for rate in rates if rate is not None and not (isinstance(rate, nn.Parameter) and rate.requires_grad)]
    return max((float(torch.as_tensor(1 - module.dt * rate).detach().abs().max()) for rate in fixed), default=0.0)


def _decays(module: Any) -> Knob | None:
    """Return the knob that multiplies the decays 1 - dt rate behind inverse time constants."""

    def change(rate: Tensor, factor: float) -> Tensor:
        decay: Tensor = (1 - module.dt * rate) * factor
        after: Tensor = (1 - decay.clamp(-_SLOWEST, _SLOWEST)) / module.dt
        return after

    return changed((_parameter(level, name) for level in _levels(module.p) for name in _RATES), change)


def _threshold(module: Any) -> Knob | None:
    """Return the knob that multiplies the distance of the threshold from rest."""
    levels = [(level, _parameter(level, "v_th")) for level in _levels(module.p)]
    found = [(level, v_th) for level, v_th in levels if v_th is not None]

    @torch.no_grad()
    def turn(factor: float) -> None:
        for level, v_th in found:
            if v_th.requires_grad:
                rest = level.v_leak if hasattr(level, "v_leak") else level.v_reset
                v_th.copy_(rest + factor * (v_th - rest))

    return Knob(tuple(v_th for _, v_th in found), turn) if found else None


def _levels(p: Any) -> Iterator[Any]:
    """Yield parameters of a neuron, and those that they hold, such as the LIF part of a refractory one."""
    yield p
    for inner in p.children() if isinstance(p, nn.Module) else p if isinstance(p, tuple) else ():
        if isinstance(inner, tuple | nn.Module):
            yield from _levels(inner)


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
