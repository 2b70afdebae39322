"""What the neuron nodes and compositions of a NIR graph say, as values of one step of length dt."""

from __future__ import annotations

from typing import Any, NamedTuple

import nir
import numpy as np
from numpy.typing import NDArray

from lsc_snn.nir import compose

Values = NDArray[np.float64]
Shape = tuple[int, ...]


class Neurons(NamedTuple):
    """What a neuron node or a composition says: the values of v' = alpha v + gain (I + W z) - reset z, and so on.

    ``synapse`` and ``synapse_gain`` are those of a current in front; ``reset`` is "hard", None, or what is subtracted.
    ``v_reset`` is where a hard reset goes to, above the rest.
    """

    alpha: Values
    gain: Values
    threshold: Values
    reset: Any
    weight: Values | None = None
    bias: Values | None = None
    synapse: Values | None = None
    synapse_gain: Values | None = None
    rho: Values | None = None
    beta: Values | None = None
    v_reset: Values | None = None


def of_node(name: str, node: Any, recurrence: Any, shape: Shape, dt: float, reset: str | None) -> Neurons:
    """Return what an IF, LIF or CubaLIF says; ``reset`` is what it does if it does not say so itself."""
    cuba = isinstance(node, nir.CubaLIF)
    if isinstance(node, nir.IF):
        alpha, gain, leak = np.ones(shape), _gain(dt * _full(node.r, shape)), np.zeros(shape)
    else:
        alpha, gain = decay(name, node.tau_mem if cuba else node.tau, node.r, shape, dt)
        leak = _full(node.v_leak, shape)
    threshold = _full(node.v_threshold, shape) - leak
    subtracted: Any = "hard"
    v_reset = getattr(node, "v_reset", None)
    if v_reset is None and reset is None:
        raise ValueError(
            f"node {name!r}: expected v_reset, got a {type(node).__name__} without, which nir up to 1.0.5 says "
            "subtracts its threshold, and simulators reset to zero: pass reset='soft' or 'hard'"
        )
    if v_reset is None and reset == "soft":
        subtracted = alpha * _full(node.v_threshold, shape)  # it has decayed once when the next step begins
    else:
        v_reset = (np.zeros(shape) if v_reset is None else _full(v_reset, shape)) - leak
    synapse = synapse_gain = None
    if cuba:
        synapse, synapse_gain = decay(name, node.tau_syn, node.w_in, shape, dt)
    weight, bias = (None, None) if recurrence is None else matrix(recurrence)
    return Neurons(
        alpha, gain, threshold, subtracted, weight, bias, synapse, synapse_gain,
        v_reset=v_reset if v_reset is not None and bool((np.abs(v_reset) > 1e-9).any()) else None,
    )  # fmt: skip


def is_composition(node: Any) -> bool:
    """Whether a node is a graph that may be one of ``compose.composed``."""
    return isinstance(node, nir.NIRGraph) and {"v", "spike"} <= set(node.nodes)


_FREE = ("v", "synapse", "reset", "w_rec", "input", "output")
"""Nodes of a composition whose values may be any."""


def _alike(node: Any, other: Any) -> bool:
    """Whether two nodes are of one type and say the same, to the rounding of float32."""
    if type(node) is not type(other):
        return False
    fields = ("tau", "r", "v_leak", "threshold", "scale", "delay")
    pairs = [(getattr(node, field), getattr(other, field)) for field in fields if hasattr(other, field)]
    return all(np.allclose(one, two, rtol=1e-5, atol=1e-9) for one, two in pairs)


