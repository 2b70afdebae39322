"""Networks as ONNX models: one time step of what has a memory, the whole map of what has none.

A step takes the input and the states to the output and the next states, each a tensor with the batch first, as a
streaming runtime calls it: start from zeros, and feed the states back. Complex states of LRU and S5 are pairs
(Re, Im) on a last axis, since ONNX has few operators for complex numbers.

Needs the extra ``onnx``; ``import lsc_snn`` alone does not import this one.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lsc_snn import _checks
from lsc_snn.adapters.base import find_adapters
from lsc_snn.first_layer import FirstLayer
from lsc_snn.layers import LI, SpikingLayer
from lsc_snn.network import Network
from lsc_snn.neurons import NeuronParameters, NeuronState
from lsc_snn.neurons import step as neuron_step
from lsc_snn.ssm_layers import SSMBlock

_GATED = (nn.GRU, nn.LSTM, nn.RNN)


def to_onnx(model: nn.Module, sample: Tensor | None = None) -> Any:
    """Return a model as an ``onnx.ModelProto``, in eval mode, of any batch size.

    Of a Network, a spiking layer, an LI, a layer of torch.nn (GRU, LSTM, RNN, with one layer and one direction) or an
    SSMBlock: one time step, ``(input, states...) -> (output, next states...)``; the inputs after "input" are the
    states, whose names end in "_next" among the outputs. Of any other model without memory: the model itself, "input"
    to "output". The graph is checked by ``onnx.checker``.

    Args:
        model: what to export; it is left as it is.
        sample: an input (B, ...) of a model without memory, from which sizes are taken, all but the first; else unused.

    Raises ValueError for a model that keeps a memory in another way, or needs a sample, and ImportError without the
    packages onnx and onnxscript.
    """
    _require()
    import onnx

    twin = copy.deepcopy(model).cpu().eval()
    module: nn.Module
    if isinstance(twin, Network) or _is_layer(twin):
        step = Step(twin)
        inputs = [torch.zeros(2, step.num_inputs, dtype=step.dtype), *step.initial_state(2)]
        module, names = step, step.state_names
    else:
        module, names, inputs = twin, [], [_sample(twin, sample)]
    batch = torch.export.Dim("batch", min=1)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs),
            dynamo=True,
            input_names=["input", *names],
            output_names=["output", *(f"{name}_next" for name in names)],
            dynamic_shapes=_shapes(module, batch, len(names)),
            verbose=False,
        )
    if program is None:
        raise ValueError("model: expected one that torch.onnx can export, got none; export its parts")
    proto = program.model_proto
    onnx.checker.check_model(proto)
    return proto


class Step(nn.Module):
    """One time step of a network or layer: (input (B, N), states...) to (output (B, M), next states...).

    >>> from lsc_snn import LIF
    >>> step = Step(LIF(3, 2, recurrent=False))
    >>> step.state_names, [tuple(x.shape) for x in step(torch.zeros(4, 3), *step.initial_state(4))]
    (['layer_v'], [(4, 2), (4, 2)])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        chain: list[tuple[str, nn.Module]] = [("layer", model)]
        if isinstance(model, Network):
            chain = [*((f"layer_{index}", layer) for index, layer in enumerate(model.layers))]
            chain.append(("readout", model.readout))
        self.cells = nn.ModuleDict({name: _cell(module) for name, module in chain})
        self.num_inputs = _width(chain[0][1])
        self.dtype = next(model.parameters()).dtype
        cells: list[tuple[str, Any]] = list(self.cells.items())
        self.state_names = [f"{name}_{part}" for name, cell in cells for part in cell.parts]

    def initial_state(self, batch_size: int) -> list[Tensor]:
        """Return the states at rest, zeros, in the order of ``state_names``."""
        cells: list[Any] = list(self.cells.values())
        return [torch.zeros(batch_size, *shape, dtype=self.dtype) for cell in cells for shape in cell.parts.values()]

    def forward(self, inputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Advance by one step."""
        before, after = list(states), []
        cell: Any
        for cell in self.cells.values():
            own, before = before[: len(cell.parts)], before[len(cell.parts) :]
            inputs, following = cell(inputs, own)
            after += following
        return inputs, *after


class _Spiking(nn.Module):
    """A spiking layer, with its parameters as values, and a plain step in place of the surrogate."""

    def __init__(self, layer: SpikingLayer) -> None:
        super().__init__()
        self.layer = layer
        rest = layer.initial_state(1)
        self.parts = {name: tuple(x.shape[1:]) for name, x in rest._asdict().items() if x is not None}
        self._rules: dict[str, Any] = {}
        for name, value in layer.neuron_parameters()._asdict().items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value.detach())
            else:
                self._rules[name] = value
        self._rules["surrogate"] = lambda x: (x > 0).to(x.dtype)

    def forward(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        values: dict[str, Any] = dict(self.named_buffers(recurse=False))
        parameters = NeuronParameters(**self._rules, **values)
        z, after = neuron_step(
            self.layer.current(inputs), NeuronState(**dict(zip(self.parts, states, strict=True))), parameters
        )
        return z, [x for x in after if x is not None]


class _Integrator(nn.Module):
    def __init__(self, layer: LI) -> None:
        super().__init__()
        self.layer = layer
        self.parts = {"v": (layer.num_units,)}
        self.register_buffer("alpha", layer.alpha.detach())

    def forward(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        v = torch.addcmul(self.layer.current(inputs), self.get_buffer("alpha"), states[0])
        return v, [v]


class _Gated(nn.Module):
    """A layer of torch.nn, one step of it."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        if layer.num_layers != 1 or layer.bidirectional or layer.proj_size:
            raise ValueError(
                f"model: expected {type(layer).__name__} of one layer and direction, without projection, got {layer}; "
                "stack layers in a Network"
            )
        self.layer = layer
        self.parts = {name: (layer.hidden_size,) for name in ("hc" if isinstance(layer, nn.LSTM) else "h")}

    def forward(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        layer: Any = self.layer
        weights = [layer.weight_ih_l0, layer.weight_hh_l0]
        weights += [layer.bias_ih_l0, layer.bias_hh_l0] if layer.bias else []
        if isinstance(layer, nn.LSTM):
            h, c = torch.lstm_cell(inputs, tuple(states), *weights)
            return h, [h, c]
        kinds = {"tanh": torch.rnn_tanh_cell, "relu": torch.rnn_relu_cell}
        cell: Any = torch.gru_cell if isinstance(layer, nn.GRU) else kinds[layer.nonlinearity]
        h = cell(inputs, states[0], *weights)
        return h, [h]


class _StateSpace(nn.Module):
    """A block of a state-space layer in real numbers: x' = lambda x + B u by parts, as ``lsc_snn.ssm.step``."""

    def __init__(self, block: SSMBlock) -> None:
        super().__init__()
        self.block = block
        self.parts = {"x": (block.ssm.num_states, 2)}
        system = block.ssm.system()
        self.register_buffer("real", system.eigenvalues.real.detach().clone())
        self.register_buffer("imaginary", system.eigenvalues.imag.detach().clone())
        for name in ("input_weight", "output_weight", "skip"):
            self.register_buffer(name, getattr(system, name).detach().clone())

    def forward(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        p: Any = dict(self.named_buffers(recurse=False))
        normed = self.block.norm(inputs)
        drive = functional.linear(normed, p["input_weight"])
        drive = drive.reshape(*drive.shape[:-1], -1, 2)
        re, im = states[0][..., 0], states[0][..., 1]
        turned = torch.stack([p["real"] * re - p["imaginary"] * im, p["real"] * im + p["imaginary"] * re], -1)
        x = turned + drive
        outputs = torch.addcmul(functional.linear(x.flatten(-2), p["output_weight"]), p["skip"], normed)
        return self.block._merge(inputs, outputs), [x]


class _Map(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.parts: dict[str, tuple[int, ...]] = {}

    def forward(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.layer(inputs), []


class _Encoded(nn.Module):
    """A first layer, with what it makes of the input."""

    def __init__(self, layer: FirstLayer) -> None:
        super().__init__()
        self.encoder, self.cell = layer.encoder or nn.Identity(), _cell(layer.layer)
        self.parts: dict[str, tuple[int, ...]] = self.cell.parts

    def forward(self, inputs: Tensor, states: Sequence[Tensor]) -> Any:
        return self.cell(self.encoder(inputs), states)


def _cell(module: nn.Module) -> Any:
    if isinstance(module, FirstLayer):
        return _Encoded(module)
    if isinstance(module, SpikingLayer):
        return _Spiking(module)
    if isinstance(module, LI):
        return _Integrator(module)
    if isinstance(module, _GATED):
        return _Gated(module)
    return _StateSpace(module) if isinstance(module, SSMBlock) else _Map(module)


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of which a step can be written: not one of ``lsc_snn.nir``, without a weight."""
    known = isinstance(module, (SpikingLayer, LI, SSMBlock, FirstLayer, *_GATED))
    return known and getattr(module, "weight", module) is not None


def _width(module: Any) -> int:
    """Return the number of inputs of a first layer."""
    if isinstance(module, FirstLayer):
        return _width(module.layer) if module.encoder is None else module.encoder.in_features
    if isinstance(module, SSMBlock):
        return module.ssm.num_units
    return int(module.input_size if isinstance(module, _GATED) else module.num_inputs)


def _sample(model: nn.Module, sample: Tensor | None) -> Tensor:
    for name, module, adapter in find_adapters(model):
        if adapter.role != "feedforward":
            raise ValueError(
                f"layer {name or 'model'!r}: expected a Network, one layer with weights, or a model without memory, "
                f"got {type(module).__name__}{f' inside a {type(model).__name__}' if name else ''}; "
                "export its layers, each as one step, or a graph by to_nir"
            )
    if sample is None:
        raise ValueError("sample: expected an input (B, ...) of a model of yours, got None; pass one")
    _checks.check_float("sample", sample)
    _checks.check_finite("sample", sample)
    if sample.dim() < 2:
        raise ValueError(f"sample: expected shape (B, ...), got {tuple(sample.shape)}; add a batch axis")
    return sample.detach().cpu().repeat(2, *[1] * (sample.dim() - 1))  # a batch of 1 would be taken for a constant


def _shapes(module: nn.Module, batch: Any, states: int) -> Any:
    """Return the dynamic axes in the form of the module's forward."""
    return ({0: batch}, tuple({0: batch} for _ in range(states))) if isinstance(module, Step) else ({0: batch},)


def _require() -> None:
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"to_onnx: expected the package {name}, got none; pip install 'lsc-snn[onnx]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own warnings, log and progress to itself."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
