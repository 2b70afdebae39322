"""NIR files: read from anybody, and written whole or not at all."""

import os
from itertools import pairwise

import h5py
import nir
import numpy as np
import pytest

from lsc_snn.nir.graphs import read_graph, write_graph
from lsc_snn.nir.interpret import interpret
from nir_cases import chain, ends, graph_of, lif, recurrent, spiking

HAS_RESET = "v_reset" in nir.LIF.__dataclass_fields__
SCALE = nir.Scale(np.ones(2))


def every_node():
    """Return a graph with each kind of node that the installed nir has, and a subgraph in a loop."""
    two = np.array([0.25, 1 / 3])
    ones = np.array([1, 1])
    kinds = {
        "conv": nir.Conv2d(None, np.ones((4, 2, 3, 3)), 1, 0, 1, 1, np.zeros(4)),
        "average": nir.AvgPool2d(ones, ones, ones * 0),
        "sum": nir.SumPool2d(ones * 2, ones * 2, ones * 0),
        "flat": nir.Flatten(None, 1, -1),
        "conv1": nir.Conv1d(None, np.full((2, 4, 3), 0.1), 1, "same", 1, 1, two),
        "flat1": nir.Flatten(None, 0, -1),
        "affine": nir.Affine(np.full((2, 2), 0.7), two),
        "linear": nir.Linear(np.eye(2, dtype=np.float32) / 3),
        "scale": nir.Scale(two),
        "threshold": nir.Threshold(two / 9),
        "delay": nir.Delay(two * 0 + 3),
        "i": nir.I(two),
        "li": nir.LI(two + 9, two, two),
        "if": spiking(nir.IF, r=two, v_threshold=two, v_reset=two * 0),
        "lif": lif(2, tau=9.0),
        "rnn": recurrent(np.eye(2) / 3, lif(2, v_reset=0.5)),
        "cuba": spiking(
            nir.CubaLIF, tau_syn=two + 8, tau_mem=two + 7, r=two, v_leak=two, v_threshold=two, w_in=two, v_reset=-two
        ),
    }
    if hasattr(nir, "CubaLI"):
        kinds["cuba_li"] = nir.CubaLI(two + 8, two + 7, two, two, two)
    kinds["flat"].metadata = {"note": "from a test"}
    names = ["input", *kinds, "output"]
    return graph_of({**ends([2, 5, 5], [2]), **kinds}, pairwise(names))


def same(left, right):
    """Whether two nodes hold the same values, bit for bit."""
    if isinstance(left, nir.NIRGraph):
        return left.edges == right.edges and all(same(node, right.nodes[name]) for name, node in left.nodes.items())
    fields = {"v_reset", *left.__dataclass_fields__} - {"output_type", "input_shape", "input_type", "metadata"}
    for field in fields:
        a, b = getattr(left, field, None), getattr(right, field, None)
        if (a is None) != (b is None) or (a is not None and not np.array_equal(np.asarray(a), np.asarray(b))):
            return False
    return type(left) is type(right) and getattr(left, "metadata", {}) == getattr(right, "metadata", {})


def test_a_file_keeps_every_node(tmp_path):
    graph = every_node()
    write_graph(tmp_path / "all.nir", graph)
    back = read_graph(tmp_path / "all.nir")
    assert same(graph, back)
    assert back.nodes["linear"].weight.dtype == np.float32
    x = np.random.default_rng(0).normal(size=(9, 2, 2, 5, 5))
    for name, value in interpret(graph, x, dt=1.0, record=["lif", "cuba", "rnn.lif"]).signals.items():
        np.testing.assert_array_equal(interpret(back, x, dt=1.0, record=[name]).signals[name], value)


def test_others_read_what_is_written(tmp_path):
    graph = recurrent(np.eye(2), lif(2, v_reset=0.0))
    write_graph(tmp_path / "x.nir", graph)
    back = nir.read(tmp_path / "x.nir")
    assert sorted(back.nodes) == ["input", "lif", "output", "w_rec"]
    assert back.edges == graph.edges
    np.testing.assert_array_equal(back.nodes["lif"].tau, graph.nodes["lif"].tau)
    assert not graph.nodes["lif"].metadata


