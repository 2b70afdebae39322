"""What is in a file of a network: its nodes or layers, with their sizes, time constants and thresholds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsc_snn.experiments.checkpoint import load_network, read_checkpoint
from lsc_snn.experiments.model_card import read_card

Part = dict[str, Any]
Range = tuple[float, float] | None
"""Smallest and largest of some values."""


def inspect_file(path: str | Path) -> dict[str, Any]:
    """Return what a .nir, .safetensors or .onnx file is, ready for JSON; nothing of it is run.

    "parts" lists its nodes in the order in which they run (NIR), its layers (safetensors), or its inputs and outputs
    (ONNX); "facts" is what else there is to say, by name; "card" the model card beside the file, or None. Ranges are
    [smallest, largest]. Time constants are in seconds in NIR, and in steps in safetensors.

    Raises ValueError, naming the file, for one that is missing, broken, or of another kind.
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(_READERS)}, got {path.name!r}; rename it")
    return {"file": str(path), **_READERS[path.suffix](path), "card": read_card(path)}


def _nir(path: Path) -> dict[str, Any]:
    import nir

    from lsc_snn.nir import read_graph
    from lsc_snn.nir.graphs import flat_graph

    graph = flat_graph(read_graph(path))
    parts: list[Part] = []
    for name in graph.order:
        node = graph.nodes[name]
        fields = {key: np.asarray(value) for key, value in vars(node).items() if isinstance(value, np.ndarray)}
        part: Part = {"name": name, "kind": type(node).__name__, "size": list(graph.shapes[name])}
        part["parameters"] = int(sum(value.size for key, value in fields.items() if "type" not in key))
        taus = [fields[key].ravel() for key in ("tau", "tau_mem", "tau_syn") if key in fields]
        part["tau"] = _range(np.concatenate(taus)) if taus else None
        part["threshold"] = _range(next((fields[key] for key in ("v_threshold", "threshold") if key in fields), None))
        parts.append(part)
    kinds = Counter(part["kind"] for part in parts)
    facts = {
        "nodes": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        "edges": len(graph.edges),
        "edges of the step before": len(graph.late),
        "read with nir": nir.version,
    }
    return {"format": "nir", "parts": parts, "facts": facts}


def _safetensors(path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(path)
    network = load_network(path)
    parts: list[Part] = []
    layers: list[tuple[str, Any]] = [(f"layers.{index}", layer) for index, layer in enumerate(network.layers)]
    for name, layer in [*layers, ("readout", network.readout)]:
        alpha = getattr(layer, "alpha", None)
        threshold = getattr(layer, "threshold", None)
        parts.append(
            {
                "name": name,
                "kind": type(getattr(layer, "layer", layer)).__name__,
                "size": [network.config.num_classes if name == "readout" else network.config.num_units],
                "parameters": sum(parameter.numel() for parameter in layer.parameters()),
                "tau": None if alpha is None else _range((-1 / torch.log(alpha.detach().double())).numpy()),
                "threshold": None if threshold is None else _range(threshold.detach().numpy()),
            }
        )
    config = network.config
    facts = {"inputs": config.num_inputs, "classes": config.num_classes, "epoch": checkpoint.epoch}
    return {"format": "safetensors", "parts": parts, "facts": {**facts, "options": dict(config.layer)}}


def _onnx(path: Path) -> dict[str, Any]:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ImportError("inspect: expected the package onnx, got none; pip install 'lsc-snn[onnx]'") from error
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except OSError as error:
        raise ValueError(f"{path}: expected an ONNX file, got: {error.strerror}; check the path") from None
    except Exception as error:  # protobuf's own, whose classes differ between its versions
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: expected an ONNX model, got a broken or foreign file ({reason})") from None
    parts: list[Part] = []
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            size = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
            parts.append(
                {"name": value.name, "kind": kind, "size": size, "parameters": 0, "tau": None, "threshold": None}
            )
    operators = Counter(node.op_type for node in model.graph.node)
    facts = {
        "opset": max(imported.version for imported in model.opset_import),
        "parameters": sum(math.prod(tensor.dims) for tensor in model.graph.initializer),
        "operators": ", ".join(f"{count} {kind}" for kind, count in operators.most_common()),
    }
    return {"format": "onnx", "parts": parts, "facts": facts}


def _range(values: Any) -> Range:
    return None if values is None or np.size(values) == 0 else (float(np.min(values)), float(np.max(values)))


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {".nir": _nir, ".safetensors": _safetensors, ".onnx": _onnx}
