"""A trained network as a file of NIR, ONNX or safetensors, and the file run again to see that it says the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lsc_snn import _checks
from lsc_snn.events import EventBatch
from lsc_snn.experiments.checkpoint import Checkpoint, load_network, snapshot, write_checkpoint
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.files import write_bytes
from lsc_snn.experiments.peer_graphs import FORMS, Form, graph_of
from lsc_snn.network import Network

FORMATS = ("nir", "safetensors", "onnx")
_TOLERANCE, _MAY_DIFFER = 1e-4, 1e-3


class Checked(NamedTuple):
    """How the outputs of a file compare with those of the network."""

    outputs: int
    """Numbers compared, all steps, samples and classes."""
    differing: int
    """Those that differ by more than 1e-4 of the largest: spikes that rounding flipped, or an error."""
    largest: float
    """Largest difference."""

    @property
    def same(self) -> bool:
        """Whether they are the same, but for at most a thousandth of the outputs."""
        return self.differing <= _MAY_DIFFER * self.outputs


def write_network(
    path: Path,
    network: Network,
    config: TrainConfig,
    *,
    form: Form = FORMS["any"],
    dt: float,
    sample: EventBatch | None = None,
) -> None:
    """Write a network as a file of the format that its suffix names, whole or not at all.

    ``form``, ``dt`` (seconds) and ``sample`` are of NIR alone, as for ``graph_of``. Beside .safetensors its header is
    written once more as .json. Raises ValueError for what the format cannot express, ImportError for a missing extra.
    """
    if path.suffix == ".nir":
        from lsc_snn.nir import write_graph

        if not network.config.spiking:
            kind = network.config.neuron
            raise ValueError(f"network: expected LIF, ALIF or LSNN, which NIR knows, got {kind}; export it to ONNX")
        write_graph(path, graph_of(network, form, dt=dt, sample=sample))
    elif path.suffix == ".onnx":
        from lsc_snn.onnx import to_onnx

        write_bytes(path, to_onnx(network).SerializeToString())
    elif path.suffix == ".safetensors":
        write_checkpoint(path, Checkpoint(config, 0, {"exported": True}, snapshot(network.state_dict()), {}))
    else:
        _checks.check_in("format", path.suffix.lstrip("."), FORMATS)


def check_file(path: Path, network: Network, events: EventBatch, *, dt: float) -> Checked:
    """Read a file that ``write_network`` wrote, run it on events, and compare its outputs with the network's.

    NIR runs in the reference interpreter, in float64, ONNX in onnxruntime, step by step.
    """
    inputs = events.to_dense()
    dtype = torch.float64 if path.suffix == ".nir" else next(network.parameters()).dtype
    twin = copy.deepcopy(network).to(dtype).eval()
    with torch.no_grad():
        expected = twin(inputs.to(dtype)).double().numpy()
    got = _run_file(path, inputs.to(dtype), dt)
    difference = np.abs(got - expected)
    wrong = ~(difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())))
    return Checked(expected.size, int(wrong.sum()), float(difference.max()))


def _run_file(path: Path, inputs: torch.Tensor, dt: float) -> NDArray[Any]:
    if path.suffix == ".nir":
        from lsc_snn.nir import interpret, read_graph

        return interpret(read_graph(path), inputs.numpy(), dt=dt).outputs["output"]
    if path.suffix == ".onnx":
        return run_steps(path, inputs.numpy())
    with torch.no_grad():
        return np.asarray(load_network(path)(inputs).double())


def run_steps(path: Path, inputs: NDArray[Any]) -> NDArray[Any]:
    """Run an ONNX model of one step, as ``to_onnx`` writes it, over a sequence (T, B, N), from zeros.

    Raises ImportError without onnxruntime.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(
            "run_steps: expected the package onnxruntime, got none; pip install 'lsc-snn[onnx]'"
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    first, *rest = session.get_inputs()
    states = {state.name: np.zeros((inputs.shape[1], *state.shape[1:]), dtype=inputs.dtype) for state in rest}
    outputs = []
    for step in inputs:
        output, *after = session.run(None, {first.name: step, **states})
        outputs.append(output)
        states = dict(zip(states, after, strict=True))
    return np.stack(outputs).astype(np.float64)
