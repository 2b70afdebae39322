"""NIR graphs: checked as a whole, read from files that nobody vouches for, and written whole or not at all."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np

from lsc_snn._checks import check_positive
from lsc_snn._files import write_bytes
from lsc_snn.nir._hdf5 import read_graph_from
from lsc_snn.nir._nodes import (
    MEMORY,
    PARAMETERS,
    Shape,
    check_step,
    declared_shape,
    delay_steps,
    kind_of,
    numbers,
    output_shape,
)
from lsc_snn.nir._order import Edge, reached_from, schedule

_DEEPEST = 32


class FlatGraph(NamedTuple):
    """A checked graph with its subgraphs opened, and the order in which it runs; see ``lsc_snn.nir._order``.

    ``nodes`` are in no subgraph, a node of one is called "subgraph.node"; ``shapes`` are of what each node gives out,
    without time and batch; ``inputs`` and ``outputs`` are the names of the outermost Input and Output nodes; ``late``
    are the edges that deliver the value of the step before, and ``delays`` the Delay nodes that all such edges enter.
    """

    nodes: dict[str, Any]
    edges: list[Edge]
    shapes: dict[str, Shape]
    inputs: list[str]
    outputs: list[str]
    order: list[str]
    late: frozenset[Edge]
    delays: frozenset[str]


def check_graph(graph: Any, *, dt: float | None = None) -> None:
    """Raise unless a ``nir.NIRGraph`` says one computation, as ``lsc_snn.nir.interpret`` runs it.

    Checked are: its edges (none twice, none to a node that is not there), its nodes (each of a known type, reached from
    an Input, with an Input and an Output at every level), their parameters (present, finite, of a shape that fits, time
    constants above 0), the shapes along all edges, and that every loop holds a node with memory. With a time step
    ``dt``: that no decay 1 - dt/tau is below 0, and that delays are whole numbers of steps. TypeError for what is no
    graph, else ValueError, one line that names the node.

    >>> import nir, numpy as np
    >>> check_graph(nir.NIRGraph.from_list(nir.Linear(np.array([[np.nan]]))))
    Traceback (most recent call last):
    ValueError: node 'linear': weight: expected finite values, got 1 NaN and 0 infinite of 1; write finite values
    """
    flat_graph(graph, dt=dt)


def flat_graph(graph: Any, *, dt: float | None = None) -> FlatGraph:
    """Return a graph with its subgraphs opened, checked as by ``check_graph``, which says what is raised."""
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph: expected a nir.NIRGraph, got {kind_of(graph)}; read one with read_graph")
    nodes: dict[str, Any] = {}
    edges: list[Edge] = []
    _open(graph, "", nodes, edges, 0)
    inputs = sorted(name for name, node in graph.nodes.items() if kind_of(node) == "Input")
    outputs = sorted(name for name, node in graph.nodes.items() if kind_of(node) == "Output")
    for kind, names in (("Input", inputs), ("Output", outputs)):
        if not names:
            raise ValueError(f"graph: expected an {kind} node, got none; add one")
    for name, node in nodes.items():
        numbers(name, node)
    unreached = sorted(nodes.keys() - reached_from(inputs, edges))
    if unreached:
        raise ValueError(f"node {unreached[0]!r}: expected a path to it from an Input, got none; wire it, or remove it")
    if dt is not None:
        check_positive("dt", dt)
        for name, node in nodes.items():
            check_step(name, node, dt)
    shapes = _shapes(nodes, edges, inputs)
    delays = frozenset(name for name, node in nodes.items() if kind_of(node) == "Delay" and _waits(name, node, dt))
    memory = {name for name, node in nodes.items() if kind_of(node) in MEMORY}
    order, late = schedule(edges, inputs=inputs, delays=delays, memory=memory)
    return FlatGraph(nodes, edges, shapes, inputs, outputs, order, late, delays)


def _open(graph: Any, prefix: str, nodes: dict[str, Any], edges: list[Edge], depth: int) -> None:
    """Add a graph's nodes and edges to those found, subgraphs opened; ValueError where edges and nodes do not fit."""
    if depth > _DEEPEST:
        raise ValueError(
            f"node {prefix[:-1]!r}: expected at most {_DEEPEST} nested graphs, got more; open some of them"
        )
    ends: dict[str, Edge] = {}  # of each node here: where edges to it go, and where edges from it come from
    for name, node in graph.nodes.items():
        full, kind = f"{prefix}{name}", kind_of(node)
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"node {full!r}: expected a name without '/', which HDF5 cannot store; rename it")
        ends[name] = full, full
        if isinstance(node, nir.NIRGraph):
            ports = [[k for k, inner in node.nodes.items() if kind_of(inner) == kind] for kind in ("Input", "Output")]
            if any(len(port) != 1 for port in ports):
                raise ValueError(
                    f"node {full!r}: expected a subgraph with one Input and one Output, got {len(ports[0])} and "
                    f"{len(ports[1])}; edges say which subgraph they go to, not which of its inputs"
                )
            ends[name] = f"{full}.{ports[0][0]}", f"{full}.{ports[1][0]}"
            _open(node, f"{full}.", nodes, edges, depth + 1)
        elif not isinstance(node, nir.NIRNode) or kind not in PARAMETERS:
            raise ValueError(
                f"node {full!r}: expected one of {', '.join(PARAMETERS)} or NIRGraph, got {kind}; replace it by these"
            )
        elif full in nodes:
            raise ValueError(f"node {full!r}: expected one node of this name, got two; rename one, or its subgraph")
        else:
            nodes[full] = node
    seen: set[Edge] = set()
    for edge in graph.edges:
        _check_edge(graph, prefix, edge, seen)
        source, target = edge
        seen.add((source, target))
        edges.append((ends[source][1], ends[target][0]))


