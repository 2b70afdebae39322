"""``python -m lsc_snn.experiments.architectures``: every supported kind of layer, stabilised, in one table.

Five layers of each kind in a plain forward, as a user writes it, on random events: radii before and after, and how long
it took next to this library's own ALIF layers. A kind whose package is not installed is named, and left out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import lsc_snn as lsc
from lsc_snn.experiments.bench_table import Row, Table, machine

COLUMNS = ("kind", "target", "time", "depth", "time after", "depth after", "rates", "sweeps", "s", "x own", "reached")
Advance = Callable[[nn.Module, Tensor, Any], tuple[Tensor, Any]]
"""One call of a cell: (cell, what arrives, the state it returned before) to (what leaves, the next state)."""


class Size(NamedTuple):
    """What all networks have in common."""

    layers: int = 5
    units: int = 256
    inputs: int = 700
    steps: int = 250
    batch: int = 32


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


Build = Callable[[Size], nn.Module]


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


def _fan_ins(size: Size) -> list[int]:
    return [size.inputs] + [size.units] * (size.layers - 1)


def _state_space(make: Callable[[int, int], nn.Module]) -> Build:
    return lambda size: Stack(
        [nn.Linear(size.inputs, size.units), *(lsc.SSMBlock(make(size.units, size.units)) for _ in range(size.layers))]
    )


def own_kinds() -> dict[str, Build]:
    """Return the layers of this library."""
    kinds: dict[str, Build] = {name: _stack(getattr(lsc, name)) for name in ("ALIF", "LIF", "LSNN")}
    return kinds | {f"{name} block": _state_space(getattr(lsc, name)) for name in ("LRU", "S5")}


def torch_kinds() -> dict[str, Build]:
    """Return the recurrent layers of torch.nn."""
    kinds: dict[str, Build] = {f"nn.{name}": _stack(getattr(nn, name)) for name in ("RNN", "GRU", "LSTM")}
    return kinds | {f"nn.{name}": _loop(getattr(nn, name), recurrent) for name in ("RNNCell", "GRUCell", "LSTMCell")}


def snntorch_kinds() -> dict[str, Build]:
    """Return the neurons of snnTorch, with learnable decays."""
    snn = importlib.import_module("snntorch")
    beta: dict[str, Any] = {"beta": 0.9, "learn_beta": True, "init_hidden": True}
    alpha = {**beta, "alpha": 0.8, "learn_alpha": True}
    makes: dict[str, Callable[[int], nn.Module]] = {
        "Leaky": lambda units: snn.Leaky(**beta),
        "RLeaky": lambda units: snn.RLeaky(**beta, linear_features=units),
        "Synaptic": lambda units: snn.Synaptic(**alpha),
        "RSynaptic": lambda units: snn.RSynaptic(**alpha, linear_features=units),
        "Alpha": lambda units: snn.Alpha(**{**alpha, "alpha": 0.95}),
    }
    return {f"snntorch.{name}": _behind_linear(make, inside) for name, make in makes.items()}


def norse_kinds() -> dict[str, Build]:
    """Return the cells and sequence modules of Norse."""
    norse = importlib.import_module("norse.torch")
    cells = ("LIFRecurrentCell", "LSNNRecurrentCell", "LIFAdExRecurrentCell")
    kinds: dict[str, Build] = {f"norse.{name}": _loop(getattr(norse, name), returned) for name in cells}
    kinds |= {f"norse.{name}": _stack(getattr(norse, name)) for name in ("LIFRecurrent", "LSNNRecurrent")}
    return kinds | {"norse.LIFCell": _behind_linear(lambda units: norse.LIFCell(), returned)}


def spikingjelly_kinds() -> dict[str, Build]:
    """Return the neurons of SpikingJelly."""
    neuron = importlib.import_module("spikingjelly.activation_based.neuron")
    plif = _behind_linear(lambda units: neuron.ParametricLIFNode(init_tau=2.0, detach_reset=True), inside)
    return {"spikingjelly.ParametricLIFNode": plif}


def sinabs_kinds() -> dict[str, Build]:
    """Return the neurons of sinabs, which take (B, T, ...)."""
    layers = importlib.import_module("sinabs.layers")

    def build(size: Size) -> nn.Module:
        model = _sequences_behind_linear(lambda units: layers.LIF(tau_mem=20.0))(size)
        return _BatchFirst(model)

    return {"sinabs.LIF": build}


class _BatchFirst(nn.Module):
    """A model that takes (B, T, ...), given (T, B, ...)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.model(inputs.transpose(0, 1)).transpose(0, 1)
        return output