def test_a_file_that_nir_wrote_is_read(tmp_path):
    graph = chain([2], nir.LI(np.ones(2), np.ones(2), np.zeros(2)))
    nir.write(tmp_path / "x.nir", graph)
    assert same(graph, read_graph(tmp_path / "x.nir"))


def edit(path, change, graph=None):
    """Write a graph, then let a function change the file."""
    write_graph(path, graph or recurrent(np.eye(2), lif(2)))
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(file, name, value):
    del file[name]
    if value is not None:
        file[name] = value


NODE = "node/nodes/lif"
FILES = {
    "no version": (
        lambda f: replace(f, "version", None),
        "expected a NIR file, with 'version' and 'node', got an HDF5",
    ),
    "no node": (lambda f: replace(f, "node", None), "got an HDF5 file with version; write it with nir.write"),
    "linked version": (
        lambda f: replace(f, "version", h5py.ExternalLink("o.h5", "/v")),
        "with 'version' and 'node', got an HDF5",
    ),
    "version": (lambda f: replace(f, "version", "9.0.0"), "version: expected one up to 1.x, .* got '9.0.0'; install"),
    "text version": (lambda f: replace(f, "version", "new"), "version: expected one up to 1.x, .* got 'new'"),
    "number version": (lambda f: replace(f, "version", 1.0), "version: expected one up to 1.x"),
    "type": (
        lambda f: replace(f, f"{NODE}/type", "Izhikevich"),
        "node 'lif': expected one of .*, got Izhikevich in a file",
    ),
    "no type": (lambda f: replace(f, f"{NODE}/type", None), "node 'lif': expected a type, got none"),
    "no tau": (lambda f: replace(f, f"{NODE}/tau", None), "node 'lif': tau: expected a value, got none; the parameter"),
    "extra": (
        lambda f: f.create_dataset(f"{NODE}/gain", data=1.0),
        "node 'lif': expected the parameters .*, got 'gain'",
    ),
    "shape": (lambda f: replace(f, f"{NODE}/tau", np.ones(3)), "node 'lif': expected parameters that fit together"),
    "nan": (lambda f: replace(f, f"{NODE}/r", np.array([1, np.nan])), "node 'lif': r: expected finite values"),
    "edges": (
        lambda f: replace(f, "node/edges", np.ones((2, 2))),
        r"graph: edges: expected pairs of names, got .*\(2, 2\)",
    ),
    "triples": (lambda f: replace(f, "node/edges", np.array([["a", "b", "c"]], dtype="S1")), r"got an array \(1, 3\)"),
    "dangling": (lambda f: replace(f, "node/edges", [("input", "gone")]), "edge 'input' -> 'gone': expected nodes"),
    "no edges": (lambda f: replace(f, "node/edges", None), "graph: expected nodes and edges, got nodes; add them"),
    "value": (lambda f: replace(f, NODE, 1.0), "graph: nodes: expected groups, got a value 'lif'"),
    "one node": (
        lambda f: (f.copy(NODE, "n"), replace(f, "node", None), f.move("n", "node")),
        "holds a NIRGraph, got one LIF",
    ),
    "bytes": (lambda f: replace(f, f"{NODE}/type", np.bytes_(b"\xff\xfe")), "lif/type: expected text in UTF-8"),
    "complex": (lambda f: replace(f, f"{NODE}/r", np.ones(2) * 1j), "lif/r: expected numbers or text, got complex128"),
    "null": (lambda f: replace(f, f"{NODE}/r", h5py.Empty("f8")), "lif/r: expected numbers or text, got nothing"),
    "soft link": (
        lambda f: replace(f, f"{NODE}/r", h5py.SoftLink("/version")),
        "lif/r: expected data in the file itself",
    ),
    "other file": (
        lambda f: replace(f, f"{NODE}/r", h5py.ExternalLink("o.h5", "/r")),
        "lif/r: .* file itself, got a link",
    ),
    "loop": (lambda f: f[NODE].__setitem__("loop", f["node"]), "expected data of its own, got a second name"),
    "huge": (
        lambda f: (replace(f, f"{NODE}/r", None), f.create_dataset(f"{NODE}/r", (10**13,), "f4")),
        "of which it stores 0",
    ),
    "virtual": (lambda f: virtual(f), "lif/r: expected data in the file itself"),
    "external": (lambda f: external(f), "lif/r: expected data in the file itself"),
}