def _check_edge(graph: Any, prefix: str, edge: Any, seen: set[Edge]) -> None:
    if len(edge) != 2:
        raise ValueError(f"edge {edge!r}: expected the names of two nodes, got {len(edge)}; write (source, target)")
    source, target = edge
    label = f"edge {prefix + str(source)!r} -> {prefix + str(target)!r}"
    for end in edge:
        if end not in graph.nodes:
            raise ValueError(
                f"{label}: expected nodes of the graph, got {prefix + str(end)!r}; add it, or drop the edge"
            )
    if (source, target) in seen:
        raise ValueError(f"{label}: expected each edge once, got it twice; double the weights if twice is meant")
    if kind_of(graph.nodes[target]) == "Input" or kind_of(graph.nodes[source]) == "Output":
        raise ValueError(f"{label}: expected no edge into an Input or out of an Output, got one; drop it")


def _waits(name: str, node: Any, dt: float | None) -> bool:
    """Whether a Delay holds everything for a step at least; where no step is known, for any time at all."""
    delay = numbers(name, node)["delay"]
    return bool((delay > 0).all()) if dt is None else bool((delay_steps(name, delay, dt) >= 1).all())


def _shapes(nodes: dict[str, Any], edges: list[Edge], inputs: list[str]) -> dict[str, Shape]:
    """Return what shape each node gives out, from the inputs onward; ValueError where two edges disagree."""
    taken: dict[str, Shape] = {}
    given: dict[str, Shape] = {}
    for name in inputs:
        shape = declared_shape(name, nodes[name])
        if shape is None:
            raise ValueError(f"node {name!r}: expected an Input with a shape, got none; write it")
        given[name] = shape
    waiting = list(inputs)
    for name in waiting:
        for target in sorted(v for u, v in edges if u == name):
            if target not in taken:
                taken[target] = given[name]
                given[target] = output_shape(target, nodes[target], given[name])
                waiting.append(target)
            elif taken[target] != given[name]:
                raise ValueError(
                    f"edge {name!r} -> {target!r}: expected shape {taken[target]}, as over the other edges to "
                    f"{target!r}, got {given[name]}; what arrives at a node is added"
                )
    return given


def read_graph(path: str | Path) -> nir.NIRGraph:
    """Read a NIR file (HDF5), of any version that has the nodes of this module, and check the graph.

    Only plain data of the file itself are read: no links, no external or virtual data, nothing that runs. A file that
    sets ``v_reset`` keeps it under releases of nir that have no such field, as an attribute of the node.

    Raises ValueError, naming the file, where it is missing, truncated, no NIR file, of an unknown version, or where the
    graph is none that ``check_graph`` accepts.
    """
    try:
        graph = read_graph_from(Path(path))
        check_graph(graph)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return graph


def write_graph(path: str | Path, graph: nir.NIRGraph) -> None:
    """Check a graph and write it as a NIR file (HDF5), whole or not at all; an old file of the name is replaced.

    A ``v_reset`` that the installed nir has no field for goes into the node's metadata: other readers pass over it, and
    ``read_graph`` restores it. Raises ValueError for a graph that ``check_graph`` refuses, and where the file cannot be
    written.
    """
    shapes = flat_graph(graph)
    content = io.BytesIO()
    try:
        nir.write(content, _storable(graph, "", shapes))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a graph that nir {nir.version} can write, got: {error}") from None
    try:
        write_bytes(Path(path), content.getvalue())
    except OSError as error:
        raise ValueError(
            f"{path}: expected a file that can be written, got: {error.strerror}; choose another"
        ) from None


def _storable(graph: Any, prefix: str, flat: FlatGraph) -> Any:
    """Return a shallow copy of a graph whose nodes nir can write: a shape for None, and a place for each reset."""
    stored = copy.copy(graph)
    stored.nodes = {}
    for name, node in graph.nodes.items():
        full, kind = f"{prefix}{name}", kind_of(node)
        changed = copy.copy(node)
        if isinstance(node, nir.NIRGraph):
            changed = _storable(node, f"{full}.", flat)
        elif kind in ("Conv1d", "Conv2d", "Flatten"):
            shape = next(flat.shapes[u] for u, v in flat.edges if v == full)
            if kind == "Flatten":
                changed.input_type = {"input": np.array(shape)}
            else:
                changed.input_shape = shape[1] if kind == "Conv1d" else shape[1:]
        elif getattr(node, "v_reset", None) is not None and "v_reset" not in node.__dataclass_fields__:
            changed.metadata = {**node.metadata, "v_reset": np.asarray(node.v_reset)}
        stored.nodes[name] = changed
    return stored
