"""A NIR graph as layers of this package."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, Literal

import nir
import numpy as np
import torch
from torch import nn

from lsc_snn import _checks, _parametrize
from lsc_snn.layers import ALIF, LI, LIF, InputLayer, SpikingLayer
from lsc_snn.nir._nodes import declared_shape, output_shape
from lsc_snn.nir.graphs import check_graph
from lsc_snn.nir.restore_graph import MAPS, opened
from lsc_snn.nir.restore_neurons import (
    Neurons,
    Shape,
    Values,
    check_zero,
    decay,
    is_composition,
    matrix,
    of_composition,
    of_node,
)
from lsc_snn.nir.units import Integrators, Layers, Units

_NEURONS = (nir.LIF, nir.CubaLIF)


def from_nir(
    graph: Any, *, dt: float, reset: Literal["hard", "soft"] | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Return the layers of a NIR graph under Euler's rule with a step ``dt``: (T, B, ...) to (T, B, ...).

    The inverse of ``to_nir``: an integrator decays by alpha = 1 - dt / tau in a step, and its input counts dt / tau r,
    which weights take over. LIF nodes become layers with ``reset="hard"``, recurrent ones too, in the four-node form or
    flat; the compositions of ``to_nir`` become LIF, ALIF, and layers with any reset; a CubaLIF becomes an integrator
    and a LIF. A Linear or Affine in front becomes the layer's own weights. A recurrent bias, as snnTorch writes one,
    counts at every step, the first too.

    Args:
        graph: a ``nir.NIRGraph`` of these nodes and of Affine, Linear, Conv1d, Conv2d, AvgPool2d and Flatten.
        dt: time step, in the unit of the graph's time constants: seconds. snnTorch writes with 1e-4. Norse's
            ``to_nir(model, sample, dt=0.001)`` writes time constants too small by dt: use its ``dt=1``.
        reset: what neurons do that do not say what they reset to, as nir up to 1.0.5 has them: "soft", they subtract
            the threshold in the step of the spike, as that release of nir says, or "hard", they reset to zero, as
            snnTorch and Norse do all the same. None refuses them.
        dtype: of the parameters; torch's default if None.

    Raises ValueError for a graph that is not valid, nodes that are unsupported, naming them, loops through more than
    one layer, and a decay that our layers cannot have.

    >>> from lsc_snn.nir import to_nir
    >>> restored = from_nir(to_nir(LIF(3, 2, reset="hard"), dt=1e-4), dt=1e-4)
    >>> restored(torch.zeros(10, 1, 3)).shape
    torch.Size([10, 1, 2])
    """
    if reset is not None:
        _checks.check_in("reset", reset, ("hard", "soft"))
    check_graph(graph)
    _checks.check_positive("dt", dt)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    parts = opened(graph)
    short = _short([name for name in parts.nodes])
    layers: dict[str, nn.Module] = {}
    sources: dict[str, list[str]] = {}
    shapes: dict[str, Shape] = {}
    for name, node in parts.nodes.items():
        before = parts.sources[name]
        if isinstance(node, nir.Input):
            shapes[name] = declared_shape(name, node) or ()
            if all(isinstance(parts.nodes[target], MAPS) for target in parts.targets(name)):
                shapes[name] = shapes[name][-1:]  # Norse leaves the axis of a batch of 1 in
            continue
        shape = shapes[before[0]]
        if isinstance(node, nir.Output):
            break
        shapes[name] = shape if isinstance(node, nir.NIRGraph) else output_shape(name, node, shape)
        if isinstance(node, MAPS):
            after = parts.targets(name)
            if len(after) == 1 and parts.sources[after[0]] == [name] and _takes_weights(parts.nodes[after[0]]):
                continue  # that layer has it as its own weights
            made = {short[name]: _linear(node, dtype)}
        else:
            front = parts.nodes[before[0]]
            if not isinstance(front, MAPS) or not _takes_weights(node) or short[before[0]] in layers:
                front = None
            else:
                before = parts.sources[before[0]]
            made = _made(name, short[name], node, parts.recurrent.get(name), shape, front, dt, reset, dtype)
        names = list(made)
        sources |= {names[0]: [short[source] for source in before]}
        sources |= {second: [first] for first, second in pairwise(names)}
        layers |= made
    return Layers(layers, sources, [short[source] for source in before])


