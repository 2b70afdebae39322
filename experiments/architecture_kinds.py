"""Networks of every supported kind of layer, in plain forwards as a user writes them, by the name of the layer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import lsc_snn as lsc

Advance = Callable[[nn.Module, Tensor, Any], tuple[Tensor, Any]]
"""One call of a cell: (cell, what arrives, the state it returned before) to (what leaves, the next state)."""


class Size(NamedTuple):
    """What all networks have in common; convolutional ones have sizes of their own, on 4 x 4 pixels."""

    layers: int = 5
    units: int = 256
    inputs: int = 700
    steps: int = 250
    batch: int = 32
    conv_layers: int = 3
    channels: int = 128
    conv_steps: int = 100


Build = Callable[[Size], nn.Module]
SIDE = 4
"""Pixels of a side of what convolutional networks get."""


class InLoop(nn.Module):
    """A loop over time, with a module in front of each cell."""

    def __init__(self, fronts: Sequence[nn.Module], cells: Sequence[nn.Module], advance: Advance) -> None:
        super().__init__()
        self.fronts, self.cells, self.advance = nn.ModuleList(fronts), nn.ModuleList(cells), advance

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last layer's output at every step, (T, B, ...)."""
        states: list[Any] = [None] * len(self.cells)
        outputs = []
        for signal in inputs:
            for index, (front, cell) in enumerate(zip(self.fronts, self.cells, strict=True)):
                signal, states[index] = self.advance(cell, front(signal), states[index])
            outputs.append(signal)
        return torch.stack(outputs)


class Stack(nn.Module):
    """Modules one after the other, each called once on the whole sequence."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, signal: Tensor) -> Tensor:
        """Return the last layer's output, (T, B, ...)."""
        for layer in self.layers:
            returned = layer(signal)
            signal = returned[0] if isinstance(returned, tuple) else returned
        return signal


class BatchFirst(nn.Module):
    """A model that takes (B, T, ...), given (T, B, ...)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output, time first."""
        output: Tensor = self.model(inputs.transpose(0, 1)).transpose(0, 1)
        return output


class Pixels(nn.Module):
    """The first units of an input (..., N) as one channel of pixels, (..., 1, SIDE, SIDE)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the pixels."""
        return inputs[..., : SIDE * SIDE].unflatten(-1, (1, SIDE, SIDE))