FAMILIES: dict[str, Callable[[], dict[str, Build]]] = {
    "lsc_snn": own_kinds,
    "torch": torch_kinds,
    "snntorch": snntorch_kinds,
    "norse": norse_kinds,
    "spikingjelly": spikingjelly_kinds,
    "sinabs": sinabs_kinds,
}


def architectures_table(size: Size, families: Sequence[str], targets: Sequence[str], density: float = 0.02) -> Table:
    """Return a row for each kind and target; ``x own`` is its time divided by that of this library's ALIF."""
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.rand(size.steps, size.batch, size.inputs, generator=generator) < density).float()
    rows: list[Row] = []
    missing = []
    own: dict[str, float] = {}
    for family in ("lsc_snn", *(name for name in families if name != "lsc_snn")):
        try:
            kinds = FAMILIES[family]()
        except ModuleNotFoundError:
            missing.append(family)
            continue
        for kind, build in kinds.items():
            for target in targets:
                print(f"{kind} to {target} ...", file=sys.stderr, flush=True)
                row = _row(kind, build, inputs, size, target)
                own.setdefault(target, float(row["s"] or math.nan))
                rows.append({**row, "x own": float(row["s"] or math.nan) / own[target]})
    note = f"{size.layers} x {size.units} units, {size.inputs} inputs, {size.steps} steps, batch {size.batch}, "
    note += f"{100 * density:g} % random events, seed 0; largest and smallest radius of each kind."
    note += f" Not installed: {', '.join(missing)}." if missing else ""
    return Table("architectures", "Every supported kind, before and after", COLUMNS, tuple(rows), note)


def _row(kind: str, build: Build, inputs: Tensor, size: Size, target: str) -> Row:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages warn about while they build and run
        torch.default_generator.manual_seed(0)
        result = lsc.stabilize(build(size), inputs, target=target)
    before, after = result.before, result.after
    return {
        "kind": kind,
        "target": target,
        "time": _range(before.time.tolist()),
        "depth": _range([before.encoder, *before.depth.tolist()]),
        "time after": _range(after.time.tolist()),
        "depth after": _range([after.encoder, *after.depth.tolist()]),
        "rates": _range(after.rates.tolist()),
        "sweeps": result.sweeps,
        "s": result.seconds,
        "reached": "yes" if result.converged else result.reasons[0],
    }


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return ""
    low, high = f"{min(known):.2f}", f"{max(known):.2f}"
    return low if low == high else f"{low} to {high}"


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 0. ``argv`` are the command-line arguments, those of the process if None."""
    parser = argparse.ArgumentParser(prog="python -m lsc_snn.experiments.architectures", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--targets", default="one,half", help="targets, separated by commas")
    parser.add_argument("--families", default=",".join(FAMILIES), help="packages, separated by commas")
    parser.add_argument("--layers", type=int, default=Size().layers, help="layers of each network")
    parser.add_argument("--units", type=int, default=Size().units, help="units of each layer")
    parser.add_argument("--steps", type=int, default=Size().steps, help="time steps")
    options = parser.parse_args(argv)
    families = options.families.split(",")
    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        parser.error(f"--families: expected some of {', '.join(FAMILIES)}, got {unknown[0]!r}")
    size = Size(layers=options.layers, units=options.units, steps=options.steps)
    table = architectures_table(size, families, options.targets.split(","))
    if options.json:
        print(json.dumps({"machine": machine(), "tables": [table.to_dict()]}, indent=2))
        return 0
    print(", ".join(f"{key}: {value}" for key, value in machine().items()))
    print(f"\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
