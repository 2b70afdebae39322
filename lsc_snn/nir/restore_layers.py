"""The layers of one node of a NIR graph: its neurons, the map in front of them, and what else it takes."""

from __future__ import annotations

from typing import Any, TypeVar

import nir
import numpy as np
import torch
from torch import nn

from lsc_snn import _parametrize
from lsc_snn.layers import ALIF, LI, LIF, InputLayer, SpikingLayer
from lsc_snn.nir.restore_neurons import (
    Neurons,
    Shape,
    Values,
    check_zero,
    decay,
    integration,
    is_composition,
    matrix,
    of_composition,
    of_node,
)
from lsc_snn.nir.synaptic import Synaptic
from lsc_snn.nir.units import Integrators, Units

AnySpiking = TypeVar("AnySpiking", bound=SpikingLayer)
_NEURONS = (nir.IF, nir.LIF, nir.CubaLIF)


def takes_weights(node: Any) -> bool:
    """Whether the layers of a node take the Linear or Affine in front of it as their own weights."""
    if is_composition(node):
        return isinstance(node.nodes["v"], nir.LI) and "synapse" not in node.nodes
    return isinstance(node, nir.LIF | nir.LI | nir.I) or type(node).__name__ == "CubaLI"


def layers_of(
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
    """Return the layers of a node, by name, in the order of their calls."""
    neurons = None
    if isinstance(node, _NEURONS):
        neurons = of_node(name, node, recurrence, shape, dt, reset)
    elif is_composition(node):
        neurons = of_composition(name, node, recurrence, shape, dt)
    if neurons is not None:
        return _spiking(name, key, neurons, shape, front, dtype)
    if recurrence is not None:
        raise ValueError(
            f"node {name!r}: expected a recurrence of spiking neurons, got {type(node).__name__} in a loop"
        )
    if isinstance(node, nir.LI | nir.I):
        alpha, gain = integration(name, node, shape, dt)
        return _integrators(name, key, alpha, gain, shape, front, dtype)
    if type(node).__name__ == "CubaLI":  # which old releases of nir have not
        check_zero(name, "v_leak", node.v_leak)
        synapse, synapse_gain = decay(name, node.tau_syn, node.w_in, shape, dt)
        alpha, gain = decay(name, node.tau_mem, node.r, shape, dt)
        made = _integrators(name, f"{key}_synapse", synapse, synapse_gain * gain, shape, front, dtype)
        return made | _integrators(name, key, alpha, np.ones(shape), shape, None, dtype)
    if isinstance(node, nir.Conv1d | nir.Conv2d | nir.AvgPool2d | nir.Flatten):
        return {key: _map(node, dtype)}
    raise ValueError(
        f"node {name!r}: expected IF, LIF, CubaLIF, I, LI, CubaLI, Affine, Linear, Conv1d, Conv2d, AvgPool2d, Flatten "
        f"or a composition of lsc_snn, got {type(node).__name__}; no layer does what it does"
    )


def _spiking(name: str, key: str, n: Neurons, shape: Shape, front: Any, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return the layer of neurons, and what goes in front of it."""
    if not bool((n.threshold > 0).all()):
        raise ValueError(
            f"node {name!r}: expected thresholds above rest, got {n.threshold.min():g}; no layer has another"
        )
    if n.weight is not None and len(shape) != 1:
        raise ValueError(f"node {name!r}: expected a vector of recurrent neurons, got shape {shape}; flatten it")
    if n.synapse is not None:
        return _synaptic(name, key, n, shape, front, dtype)
    made: dict[str, nn.Module] = {}
    if not _leaks(n.alpha) or (front is None and len(shape) != 1):
        made = _in_front_of(name, key, n, shape, front, dtype)
        made[key] = _units(name, _rescaled(name, n), shape, dtype)
    elif front is None and n.bias is None and bool((n.gain == 1).all()):
        made[key] = _units(name, n, shape, dtype)
    else:
        own, constant = _in_front(name, front, shape)
        constant = _added(constant, n.bias)
        reset, weight = _recurrence(name, n, shape)
        kind = LIF if n.beta is None else ALIF
        options = _options(n, reset, weight, dtype)
        layer = kind(own.shape[1], own.shape[0], bias=constant is not None, **options)
        _set_weights(layer, own, constant, n.gain)
        made[key] = _with_values(name, layer, n, weight)
    return made


def _synaptic(name: str, key: str, n: Neurons, shape: Shape, front: Any, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return neurons whose input and recurrence pass a current, and what goes in front of them."""
    made = _in_front_of(name, key, n, shape, front, dtype)
    # The current may as well be counted by what the membrane makes of it.
    scaled = _rescaled(name, n._replace(gain=n.gain if n.synapse_gain is None else n.synapse_gain * n.gain))
    reset, own = _recurrence(name, scaled._replace(weight=None), shape)
    layer = Synaptic(shape, recurrent=n.weight is not None, feedback=own is not None, reset=reset, dtype=dtype)
    _with_values(name, layer.neurons, scaled, own)
    if n.synapse is not None:
        _set(layer.gamma_raw, _parametrize.raw_decay(_allowed(name, n.synapse)))
    if n.weight is not None and layer.recurrent_weight is not None:
        _set(layer.recurrent_weight, torch.as_tensor(n.weight))
    return made | {key: layer}


def _leaks(alpha: Values) -> bool:
    return not bool((alpha == 1).all())


def _rescaled(name: str, n: Neurons) -> Neurons:
    """Return neurons with a gain of 1: the potential counted in units of the gain."""
    if not bool((n.gain > 0).all()):
        raise ValueError(f"node {name!r}: expected an input that counts, r > 0, got a factor of {n.gain.min():g}")
    reset = n.reset if n.reset is None or isinstance(n.reset, str) else n.reset / n.gain
    v_reset = None if n.v_reset is None else n.v_reset / n.gain
    return n._replace(gain=np.ones_like(n.gain), threshold=n.threshold / n.gain, reset=reset, v_reset=v_reset)


def _recurrence(name: str, n: Neurons, shape: Shape) -> tuple[str, Values | None]:
    """Return the reset of a layer and its recurrent weights, which say what no reset of ours does."""
    weight = None if n.weight is None else n.gain[:, None] * n.weight
    reset = "hard" if isinstance(n.reset, str) else "none" if n.reset is None else "soft"
    own = None  # the weight of each neuron to itself
    if reset == "soft" and not np.allclose(n.reset, n.threshold, rtol=1e-6, atol=0):
        reset, own = "none", -np.asarray(n.reset)
    elif n.v_reset is not None:
        own = n.alpha * n.v_reset  # in the next step it has decayed once
    if own is None:
        return reset, weight
    if n.beta is not None or len(shape) != 1:
        raise ValueError(
            f"node {name!r}: expected a reset to rest, or the threshold to be subtracted, got another value; only a "
            "vector of neurons that do not adapt can have it"
        )
    return reset, (0 if weight is None else weight) + np.diag(own)


def _options(n: Neurons, reset: str, weight: Values | None, dtype: torch.dtype) -> dict[str, Any]:
    options: dict[str, Any] = {"reset": reset, "recurrent": weight is not None, "dtype": dtype}
    if n.beta is not None:
        options |= {"beta": torch.as_tensor(n.beta).flatten(), "tau_adaptation": 1.0}
    return options


def _units(name: str, n: Neurons, shape: Shape, dtype: torch.dtype) -> Units:
    reset, weight = _recurrence(name, n, shape)
    layer = Units(shape, leaky=_leaks(n.alpha), **_options(n, reset, weight, dtype))
    return _with_values(name, layer, n, weight)


@torch.no_grad()
def _with_values(name: str, layer: AnySpiking, n: Neurons, weight: Values | None) -> AnySpiking:
    """Return a layer with the values of neurons set."""
    if _leaks(n.alpha):
        _set(layer.alpha_raw, _parametrize.raw_decay(_allowed(name, n.alpha)))
    _set(layer.threshold_raw, _parametrize.raw_positive(torch.as_tensor(n.threshold).flatten()))
    if n.rho is not None and layer.rho_raw is not None:
        _set(layer.rho_raw, _parametrize.raw_decay(_allowed(name, n.rho)))
    if weight is not None and layer.recurrent_raw is not None:
        _set(layer.recurrent_raw, torch.as_tensor(weight))
    return layer


def _in_front_of(name: str, key: str, n: Neurons, shape: Shape, front: Any, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return what goes in front of a layer without weights of its own: a Linear, or nothing."""
    if front is None and n.bias is None:
        return {}
    own, constant = _in_front(name, front, shape)
    return {f"{key}_weights": linear(own, _added(constant, n.bias), dtype)}


def _added(one: Values | None, two: Values | None) -> Values | None:
    return two if one is None else one if two is None else one + two


def _integrators(
    name: str, key: str, alpha: Values, gain: Values, shape: Shape, front: Any, dtype: torch.dtype
) -> dict[str, nn.Module]:
    """Return integrators, and where they do not leak the Linear in front of them."""
    layer: LI
    if _leaks(alpha):
        if front is None and bool((gain == 1).all()):
            layer = Integrators(shape, dtype=dtype)
        else:
            own, constant = _in_front(name, front, shape)
            layer = LI(own.shape[1], own.shape[0], bias=constant is not None, dtype=dtype)
            _set_weights(layer, own, constant, gain)
        with torch.no_grad():
            _set(layer.alpha_raw, _parametrize.raw_decay(_allowed(name, alpha)))
        return {key: layer}
    layer = Integrators(shape, leaky=False, dtype=dtype)
    if front is None and bool((gain == 1).all()):
        return {key: layer}
    own, constant = _in_front(name, front, shape)
    constant = None if constant is None else gain * constant
    return {f"{key}_weights": linear(gain[:, None] * own, constant, dtype), key: layer}


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


@torch.no_grad()
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


def linear(weight: Values, bias: Values | None, dtype: torch.dtype) -> nn.Module:
    """Return a Linear of a weight (out, in) and a bias, or none."""
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
