"""NIR graphs: which are refused, and why."""

import nir
import numpy as np
import pytest

from lsc_snn.nir.graphs import check_graph, flat_graph
from nir_cases import chain, changed, ends, graph_of, lif, recurrent


def conv(**fields):
    return changed(nir.Conv2d(None, np.ones((4, 2, 3, 3)), 1, 0, 1, 1, np.zeros(4)), **fields)


def line(*edges, **nodes):
    """Return a graph of two values with nodes and edges beside its ends."""
    return graph_of({**ends([2]), **nodes}, edges)


STRAIGHT = (("input", "x"), ("x", "output"))
SCALE = nir.Scale(np.ones(2))


class Custom(nir.NIRNode):
    """A node that NIR does not have."""

    def __init__(self):
        self.metadata = {}


GRAPHS = {
    "no node": (line(("input", "output"), ("input", "gone")), "edge 'input' -> 'gone': expected nodes of the graph"),
    "edge twice": (line(*STRAIGHT, STRAIGHT[0], x=SCALE), "edge 'input' -> 'x': expected each edge once, got it twice"),
    "odd edge": (line(("input", "x", "output"), x=SCALE), "expected the names of two nodes, got 3"),
    "into input": (line(*STRAIGHT, ("x", "input"), x=SCALE), "edge 'x' -> 'input': expected no edge into an Input"),
    "no output": (graph_of({"input": nir.Input(np.array([2]))}, []), "graph: expected an Output node, got none"),
    "no input": (graph_of({"output": nir.Output(np.array([2]))}, []), "graph: expected an Input node, got none"),
    "empty": (graph_of({}, []), "graph: expected an Input node, got none; add one"),
    "unreached": (line(("input", "output"), x=SCALE), "node 'x': expected a path to it from an Input, got none"),
    "cut off": (line(("input", "x"), x=SCALE), "node 'output': expected a path to it from an Input"),
    "slash": (line(("input", "a/b"), ("a/b", "output"), **{"a/b": SCALE}), "node 'a/b': expected a name without '/'"),
    "custom": (line(*STRAIGHT, x=Custom()), "node 'x': expected one of Input, .* or NIRGraph, got Custom; replace it"),
    "same name": (
        line(("input", "s"), ("s", "s.x"), ("s.x", "output"), **{"s": chain([2], SCALE), "s.n0": SCALE, "s.x": SCALE}),
        "node 's.n0': expected one node of this name, got two",
    ),
    "no loop memory": (
        line(*STRAIGHT, ("x", "y"), ("y", "x"), x=SCALE, y=SCALE),
        "loop through 'x', 'y': expected a node with memory in every loop, got none; add a Delay",
    ),
    "subgraph ends": (
        line(*STRAIGHT, x=graph_of({"a": nir.Input(np.array([2])), "b": nir.Input(np.array([2]))}, [])),
        "node 'x': expected a subgraph with one Input and one Output, got 2 and 0",
    ),
    "in subgraph": (
        line(*STRAIGHT, x=chain([2], nir.Scale(np.array([1, np.inf])))),
        "node 'x.n0': scale: .* 1 infinite",
    ),
    "sum": (
        line(*STRAIGHT, ("input", "y"), ("y", "x"), x=SCALE, y=nir.Linear(np.ones((3, 2)))),
        r"edge 'y' -> 'x': expected shape \(2,\), as over the other edges to 'x', got \(3,\)",
    ),
    "end": (chain([2], nir.Linear(np.ones((3, 2)))), r"node 'output': expected an input of shape \(2,\), got \(3,\)"),
    "no shape": (
        graph_of(
            {"input": changed(nir.Input(np.array([2])), input_type={"input": None}), **{"output": ends([2])["output"]}},
            [("input", "output")],
        ),
        "node 'input': expected an Input with a shape, got none",
    ),
    "zero size": (graph_of(ends([0]), [("input", "output")]), "node 'input': shape: expected sizes of 1 or more"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_that_says_no_computation_is_refused(case):
    graph, message = GRAPHS[case]
    with pytest.raises(ValueError, match=message):
        check_graph(graph)


LIF = lif(2)
NODES = {
    "nan": (
        changed(LIF, r=np.array([1, np.nan])),
        "node 'n0': r: expected finite values, got 1 NaN and 0 infinite of 2",
    ),
    "tau 0": (changed(LIF, tau=np.array([1.0, 0])), "node 'n0': tau: expected time constants above 0, got 0"),
    "tau below 0": (changed(LIF, tau=np.array([1.0, -2])), "node 'n0': tau: expected .* above 0, got -2"),
    "no r": (changed(LIF, r=None), "node 'n0': r: expected an array, got none; the parameter is missing"),
    "text": (changed(LIF, r=np.array(["1", "2"])), "node 'n0': r: expected an array of real numbers, got <U1"),
    "ragged": (changed(LIF, r=[[1], [1, 2]]), "node 'n0': r: expected an array of real numbers"),
    "complex": (changed(LIF, r=np.array([1j, 1])), "got complex128"),
    "three": (
        changed(LIF, v_threshold=np.ones(3)),
        r"expected an input of shape \(3,\), that of v_threshold, got \(2,\)",
    ),
    "reset": (changed(LIF, v_reset=np.array([np.inf, 0])), "node 'n0': v_reset: expected finite values"),
    "v_reset": (changed(LIF, v_reset=np.ones(3)), r"that of v_reset, got \(2,\); change this LIF"),
    "empty": (changed(SCALE, scale=np.ones(0)), "node 'n0': scale: expected at least one value"),
    "matrix": (changed(nir.Linear(np.eye(2)), weight=np.ones(2)), r"weight: expected shape \(out, in\), got \(2,\)"),
    "width": (nir.Linear(np.eye(3)), r"expected an input of shape \(3,\), got \(2,\); change this Linear"),
    "bias": (nir.Affine(np.eye(2), np.ones(3)), r"bias: expected shape \(2,\), got \(3,\)"),
    "delay": (nir.Delay(np.array([1.0, -1])), "node 'n0': delay: expected delays of 0 or more, got -1"),
    "flatten": (nir.Flatten(None, 1, -1), r"within the 1 axes of its input \(2,\), got 1 and -1"),
    "space": (conv(), r"expected an input of shape \(channels, space, space\), got \(2,\); change this Conv2d"),
}


@pytest.mark.parametrize("case", NODES)
def test_a_node_of_two_values_with_a_wrong_parameter_is_refused(case):
    node, message = NODES[case]
    with pytest.raises(ValueError, match=message):
        check_graph(chain([2], node))


POOL = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
IMAGES = {
    "channels": (conv(weight=np.ones((4, 3, 3, 3))), r"expected an input of shape 3 channels, got \(2, 5, 5\)"),
    "axes": (conv(weight=np.ones((4, 2, 3))), r"weight: expected 4 axes, .* got \(4, 2, 3\)"),
    "groups": (conv(groups=3), "out a multiple of 3 groups"),
    "no groups": (conv(groups=0), r"groups: expected a whole number of at least 1, got \[0.0\]"),
    "bias": (conv(bias=np.zeros(2)), r"bias: expected shape \(4,\), got \(2,\)"),
    "no bias": (conv(bias=None), "bias: expected an array, got none"),
    "stride": (conv(stride=(0, 1)), r"stride: expected 2 whole numbers of at least 1, got \[0.0, 1.0\]"),
    "half stride": (conv(stride=(1.5, 1)), "stride: expected 2 whole numbers"),
    "padding": (conv(padding="full"), "padding: expected 'same', 'valid' or numbers, got 'full'"),
    "negative": (conv(padding=(-1, 0)), "padding: expected 2 whole numbers of at least 0"),
    "same": (conv(padding="same", stride=(2, 2)), r"padding: expected a stride of 1 with 'same', got \(2, 2\)"),
    "said": (conv(input_shape=(6, 5)), r"expected an input of shape input_shape \[6, 5\], got \(2, 5, 5\)"),
    "kernel": (conv(dilation=(3, 1)), r"expected an input of at least the kernel's size \(3, 3\), got \(2, 5, 5\)"),
    "pool": (changed(POOL, kernel_size=None), "kernel_size: expected an array, got none"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_a_node_of_images_with_a_wrong_parameter_is_refused(case):
    node, message = IMAGES[case]
    with pytest.raises(ValueError, match=message):
        check_graph(chain([2, 5, 5], node))


def test_a_step_that_the_time_constants_do_not_bear_is_refused():
    graph = chain([2], lif(2, tau=2.0))
    for dt in (0.1, 1.0, 2.0, 2.0 * (1 + 1e-7)):  # a decay of 0, and one rounded to float32, are no decay below 0
        check_graph(graph, dt=dt)
    with pytest.raises(
        ValueError, match=r"dt: expected at most 2, the smallest tau of node 'n0', got 2.5, a decay of -0.25"
    ):
        check_graph(graph, dt=2.5)
    for dt in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="dt: expected a finite number above 0"):
            check_graph(graph, dt=dt)
    check_graph(chain([2], nir.Delay(np.array([1.5, 0.0]))), dt=0.5)
    with pytest.raises(ValueError, match=r"delay: expected whole multiples of dt=1, got 1.5; use a dt that divides it"):
        check_graph(chain([2], nir.Delay(np.array([1.0, 1.5]))), dt=1.0)


def test_what_is_no_graph_is_refused():
    with pytest.raises(TypeError, match=r"graph: expected a nir.NIRGraph, got LIF"):
        check_graph(LIF)
    itself = chain([2], SCALE)
    itself.nodes["n0"] = itself
    with pytest.raises(ValueError, match="expected at most 32 nested graphs, got more"):
        check_graph(itself)


def test_the_flat_graph_names_what_is_in_subgraphs():
    inner = recurrent(np.eye(2))
    flat = flat_graph(graph_of({**ends([2]), "rnn": inner}, [("input", "rnn"), ("rnn", "output")]))
    assert set(flat.nodes) == {"input", "output", "rnn.input", "rnn.lif", "rnn.w_rec", "rnn.output"}
    assert ("input", "rnn.input") in flat.edges
    assert ("rnn.output", "output") in flat.edges
    assert flat.late == {("rnn.w_rec", "rnn.lif")}
