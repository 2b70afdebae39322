"""A NIR graph laid open: subgraphs put in place, and recurrences taken out as a part of their neurons."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import nir

from lsc_snn.nir.restore_neurons import is_composition

MAPS = (nir.Affine, nir.Linear)
Edges = list[tuple[str, str]]


class Opened(NamedTuple):
    """Nodes in topological order, who feeds each, and by name of a neuron the Linear or Affine that feeds it back."""

    nodes: dict[str, Any]
    sources: dict[str, list[str]]
    recurrent: dict[str, Any]

    def targets(self, name: str) -> list[str]:
        """Return the nodes that one feeds."""
        return [target for target, sources in self.sources.items() if name in sources]


def opened(graph: Any) -> Opened:
    """Return a graph without subgraphs, but for compositions of ours, and without loops.

    Raises ValueError for several inputs or outputs, and for a loop that is no recurrence of one neuron by one matrix.
    """
    nodes, edges = _flat(graph)
    recurrent: dict[str, Any] = {}
    for name, node in list(nodes.items()):
        sources, targets = [a for a, b in edges if b == name], [b for a, b in edges if a == name]
        if isinstance(node, MAPS) and sources == targets and len(sources) == 1 and sources[0] not in recurrent:
            recurrent[sources[0]] = nodes.pop(name)
            edges = [edge for edge in edges if name not in edge]
    for kind in (nir.Input, nir.Output):
        found = [name for name, node in nodes.items() if isinstance(node, kind)]
        if len(found) != 1:
            raise ValueError(f"graph: expected one {kind.__name__}, got {found}; import its parts")
    order = TopologicalSorter({name: [a for a, b in edges if b == name] for name in nodes})
    try:
        ordered = list(order.static_order())
    except CycleError as error:
        raise ValueError(
            f"graph: expected no loop but that of a neuron through one Linear or Affine, got {error.args[1]}; "
            "no layer of ours does what it does"
        ) from None
    sources_of = {name: [a for a, b in edges if b == name] for name in ordered}
    return Opened({name: nodes[name] for name in ordered}, sources_of, recurrent)


def _flat(graph: Any) -> tuple[dict[str, Any], Edges]:
    nodes: dict[str, Any] = {}
    edges: Edges = [(str(a), str(b)) for a, b in graph.edges]
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRGraph) or is_composition(node):
            nodes[name] = node
            continue
        inner, inner_edges = _flat(node)
        own = {key: f"{name}.{key}" for key in inner}
        inner_edges = [(own[a], own[b]) for a, b in inner_edges]
        ends = {own[key]: part for key, part in inner.items() if isinstance(part, nir.Input | nir.Output)}
        nodes |= {own[key]: part for key, part in inner.items() if own[key] not in ends}
        entry, end = (
            next((key for key, part in ends.items() if isinstance(part, kind)), name)
            for kind in (nir.Input, nir.Output)
        )
        edges = [(end if a == name else a, entry if b == name else b) for a, b in edges] + inner_edges
        for key in ends:
            before, after = [a for a, b in edges if b == key], [b for a, b in edges if a == key]
            edges = [edge for edge in edges if key not in edge] + [(a, b) for a in before for b in after]
    return nodes, edges
