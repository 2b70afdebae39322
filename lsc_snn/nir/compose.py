"""Neurons as graphs of standard NIR nodes, where no single node says what they do.

A subtractive reset, an adaptation and a missing reset have no node in NIR. A leaky integrator ``v``, a ``Threshold``
and edges back say them: ``v' = alpha v + I + W z - reset z`` is an integrator with two loops, ``spike -> Scale(-reset)
-> v`` and ``spike -> Linear(W) -> v``, each of which takes one step. Nothing reads a value from inside a loop but the
spikes, so that it does not matter at which of its edges an interpreter lets a loop wait.

The soft reset of an adaptive neuron subtracts ``beta a z``, a product of two signals, which NIR has not. Yet z is 0 or
1 and a is in [0, 1): ``a z`` is written in binary digits, b_k = H(a + z - 1 - sum_{j<k} 2^-j b_j - 2^-k), each a
Threshold, and comes out to 2^-BITS. It takes 3 nodes a digit.

The time constant of a decay alpha is tau = dt / (1 - alpha): Euler's rule, v' = v + dt/tau (v_leak - v + r I), then
decays by alpha in a step of dt, and r = tau / dt makes the input's weight 1.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

BITS = 32
"""Binary digits of the product of a spike and the adaptation."""
Values = NDArray[np.float64]
Edges = list[tuple[str, str]]


def time_constant(name: str, alpha: Values, dt: float) -> Values:
    """Return tau = dt / (1 - alpha), in the unit of dt. Raises ValueError unless every decay is in [0, 1)."""
    if not bool(((alpha >= 0) & (alpha < 1)).all()):
        raise ValueError(
            f"{name}: expected decays per step from 0 to below 1, got {alpha.min():g} to {alpha.max():g}; "
            "a time constant can say no other: clamp them, or give neurons of Norse a smaller dt"
        )
    return dt / (1 - alpha)


def integrator(name: str, alpha: Values, dt: float) -> Any:
    """Return the node of v' = alpha v + I: an LI, or an I where nothing decays."""
    if bool((alpha == 1).all()):
        return nir.I(r=np.full_like(alpha, 1 / dt))
    tau = time_constant(name, alpha, dt)
    return nir.LI(tau=tau, r=tau / dt, v_leak=np.zeros_like(tau))


def spiking(kind: type[Any], **values: Values) -> Any:
    """Return a LIF, IF or CubaLIF node that resets to ``v_reset``.

    Releases of nir before 1.0.6 have no such field. There it is an attribute of the node, which the interpreter heeds,
    and no file of theirs holds.
    """
    if "v_reset" in kind.__dataclass_fields__:
        return kind(**values)
    v_reset = values.pop("v_reset")
    node = kind(**values)
    node.v_reset = v_reset
    return node


def hard(name: str, alpha: Values, threshold: Values, dt: float, synapse: Values | None = None) -> Any:
    """Return the node of v' = alpha v (1 - z) + I, z' = H(v' - threshold): a LIF, or an IF where nothing decays.

    With ``synapse`` the input passes a current that decays by it: a CubaLIF.
    """
    zeros = np.zeros_like(alpha)
    if synapse is None and bool((alpha == 1).all()):
        return spiking(nir.IF, r=np.full_like(alpha, 1 / dt), v_threshold=threshold, v_reset=zeros)
    tau = time_constant(f"layer {name!r}: membrane decay", alpha, dt)
    same = {"r": tau / dt, "v_leak": zeros, "v_threshold": threshold, "v_reset": zeros}
    if synapse is None:
        return spiking(nir.LIF, tau=tau, **same)
    tau_syn = time_constant(f"layer {name!r}: synaptic decay", synapse, dt)
    return spiking(nir.CubaLIF, tau_syn=tau_syn, tau_mem=tau, w_in=tau_syn / dt, **same)