def _takes_weights(node: Any) -> bool:
    return isinstance(node, (*_NEURONS, nir.LI)) or is_composition(node)


def _short(names: list[str]) -> dict[str, str]:
    """Return names for layers: without dots, and without the last part where it tells nothing apart."""
    first = {name: name.partition(".")[0] for name in names}
    alone = Counter(first.values())
    return {name: first[name] if alone[first[name]] == 1 else name.replace(".", "_") for name in names}


def _made(
    name: str,
    key: str,
    node: Any,
    recurrence: Any,
    shape: Shape,
    front: Any,
    dt: float,
    reset: str | None,
    dtype: torch.dtype,
) -> dict[str, nn.Module]:
    """Return the layers of a node, by name."""
    if recurrence is not None and not (isinstance(node, _NEURONS) or is_composition(node)):
        raise ValueError(
            f"node {name!r}: expected a recurrence of spiking neurons, got {type(node).__name__} in a loop"
        )
    if isinstance(node, nir.LI):
        alpha, gain = decay(name, node.tau, node.r, shape, dt)
        check_zero(name, "v_leak", node.v_leak)
        return {key: _integrator(name, alpha, gain, shape, front, dtype)}
    if isinstance(node, _NEURONS) or is_composition(node):
        neurons = (
            of_node(name, node, recurrence, shape, dt, reset)
            if isinstance(node, _NEURONS)
            else of_composition(name, node, recurrence, shape, dt)
        )
        made: dict[str, nn.Module] = {}
        if neurons.synapse is not None and neurons.synapse_gain is not None:
            if neurons.weight is not None:
                raise ValueError(
                    f"node {name!r}: expected no recurrence through a synaptic current, got one; no layer has that"
                )
            # The current may as well be counted by what the membrane makes of it.
            total = neurons.synapse_gain * neurons.gain
            made[f"{key}_synapse"] = _integrator(name, neurons.synapse, total, shape, front, dtype)
            front, neurons = None, neurons._replace(gain=np.ones(shape))
        made[key] = _spiking(name, neurons, shape, front, dtype)
        return made
    if isinstance(node, nir.Conv1d | nir.Conv2d | nir.AvgPool2d | nir.Flatten):
        return {key: _map(node, dtype)}
    raise ValueError(
        f"node {name!r}: expected LIF, CubaLIF, LI, Affine, Linear, Conv1d, Conv2d, AvgPool2d, Flatten or a "
        f"composition of lsc_snn, got {type(node).__name__}; no layer does what it does"
    )


def _spiking(name: str, n: Neurons, shape: Shape, front: Any, dtype: torch.dtype) -> SpikingLayer:
    """Return the layer of neurons, with the weights of the map in front."""
    if not bool((n.threshold > 0).all()):
        raise ValueError(
            f"node {name!r}: expected thresholds above rest, got {n.threshold.min():g}; no layer has another"
        )
    weight = None if n.weight is None else n.gain[:, None] * n.weight
    reset = "hard" if isinstance(n.reset, str) else "none" if n.reset is None else "soft"
    if reset == "soft" and not np.allclose(n.reset, n.threshold, rtol=1e-6, atol=0):
        if n.beta is not None or len(shape) != 1:
            raise ValueError(
                f"node {name!r}: expected the threshold to be subtracted, got another value; no layer does so"
            )
        reset = "none"  # what is subtracted is then a weight of each neuron to itself
        weight = (0 if weight is None else weight) - np.diag(n.reset)
    gain = n.gain
    bias = None if n.bias is None else n.gain * n.bias
    options: dict[str, Any] = {"reset": reset, "recurrent": weight is not None, "dtype": dtype}
    if n.beta is not None:
        options |= {"beta": torch.as_tensor(n.beta).flatten(), "tau_adaptation": 1.0}
    layer: SpikingLayer
    if front is None and bias is None and bool((gain == 1).all()):
        layer = Units(shape, **options)
    else:
        own, constant = _in_front(name, front, shape)
        kind = LIF if n.beta is None else ALIF
        constant = constant if bias is None else bias / gain + (0 if constant is None else constant)
        layer = kind(own.shape[1], own.shape[0], bias=constant is not None, **options)
        _set_weights(layer, own, constant, gain)
    with torch.no_grad():
        _set(layer.alpha_raw, _parametrize.raw_decay(_allowed(name, n.alpha)))
        _set(layer.threshold_raw, _parametrize.raw_positive(torch.as_tensor(n.threshold).flatten()))
        if n.rho is not None and layer.rho_raw is not None:
            _set(layer.rho_raw, _parametrize.raw_decay(_allowed(name, n.rho)))
        if weight is not None and layer.recurrent_raw is not None:
            _set(layer.recurrent_raw, torch.as_tensor(weight))
    return layer


