"""One layer of a model as a NIR node: its neurons, and the weights or the bias that it brings along."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsc_snn.layers import LI, SpikingLayer
from lsc_snn.nir import compose
from lsc_snn.nir.compose import Values
from lsc_snn.nir.synaptic import Synaptic
from lsc_snn.ssm_layers import SSMBlock, StateSpaceLayer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """What an export knows of a layer: its name, the shapes of one sample at its two ends, and how to write it.

    ``dtype`` is that of weights; ``potential`` says that its potential is read, not its spikes; ``mean`` is its mean
    output on the sample, for the approximation of an adaptation.
    """

    name: str
    before: Shape
    after: Shape
    dt: float
    dtype: Any
    approximate: bool
    potential: bool
    mean: Values

    def per_unit(self, value: Tensor | float) -> Values:
        """Return a value of each neuron, in the shape of the neurons, from one for all or any that broadcasts."""
        array = np.asarray(torch.as_tensor(value).detach().cpu(), dtype=np.float64)
        if array.size == math.prod(self.after):
            return array.reshape(self.after)
        return np.array(np.broadcast_to(array, self.after))

    def weight(self, value: Tensor) -> NDArray[Any]:
        """Return a weight as an array."""
        return np.asarray(value.detach().cpu()).astype(self.dtype)

    def weights(self, value: Tensor | None) -> NDArray[Any] | None:
        """Return a weight as an array, or None for none."""
        return None if value is None else self.weight(value)

    def refuse(self, expected: str, got: str, remedy: str) -> ValueError:
        """Return the error of a layer that NIR cannot express."""
        return ValueError(f"layer {self.name!r}: expected {expected}, got {got}; {remedy}")


class Block(NamedTuple):
    """A node, the input weights in front of it, and a constant that is added to its input."""

    node: Any
    weight: NDArray[Any] | None = None
    bias: Values | None = None


Writer = Callable[[Any, Layer], Block]


def block_of(module: nn.Module, layer: Layer) -> Block:
    """Return the block of a layer. Raises ValueError for one that NIR cannot express, with what to do instead."""
    if isinstance(module, SpikingLayer):
        return _spiking(module, layer)
    if isinstance(module, Synaptic):
        return _synaptic(module, layer)
    if isinstance(module, LI):
        node = compose.integrator(f"layer {layer.name!r}", layer.per_unit(module.alpha), layer.dt)
        return Block(node, layer.weights(module.weight), _bias(module.bias))
    package = type(module).__module__.partition(".")[0]
    if package == "snntorch":
        from lsc_snn.nir import export_snntorch

        return export_snntorch.block_of(module, layer)
    if package == "norse":
        from lsc_snn.nir import export_norse

        return export_norse.block_of(module, layer)
    return Block(_map(module, layer))


def _spiking(module: SpikingLayer, layer: Layer) -> Block:
    if module.refractory:
        raise layer.refuse(
            "refractory=0",
            f"{module.refractory}",
            "NIR has no refractory period: train without one, or export it by hand",
        )
    rho, beta = module.rho, module.beta
    if beta is not None and not bool(beta.any()):
        rho = beta = None
    if beta is not None and module.reset == "hard" and not layer.approximate:
        raise layer.refuse(
            "reset='soft' or 'none' in an adaptive layer",
            "'hard'",
            "no NIR node sets a potential to zero at a threshold that moves: use another reset, or approximate=True",
        )
    alpha, threshold = layer.per_unit(module.alpha), layer.per_unit(module.threshold)
    weight = layer.weights(module.recurrent_weight)
    if module.reset == "hard" or layer.approximate:
        mean = 0.0 if beta is None else layer.per_unit(beta) * layer.mean
        node = compose.hard(layer.name, alpha, threshold + mean, layer.dt)
        node = node if weight is None else compose.recurrent(node, weight)
    else:
        node = compose.composed(
            layer.name,
            alpha,
            threshold,
            layer.dt,
            reset=threshold if module.reset == "soft" else None,
            weight=weight,
            rho=None if rho is None else layer.per_unit(rho),
            beta=None if beta is None else layer.per_unit(beta),
        )
    return Block(node, layer.weights(module.weight), _bias(module.bias))


def _synaptic(module: Synaptic, layer: Layer) -> Block:
    neurons, weight = module.neurons, layer.weights(module.recurrent_weight)
    if neurons.refractory or neurons.beta is not None or neurons.recurrent_raw is not None:
        raise layer.refuse(
            "membranes without a refractory period, an adaptation and a recurrence of their own",
            str(neurons),
            "no NIR node has these behind a synaptic current",
        )
    alpha, threshold, gamma = map(layer.per_unit, (neurons.alpha, neurons.threshold, module.gamma))
    if neurons.reset == "hard" or layer.approximate:
        node = compose.hard(layer.name, alpha, threshold, layer.dt, gamma)
        return Block(node if weight is None else compose.recurrent(node, weight))
    reset = threshold if neurons.reset == "soft" else None
    return Block(compose.composed(layer.name, alpha, threshold, layer.dt, reset=reset, weight=weight, synapse=gamma))


def _bias(bias: Tensor | None) -> Values | None:
    return None if bias is None else np.asarray(bias.detach().cpu(), dtype=np.float64)


def _map(module: nn.Module, layer: Layer) -> Any:
    """Return the node of a map without memory."""
    before = np.array(layer.before)
    if isinstance(module, nn.Linear):
        if len(layer.before) != 1:
            raise layer.refuse("a vector for a Linear", f"shape {layer.before}", "flatten it first")
        return affine(layer.weight(module.weight), _bias(module.bias))
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        if module.padding_mode != "zeros":
            raise layer.refuse("padding_mode='zeros'", repr(module.padding_mode), "NIR pads with zeros alone")
        bias = torch.zeros(module.out_channels) if module.bias is None else module.bias
        flat = isinstance(module, nn.Conv1d)
        options = [module.stride, module.padding, module.dilation]
        if module.padding in ("same", "valid"):  # in numbers: nir cannot size such a Conv1d
            extra = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            if module.padding == "same" and any(e % 2 for e in extra):
                raise layer.refuse("as much padding on both sides", "'same' with an even kernel", "use an odd kernel")
            options[1] = tuple(e // 2 if module.padding == "same" else 0 for e in extra)
        stride, padding, dilation = [o[0] if flat and isinstance(o, tuple) else o for o in options]
        node = (nir.Conv1d if flat else nir.Conv2d)(
            input_shape=layer.before[1] if flat else tuple(layer.before[1:]),
            weight=layer.weight(module.weight),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=module.groups,
            bias=layer.weight(bias),
        )
        node.input_type["input"] = before  # nir takes the channels of one group
        return node
    if isinstance(module, nn.AvgPool2d):
        two = np.ones(2, dtype=int)
        padding = two * np.array(module.padding)
        if module.ceil_mode or module.divisor_override or (padding.any() and not module.count_include_pad):
            raise layer.refuse("an AvgPool2d with the default options", str(module), "NIR knows size, stride, padding")
        node = nir.AvgPool2d(two * np.array(module.kernel_size), two * np.array(module.stride), padding)
        node.input_type, node.output_type = {"input": before}, {"output": np.array(layer.after)}
        return node
    if isinstance(module, nn.Flatten):
        start, end = (dim - 1 if dim > 0 else dim for dim in (module.start_dim, module.end_dim))
        if module.start_dim == 0:
            raise layer.refuse("start_dim of at least 1", "0", "NIR knows no batch to flatten")
        return nir.Flatten(input_type={"input": before}, start_dim=start, end_dim=end)
    raise _unknown(module, layer)


def _unknown(module: nn.Module, layer: Layer) -> ValueError:
    kind = type(module).__name__
    if isinstance(module, StateSpaceLayer | SSMBlock):
        remedy = "its state is complex and its output no spikes: keep it in torch, or export it to ONNX"
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        remedy = "NIR has no gates: keep it in torch, or export it to ONNX"
    elif isinstance(module, nn.MaxPool2d):
        remedy = "use AvgPool2d"
    else:
        remedy = (
            "use LIF, ALIF, LSNN, LI, Linear, Conv1d, Conv2d, AvgPool2d and Flatten, or neurons of snnTorch and Norse"
        )
    return layer.refuse("a layer that NIR can express", kind, remedy)


def affine(weight: NDArray[Any], bias: Values | None) -> Any:
    """Return an Affine node, with a zero bias where there is none: some importers drop a Linear without a word."""
    bias = np.zeros(len(weight)) if bias is None else bias
    return nir.Affine(weight=weight, bias=bias.astype(weight.dtype))
