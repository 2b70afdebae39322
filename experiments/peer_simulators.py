"""Other simulators that import NIR: each loads a graph and runs it, as its own documentation says."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lsc_snn.experiments.peer_graphs import DT, Form
from lsc_snn.network import NetworkConfig

Run = Callable[[Any, Tensor], Tensor]
"""Takes a graph and inputs (T, B, N) in float64 to the graph's output (T, B, M)."""
Note = tuple[Callable[[NetworkConfig, Form], bool], str]
"""When it holds, of a network and the form of its graph; and what the simulator then does, without a word."""


@dataclass(frozen=True)
class Simulator:
    """A package that imports NIR graphs: what it needs, how it runs them, and where it departs from them."""

    name: str
    package: str
    """Name of the distribution."""
    form: Form
    """The form of a graph that its importer takes as it is meant."""
    run: Run | None
    """None where the package has no importer of LIF nodes, and ``absent`` says why."""
    notes: tuple[Note, ...] = ()
    """Known departures that are no error."""
    absent: str = ""

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def departures(self, config: NetworkConfig, form: Form) -> list[str]:
        """Return the departures that apply to a network's graph."""
        return [text for applies, text in self.notes if applies(config, form)]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep what importers print, log and warn of to themselves, and torch's random state as it is."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _wide(module: Any) -> Any:
    """Return a module in float64, where rounding flips no spike; linear maps take spikes that came as float32."""
    module = module.double()
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(lambda linear, args: (args[0].to(linear.weight.dtype), *args[1:]))
    return module


def _stepped(module: Any, inputs: Tensor) -> Tensor:
    """Run a module that returns (output, state) over the time steps of a sequence."""
    state, outputs = None, []
    for step in inputs:
        output, state = module(step, state)
        outputs.append(output)
    return torch.stack(outputs)


def run_interpreter(graph: Any, inputs: Tensor) -> Tensor:
    """Run a graph in the reference interpreter, in float64."""
    from lsc_snn.nir import interpret

    return torch.from_numpy(interpret(graph, inputs.numpy(), dt=DT).outputs["output"])


def run_snntorch(graph: Any, inputs: Tensor) -> Tensor:
    """Run a graph in snnTorch, by its documented import."""
    from snntorch.import_nir import import_from_nir

    return _stepped(_wide(import_from_nir(graph)), inputs)


def run_snntorch_nirtorch(graph: Any, inputs: Tensor) -> Tensor:
    """Run a graph in snnTorch, its nodes mapped by snnTorch and wired by ``nirtorch.load``: recurrence works so."""
    import nirtorch
    from snntorch.import_nir import _nir_to_snntorch_module

    mapped = functools.partial(_nir_to_snntorch_module, init_hidden=True)
    return _stepped(_wide(nirtorch.load(graph, mapped)), inputs)


def run_norse(graph: Any, inputs: Tensor) -> Tensor:
    """Run a graph in Norse."""
    import norse.torch

    return _stepped(_wide(norse.torch.from_nir(graph, dt=DT)), inputs)


def run_sinabs(graph: Any, inputs: Tensor) -> Tensor:
    """Run a graph in sinabs, which takes whole sequences, one sample after the other."""
    from sinabs.nir import from_nir

    steps, batch = inputs.shape[:2]
    output = _wide(from_nir(graph, batch_size=batch, num_timesteps=steps))(inputs.transpose(0, 1).flatten(0, 1))
    output = output[0] if isinstance(output, tuple) else output
    sequence: Tensor = output.reshape(batch, steps, -1).transpose(0, 1)
    return sequence


def run_spikingjelly(graph: Any, inputs: Tensor) -> Tensor:
    """Run a graph in SpikingJelly."""
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return _stepped(_wide(import_from_nir(graph, dt=DT, dtype=torch.float64)), inputs)


def run_spyx(graph: Any, inputs: Tensor) -> Tensor:
    """Run a graph in Spyx, in float32."""
    import jax.numpy as jnp
    import numpy as np
    from spyx.nir import from_nir

    _, outputs = from_nir(graph, jnp.asarray(inputs.float().numpy()), dt=DT)
    return torch.from_numpy(np.array(outputs))


def _recurrent(config: NetworkConfig, form: Form) -> bool:
    return form.nodes(config) and config.layer.get("recurrent", True) is not False


def _reset(config: NetworkConfig) -> str:
    return str(config.layer.get("reset", "soft"))


_COMPOSED: Note = (
    lambda config, form: not form.nodes(config),
    "drops nodes it does not know (Threshold, Scale, LI)",
)
_ADAPTS: Note = (lambda config, form: form.nodes(config) and config.neuron != "LIF", "a LIF node has no adaptation")
_ZERO: Note = (
    lambda config, form: form.nodes(config) and _reset(config) != "hard",
    "a LIF node resets to zero, this network does not",
)
_SUBTRACTS: Note = (
    lambda config, form: form.nodes(config) and _reset(config) != "soft",
    "subtracts the threshold instead of a reset to zero",
)
_OF_NORSE = (lambda config, form: form.nodes(config) and not form.unit_r, "ignores r")
_NO_STEP = (lambda config, form: form.nodes(config), "has no dt: reads tau in steps, and seconds leave no memory")
_DROPS = (_recurrent, "drops recurrent weights")
_LATE = (lambda config, form: form.nodes(config), "spikes one step late in every layer")

INTERPRETER = Simulator("NIR interpreter", "lsc-snn", Form(), run_interpreter, (_ZERO, _ADAPTS))
SIMULATORS = (
    Simulator("snnTorch", "snntorch", Form(unit_threshold=True), run_snntorch, (_COMPOSED, _ZERO, _ADAPTS)),
    Simulator(
        "snnTorch by nirtorch.load",
        "snntorch",
        Form(unit_threshold=True),
        run_snntorch_nirtorch,
        (_COMPOSED, _ZERO, _ADAPTS),
    ),
    Simulator("Norse", "norse", Form(unit_r=True), run_norse, (_OF_NORSE, _COMPOSED, _ZERO, _ADAPTS)),
    Simulator("sinabs", "sinabs", Form(), run_sinabs, (_NO_STEP, _DROPS, _SUBTRACTS, _COMPOSED, _ADAPTS)),
    Simulator("SpikingJelly", "spikingjelly", Form(unit_threshold=True), run_spikingjelly, (_COMPOSED, _ZERO, _ADAPTS)),
    Simulator("Spyx", "spyx", Form(), run_spyx, (_LATE, _SUBTRACTS, _COMPOSED, _ADAPTS)),
    # Rockpool is not run: its import calls pip. Looked at in 3.1.0.
    Simulator("Rockpool", "rockpool", Form(), None, absent="its importer knows no recurrent LIF, and fails at any LIF"),
    Simulator("Nengo", "nengo", Form(), None, absent="has no importer of NIR"),
)
"""The other simulators of the matrix; ``version`` says which of them are installed."""
