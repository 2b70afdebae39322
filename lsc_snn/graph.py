"""What an autograd graph says about a user's forward: where a signal came from, and which parameters it passed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge


def leaf_ids(tensors: Iterable[Tensor]) -> set[int]:
    """Return the ids of all leaves that tensors depend on."""
    tensors = list(tensors)
    stack = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen: set[Any] = set(stack)
    while stack:
        for child in _children(stack.pop()):
            if child not in seen:
                seen.add(child)
                stack.append(child)
    found = {id(variable) for node in seen if (variable := _variable(node)) is not None}
    return found | {id(tensor) for tensor in tensors if tensor.grad_fn is None}


def reached(tensor: Tensor, leaves: Iterable[Tensor]) -> set[int]:
    """Return the ids of those ``leaves`` that a tensor depends on."""
    return {id(leaf) for leaf in leaves} & leaf_ids([tensor])


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, through dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(entry)


def depends(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    """Say whether a tensor is one of others that carry a graph, or was computed from one."""
    nodes = {other.grad_fn for other in others if other.grad_fn is not None}
    return tensor.grad_fn is not None and any(node in nodes for node in _nodes(tensor))


def slices(tensor: Tensor, start: Tensor, axis: int) -> dict[int, GradientEdge]:
    """Return where the slices of a leaf along an axis, 0 or 1, enter the graph of a tensor, by their index.

    The two axes may be transposed first. Empty where anything but single slices enters, or one of them twice.
    """
    if tensor.grad_fn is None:
        return {}
    nodes = _nodes(tensor)
    taken: dict[Any, int | None] = {}  # the operations that take slices, and which; None: all
    for node in nodes:
        for child in _children(node):
            turned = _swaps_first_axes(child, start.dim()) and any(
                _variable(inner) is start for inner in _children(child)
            )
            if not turned and (_variable(child) is not start or _swaps_first_axes(node, start.dim())):
                continue
            kind = node.name()
            if kind not in ("SelectBackward0", "UnbindBackward0"):
                return {}
            if _signed(node._saved_dim) % start.dim() != (1 - axis if turned else axis):
                return {}
            taken[node] = _signed(node._saved_index) % start.shape[axis] if kind == "SelectBackward0" else None
    found: dict[int, GradientEdge] = {}
    for node in nodes:
        for child, output in node.next_functions:
            if child in taken:
                edge, index = GradientEdge(child, output), taken[child]
                if found.setdefault(output if index is None else index, edge) != edge:
                    return {}
    return found


def _swaps_first_axes(node: Any, axes: int) -> bool:
    if node.name() != "TransposeBackward0":
        return False
    return {_signed(node._saved_dim0) % axes, _signed(node._saved_dim1) % axes} == {0, 1}


def _signed(value: int) -> int:
    """Return a saved number of a node, which shows negative ones as unsigned."""
    return value - 2**64 if value >= 2**63 else value


def passed(tensor: Tensor, leaf: Tensor, data: Iterable[Tensor]) -> list[nn.Parameter]:
    """Return the parameters that act on the way from a leaf to a tensor, the last to act first.

    A parameter acts on the way if it enters an operation there by itself: through operations on parameters alone, such
    as the transposition in a linear layer. ``data`` are the leaves that are no parameters, ``leaf`` among them.
    """
    if tensor.grad_fn is None:
        return []
    data_ids = {id(entry) for entry in data} | {id(leaf)}
    nodes = _nodes(tensor)
    holds_data: dict[Any, bool] = {}
    on_way: dict[Any, bool] = {}
    for node in nodes:
        variable, children = _variable(node), _children(node)
        holds_data[node] = id(variable) in data_ids or any(holds_data[child] for child in children)
        on_way[node] = variable is leaf or any(on_way[child] for child in children)
    found: dict[int, tuple[int, nn.Parameter]] = {}
    for node in nodes:
        if not on_way[node]:
            continue
        for child in (child for child in _children(node) if not holds_data[child]):
            for inner in _nodes_from(child):
                variable = _variable(inner)
                if isinstance(variable, nn.Parameter):
                    order = max(node._sequence_nr(), found.get(id(variable), (0, variable))[0])
                    found[id(variable)] = (order, variable)
    return [parameter for _, parameter in sorted(found.values(), key=lambda entry: -entry[0])]


def _variable(node: Any) -> Tensor | None:
    variable: Tensor | None = getattr(node, "variable", None)
    return variable


def _children(node: Any) -> list[Any]:
    return [child for child, _ in node.next_functions if child is not None]


def _nodes(tensor: Tensor) -> list[Any]:
    return _nodes_from(tensor.grad_fn)


def _nodes_from(root: Any) -> list[Any]:
    """Return all nodes of a graph, every one after those that it depends on."""
    ordered, seen, stack = [], {root}, [(root, iter(_children(root)))]
    while stack:
        node, children = stack[-1]
        for child in children:
            if child not in seen:
                seen.add(child)
                stack.append((child, iter(_children(child))))
                break
        else:
            ordered.append(node)
            stack.pop()
    return ordered
