"""A model as a NIR graph whose meaning equals the model's, spike for spike, or an error that says why there is none."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsc_snn import _checks
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.nir.export_layers import Layer, affine, block_of
from lsc_snn.nir.export_resistance import unit_resistance
from lsc_snn.nir.export_wiring import INPUT, Wiring, chain_of, wire, wire_chain
from lsc_snn.nir.interpret import interpret
from lsc_snn.nir.restore import Layers
from lsc_snn.trace import Call

START, END = "input", "output"
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def to_nir(
    model: nn.Module,
    *,
    dt: float,
    sample: Inputs | None = None,
    call: Call | None = None,
    approximate: bool = False,
    unit_r: bool = False,
) -> Any:
    """Return a model as a ``nir.NIRGraph`` that gives the same spikes under Euler's rule with a step ``dt``.

    A decay alpha per step becomes tau = dt / (1 - alpha) and r = tau / dt, with which
    ``v' = v + dt/tau (v_leak - v + r I) = alpha v + I``. A LIF node resets to zero: it is what ``reset="hard"`` exports
    to, in the four-node form if it is recurrent. Soft resets and adaptation have no node and become compositions
    (``lsc_snn.nir.compose``), which simulators that know LIF nodes alone cannot read. Dropout is left out, and
    BatchNorm, with its running statistics, folded into the layer in front. The graph's output is that of the last
    layer at every step: what a forward makes of it then, a mean over time or a softmax, is not in the graph.

    A copy of the model is run once on ``sample``, in float64, and the graph must give what it gave; if its forward
    insists on float32, but for 0.1 %.

    Args:
        model: layers of this package, neurons of snnTorch or Norse, and Linear, Conv1d, Conv2d, AvgPool2d and Flatten.
        dt: time step in seconds, as importers have it: snnTorch's is 1e-4, that of Norse 1e-3 unless told otherwise.
        sample: an input (T, B, ...), or an EventBatch, that makes the model spike. Needed, to find how it is wired,
            where the model is no chain of layers that begins with known sizes; else random spikes are used.
        call: how to run a model with an unusual forward on it, ``call(model, sample)``.
        approximate: write every spiking layer as a LIF node, for importers that know no other. Lost are what a soft
            reset leaves above the threshold, and the adaptation: its mean over the sample is added to the threshold.
            The graph is then not checked against the model.
        unit_r: write r = 1 and multiply the weights by tau / dt instead. It says the same; Norse ignores r, and
            snnTorch expects tau / dt.

    Raises ValueError for what NIR cannot express, naming the layer and what to do instead, for a graph that does not
    give what the model gave, and for a bad ``dt`` or ``sample``.

    NIR: Pedersen et al. 2024, "Neuromorphic intermediate representation", Nature Communications 15.

    >>> from lsc_snn import LIF
    >>> sorted(to_nir(LIF(3, 2, reset="hard"), dt=1e-4).nodes)
    ['input', 'layer', 'layer_weights', 'output']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    _checks.check_positive("dt", dt)
    first = next(iter(model.parameters()), torch.empty(0))
    dtype = np.float64 if first.dtype == torch.float64 else np.float32
    for name, parameter in model.named_parameters():
        _checks.check_finite(f"parameter {name}", parameter)
    twin = _twin(model)
    chain = chain_of(twin) if call is None else None
    wiring, given = _wired(twin, chain, _sample(chain, sample).cpu(), call)
    wiring.prefix = "layers." if isinstance(model, Layers) else ""  # else names would grow at every round trip
    _fold(wiring)
    if not approximate:
        _verify(_graph(wiring, dt, np.float64, False, unit_r), wiring, given, dt)
    return _graph(wiring, dt, dtype, approximate, unit_r)


