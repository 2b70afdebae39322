"""A graph with r = 1 in every spiking neuron, for importers that ignore r, as Norse's does for a LIF."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np


def unit_resistance(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> None:
    """Set r of every LIF and CubaLIF to 1, in place, and multiply what feeds it by what r was: the graph says the same.

    Raises ValueError where what feeds a LIF is no Affine or Conv that feeds nothing else. A CubaLIF takes the factor
    into its own ``w_in``.
    """
    for name, node in nodes.items():
        neuron = node.nodes.get("lif") if isinstance(node, nir.NIRGraph) else node
        if isinstance(neuron, nir.CubaLIF):
            neuron.w_in = neuron.w_in * neuron.r
        elif isinstance(neuron, nir.LIF):
            factor = neuron.r
            for source in [a for a, b in edges if b == name]:
                front = nodes[source]
                if not isinstance(front, nir.Affine | nir.Conv1d | nir.Conv2d) or [
                    b for a, b in edges if a == source
                ] != [name]:
                    raise ValueError(
                        f"node {name!r}: expected a Linear or Conv in front that feeds it alone and takes r over, got "
                        f"{source!r}; use unit_r=False"
                    )
                _multiply(name, front, factor)
            if isinstance(node, nir.NIRGraph):
                _multiply(name, node.nodes["w_rec"], factor)
        else:
            continue
        neuron.r = np.ones_like(neuron.r)


def _multiply(name: str, front: Any, factor: Any) -> None:
    """Multiply the outputs of a linear node by a factor for each neuron."""
    rows = factor.reshape(len(front.weight), -1)
    if not bool((rows == rows[:, :1]).all()):  # a kernel has one weight for all places of a channel
        raise ValueError(f"node {name!r}: expected one time constant in a channel, got several; use unit_r=False")
    rows = rows[:, 0]
    front.weight = (front.weight * rows.reshape(-1, *[1] * (front.weight.ndim - 1))).astype(front.weight.dtype)
    if hasattr(front, "bias"):
        front.bias = (front.bias * rows).astype(front.bias.dtype)
