"""The NIR graph of a network in the forms that importers understand, all with one meaning; and parts of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from lsc_snn import _parametrize
from lsc_snn.events import Inputs
from lsc_snn.network import Network, NetworkConfig

DT = 1e-4
"""Time step of the graphs in seconds: that of snnTorch's importer, which takes no other."""


@dataclass(frozen=True)
class Form:
    """How a graph is written; see ``to_nir``.

    Without ``approximate`` every form says the same. snnTorch needs equal thresholds in a layer, and
    r = tau / dt; Norse needs r = 1.
    """

    unit_threshold: bool = False
    """Whether weights are divided by the thresholds, which become 1, and nodes named so that files keep their order."""
    unit_r: bool = False
    """Whether weights are multiplied by r, which becomes 1."""
    approximate: bool = False
    """Whether every layer becomes a LIF node, that resets to zero and does not adapt."""

    def __str__(self) -> str:
        """Return the flags of ``lsc-snn export`` that write it so."""
        flags = {"--for snntorch": self.unit_threshold, "--for norse": self.unit_r, "--approximate": self.approximate}
        return " ".join(flag for flag, applies in flags.items() if applies) or "plain"

    def nodes(self, config: NetworkConfig) -> bool:
        """Whether the layers of a network are LIF nodes in this form, and no compositions of others."""
        hard = config.neuron == "LIF" and config.layer.get("reset", "soft") == "hard"
        return self.approximate or hard


FORMS = {"any": Form(), "snntorch": Form(unit_threshold=True), "norse": Form(unit_r=True)}
"""The forms by the importer that each is written for."""


def graph_of(network: Network, form: Form = FORMS["any"], *, dt: float = DT, sample: Inputs | None = None) -> Any:
    """Return the ``nir.NIRGraph`` of a network in a form. Raises what ``to_nir`` raises.

    >>> network = Network(NetworkConfig(num_inputs=3, num_classes=2, num_units=4, neuron="LIF"))
    >>> graph = graph_of(network, Form(approximate=True, unit_threshold=True))
    >>> graph.nodes["n01_layers_0"].nodes["lif"].v_threshold.round(6)
    array([1., 1., 1., 1.])
    """
    from lsc_snn.nir import to_nir

    if form.unit_threshold:
        network = with_unit_thresholds(network)
    graph = to_nir(network, dt=dt, sample=sample, approximate=form.approximate, unit_r=form.unit_r)
    return _numbered(graph) if form.unit_threshold else graph


def _numbered(graph: Any) -> Any:
    """Return the graph of a chain whose nodes are called "n00_layers_0_weights", "n01_layers_0" and so on.

    A file gives its nodes back by the alphabet, and nirtorch 2.6, by which snnTorch imports, fails at a subgraph that
    comes before what feeds it.
    """
    import nir

    inner = [name for name in graph.nodes if name not in ("input", "output")]
    width = max(2, len(str(len(inner) - 1)))
    new = {name: name for name in graph.nodes} | {name: f"n{i:0{width}d}_{name}" for i, name in enumerate(inner)}
    nodes = {new[name]: node for name, node in graph.nodes.items()}
    return nir.NIRGraph(nodes=nodes, edges=[(new[source], new[target]) for source, target in graph.edges])


@torch.no_grad()
def with_unit_thresholds(network: Network) -> Network:
    """Return a copy of a spiking network with thresholds of 1 and the same spikes: potentials in units of them.

    The thresholds are 1 up to rounding, and equal; the weights count it in.

    >>> network = Network(NetworkConfig(num_inputs=3, num_classes=2, num_units=4, layer={"threshold": 0.5}))
    >>> torch.allclose(with_unit_thresholds(network).layers[0].weight, 2 * network.layers[0].weight)
    True
    """
    twin = copy.deepcopy(network)
    layer: Any
    for layer in twin.layers:
        one = _parametrize.raw_positive(torch.ones_like(layer.threshold_raw))
        scale = _parametrize.positive(one.double()) / _parametrize.positive(layer.threshold_raw.double())
        for parameter in (layer.weight, layer.bias, layer.recurrent_raw):
            if parameter is not None:
                parameter.copy_(parameter.double() * (scale if parameter.dim() == 1 else scale[:, None]))
        if layer.beta is not None:
            layer.beta_raw.copy_(_parametrize.raw_positive((layer.beta.double() * scale).abs()))
        layer.threshold_raw.copy_(one)
    return twin


def up_to(graph: Any, name: str, size: int) -> Any:
    """Return the graph of a chain of layers cut behind the node of a layer, whose ``size`` outputs it gives."""
    import nir

    names = list(graph.nodes)
    name = next(key for key in names if key == name or key.endswith(f"_{name}"))
    kept = {"input", *(n for n in names[: names.index(name) + 1] if n != "output")}
    nodes = {key: node for key, node in graph.nodes.items() if key in kept}
    nodes["output"] = nir.Output(output_type={"output": torch.tensor([size]).numpy()})
    edges = [(source, target) for source, target in graph.edges if source in kept and target in kept]
    return nir.NIRGraph(nodes=nodes, edges=[*edges, (name, "output")])
