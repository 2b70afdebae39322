"""A reference interpreter of NIR graphs in NumPy: what a graph says, step by step, and nothing else.

One step of length dt takes the inputs at step t to the outputs at step t. Nodes are visited in the order of
``lsc_snn.nir._order``; the values that arrive at a node over several edges are added. The equations are NIR's (Pedersen
et al. 2024, "Neuromorphic intermediate representation: a unified instruction set for interoperable brain-inspired
computing", Nature Communications 15, and the docstrings of ``nir``), integrated by Euler's rule::

    LI            v' = v + dt/tau (v_leak - v + r x),  output v'
    LIF           the same; z = 1 where v' > v_threshold, else 0; then the reset; output z
    I, IF         v' = v + dt r x, and as LI and LIF
    CubaLI/LIF    i' = i + dt/tau_syn (w_in x - i),  then as LI and LIF with x = i', the current of this step
    Threshold     1 where x > threshold, else 0
    Delay         x of delay/dt steps before, 0 in the first ones

The reset is that of the node: to ``v_reset`` where it has one (nir 1.0.6 and later), by subtracting ``v_threshold``
where it has none (nir up to 1.0.5). It takes place in the step of the spike. Potentials start at ``v_leak``, or 0 where
there is none; currents and delayed values start at 0. ``AvgPool2d`` counts the padding, as torch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

from lsc_snn._checks import check_positive
from lsc_snn.nir._nodes import MEMORY, Array, Shape, Window, delay_steps, flattened, groups_of, kind_of, numbers, window
from lsc_snn.nir.graphs import FlatGraph, flat_graph

State = tuple[Array, ...]
Step = Callable[[State, Array], tuple[Array, State]]
"""Takes a node's state and its input (B, ...) to its output (B, ...) and the next state."""


class Interpretation(NamedTuple):
    """What a graph computed: by name, arrays (T, B, ...) of its outputs, and of the nodes that were to be recorded."""

    outputs: dict[str, Array]
    signals: dict[str, Array]


def interpret(
    graph: Any,
    inputs: Array | Mapping[str, Array],
    *,
    dt: float,
    record: Collection[str] = (),
    dtype: DTypeLike = np.float64,
) -> Interpretation:
    """Run a NIR graph over a sequence, as the text of this module says.

    Args:
        graph: a ``nir.NIRGraph``; it is checked first, as by ``check_graph``, and left as it is.
        inputs: (T, B, *input shape), or such arrays by the name of the Input where the graph has several.
        dt: the time step, in the unit of the graph's time constants (seconds).
        record: names of nodes whose outputs to keep; a node inside a subgraph is "subgraph.node".
        dtype: in which precision to compute.

    Raises ValueError for a graph that ``check_graph`` refuses, inputs of another shape or not finite, and names to
    record that are not there; TypeError for inputs that are no arrays.

    >>> import nir, numpy as np
    >>> one = np.ones(1)
    >>> graph = nir.NIRGraph.from_list(nir.Linear(np.array([[2.0]])), nir.LI(tau=2 * one, r=one, v_leak=0 * one))
    >>> interpret(graph, np.ones((3, 1, 1)), dt=1.0).outputs["output"].ravel()
    array([1.  , 1.5 , 1.75])
    """
    check_positive("dt", dt)
    flat = flat_graph(graph, dt=dt)
    given = _inputs(flat, inputs, np.dtype(dtype))
    for name in record:
        if name not in flat.nodes:
            raise ValueError(f"record: expected names of nodes, got {name!r}; choose from {', '.join(flat.nodes)}")
    times, batch = next(iter(given.values())).shape[:2]
    sources = {name: sorted(u for u, v in flat.edges if v == name) for name in flat.order}
    before = {name: np.zeros((batch, *shape), dtype) for name, shape in flat.shapes.items()}
    steps: dict[str, Step] = {}
    states: dict[str, State] = {}
    for name in flat.order:
        shape = (batch, *(flat.shapes[sources[name][0]] if sources[name] else flat.shapes[name]))
        steps[name], states[name] = _prepare(name, flat, shape, dt, np.dtype(dtype))
    kept: dict[str, list[Array]] = {name: [] for name in {*flat.outputs, *record}}
    for t in range(times):
        now: dict[str, Array] = {}
        for name in flat.order:
            arriving = [(before if (u, name) in flat.late else now)[u] for u in sources[name]]
            total = sum(arriving[1:], start=arriving[0]) if arriving else given[name][t]
            now[name], states[name] = steps[name](states[name], total)
        for name, values in kept.items():
            values.append(now[name])
        before = now
    done = {name: np.stack(values) for name, values in kept.items()}
    return Interpretation({name: done[name] for name in flat.outputs}, {name: done[name] for name in record})