def of_composition(name: str, graph: Any, recurrence: Any, shape: Shape, dt: float) -> Neurons:
    """Return what a composition of ours says. Raises ValueError unless composing it again gives the same graph."""
    nodes = graph.nodes
    wrong = [key for key in ("v", "synapse") if key in nodes and not isinstance(nodes[key], nir.LI | nir.I)]
    if wrong:
        raise ValueError(
            f"node {name!r}: expected an LI or I as {wrong[0]!r}, got {type(nodes[wrong[0]]).__name__}; "
            "no layer does what it does"
        )
    alpha, gain = integration(name, nodes["v"], shape, dt)
    reset = -np.asarray(nodes["reset"].scale) if "reset" in nodes else None
    weight = np.asarray(nodes["w_rec"].weight, dtype=np.float64) if "w_rec" in nodes else None
    rho = beta = synapse = synapse_gain = None
    if "a" in nodes and "adapt" in nodes:
        rho, beta = 1 - dt / np.asarray(nodes["a"].tau), -np.asarray(nodes["adapt"].scale)
    if "synapse" in nodes:
        synapse, synapse_gain = integration(name, nodes["synapse"], shape, dt)
    threshold = _full(nodes["spike"].threshold, shape)
    again = compose.composed(
        name, alpha, threshold, dt, reset=reset, weight=weight, synapse=synapse, rho=rho, beta=beta
    )
    same = {*again.edges} == {(str(a), str(b)) for a, b in graph.edges} and set(again.nodes) == set(nodes)
    if not same or not all(_alike(nodes[key], node) for key, node in again.nodes.items() if key not in _FREE):
        raise ValueError(
            f"node {name!r}: expected a composition as lsc_snn.to_nir writes it, got another graph with v and spike; "
            "no layer does what it does"
        )
    if beta is not None and not bool((gain == 1).all()):
        raise ValueError(f"node {name!r}: expected r = tau / dt in an adaptive neuron, got another; write it so")
    outer, bias = (None, None) if recurrence is None else matrix(recurrence)
    if outer is not None:
        weight = outer if weight is None else weight + outer
    subtracted = None if reset is None else reset * gain
    return Neurons(alpha, gain, threshold, subtracted, weight, bias, synapse, synapse_gain, rho, beta)


def matrix(node: Any) -> tuple[Values, Values | None]:
    """Return weight and bias, or None, of a Linear or Affine."""
    bias = getattr(node, "bias", None)
    return np.asarray(node.weight, dtype=np.float64), None if bias is None else np.asarray(bias, dtype=np.float64)


def decay(name: str, tau: Any, r: Any, shape: Shape, dt: float) -> tuple[Values, Values]:
    """Return the decay in a step and the factor of the input. Raises ValueError for a decay below 0."""
    rate = dt / _full(tau, shape)
    if bool((rate > 1 + 1e-6).any()):
        raise ValueError(
            f"dt: expected at most the time constant of node {name!r}, {(dt / rate).min():g}, got {dt:g}; use a "
            "smaller dt (Norse writes time constants too small by its dt: write with norse.torch.to_nir(..., dt=1))"
        )
    return 1 - rate, _gain(rate * _full(r, shape))


def integration(name: str, node: Any, shape: Shape, dt: float) -> tuple[Values, Values]:
    """Return the decay in a step, 1 for an I, and the factor of the input, of an I or LI that rests at 0."""
    if isinstance(node, nir.I):
        return np.ones(shape), _gain(dt * _full(node.r, shape))
    check_zero(name, "v_leak", node.v_leak)
    return decay(name, node.tau, node.r, shape, dt)


def _gain(gain: Values) -> Values:
    """Return the factor of an input. 1 up to the rounding of files in float32 is 1: it came from r = tau / dt."""
    return np.where(np.abs(gain - 1) < 1e-6, 1.0, gain)


def check_zero(name: str, what: str, values: Any) -> None:
    """Raise ValueError unless all values are zero."""
    if bool((np.abs(np.asarray(values)) > 1e-9).any()):
        raise ValueError(
            f"node {name!r}: expected {what} of 0, got {np.asarray(values).flat[0]:g}; no layer has another"
        )


def _full(value: Any, shape: Shape) -> Values:
    return np.array(np.broadcast_to(np.asarray(value, dtype=np.float64), shape))