def _integrator(name: str, alpha: Values, gain: Values, shape: Shape, front: Any, dtype: torch.dtype) -> LI:
    layer: LI
    if front is None and bool((gain == 1).all()):
        layer = Integrators(shape, dtype=dtype)
    else:
        own, constant = _in_front(name, front, shape)
        layer = LI(own.shape[1], own.shape[0], bias=constant is not None, dtype=dtype)
        _set_weights(layer, own, constant, gain)
    with torch.no_grad():
        _set(layer.alpha_raw, _parametrize.raw_decay(_allowed(name, alpha)))
    return layer


def _in_front(name: str, front: Any, shape: Shape) -> tuple[Values, Values | None]:
    """Return the weight and bias of the map in front; the identity where there is none."""
    if front is not None:
        return matrix(front)
    if len(shape) != 1:
        raise ValueError(
            f"node {name!r}: expected r = tau / dt, or a Linear in front that takes the factor of the input over, got "
            "neither; write it so"
        )
    return np.eye(shape[0]), None


@torch.no_grad()
def _set_weights(layer: InputLayer, weight: Values, bias: Values | None, gain: Values) -> None:
    _set(layer.weight, torch.as_tensor(gain[:, None] * weight))
    if layer.bias is not None and bias is not None:
        _set(layer.bias, torch.as_tensor(gain * bias))


def _set(parameter: torch.Tensor, value: torch.Tensor) -> None:
    parameter.copy_(value.reshape(parameter.shape))


def _allowed(name: str, alpha: Values) -> torch.Tensor:
    low, high = np.exp(-1 / _parametrize.TAU_MIN), np.exp(-1 / _parametrize.TAU_MAX)
    if not bool(((alpha > low) & (alpha < high)).all()):
        raise ValueError(
            f"node {name!r}: expected decays per step between {low:.2g} and {high:.6g}, which layers can have, got "
            f"{alpha.min():g} to {alpha.max():g}; use another dt"
        )
    return torch.as_tensor(alpha, dtype=torch.float64).flatten()


def _linear(node: Any, dtype: torch.dtype) -> nn.Module:
    weight, bias = matrix(node)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype)
    with torch.no_grad():
        _set(layer.weight, torch.as_tensor(weight))
        if bias is not None:
            _set(layer.bias, torch.as_tensor(bias))
    return layer


def _map(node: Any, dtype: torch.dtype) -> nn.Module:
    if isinstance(node, nir.Flatten):
        start, end = (int(dim) + 1 if int(dim) >= 0 else int(dim) for dim in (node.start_dim, node.end_dim))
        return nn.Flatten(start, end)
    if isinstance(node, nir.AvgPool2d):
        kernel_size, stride, padding = map(_whole, (node.kernel_size, node.stride, node.padding))
        return nn.AvgPool2d(kernel_size, stride, padding)
    weight = torch.as_tensor(np.asarray(node.weight))
    kind: Any = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
    groups = int(node.groups)
    options = {key: _whole(getattr(node, key)) for key in ("stride", "padding", "dilation")}
    layer: nn.Module = kind(
        weight.shape[1] * groups, weight.shape[0], weight.shape[2:], groups=groups, dtype=dtype, **options
    )
    with torch.no_grad():
        layer.get_parameter("weight").copy_(weight)
        layer.get_parameter("bias").copy_(torch.as_tensor(np.asarray(node.bias)))
    return layer


def _whole(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return value.decode() if isinstance(value, bytes) else value
    array = np.asarray(value)
    return int(array) if array.ndim == 0 else tuple(int(entry) for entry in array)
