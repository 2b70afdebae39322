"""A trained network exported to NIR and run in the simulators that import it: ``lsc-snn peers``.

Each layer's spikes are compared with those of the network itself: the share of spikes that both have among those that
either has, over the valid steps of the test samples. A silent simulator gets 0, unlike with the share of equal entries,
which counts what hardly ever is anything but 0. All run in float64 where they can, so that rounding flips no spike.
The readout, which importers do not know, is the network's own, on the simulator's spikes.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsc_snn.experiments.batches import Batch, evaluation_batches
from lsc_snn.experiments.bench_table import Table
from lsc_snn.experiments.checkpoint import load_network, read_checkpoint
from lsc_snn.experiments.config import TrainConfig, read_config
from lsc_snn.experiments.data import Part, sizes_of
from lsc_snn.experiments.losses import class_scores
from lsc_snn.experiments.peer_graphs import Form, graph_of, up_to
from lsc_snn.experiments.peer_simulators import INTERPRETER, SIMULATORS, Simulator, undisturbed
from lsc_snn.layers import LI
from lsc_snn.network import Network

_OWN = "this library, float32"
_ROUNDING = 0.995
"""A disagreement below which rounding cannot be the reason alone."""


@dataclass(frozen=True)
class Row:
    """What one simulator made of one form of the graph. Shares are from 0 to 1; None is what did not run."""

    simulator: str
    version: str | None
    form: str
    """How the file was written; "" where there was none."""
    agreement: tuple[float | None, ...]
    """Of each layer, from the input up."""
    accuracy: float | None
    samples: int | None
    """Test samples in which any spike of any layer differs."""
    reason: str
    """Why something is below 100 %; "" where nothing is."""


@dataclass(frozen=True)
class Matrix:
    """The rows of all simulators, and what they are of."""

    network: str
    data: str
    test_samples: int
    packages: dict[str, str]
    """Versions of nir and nirtorch, on which what importers do depends too."""
    layers: tuple[str, ...]
    accuracy: float
    """That of the network itself, in float64."""
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def table(self) -> Table:
        """Return the rows as a table, in percent."""
        columns = ("simulator", "version", "file", *self.layers, "accuracy", "why not 100 %")
        rows = []
        for row in self.rows:
            cells = map(_percent, (*row.agreement, row.accuracy))
            rows.append(dict(zip(columns, (row.simulator, row.version, row.form, *cells, row.reason), strict=True)))
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        note = (
            f"{self.network}, on {self.test_samples} test samples of {self.data}; {packages}. Spikes that both "
            f"have of those that either has, in %, against the network in float64, whose accuracy is "
            f"{_percent(self.accuracy)} %."
        )
        return Table("peers", "Spike agreement", columns, tuple(rows), note)


def compare_peers(
    network: Network,
    config: TrainConfig,
    test: Part,
    *,
    simulators: Sequence[Simulator] = SIMULATORS,
    data: str = "",
) -> Matrix:
    """Export a spiking network, run the files in other simulators on the test samples, and return what agreed.

    ``config`` says the batch size and the readout. Every file is written and read again. A simulator that is not
    installed, or fails, has a row that says so.

    Raises ValueError for a network that is not spiking, text, samples of another size, and what NIR cannot express.
    """
    check_comparable(network, test)
    twin = copy.deepcopy(network).double().eval()
    names = tuple(f"layers.{index}" for index in range(len(network.layers)))
    sample = test.batch(list(range(min(8, len(test)))))[0]
    own, accuracy = _own(network, twin, config, test)
    rows = [own]
    for simulator in (INTERPRETER, *simulators):
        for form in _forms(network, simulator, simulators):
            rows.append(_row(simulator, form, network, twin, config, test, sample))
    layer = network.config.layer
    kind = f"{'feed-forward' if layer.get('recurrent') is False else 'recurrent'} {network.config.neuron}"
    described = f"{len(names)} x {network.config.num_units} {kind}, reset {layer.get('reset', 'soft')}"
    return Matrix(described, data, len(test), _versions(), names, accuracy, tuple(rows))


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("nir", "nirtorch")}


def check_comparable(network: Network, test: Part) -> None:
    """Raise ValueError unless a network spikes and the samples are events of its size."""
    from lsc_snn.datasets import TokenStream

    if not network.config.spiking:
        raise ValueError(f"network: expected LIF, ALIF or LSNN, got {network.config.neuron}; export it to ONNX instead")
    if isinstance(test, TokenStream):
        raise ValueError("data: expected samples with labels, got text; choose another")
    units, _ = sizes_of(test)
    if units != network.config.num_inputs:
        raise ValueError(
            f"data: expected {network.config.num_inputs} units as the network has inputs, got {units}; "
            "pass the data that it was trained on"
        )


@torch.no_grad()
def layer_spikes(network: Network, inputs: Tensor) -> list[Tensor]:
    """Return the spikes (T, B, N) of every layer of a network."""
    signal, spikes = inputs, []
    for layer in network.layers:
        signal, _ = layer(signal)
        spikes.append(signal)
    return spikes


def _forms(network: Network, simulator: Simulator, others: Sequence[Simulator]) -> list[Form]:
    """Return the plain form, and that which a simulator is meant to get; the interpreter gets all, which are one."""
    if simulator.version is None or simulator.run is None:
        return [Form()]
    wanted = [other.form for other in others] if simulator is INTERPRETER else [simulator.form]
    if not Form().nodes(network.config):
        wanted = [dataclasses.replace(form, approximate=True) for form in wanted]
    return list(dict.fromkeys([Form(), *wanted]))


class _Tally:
    """Sums over batches: spikes that both have and that either has, samples that differ, and hits."""

    def __init__(self, layers: int) -> None:
        self.both, self.either = torch.zeros(layers).double(), torch.zeros(layers).double()
        self.samples = self.hits = self.size = 0

    def add(self, expected: Sequence[Tensor], got: Sequence[Tensor], mask: Tensor, hits: Tensor) -> None:
        """Count a batch."""
        differs = torch.zeros(mask.shape[1], dtype=torch.bool)
        for index, (ours, theirs) in enumerate(zip(expected, got, strict=True)):
            valid = mask.unsqueeze(2)
            self.both[index] += (torch.minimum(ours, theirs) * valid).sum()
            self.either[index] += (torch.maximum(ours, theirs) * valid).sum()
            differs |= ((ours != theirs) & valid).any(2).any(0)
        self.samples += int(differs.sum())
        self.hits += int(hits.sum())
        self.size += len(hits)

    @property
    def agreement(self) -> tuple[float, ...]:
        """Of each layer; 1 where neither spikes."""
        return tuple(torch.where(self.either > 0, self.both / self.either.clamp(min=1), 1.0).tolist())

    @property
    def accuracy(self) -> float:
        """Share of the samples that were hit."""
        return self.hits / self.size


def _batches(test: Part, config: TrainConfig) -> Iterator[tuple[Batch, Tensor]]:
    for batch in evaluation_batches(test, config, 0, 1):
        yield batch, batch.events.to_dense().double()


def _hits(network: Network, spikes: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    with torch.no_grad():
        output = network.readout(spikes)
    scores = class_scores(output[0] if isinstance(network.readout, LI) else output, batch.events.mask(), config.readout)
    hits: Tensor = scores.argmax(1).eq(batch.labels)
    return hits


def _own(network: Network, twin: Network, config: TrainConfig, test: Part) -> tuple[Row, float]:
    """Return the row of the network as it is, and the accuracy of its twin in float64."""
    tally, hits = _Tally(len(network.layers)), 0
    for batch, inputs in _batches(test, config):
        spikes = [z.double() for z in layer_spikes(network, inputs.to(next(network.parameters()).dtype))]
        expected = layer_spikes(twin, inputs)
        tally.add(expected, spikes, batch.events.mask(), _hits(twin, spikes[-1], batch, config))
        hits += int(_hits(twin, expected[-1], batch, config).sum())
    reason = f"rounding, in {tally.samples} samples" if tally.samples else ""
    return Row(_OWN, None, "", tally.agreement, tally.accuracy, tally.samples, reason), hits / tally.size


def _row(
    simulator: Simulator, form: Form, network: Network, twin: Network, config: TrainConfig, test: Part, sample: Any
) -> Row:
    none = (None,) * len(network.layers)
    version = simulator.version
    if version is None or simulator.run is None:
        reason = simulator.absent if simulator.run is None else f"not installed: pip install {simulator.package}"
        return Row(simulator.name, version, "", none, None, None, reason)
    graphs = [_reread(graph) for graph in _prefixes(graph_of(network, form, sample=sample), network)]
    tally = _Tally(len(network.layers))
    for batch, inputs in _batches(test, config):
        expected = layer_spikes(twin, inputs)
        try:
            with undisturbed(), torch.no_grad():
                spikes = [simulator.run(copy.deepcopy(graph), inputs).double() for graph in graphs]  # some change it
        except Exception as error:  # whatever another package raises is what this row reports
            reason = textwrap.shorten(f"fails: {type(error).__name__}: {error}", 120, placeholder=" ...")
            return Row(simulator.name, version, str(form), none, None, None, reason)
        wrong = [str(tuple(z.shape)) for z, ours in zip(spikes, expected, strict=True) if z.shape != ours.shape]
        if wrong:
            reason = f"gives out {wrong[0]} values instead of {tuple(expected[0].shape)}"
            return Row(simulator.name, version, str(form), none, None, None, reason)
        tally.add(expected, spikes, batch.events.mask(), _hits(twin, spikes[-1], batch, config))
    reason = _reason(simulator, form, network, tally)
    return Row(simulator.name, version, str(form), tally.agreement, tally.accuracy, tally.samples, reason)


def _reason(simulator: Simulator, form: Form, network: Network, tally: _Tally) -> str:
    if not tally.samples:
        return ""
    departures = simulator.departures(network.config, form)
    if departures:
        return "; ".join(departures)
    if min(tally.agreement) < _ROUNDING:
        return "unexplained"
    return f"weights or time constants rounded to float32, in {tally.samples} samples"


def _prefixes(graph: Any, network: Network) -> list[Any]:
    """Return for each layer the graph that ends with it: so every importer says what the layer does."""
    return [up_to(graph, f"layers_{index}", network.config.num_units) for index in range(len(network.layers))]


def _reread(graph: Any) -> Any:
    """Return a graph as a file of it gives it back."""
    from lsc_snn.nir import read_graph, write_graph

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.nir"
        write_graph(path, graph)
        return read_graph(path)


def _percent(share: float | None) -> str:
    """Return a share in percent; 100 is all of them.

    >>> _percent(1.0), _percent(0.99999), _percent(0.5), _percent(None)
    ('100', '99.99', '50.00', '-')
    """
    if share is None:
        return "-"
    return "100" if share == 1 else f"{min(100 * share, 99.99):.2f}"


def load_run(path: str | Path) -> tuple[Network, TrainConfig]:
    """Return the tested network of a run's folder, or that of a checkpoint file, and the run's configuration.

    Raises ValueError as ``load_network`` does.
    """
    path = Path(path)
    network = load_network(path)
    return network, read_config(path / "config.json") if path.is_dir() else read_checkpoint(path).config
