"""Adapters of torch.nn: recurrent modules and cells, and feed-forward layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from lsc_snn.adapters.base import StepAdapter, register_adapter
from lsc_snn.fused import lstm_cell
from lsc_snn.grid import Memory
from lsc_snn.knobs import Knob, Knobs, movable, together

_DECISIVE = 0.9
"""Factor of a time knob from which on, downwards, the input weights of the gate follow it."""


class CellAdapter(StepAdapter):
    """RNNCell, GRUCell, LSTMCell, called once a step in a user's loop. The memory is (h,) or (h, c).

    Knobs: input weights move the depth radius, recurrent weights the time radius. A GRU and an LSTM keep a share of
    their memory, z or f, below which no recurrent weight brings the time radius. So the bias of that gate goes along:
    its odds at zero input are multiplied by the square of the factor, up to a gate of 1/2 or where it was; beyond,
    recurrent weights do better, for a GRU that keeps nearly all takes in nearly nothing. And the input weights of that
    gate follow the depth knob by the square root: if they grew as the others do, the gate would saturate, and its
    largest value hold the time radius near 1. They follow the time knob down, for a gate that a strong input drives to
    1 heeds neither its bias nor recurrent weights, but not up.
    """

    def unpack(self, module: Any, input: Tensor, hx: Any = None) -> tuple[Tensor, Memory]:
        """Return the input (B, features) and the memory, zeros where ``hx`` is None."""
        if input.dim() != 2:
            raise ValueError(
                f"{type(module).__name__}: expected a batch, (batch, features), got shape {tuple(input.shape)}; "
                "add the batch with unsqueeze(0)"
            )
        if hx is None:
            hx = (input.new_zeros(len(input), module.hidden_size),) * 2
            return input, hx if isinstance(module, nn.LSTMCell) else hx[:1]
        return input, tuple(hx) if isinstance(module, nn.LSTMCell) else (hx,)

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Call the module."""
        if isinstance(module, nn.LSTMCell):
            after = module(arrived, memory)
            return after[0], after
        h = module(arrived, memory[0])
        return h, (h,)

    def pack(self, module: Any, output: Tensor, memory: Memory) -> Any:
        """Return h, or (h, c) for an LSTM."""
        return memory if isinstance(module, nn.LSTMCell) else memory[0]

    def knobs(self, module: Any) -> Knobs:
        """Return the knobs of the cell."""
        return _recurrent_knobs(module, "", gated=not isinstance(module, nn.RNNCell))


