"""The order in which the nodes of a graph are visited in one time step, and which edges wait for the next one.

NIR gives a graph's nodes equations in continuous time; a loop has no first node there. In steps it needs one. Ours:

- Subgraphs are opened: their nodes are visited as if they stood in the outer graph, as ``subgraph.node``.
- A ``Delay`` of at least one step gives out what came in earlier: its own inputs may come after it. A loop through one
  needs no other cut.
- An edge u -> v of any other loop is *feedback* if every path from the graph's inputs to u passes through v: it closes
  a loop that was entered at v. It delivers u's value of the step before, and zero at the first step. So in
  input -> LIF -> Linear -> LIF the spikes of step t - 1 arrive at step t, as in PyTorch's libraries.
- A loop with more than one entry has no such edge. There, every edge of the loop that enters a node with memory (LIF,
  LI and so on) is feedback.
- All other edges deliver the value of the same step: nodes are visited in topological order. A loop that no node with
  memory stands in has no solution in continuous time either, and is refused.

This depends on the graph alone, not on the order in which nodes or edges are listed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

Edge = tuple[str, str]


class Schedule(NamedTuple):
    """The nodes in the order of their visits, and the edges that deliver the value of the step before."""

    order: list[str]
    late: frozenset[Edge]


def schedule(
    edges: Collection[Edge], *, inputs: Collection[str], delays: Collection[str], memory: Collection[str]
) -> Schedule:
    """Return the order of a graph whose nodes are all reached from ``inputs``, as the module's text says.

    ``delays`` are the Delay nodes of at least one step, ``memory`` the other nodes with a state. Raises ValueError for
    a loop without memory.

    >>> edges = [("in", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "out")]
    >>> schedule(edges, inputs=["in"], delays=[], memory=["lif"]).late
    frozenset({('w', 'lif')})
    """
    names = sorted({*inputs, *(name for edge in edges for name in edge)})
    stuck = sorted({u for u, _ in _in_loops([edge for edge in edges if not {*edge} & {*delays, *memory}], ())})
    if stuck:
        raise ValueError(
            f"loop through {', '.join(map(repr, stuck))}: expected a node with memory in every loop, got none; "
            "add a Delay of one step"
        )
    late = {edge for edge in edges if edge[1] in delays}
    targets = _targets(edges)
    late |= {(u, v) for u, v in _in_loops(edges, late) if u not in _reached(inputs, targets, without=v)}
    late |= {(u, v) for u, v in _in_loops(edges, late) if v in memory}
    return Schedule(_sorted(names, [edge for edge in edges if edge not in late]), frozenset(late))


def reached_from(starts: Iterable[str], edges: Collection[Edge]) -> set[str]:
    """Return the nodes that a path leads to, the starts among them."""
    return _reached(starts, _targets(edges), without=None)


def _targets(edges: Collection[Edge]) -> dict[str, list[str]]:
    targets: dict[str, list[str]] = {}
    for u, v in edges:
        targets.setdefault(u, []).append(v)
    return targets


def _reached(starts: Iterable[str], targets: Mapping[str, Collection[str]], without: str | None) -> set[str]:
    """Return the nodes that a path leads to which does not pass through one of them."""
    found: set[str] = set()
    waiting = [name for name in starts if name != without]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [target for target in targets.get(name, ()) if target != without]
    return found


def _in_loops(edges: Collection[Edge], cut: Collection[Edge]) -> list[Edge]:
    """Return the edges that lie on a loop of the edges not cut."""
    kept = [edge for edge in edges if edge not in cut]
    targets = _targets(kept)
    after = {v: _reached([v], targets, without=None) for v in {v for _, v in kept}}
    return [(u, v) for u, v in kept if u in after[v]]


def _sorted(names: Collection[str], edges: Collection[Edge]) -> list[str]:
    """Return the names of a graph without loops in topological order, ties by name."""
    waiting = {name: {u for u, v in edges if v == name} for name in names}
    order: list[str] = []
    while ready := sorted(name for name, sources in waiting.items() if not sources):
        order += ready
        for name in ready:
            del waiting[name]
        for sources in waiting.values():
            sources.difference_update(ready)
    return order
