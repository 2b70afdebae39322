"""Reading NIR's HDF5 files, which may come from anybody: plain data only, and a clear word for all else."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np

from lsc_snn.nir._nodes import PARAMETERS

_DEFLATED = 1100  # deflate makes data at most 1032 times smaller: what claims more is not stored in the file
_OPTIONAL = {"input_shape", "input_type", "w_in"}
_DERIVED = {"input_type", "output_type", "metadata"}


def read_graph_from(path: Path) -> Any:
    """Return the graph of a file, not yet checked as a whole; ValueError where the file or a node cannot be read."""
    try:
        with h5py.File(path, "r") as file:
            version = _version(file)
            tree = _tree(file["node"], "", set())
    except OSError as error:
        if not path.exists():
            reason = "no such file; check the path"
        elif path.is_dir():
            reason = "a folder; name the file in it"
        else:
            reason = f"a broken or foreign one ({str(error).splitlines()[0]}); write or download it again"
        raise ValueError(f"expected a NIR file (HDF5), got {reason}") from None
    except (KeyError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"expected a NIR file (HDF5), got a broken one ({error}); write or download it again"
        ) from None
    graph = _node(tree, "", version)
    if not isinstance(graph, nir.NIRGraph):
        raise ValueError(f"expected a file that holds a NIRGraph, got one {tree['type']}; wrap it in a graph")
    return graph


def _version(file: Any) -> str:
    """Return the version of nir that wrote a file; ValueError for an unknown one, or a file not NIR's."""
    parts = {"version": h5py.Dataset, "node": h5py.Group}
    links = [file.get(key, getlink=True) for key in parts]
    if not all(isinstance(link, h5py.HardLink) for link in links) or not all(
        isinstance(file[key], kind) for key, kind in parts.items()
    ):
        keys = ", ".join(sorted(file)[:5]) or "nothing"
        raise ValueError(
            f"expected a NIR file, with 'version' and 'node', got an HDF5 file with {keys}; write it with nir.write"
        )
    version = _value(file["version"], "version")
    major = re.match(r"(\d+)\.\d+", version) if isinstance(version, str) else None
    known = int(nir.version.split(".")[0])
    if major is None or int(major[1]) > known:
        raise ValueError(
            f"version: expected one up to {known}.x, which nir {nir.version} reads, got {version!r}; "
            "install a newer nir, or write the file again"
        )
    return str(version)


def _tree(group: Any, where: str, seen: set[Any]) -> dict[str, Any]:
    """Return a group as dictionaries of arrays and strings. What is no plain data of this file is refused."""
    found: dict[str, Any] = {}
    for key in group:
        name = f"{where}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{name}: expected data in the file itself, got a link; copy what it links to")
        item = group[key]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise ValueError(f"{name}: expected data of its own, got a second name of others; copy them")
        seen.add(address)
        found[key] = _tree(item, f"{name}/", seen) if isinstance(item, h5py.Group) else _value(item, name)
    return found


def _value(dataset: Any, name: str) -> Any:
    """Return a dataset as an array, or as a string or an array of strings."""
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{name}: expected numbers or text, got nothing; write the values")
    stored = dataset.id.get_storage_size()
    if dataset.is_virtual or dataset.external or dataset.nbytes > _DEFLATED * stored:
        raise ValueError(
            f"{name}: expected data in the file itself, got {dataset.nbytes} bytes of which it stores {stored}; "
            "copy them into it"
        )
    if h5py.check_string_dtype(dataset.dtype) is not None:
        try:
            return dataset.asstr()[()]
        except UnicodeDecodeError:
            raise ValueError(f"{name}: expected text in UTF-8, got other bytes; write it again") from None
    if dataset.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected numbers or text, got {dataset.dtype}; write one of these")
    return dataset[()]


