"""A NIR graph as layers of this package: node by node, in the order in which they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import nir
import torch
from torch import Tensor, nn

from lsc_snn import _checks
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.layers import LI, SpikingLayer
from lsc_snn.nir._nodes import declared_shape, output_shape
from lsc_snn.nir.graphs import check_graph
from lsc_snn.nir.restore_graph import MAPS, opened
from lsc_snn.nir.restore_layers import layers_of, linear, takes_weights
from lsc_snn.nir.restore_neurons import Shape, matrix
from lsc_snn.nir.synaptic import Synaptic


class Layers(nn.Module):
    """Layers wired as a graph without loops, over a sequence (T, B, ...): what ``from_nir`` returns.

    Layers with memory take the sequence, those of torch.nn every time step of it. ``sources`` says what each adds up,
    and ``output`` what the output adds up; the input has a name that is no layer's. Layers are in the order of their
    calls.

    >>> import torch
    >>> from lsc_snn import LIF
    >>> wired = Layers({"fc": nn.Linear(3, 2), "lif": LIF(2, 2)}, {"fc": ["input"], "lif": ["fc"]}, ["lif"])
    >>> wired(torch.zeros(5, 1, 3)).shape
    torch.Size([5, 1, 2])
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], sources: Mapping[str, Sequence[str]], output: Sequence[str]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.sources, self.output = {name: tuple(of) for name, of in sources.items()}, tuple(output)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the output, (T, B, ...)."""
        made: dict[str, Tensor] = {}

        def added(names: Sequence[str]) -> Any:
            values: list[Any] = [made.get(name, inputs) for name in names]
            if len(values) > 1:
                values = [value.to_dense() if isinstance(value, EventBatch) else value for value in values]
            return sum(values[1:], start=values[0])

        for name, layer in self.layers.items():
            signal = added(self.sources[name])
            if isinstance(layer, SpikingLayer | LI | Synaptic):
                made[name], _ = layer(signal)
            else:
                dense = signal.to_dense() if isinstance(signal, EventBatch) else signal
                merged: Tensor = layer(dense.flatten(0, 1))
                made[name] = merged.reshape(*dense.shape[:2], *merged.shape[1:])
        output: Tensor = added(self.output)
        return output


def from_nir(
    graph: Any, *, dt: float, reset: Literal["hard", "soft"] | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Return the layers of a NIR graph under Euler's rule with a step ``dt``: (T, B, ...) to (T, B, ...).

    The inverse of ``to_nir``: an integrator decays by alpha = 1 - dt / tau in a step, and its input counts dt / tau r,
    which weights take over, or thresholds where there are no weights. A Linear or Affine in front becomes the layer's
    own weights. LIF nodes become layers with ``reset="hard"``, recurrent ones too, in the four-node form or flat; a
    ``v_reset`` that is not the rest becomes a weight of each neuron to itself. The compositions of ``to_nir`` become
    LIF, ALIF, and layers with any reset; a CubaLIF ``Synaptic``; IF and I, and neurons behind convolutions, ``Units``
    and ``Integrators``. A recurrent bias, as snnTorch writes one, counts at every step, the first too. Surrogates are
    no part of a graph: the layers have the default one.

    Args:
        graph: a ``nir.NIRGraph`` of these nodes, CubaLI, and Affine, Linear, Conv1d, Conv2d, AvgPool2d and Flatten.
        dt: time step, in the unit of the graph's time constants: seconds. snnTorch writes with 1e-4. Norse's
            ``to_nir(model, sample, dt=0.001)`` writes time constants too small by dt: use its ``dt=1``.
        reset: what neurons do that do not say what they reset to, as nir up to 1.0.5 has them: "soft", they subtract
            the threshold in the step of the spike, as that release of nir says, or "hard", they reset to zero, as
            snnTorch and Norse do all the same. None refuses them.
        dtype: of the parameters; torch's default if None.

    Raises ValueError for a graph that is not valid, nodes that are unsupported, naming them, loops through more than
    one layer, and a decay that our layers cannot have.

    >>> from lsc_snn.nir import to_nir
    >>> from lsc_snn import LIF
    >>> restored = from_nir(to_nir(LIF(3, 2, reset="hard"), dt=1e-4), dt=1e-4)
    >>> restored(torch.zeros(10, 1, 3)).shape
    torch.Size([10, 1, 2])
    """
    if reset is not None:
        _checks.check_in("reset", reset, ("hard", "soft"))
    check_graph(graph)
    _checks.check_positive("dt", dt)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype: expected a floating-point torch.dtype, got {dtype}; choose torch.float32")
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
        front = None
        if isinstance(node, MAPS):
            after = parts.targets(name)
            alone = len(after) == 1 and parts.sources[after[0]] == [name]
            if alone and len(shape) == 1 and takes_weights(parts.nodes[after[0]]):
                continue  # that layer has it as its own weights
            made = {short[name]: linear(*matrix(node), dtype)}
        else:
            before_it = parts.nodes[before[0]]
            if isinstance(before_it, MAPS) and takes_weights(node) and short[before[0]] not in layers:
                front, before = before_it, parts.sources[before[0]]
            made = layers_of(name, short[name], node, parts.recurrent.get(name), shape, front, dt, reset, dtype)
        others = {*short.values(), *layers} - ({short[parts.sources[name][0]]} if front is not None else set())
        names = [new if new == short[name] else _free(new, others) for new in made]
        made = dict(zip(names, made.values(), strict=True))
        sources |= {names[0]: [short[source] for source in before]}
        sources |= {second: [first] for first, second in pairwise(names)}
        layers |= made
    return Layers(layers, sources, [short[source] for source in before])


def _short(names: list[str]) -> dict[str, str]:
    """Return names for layers, no two alike: without dots, and without the last part where it tells nothing apart."""
    first = {name: name.partition(".")[0] for name in names}
    alone = Counter(first.values())
    short: dict[str, str] = {}
    for name in names:
        wanted = first[name] if alone[first[name]] == 1 else name.replace(".", "_")
        short[name] = _free(wanted, short.values())
    return short


_NO_MODULES = nn.ModuleDict()


def _free(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken, and no attribute of an nn.ModuleDict, which could not hold it."""
    while name in taken or hasattr(_NO_MODULES, name):
        name += "_"
    return name