def _inputs(flat: FlatGraph, inputs: Array | Mapping[str, Array], dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return the input sequences by name, checked, in the precision of the computation."""
    if not isinstance(inputs, Mapping):
        if len(flat.inputs) > 1:
            raise ValueError(
                f"inputs: expected arrays for the inputs {', '.join(flat.inputs)}, got one array; pass a dict by name"
            )
        inputs = {flat.inputs[0]: inputs}
    if set(inputs) != set(flat.inputs):
        raise ValueError(
            f"inputs: expected arrays for {', '.join(flat.inputs)}, got {', '.join(map(str, inputs)) or 'none'}; "
            "pass one for each Input"
        )
    for name, value in inputs.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(f"inputs: expected NumPy arrays, got {type(value).__name__}; convert with .numpy()")
        if value.ndim < 2 or value.shape[2:] != flat.shapes[name] or 0 in value.shape[:2]:
            expected = ", ".join(["T", "B", *map(str, flat.shapes[name])])
            raise ValueError(
                f"inputs: expected shape ({expected}) for {name!r}, got {value.shape}; time comes first, then the batch"
            )
        if not bool(np.isfinite(value).all()):
            raise ValueError(f"inputs: expected finite values for {name!r}, got NaN or infinite ones; clean them first")
    if len({value.shape[:2] for value in inputs.values()}) > 1:
        raise ValueError("inputs: expected the same T and B for all inputs, got several; cut them to one length")
    return {name: value.astype(dtype) for name, value in inputs.items()}


def _prepare(name: str, flat: FlatGraph, shape: Shape, dt: float, dtype: np.dtype[Any]) -> tuple[Step, State]:
    """Return a node's step, for inputs of a shape (B, ...), and its state before the first one."""
    node = flat.nodes[name]
    kind = kind_of(node)
    p = {field: value.astype(dtype) for field, value in numbers(name, node).items()}
    if kind in MEMORY:
        rest = np.broadcast_to(p.get("v_leak", np.zeros((), dtype)), shape)
        return lambda state, x: _neuron(p, dt, state, x), (rest, np.zeros(shape, dtype))
    if kind == "Delay":
        delay = delay_steps(name, numbers(name, node)["delay"], dt)
        if name in flat.delays:
            delay = delay - 1  # what arrives over a late edge is one step old already
        index = np.broadcast_to(delay, shape)[None]
        return lambda state, x: _delayed(index, state, x), (np.zeros((int(delay.max()) + 1, *shape), dtype),)
    function = _function(name, node, kind, p)
    return lambda state, x: (function(x), state), ()


def _function(name: str, node: Any, kind: str, p: dict[str, Array]) -> Callable[[Array], Array]:
    """Return what a node without memory computes from its input (B, ...)."""
    if kind in ("Affine", "Linear"):
        return lambda x: _multiplied(p["weight"], x) + p.get("bias", 0)
    if kind == "Scale":
        return lambda x: x * p["scale"]
    if kind == "Threshold":
        return lambda x: (x > p["threshold"]).astype(x.dtype)
    if kind == "Flatten":
        return lambda x: x.reshape(len(x), *flattened(name, node, x.shape[1:]))
    if kind in ("Conv1d", "Conv2d"):
        geometry, groups = window(name, node), groups_of(name, node)
        return lambda x: _convolved(x, p["weight"], p["bias"], geometry, groups)
    if kind in ("SumPool2d", "AvgPool2d"):
        geometry = window(name, node)
        size = math.prod(geometry.kernel) if kind == "AvgPool2d" else 1
        return lambda x: _windows(x, geometry).sum(axis=(-2, -1)) / size
    return lambda x: x  # Input and Output


def _multiplied(weight: Array, x: Array) -> Array:
    """Return W x for one matrix (out, in) and x (..., in), or for a stack of them and the stack's vectors."""
    product: Array = x @ weight.T if weight.ndim == 2 else np.matmul(weight, x[..., None])[..., 0]
    return product


def _windows(x: Array, geometry: Window) -> Array:
    """Return the values under a kernel at every place, (B, C, *places, *kernel)."""
    axes = tuple(range(2, x.ndim))
    padded = np.pad(x, [(0, 0), (0, 0), *geometry.padding])
    extent = tuple(d * (k - 1) + 1 for d, k in zip(geometry.dilation, geometry.kernel, strict=True))
    places = tuple(slice(None, None, step) for step in (*geometry.stride, *geometry.dilation))
    return sliding_window_view(padded, extent, axes)[(slice(None), slice(None), *places)]


def _convolved(x: Array, weight: Array, bias: Array, geometry: Window, groups: int) -> Array:
    """Return the cross-correlation that deep learning calls convolution, as torch.nn.Conv1d and Conv2d."""
    under = _windows(x, geometry)
    places = under.shape[2 : x.ndim]
    under = under.reshape(len(x), groups, -1, math.prod(places), math.prod(geometry.kernel))
    kernels = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    summed: Array = np.einsum("bgcpk,gock->bgop", under, kernels, optimize=True)
    return summed.reshape(len(x), len(weight), *places) + bias.reshape(-1, *[1] * len(places))


def _delayed(index: Array, state: State, x: Array) -> tuple[Array, State]:
    history = np.concatenate([x[None], state[0][:-1]])  # newest first
    return np.take_along_axis(history, index, axis=0)[0], (history,)


def _neuron(p: dict[str, Array], dt: float, state: State, x: Array) -> tuple[Array, State]:
    """Advance a neuron by one step; which one it is, its parameters say. The state is the potential and the current."""
    v, current = state
    if "tau_syn" in p:
        current = current + dt / p["tau_syn"] * (p["w_in"] * x - current)
        x = current
    if "v_leak" in p:
        v = v + dt / p["tau" if "tau" in p else "tau_mem"] * (p["v_leak"] - v + p["r"] * x)
    else:
        v = v + dt * p["r"] * x
    if "v_threshold" not in p:
        return v, (v, current)
    spikes = v > p["v_threshold"]
    after = p["v_reset"] if "v_reset" in p else v - p["v_threshold"]
    return spikes.astype(v.dtype), (np.where(spikes, after, v), current)