def _twin(model: nn.Module) -> nn.Module:
    """Return a copy in float64: there rounding flips no spike."""
    try:
        twin = copy.deepcopy(model).cpu().double()
    except RuntimeError as error:  # "Only Tensors created explicitly by the user support the deepcopy protocol"
        raise ValueError(
            "model: expected no hidden state that carries a graph, got one; call its reset, or detach it, first"
        ) from error
    for module in twin.modules():
        if type(module).__module__.startswith("snntorch."):
            from lsc_snn.nir import export_snntorch

            export_snntorch.widen(module)
    return twin.eval()


def _sample(chain: list[tuple[str, nn.Module]] | None, sample: Inputs | None) -> Tensor:
    if isinstance(sample, EventBatch):
        sample = sample.to_dense()
    if sample is not None:
        _checks.check_float("sample", sample)
        _checks.check_finite("sample", sample)
        if sample.dim() < 3 or sample.numel() == 0:
            raise ValueError(
                f"sample: expected shape (T, B, ...), none empty, got {tuple(sample.shape)}; add what lacks"
            )
        return sample.detach()
    size = None
    if chain:
        module = chain[0][1]
        size = next(
            (getattr(module, name) for name in ("num_inputs", "num_units", "in_features") if hasattr(module, name)),
            None,
        )
    if size is None:
        raise ValueError(
            "sample: expected an input (T, B, ...) of this model, which tells how it is wired, got None; pass one that "
            "makes it spike"
        )
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(32, 2, int(size), generator=generator) < 0.3).double()


def _wired(
    twin: nn.Module, chain: list[tuple[str, nn.Module]] | None, sample: Tensor, call: Call | None
) -> tuple[Wiring, NDArray[Any]]:
    def run(inputs: Tensor) -> Wiring:
        return wire(twin, inputs, call) if chain is None else wire_chain(chain, inputs)

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for the states that a forward begins with
    try:
        return run(sample.double()), sample.double().numpy()
    except RuntimeError as error:  # a forward that makes float32 tensors all the same
        if "dtype" not in str(error) and "Double" not in str(error):
            raise
    finally:
        torch.set_default_dtype(default)
    twin.float()  # in place: the chain holds its layers
    return run(sample.float()), sample.double().numpy()


def _fold(wiring: Wiring) -> None:
    """Fold the normalisations of a wiring into the layers in front of them."""
    for name, module in list(wiring.modules.items()):
        if not isinstance(module, _NORMS):
            continue
        sources, targets = wiring.sources(name), wiring.targets(name)
        front = wiring.modules.get(sources[0])
        alone = len(sources) == 1 and wiring.targets(sources[0]) == [name] and wiring.output != sources[0]
        if not isinstance(front, nn.Linear | nn.Conv1d | nn.Conv2d) or not alone:
            raise ValueError(
                f"layer {name!r}: expected a Linear or Conv in front that feeds it alone, got {', '.join(sources)}; "
                "NIR has no normalisation, it can only be folded"
            )
        wiring.modules[sources[0]] = _normalised(front, module, name)
        wiring.edges = [edge for edge in wiring.edges if name not in edge]
        wiring.edges += [(sources[0], target) for target in targets]
        if wiring.output == name:
            wiring.output = sources[0]
        del wiring.modules[name]


def _normalised(front: Any, norm: Any, name: str) -> nn.Module:
    """Return a copy of a linear layer that also does what the normalisation behind it does in eval mode."""
    if norm.running_mean is None:
        raise ValueError(f"layer {name!r}: expected running statistics, got none; use track_running_stats=True")
    scale = 1 / torch.sqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    folded: nn.Module = copy.deepcopy(front)
    with torch.no_grad():
        bias = torch.zeros_like(scale) if front.bias is None else front.bias
        folded.get_parameter("weight").mul_(scale.reshape(-1, *[1] * (front.weight.dim() - 1)))
        folded.bias = nn.Parameter(bias * scale + shift)
    return folded