def recurrent(node: Any, weight: NDArray[Any]) -> Any:
    """Return a spiking node that feeds itself, in the four-node form that importers know.

    The edge to w_rec comes before that to the output: Norse's importer returns what it visits last.
    """
    size = np.array(node.v_threshold.shape)
    return nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type={"input": size}),
            "lif": node,
            "w_rec": nir.Linear(weight=weight),
            "output": nir.Output(output_type={"output": size}),
        },
        edges=[("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )


def composed(
    name: str,
    alpha: Values,
    threshold: Values,
    dt: float,
    *,
    reset: Values | None = None,
    weight: NDArray[Any] | None = None,
    synapse: Values | None = None,
    rho: Values | None = None,
    beta: Values | None = None,
) -> Any:
    """Return the graph of v' = alpha v + I + W z - reset z - beta a z, z' = H(v' - threshold - beta a').

    ``a' = rho a + (1 - rho) z``. Without ``reset`` nothing is subtracted, neither of the two; without ``rho`` and
    ``beta`` there is no adaptation; with ``synapse`` the input and the recurrence pass a current that decays by it. All
    values have the shape of the neurons; ``name`` is what errors call the layer.
    """
    size = np.array(alpha.shape)
    nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": size})}
    first = "v" if synapse is None else "synapse"
    edges: Edges = [("input", first)]
    if synapse is not None:
        nodes["synapse"] = integrator(f"layer {name!r}: synaptic decay", synapse, dt)
        edges.append(("synapse", "v"))
    nodes["v"] = integrator(f"layer {name!r}: membrane decay", alpha, dt)
    nodes["spike"] = nir.Threshold(threshold=threshold)
    edges.append(("v", "spike"))
    if weight is not None:
        nodes["w_rec"] = nir.Linear(weight=weight)
        edges += [("spike", "w_rec"), ("w_rec", first)]
    if reset is not None:
        nodes["reset"] = nir.Scale(scale=-reset)
        edges += [("spike", "reset"), ("reset", "v")]
    if rho is not None and beta is not None:
        nodes["a"] = _adaptation(name, rho, dt)
        nodes["adapt"] = nir.Scale(scale=-beta)
        edges += [("spike", "a"), ("a", "adapt"), ("adapt", "spike")]
        if reset is not None:
            _subtract_adaptation(nodes, edges, name, rho, beta, dt)
    nodes["output"] = nir.Output(output_type={"output": size})
    edges.append(("spike", "output"))
    return nir.NIRGraph(nodes=nodes, edges=edges)


def _adaptation(name: str, rho: Values, dt: float) -> Any:
    """Return the node of a' = rho a + (1 - rho) z."""
    tau = time_constant(f"layer {name!r}: adaptation decay", rho, dt)
    return nir.LI(tau=tau, r=np.ones_like(tau), v_leak=np.zeros_like(tau))


def _subtract_adaptation(nodes: dict[str, Any], edges: Edges, name: str, rho: Values, beta: Values, dt: float) -> None:
    """Add what subtracts beta a z from v.

    The adaptation of this step is a function of the spikes up to the step before: it is integrated once more behind an
    explicit delay, so that it does not matter where an interpreter cuts the loop of the first one.
    """
    ones = np.ones_like(beta)
    nodes["spike_before"] = nir.Delay(delay=ones * dt)
    nodes["a_now"] = _adaptation(name, rho, dt)
    nodes["rest_0"] = nir.Scale(scale=ones)
    nodes["reset_adapt"] = nir.Scale(scale=beta)
    edges += [("spike", "spike_before"), ("spike_before", "a_now"), ("a_now", "rest_0"), ("spike", "rest_0")]
    for k in range(1, BITS + 1):
        digit, minus, rest = f"digit_{k}", f"minus_{k}", f"rest_{k}"
        nodes[digit] = nir.Threshold(threshold=ones + 2.0**-k)  # without a spike a + z stays below 1, and no digit is 1
        nodes[minus] = nir.Scale(scale=-ones * 2.0**-k)
        edges += [(f"rest_{k - 1}", digit), (digit, minus), (minus, "reset_adapt")]
        if k < BITS:
            nodes[rest] = nir.Scale(scale=ones)
            edges += [(f"rest_{k - 1}", rest), (minus, rest)]
    edges.append(("reset_adapt", "v"))