def inside(cell: nn.Module, signal: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Call a cell that keeps its state inside."""
    return cell(signal), None


def returned(cell: nn.Module, signal: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Call a cell that returns its output and its state (Norse)."""
    output, after = cell(signal, state)
    return output, after


def recurrent(cell: nn.Module, signal: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Call a cell whose output is its state, or the first of two (torch.nn)."""
    after = cell(signal, state)
    return (after[0] if isinstance(after, tuple) else after), after


def spikes_of(cell: nn.Module, signal: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Call a cell of snnTorch that returns its spikes and then its state."""
    spikes, *after = cell(signal, *(() if state is None else state))
    return spikes, after


def _fan_ins(size: Size) -> list[int]:
    return [size.inputs] + [size.units] * (size.layers - 1)


def _planes(size: Size) -> list[int]:
    return [1] + [size.channels] * (size.conv_layers - 1)


def _stack(make: Callable[[int, int], nn.Module]) -> Build:
    return lambda size: Stack([make(a, size.units) for a in _fan_ins(size)])


def _loop(make: Callable[[int, int], nn.Module], advance: Advance) -> Build:
    def build(size: Size) -> nn.Module:
        cells = [make(a, size.units) for a in _fan_ins(size)]
        return InLoop([nn.Identity() for _ in cells], cells, advance)

    return build


def _behind_linear(make: Callable[[int], nn.Module], advance: Advance) -> Build:
    def build(size: Size) -> nn.Module:
        fronts = [nn.Linear(a, size.units) for a in _fan_ins(size)]
        return InLoop(fronts, [make(size.units) for _ in fronts], advance)

    return build


def _sequences_behind_linear(make: Callable[[int], nn.Module]) -> Build:
    def build(size: Size) -> nn.Module:
        return Stack([module for a in _fan_ins(size) for module in (nn.Linear(a, size.units), make(size.units))])

    return build


def _batch_first(build: Build) -> Build:
    return lambda size: BatchFirst(build(size))


def _behind_convolution(make: Callable[[int], nn.Module], advance: Advance) -> Build:
    def build(size: Size) -> nn.Module:
        fronts: list[nn.Module] = [nn.Conv2d(a, size.channels, 3, padding=1) for a in _planes(size)]
        fronts[0] = nn.Sequential(Pixels(), fronts[0])
        return InLoop(fronts, [make(size.channels) for _ in fronts], advance)

    return build


def _feed_forward(make: Callable[[int, int], nn.Module]) -> Build:
    return lambda size: nn.Sequential(*(m for a in _fan_ins(size) for m in (make(a, size.units), nn.Tanh())))


def _convolutions(size: Size) -> nn.Module:
    parts: list[nn.Module] = [Pixels()]
    for planes in _planes(size):
        parts += [nn.Conv2d(planes, size.channels, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*parts)


def _state_space(make: Callable[[int, int], nn.Module]) -> Build:
    return lambda size: Stack(
        [nn.Linear(size.inputs, size.units), *(make(size.units, size.units) for _ in range(size.layers))]
    )


def _block(make: Callable[[int, int], Any]) -> Callable[[int, int], nn.Module]:
    return lambda units, states: lsc.SSMBlock(make(units, states))


def own_kinds() -> dict[str, Build]:
    """Return the layers of this library."""
    kinds: dict[str, Build] = {name: _stack(getattr(lsc, name)) for name in ("ALIF", "LIF", "LSNN")}
    for name in ("LRU", "S5"):
        kinds |= {name: _state_space(getattr(lsc, name)), f"SSMBlock({name})": _state_space(_block(getattr(lsc, name)))}
    return kinds


def torch_kinds() -> dict[str, Build]:
    """Return the layers of torch.nn; those without time stand between tanh."""
    kinds: dict[str, Build] = {f"nn.{name}": _stack(getattr(nn, name)) for name in ("RNN", "GRU", "LSTM")}
    kinds |= {f"nn.{name}": _loop(getattr(nn, name), recurrent) for name in ("RNNCell", "GRUCell", "LSTMCell")}
    return kinds | {"nn.Linear": _feed_forward(nn.Linear), "nn.Conv2d": _convolutions}


def snntorch_kinds() -> dict[str, Build]:
    """Return the neurons of snnTorch, with learnable decays and thresholds where the class has them."""
    snn = importlib.import_module("snntorch")
    threshold: dict[str, Any] = {"init_hidden": True, "learn_threshold": True}
    beta = {**threshold, "beta": 0.9, "learn_beta": True}
    alpha = {**beta, "alpha": 0.8, "learn_alpha": True}
    kinds: dict[str, Build] = {}
    makes: dict[str, Callable[[int], nn.Module]] = {
        "Leaky": lambda units: snn.Leaky(**beta),
        "RLeaky": lambda units: snn.RLeaky(**beta, linear_features=units),
        "Synaptic": lambda units: snn.Synaptic(**alpha),
        "RSynaptic": lambda units: snn.RSynaptic(**alpha, linear_features=units),
        "Alpha": lambda units: snn.Alpha(alpha=0.9, beta=0.8, **threshold),
        "Lapicque": lambda units: snn.Lapicque(**beta),
    }
    kinds = {f"snntorch.{name}": _behind_linear(make, inside) for name, make in makes.items()}
    kinds["snntorch.Leaky, convolutional"] = _behind_convolution(makes["Leaky"], inside)

    def lstm(size: Size) -> nn.Module:
        # The two spiking LSTMs of snnTorch 1.0 clear their state at every step where input and state differ in shape.
        fronts = [nn.Linear(size.inputs, size.units), *(nn.Identity() for _ in range(size.layers - 1))]
        return InLoop(fronts, [snn.SLSTM(size.units, size.units, **threshold) for _ in fronts], inside)

    kinds["snntorch.SLSTM"] = lstm
    kinds["snntorch.StateLeaky"] = _sequences_behind_linear(
        lambda units: snn.StateLeaky(beta=0.9, channels=units, learn_beta=True, learn_threshold=True)
    )
    parallel = {"learn_threshold": True, "learn_beta": True, "weight_hh_enable": True}
    kinds["snntorch.LeakyParallel"] = _stack(lambda a, units: snn.LeakyParallel(a, units, **parallel))

    def conv_lstm(size: Size) -> nn.Module:
        first = nn.Sequential(Pixels(), nn.Conv2d(1, size.channels, 3, padding=1))
        fronts = [first, *(nn.Identity() for _ in range(size.conv_layers - 1))]
        return InLoop(fronts, [snn.SConv2dLSTM(size.channels, size.channels, 3, **threshold) for _ in fronts], inside)

    return kinds | {"snntorch.SConv2dLSTM": conv_lstm}


_LEARNT = ("v_th", "delta_T", "tau_mem_inv", "tau_syn_inv", "tau_adapt_inv", "tau_ada_inv", "adaptation_current")


def norse_kinds() -> dict[str, Build]:
    """Return the cells and sequence modules of Norse, with all constants learnable that a knob moves."""
    norse = importlib.import_module("norse.torch")

    def learnt(kind: str) -> dict[str, Any]:
        parameters = getattr(norse, f"{kind}Parameters", None) or getattr(
            importlib.import_module(f"norse.torch.functional.{kind.lower()}"), f"{kind}Parameters"
        )
        names = [name for name in _LEARNT if name in parameters._fields]
        default = parameters()
        return {"p": parameters(**{name: nn.Parameter(getattr(default, name).float().clone()) for name in names})}

    kinds: dict[str, Build] = {}
    for kind in ("LIF", "LIFBox", "LIFEx", "LIFAdEx", "IAF", "LSNN"):
        cell, sequence = getattr(norse, f"{kind}Cell"), getattr(norse, kind, None)
        kinds[f"norse.{kind}Cell"] = _behind_linear(lambda units, cell=cell, kind=kind: cell(**learnt(kind)), returned)
        if sequence is not None:
            kinds[f"norse.{kind}"] = _sequences_behind_linear(
                lambda units, sequence=sequence, kind=kind: sequence(**learnt(kind))
            )
    for kind in ("LIF", "LIFEx", "LIFAdEx", "LSNN"):
        for form, build in (("RecurrentCell", partial(_loop, advance=returned)), ("Recurrent", _stack)):
            made = getattr(norse, f"{kind}{form}")
            kinds[f"norse.{kind}{form}"] = build(lambda a, units, made=made, kind=kind: made(a, units, **learnt(kind)))
    return kinds


def spikingjelly_kinds() -> dict[str, Build]:
    """Return the neurons of SpikingJelly, in single-step mode."""
    neuron = importlib.import_module("spikingjelly.activation_based.neuron")
    layer = importlib.import_module("spikingjelly.activation_based.layer")

    def leaky() -> nn.Module:
        made: nn.Module = neuron.ParametricLIFNode(init_tau=2.0, detach_reset=True)
        return made

    return {
        "spikingjelly.LIFNode": _behind_linear(lambda units: neuron.LIFNode(tau=2.0, detach_reset=True), inside),
        "spikingjelly.ParametricLIFNode": _behind_linear(lambda units: leaky(), inside),
        "spikingjelly.LinearRecurrentContainer": _behind_linear(
            lambda units: layer.LinearRecurrentContainer(leaky(), units, units), inside
        ),
    }


def sinabs_kinds() -> dict[str, Build]:
    """Return the neurons of sinabs, which take (B, T, ...), with learnable decays and thresholds."""
    layers = importlib.import_module("sinabs.layers")

    def options() -> dict[str, Any]:
        return {"tau_mem": 20.0, "train_alphas": True, "spike_threshold": nn.Parameter(torch.tensor(1.0))}

    makes: dict[str, Callable[[int], nn.Module]] = {
        "LIF": lambda units: layers.LIF(**options()),
        "LIFRecurrent": lambda units: layers.LIFRecurrent(**options(), rec_connect=nn.Linear(units, units)),
        "ALIF": lambda units: layers.ALIF(**options(), tau_adapt=50.0),
        "ALIFRecurrent": lambda units: layers.ALIFRecurrent(
            **options(), tau_adapt=50.0, rec_connect=nn.Linear(units, units)
        ),
    }
    return {f"sinabs.{name}": _batch_first(_sequences_behind_linear(make)) for name, make in makes.items()}


FAMILIES: dict[str, Callable[[], dict[str, Build]]] = {
    "lsc_snn": own_kinds,
    "torch": torch_kinds,
    "snntorch": snntorch_kinds,
    "norse": norse_kinds,
    "spikingjelly": spikingjelly_kinds,
    "sinabs": sinabs_kinds,
}