def _node(tree: dict[str, Any], name: str, version: str) -> Any:
    """Return a node from its dictionary, as ``nir`` would, but with what is missing or unknown named."""
    fields = dict(tree)
    kind = fields.pop("type", None)
    where = f"node {name!r}" if name else "graph"
    if not isinstance(kind, str):
        raise ValueError(f"{where}: expected a type, got none; the file is not complete")
    if kind == "NIRGraph":
        return _graph(fields, name, version)
    if kind not in PARAMETERS or not hasattr(nir, kind):
        known = ", ".join(known for known in PARAMETERS if hasattr(nir, known))
        raise ValueError(
            f"{where}: expected one of {known} or NIRGraph, which nir {nir.version} has, got {kind} in a file of "
            f"version {version}; install a newer nir, or replace the node"
        )
    metadata = fields.pop("metadata", {})
    reset = metadata.pop("v_reset", None) if isinstance(metadata, dict) else None
    reset = fields.pop("v_reset", reset)
    resets = "v_threshold" in PARAMETERS[kind]
    own = getattr(nir, kind).__dataclass_fields__
    if resets and reset is None and "v_reset" in own:
        raise ValueError(
            f"{where}: v_reset: expected a value, got none: version {version} subtracts the threshold, which nir "
            f"{nir.version} cannot say; set v_reset, or read the file with nir 1.0.4"
        )
    if kind in ("Input", "Output"):
        needed, allowed = {"shape"}, {"shape"}
    else:
        allowed = {field.name for field in dataclasses.fields(getattr(nir, kind))} - _DERIVED - {"v_reset"}
        needed = allowed - _OPTIONAL
        allowed |= {"input_type"} & (own.keys() if kind == "Flatten" else set())
    for field in sorted(needed - fields.keys()):
        raise ValueError(f"{where}: {field}: expected a value, got none; the parameter of this {kind} is missing")
    for field in sorted(fields.keys() - allowed):
        raise ValueError(
            f"{where}: expected the parameters {', '.join(sorted(allowed))} of {kind}, got {field!r}; drop it"
        )
    node = _build(kind, where, fields, metadata)
    if resets and reset is not None:
        node.v_reset = reset
    return node


def _build(kind: str, where: str, fields: dict[str, Any], metadata: Any) -> Any:
    """Return a node of nir; ValueError, naming it, where nir refuses the parameters."""
    if kind in ("Input", "Output"):
        port = kind.lower()
        fields = {f"{port}_type": {port: fields["shape"]}}
    elif kind == "Flatten":
        fields["input_type"] = {"input": fields.get("input_type")}
    later = {}
    if kind in ("Conv1d", "Conv2d"):
        fields.setdefault("input_shape", None)
        if kind == "Conv1d" and fields["padding"] == "same":  # of which nir 1.0.4 cannot infer the shape
            later = {"input_shape": fields["input_shape"]}
            fields["input_shape"] = None
    try:
        node = getattr(nir, kind)(**fields)
    except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: expected parameters that fit together, got what nir {nir.version} refuses as {kind}: "
            f"{error or 'wrong shapes'}; correct them"
        ) from None
    for field, value in later.items():
        setattr(node, field, value)
    node.metadata = metadata
    return node


def _graph(fields: dict[str, Any], name: str, version: str) -> Any:
    """Return a graph; its edges and nodes are not compared yet."""
    where = f"node {name!r}" if name else "graph"
    nodes, edges = fields.get("nodes"), fields.get("edges")
    if not isinstance(nodes, dict) or edges is None:
        raise ValueError(f"{where}: expected nodes and edges, got {', '.join(sorted(fields)) or 'neither'}; add them")
    pairs = np.asarray(edges)
    if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2 or not all(isinstance(end, str) for end in pairs.flat)):
        raise ValueError(f"{where}: edges: expected pairs of names, got an array {pairs.shape}; write (source, target)")
    for key, node in nodes.items():
        if not isinstance(node, dict):
            raise ValueError(f"{where}: nodes: expected groups, got a value {key!r}; write a node, with its type")
    inner = {key: _node(node, f"{name}.{key}" if name else key, version) for key, node in nodes.items()}
    unchecked = {"type_check": False} if "type_check" in inspect.signature(nir.NIRGraph).parameters else {}
    try:
        graph = nir.NIRGraph(nodes=inner, edges=[(str(a), str(b)) for a, b in pairs] if pairs.size else [], **unchecked)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a graph that nir {nir.version} takes, got {error}; correct it") from None
    graph.metadata = fields.get("metadata", {})
    return graph