@dataclass(frozen=True)
class _Layer:
    """One layer of a stacked module."""

    module: Any
    suffix: str

    def own(self, name: str) -> Any:
        return getattr(self.module, name + self.suffix, None)

    def step(self, x: Tensor, memory: Memory) -> Memory:
        """Return the memory, (h,) or (h, c), after one step."""
        weights = [self.own(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if self.module.mode == "GRU":
            return (torch.gru_cell(x, memory[0], *weights),)
        if self.module.mode != "LSTM":
            cell = torch.rnn_tanh_cell if self.module.mode == "RNN_TANH" else torch.rnn_relu_cell
            return (cell(x, memory[0], *weights),)
        h, c = lstm_cell(x, (memory[0], memory[1]), *weights)  # torch.lstm_cell knows no projection
        return (F.linear(h, self.own("weight_hr")) if self.module.proj_size else h), c


class StackAdapter(StepAdapter):
    """RNN, GRU, LSTM: the sequence modules, of one or more layers, each a row of the grid.

    A layer is run by torch's cell of its kind and not by the module's own forward, whose fused kernels cannot be
    differentiated twice; the numbers are the same to rounding. Dropout between layers is the identity, as in eval mode.
    The knobs are those of the cells (``CellAdapter``); the projection of an LSTM stays as it is.
    """

    def over_time(self, module: Any) -> bool:
        """Return True."""
        return True

    def parts(self, module: Any) -> tuple[_Layer, ...]:
        """Return the layers."""
        return tuple(_Layer(module, f"_l{index}") for index in range(module.num_layers))

    def unpack(self, module: Any, input: Any, hx: Any = None) -> tuple[Tensor, Memory]:
        """Return the input, time first, and the memories of all layers, zeros where ``hx`` is None."""
        _check_call(module, input)
        batch = input.shape[0 if module.batch_first else 1]
        lstm = module.mode == "LSTM"
        if hx is None:
            h = input.new_zeros(module.num_layers, batch, module.proj_size or module.hidden_size)
            hx = (h, input.new_zeros(module.num_layers, batch, module.hidden_size)) if lstm else h
        module.check_forward_args(input, hx, None)
        states = zip(*hx, strict=True) if lstm else zip(hx, strict=True)
        memory = tuple(tensor for layer in states for tensor in layer)
        return (input.transpose(0, 1) if module.batch_first else input), memory

    def step(self, module: _Layer, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Do one step of a layer."""
        after = module.step(arrived, memory)
        return after[0], after

    def pack(self, module: Any, output: Tensor, memory: Memory) -> Any:
        """Return (output, h_n), or (output, (h_n, c_n)) for an LSTM."""
        output = output.transpose(0, 1) if module.batch_first else output
        if module.mode == "LSTM":
            return output, (torch.stack(memory[::2]), torch.stack(memory[1::2]))
        return output, torch.stack(memory)

    def knobs(self, module: _Layer) -> Knobs:
        """Return the knobs of a layer."""
        return _recurrent_knobs(module.module, module.suffix, gated=module.module.mode in ("GRU", "LSTM"))


class FeedForwardAdapter(StepAdapter):
    """Linear, Conv1d, Conv2d, Conv3d: rows of the grid in a model without memory. Weight and bias move the depth.

    Activations, residual connections and normalisations in between are part of the transitions; BatchNorm is in eval
    mode, with its running statistics.
    """

    role = "feedforward"

    def unpack(self, module: Any, input: Tensor) -> tuple[Tensor, Memory]:
        """Return the input (B, ...); there is no memory."""
        spatial = len(getattr(module, "kernel_size", ()))
        if input.dim() < 2 or (spatial and input.dim() != spatial + 2):
            wanted = "(batch, channels" + ", size" * spatial + ")" if spatial else "(batch, ..., features)"
            raise ValueError(
                f"{type(module).__name__}: expected a batch, {wanted}, got shape {tuple(input.shape)}; "
                "add the batch with unsqueeze(0)"
            )
        return input, ()

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Call the module."""
        return module(arrived), ()

    def pack(self, module: Any, output: Tensor, memory: Memory) -> Any:
        """Return the output."""
        return output

    def knobs(self, module: Any) -> Knobs:
        """Return the knob of weight and bias."""
        return Knobs(depth=together(_changed(module, "weight", _scaled), _changed(module, "bias", _scaled)))


def _check_call(module: Any, input: Any) -> None:
    """Raise ValueError for a call of a sequence module that has no grid."""
    name = type(module).__name__
    if module.bidirectional:
        raise ValueError(
            f"{name}: expected one direction, got bidirectional=True, whose gradient runs both ways in time and so on "
            "no grid of steps and layers; use one direction"
        )
    if type(module).forward not in [kind.forward for kind in _RECURRENT]:
        raise ValueError(
            f"{name}: expected the forward of the torch.nn class that it inherits from, got its own; "
            "teach it the library with lsc_snn.register_adapter"
        )
    if isinstance(input, PackedSequence):
        raise ValueError(f"{name}: expected a padded tensor, got a PackedSequence; unpack it with pad_packed_sequence")
    if input.dim() != 3:
        order = "(batch, time steps, features)" if module.batch_first else "(time steps, batch, features)"
        raise ValueError(
            f"{name}: expected a batch, {order}, got shape {tuple(input.shape)}; add the batch with unsqueeze"
        )


def _recurrent_knobs(module: Any, suffix: str, *, gated: bool) -> Knobs:
    """Return the knobs of a recurrent layer whose parameters end in ``suffix``."""
    weights, recurrent = f"weight_ih{suffix}", _changed(module, f"weight_hh{suffix}", _scaled)
    if not gated:
        return Knobs(_changed(module, weights, _scaled), recurrent)
    start, stop = module.hidden_size, 2 * module.hidden_size  # z of (r, z, n) in a GRU, f of (i, f, g, o) in an LSTM
    biases = [name for name in (f"bias_hh{suffix}", f"bias_ih{suffix}") if getattr(module, name, None) is not None]

    def scaled(weight: Tensor, factor: float) -> Tensor:
        return torch.cat([weight[:start] * factor, weight[start:stop] * factor**0.5, weight[stop:] * factor])

    def shifted(bias: Tensor, factor: float) -> Tensor:
        before = torch.stack([getattr(module, name)[start:stop] for name in biases]).sum(0)  # logarithm of the odds
        after = torch.minimum(before + 2 * math.log(factor), before.clamp(min=0))
        return torch.cat([bias[:start], bias[start:stop] + after - before, bias[stop:]])

    def narrowed(weight: Tensor, factor: float) -> Tensor:
        # By large steps alone: small ones go up and down about a target, and would take more and more.
        return torch.cat([weight[:start], weight[start:stop] * min(factor / _DECISIVE, 1.0), weight[stop:]])

    free = next((name for name in biases if getattr(module, name).requires_grad), None)
    gate = None if free is None else _changed(module, free, shifted)
    time = together(recurrent, gate)
    if movable(time):  # which raises the radius too, as narrower input weights do not
        time = together(time, _changed(module, weights, narrowed))
    return Knobs(_changed(module, weights, scaled), time)


def _scaled(value: Tensor, factor: float) -> Tensor:
    return value * factor


def _changed(module: Any, name: str, change: Callable[[Tensor, float], Tensor]) -> Knob | None:
    """Return the knob that changes a parameter, or the value behind a parametrisation of it; None without it."""
    parametrised = parametrize.is_parametrized(module, name)
    value = getattr(module, name, None)
    parameters = tuple(module.parametrizations[name].parameters()) if parametrised else (value,)
    known = tuple(parameter for parameter in parameters if isinstance(parameter, nn.Parameter))
    if not known:
        return None

    @torch.no_grad()
    def turn(factor: float) -> None:
        if not all(parameter.requires_grad for parameter in known):
            return
        after = change(getattr(module, name), factor)
        if parametrised:
            setattr(module, name, after)
        else:
            getattr(module, name).copy_(after)

    return Knob(known, turn)


_RECURRENT: tuple[type[nn.Module], ...] = (nn.RNN, nn.GRU, nn.LSTM)
_CELLS: tuple[type[nn.Module], ...] = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)
_FEEDFORWARD: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
for _kinds, _adapter in ((_CELLS, CellAdapter()), (_RECURRENT, StackAdapter()), (_FEEDFORWARD, FeedForwardAdapter())):
    for _kind in _kinds:
        register_adapter(_kind, _adapter)
