"""The equations of torch's fused recurrent cells, taken apart: the same numbers, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

Biases = Tensor | None
State = tuple[Tensor, Tensor]


def rnn_tanh_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Biases = None, b_hh: Biases = None) -> Tensor:
    """Return h' = tanh(W_ih x + b_ih + W_hh h + b_hh), as ``torch.rnn_tanh_cell``."""
    return (linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh)).tanh()


def rnn_relu_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Biases = None, b_hh: Biases = None) -> Tensor:
    """Return the same with a ReLU, as ``torch.rnn_relu_cell``."""
    return (linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh)).relu()


def gru_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Biases = None, b_hh: Biases = None) -> Tensor:
    """Return h' of the gates (reset, update, new), as ``torch.gru_cell``."""
    from_x, from_h = linear(x, w_ih, b_ih).chunk(3, 1), linear(h, w_hh, b_hh).chunk(3, 1)
    reset, update = (from_x[0] + from_h[0]).sigmoid(), (from_x[1] + from_h[1]).sigmoid()
    new = (from_x[2] + reset * from_h[2]).tanh()
    return new + update * (h - new)


def lstm_cell(
    x: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Biases = None, b_hh: Biases = None
) -> tuple[Tensor, Tensor]:
    """Return (h', c') of the gates (input, forget, cell, output), as ``torch.lstm_cell``."""
    h, c = state
    i, f, g, o = (linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


FUSED: dict[Any, Callable[..., Any]] = {
    torch.rnn_tanh_cell: rnn_tanh_cell,
    torch.rnn_relu_cell: rnn_relu_cell,
    torch.gru_cell: gru_cell,
    torch.lstm_cell: lstm_cell,
}
"""Each of torch's cells, and its equations."""