def virtual(file):
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "r", (2,))
    replace(file, f"{NODE}/r", None)
    file.create_virtual_dataset(f"{NODE}/r", layout)


def external(file):
    replace(file, f"{NODE}/r", None)
    file.create_dataset(f"{NODE}/r", (2,), "f8", external=[("secret.bin", 0, 16)])


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_sound_graph_is_refused(case, tmp_path):
    change, message = FILES[case]
    path = edit(tmp_path / "x.nir", change)
    with pytest.raises(ValueError, match=message) as caught:
        read_graph(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_truncated_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.nir"
    write_graph(path, recurrent(np.eye(2)))
    content = path.read_bytes()
    for size in [0, 1, 100, *range(512, len(content), 997), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"x.nir: expected a NIR file \(HDF5\), got a broken"):
            read_graph(path)
    path.write_bytes(b"\x80\x04K\x01." * 200)
    with pytest.raises(ValueError, match="got a broken or foreign one"):
        read_graph(str(path))
    with pytest.raises(ValueError, match=r"gone.nir: expected a NIR file \(HDF5\), got no such file"):
        read_graph(tmp_path / "gone.nir")
    with pytest.raises(ValueError, match="got a folder; name the file in it"):
        read_graph(tmp_path)


def test_a_reset_survives_where_nir_has_no_field_for_it(tmp_path):
    graph = recurrent(np.eye(2), lif(2, v_reset=-0.5))
    write_graph(tmp_path / "x.nir", graph)
    assert read_graph(tmp_path / "x.nir").nodes["lif"].v_reset.tolist() == [-0.5, -0.5]
    path = edit(tmp_path / "y.nir", lambda f: None, chain([2], nir.LI(np.ones(2), np.ones(2), np.zeros(2))))
    with h5py.File(path, "r+") as file:  # as releases of nir write it that have the field
        replace(file, "node/nodes/n0/type", "LIF")
        file["node/nodes/n0/v_threshold"], file["node/nodes/n0/v_reset"] = np.ones(2), np.full(2, 0.25)
    assert read_graph(path).nodes["n0"].v_reset.tolist() == [0.25, 0.25]


@pytest.mark.skipif(HAS_RESET, reason="this nir has a field v_reset")
def test_a_subtractive_reset_survives(tmp_path):
    write_graph(tmp_path / "x.nir", recurrent(np.eye(2), lif(2, v_reset=None)))
    assert getattr(read_graph(tmp_path / "x.nir").nodes["lif"], "v_reset", None) is None


@pytest.mark.skipif(not HAS_RESET, reason="this nir resets by subtraction")
def test_a_subtractive_reset_that_nir_cannot_say_is_refused(tmp_path):
    path = edit(tmp_path / "x.nir", lambda f: replace(f, f"{NODE}/v_reset", None))
    with pytest.raises(ValueError, match=r"node 'lif': v_reset: expected a value, got none: version .* subtracts"):
        read_graph(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.nir"
    write_graph(path, recurrent(np.eye(2)))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="node 'n0': scale"):
        write_graph(path, chain([2], nir.Scale(np.array([np.nan, 1]))))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"x.nir: expected a file that can be written, got: No space left on device"):
        write_graph(path, chain([2], SCALE))
    assert path.read_bytes() == before
    monkeypatch.undo()
    write_graph(path, chain([2], SCALE))
    assert list(read_graph(path).nodes) == ["input", "n0", "output"]
    with pytest.raises(ValueError, match="got: No such file or directory; choose another"):
        write_graph(tmp_path / "no" / "x.nir", chain([2], SCALE))
