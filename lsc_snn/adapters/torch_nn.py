"""Adapters of torch.nn: recurrent modules and cells, and feed-forward layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsc_snn.adapters.base import StepAdapter, register_adapter
from lsc_snn.grid import Memory
from lsc_snn.knobs import Knob, Knobs, multiplied, together


@dataclass(frozen=True)
class Layer:
    """One layer of an nn.RNN, nn.GRU or nn.LSTM."""

    module: nn.RNNBase
    index: int

    def own(self, name: str) -> Any:
        """Return a parameter of the layer by its name without the number, None where there is none."""
        return getattr(self.module, f"{name}_l{self.index}", None)

    def step(self, x: Tensor, memory: Memory) -> Memory:
        """Return the memory, (h,) or (h, c), after one step."""
        weights = [self.own(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if self.module.mode == "LSTM":
            return _lstm(x, memory, *weights, self.own("weight_hr"))
        cells = {"GRU": torch.gru_cell, "RNN_TANH": torch.rnn_tanh_cell, "RNN_RELU": torch.rnn_relu_cell}
        return (cells[self.module.mode](x, memory[0], *weights),)


def _lstm(
    x: Tensor, memory: Memory, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, w_hr: Tensor | None
) -> Memory:
    h, c = memory
    i, f, g, o = (F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w_hr is None else F.linear(h, w_hr), c)


def _recurrent_knobs(w_ih: Any, w_hh: Any, b_hh: Any, gated: bool) -> Knobs:
    gate = _odds(b_hh) if gated and b_hh is not None else None
    return Knobs(depth=multiplied([w_ih]), time=together(multiplied([w_hh]), gate))


def _odds(bias: nn.Parameter) -> Knob:
    @torch.no_grad()
    def turn(factor: float) -> None:
        if bias.requires_grad:
            bias.view(-1, bias.numel())
    return Knob((bias,), turn)


class CellAdapter(StepAdapter):
    def unpack(self, module: nn.RNNCellBase, input: Tensor, hx: Any = None) -> tuple[Tensor, Memory]:
        if input.dim() != 2:
            raise ValueError
        lstm = isinstance(module, nn.LSTMCell)
        if hx is None:
            zeros = input.new_zeros(len(input), module.hidden_size)
            return input, (zeros, zeros) if lstm else (zeros,)
        return input, tuple(hx) if lstm else (hx,)

    def step(self, module, arrived, memory):
        if isinstance(module, nn.LSTMCell):
            after = module(arrived, memory)
        else:
            after = (module(arrived, memory[0]),)
        return after[0], after

    def pack(self, module, output, memory):
        return memory if isinstance(module, nn.LSTMCell) else memory[0]

    def knobs(self, module):
        return Knobs(depth=multiplied([module.weight_ih]), time=multiplied([module.weight_hh]))


class StackAdapter(StepAdapter):
    def over_time(self, module): return True
    def parts(self, module): return tuple(Layer(module, i) for i in range(module.num_layers))
    def unpack(self, module, input, hx=None):
        lstm = module.mode == "LSTM"
        B = input.shape[0 if module.batch_first else 1]
        x = input.transpose(0,1) if module.batch_first else input
        if hx is None:
            h = x.new_zeros(module.num_layers, B, module.proj_size or module.hidden_size)
            hx = (h, x.new_zeros(module.num_layers, B, module.hidden_size)) if lstm else h
        mem = zip(*hx) if lstm else zip(hx)
        return x, tuple(t for layer in mem for t in layer)
    def step(self, part, x, m):
        after = part.step(x, m)
        return after[0], after
    def pack(self, module, y, m):
        y = y.transpose(0,1) if module.batch_first else y
        if module.mode == "LSTM":
            return y, (torch.stack(m[::2]), torch.stack(m[1::2]))
        return y, torch.stack(m)
    def knobs(self, part):
        return Knobs(depth=multiplied([part.own("weight_ih")]), time=multiplied([part.own("weight_hh")]))


class FeedForwardAdapter(StepAdapter):
    role = "feedforward"
    def unpack(self, module, input): return input, ()
    def step(self, module, x, m): return module(x), ()
    def pack(self, module, y, m): return y
    def knobs(self, module): return Knobs(depth=multiplied([module.weight, module.bias]))

for k in (nn.RNNCell, nn.GRUCell, nn.LSTMCell): register_adapter(k, CellAdapter())
for k in (nn.RNN, nn.GRU, nn.LSTM): register_adapter(k, StackAdapter())
for k in (nn.Linear, nn.Conv1d, nn.Conv2d): register_adapter(k, FeedForwardAdapter())