def _graph(wiring: Wiring, dt: float, dtype: Any, approximate: bool, unit: bool) -> Any:
    """Return the graph of a wiring."""
    names = _names(wiring)
    nodes: dict[str, Any] = {START: nir.Input(input_type={"input": np.array(wiring.input_shape)})}
    enters = dict(names)
    biases: list[tuple[str, Any]] = []
    edges: list[tuple[str, str]] = []
    for name, module in wiring.modules.items():
        before, after = wiring.shapes[name]
        mean = np.asarray(wiring.means[name]) if name in wiring.means else np.zeros(after)
        layer = Layer(name, before, after, dt, dtype, approximate, name in wiring.potentials, mean)
        block = block_of(module, layer)
        if block.weight is not None:
            enters[name] = _free(f"{names[name]}_weights", {*names.values(), *nodes})
            nodes[enters[name]] = affine(block.weight, block.bias)
            edges.append((enters[name], names[name]))
        elif block.bias is not None and block.bias.any():
            biases.append((name, block.bias))
        nodes[names[name]] = block.node
        sources = wiring.sources(name)
        if isinstance(block.node, nir.Affine) and sources and all((source, name) in wiring.late for source in sources):
            # Its input is that of the step before, but its bias comes at every step, the first too.
            biases += [(target, block.node.bias) for target in wiring.targets(name) if block.node.bias.any()]
            block.node.bias = np.zeros_like(block.node.bias)
    for name, bias in biases:
        _add_bias(nodes, edges, wiring, name, names, enters, bias, dtype)
    for source, target in wiring.edges:
        edges.append((names[source], enters[target]))
    if unit:
        unit_resistance(nodes, edges)
    shape = wiring.shapes[wiring.output][1] if wiring.output != INPUT else wiring.input_shape
    nodes[END] = nir.Output(output_type={"output": np.array(shape)})
    edges.append((names[wiring.output], END))
    return nir.NIRGraph(nodes=nodes, edges=edges)


def _add_bias(
    nodes: dict[str, Any],
    edges: list[tuple[str, str]],
    wiring: Wiring,
    name: str,
    names: dict[str, str],
    enters: dict[str, str],
    bias: Any,
    dtype: Any,
) -> None:
    """Add a constant to the input of a layer: to the bias of what stands in front of it, or by an identity."""
    for source in wiring.sources(name):
        front = nodes.get(names[source])
        late = all((before, source) in wiring.late for before in wiring.sources(source))
        if isinstance(front, nir.Affine) and wiring.targets(source) == [name] and not late:
            front.bias = front.bias + bias.astype(front.bias.dtype)
            return
    if bias.ndim != 1:
        raise ValueError(f"layer {name!r}: expected a vector as its input, with a recurrent bias, got {bias.shape}")
    constant = _free(f"{names[name]}_bias", {*names.values(), *nodes})
    nodes[constant] = affine(np.eye(len(bias), dtype=dtype), bias)
    edges.append((constant, enters[name]))
    enters[name] = constant


def _names(wiring: Wiring) -> dict[str, str]:
    """Return node names that importers take: without dots, and no two alike."""
    names = {INPUT: START}
    for name in wiring.modules:
        legal = name.removeprefix(wiring.prefix).replace(".", "_")
        legal = legal if legal.isidentifier() else f"layer_{legal}"
        names[name] = _free(legal, {END, *names.values()})
    return names


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _verify(graph: Any, wiring: Wiring, sample: NDArray[Any], dt: float) -> None:
    """Raise ValueError unless the graph gives on the sample what the model gave."""
    got = interpret(graph, sample, dt=dt).outputs[END]
    expected = wiring.result.double().numpy()
    size = max(1.0, float(np.abs(expected).max()))
    exact = wiring.result.dtype == torch.float64  # else rounding may flip a spike in a thousand
    wrong = np.abs(got - expected) > (1e-9 if exact else 1e-4) * size
    if wrong.mean() > (0 if exact else 1e-3):
        step = int(np.argwhere(wrong)[0][0])
        raise ValueError(
            f"model: expected a graph that gives what the model gives, got {int(wrong.sum())} of {wrong.size} outputs "
            f"that differ, first at step {step}; the model does what cannot be seen from outside: export its parts"
        )
