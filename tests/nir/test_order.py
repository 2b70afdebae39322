"""The order in which an interpreted graph runs: loops, delays and subgraphs, each against a recurrence by hand."""

import nir
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lsc_snn.nir.graphs import flat_graph
from lsc_snn.nir.interpret import interpret
from nir_cases import ends, graph_of, lif, recurrent

T, B, N = 40, 3, 4


def rng(seed=0):
    return np.random.default_rng(seed)


def output(graph, inputs):
    return interpret(graph, inputs, dt=1.0).outputs["output"]


def test_a_recurrence_delivers_the_spikes_of_the_step_before():
    weight = rng(1).normal(0, 1.5, (N, N))
    x = rng(2).normal(0.6, 1.0, (T, B, N))
    v, z, expected = np.zeros((B, N)), np.zeros((B, N)), []
    for value in x:
        v = 0.5 * v + value + z @ weight.T
        z = (v > 1).astype(float)
        v = np.where(z > 0, 0.0, v)
        expected.append(z)
    found = output(recurrent(weight, lif(N, tau=2.0)), x)
    np.testing.assert_array_equal(found, np.stack(expected))
    assert 0.1 < found.mean() < 0.9


def test_a_loop_back_to_the_first_layer_leaves_the_way_forward_in_one_step():
    """input -> a -> b -> a: what a gives at t reaches b at t, and a again at t + 1."""
    scale = lambda value: nir.Scale(np.array([value]))  # noqa: E731
    memory = nir.I(r=np.ones(1))
    nodes = {**ends([1]), "a": memory, "forward": scale(2.0), "b": nir.I(r=np.ones(1)), "back": scale(0.5)}
    edges = [("input", "a"), ("a", "forward"), ("forward", "b"), ("b", "back"), ("back", "a"), ("b", "output")]
    x = rng().normal(size=(6, 1, 1))
    a = b = 0.0
    expected = []
    for value in x.ravel():
        a = a + value + 0.5 * b
        b = b + 2 * a
        expected.append(b)
    np.testing.assert_allclose(output(graph_of(nodes, edges), x).ravel(), expected)
    assert flat_graph(graph_of(nodes, edges)).late == {("back", "a")}


def test_a_loop_with_two_entries_delays_both_its_halves():
    nodes = {**ends([1]), "a": nir.I(r=np.ones(1)), "b": nir.I(r=np.ones(1)), "s": nir.Scale(np.array([0.5]))}
    edges = [("input", "a"), ("input", "b"), ("a", "b"), ("b", "s"), ("s", "a"), ("a", "output")]
    flat = flat_graph(graph_of(nodes, edges))
    assert flat.late == {("a", "b"), ("s", "a")}
    x = rng().normal(size=(6, 1, 1))
    a = b = 0.0
    expected = []
    for value in x.ravel():
        a, b = a + value + 0.5 * b, b + value + a
        expected.append(a)
    np.testing.assert_allclose(output(graph_of(nodes, edges), x).ravel(), expected)


def test_a_delay_in_a_loop_adds_no_second_step():
    """A loop through Delay(k dt) is k steps long, so that k = 1 is the plain recurrence."""
    weight = rng(1).normal(0, 1.5, (N, N))
    x = rng(2).normal(0.6, 1.0, (T, B, N))
    plain = output(recurrent(weight, lif(N)), x)

    def delayed(steps):
        nodes = {**ends([N]), "lif": lif(N), "w": nir.Linear(weight), "delay": nir.Delay(np.full(N, float(steps)))}
        edges = [("input", "lif"), ("lif", "delay"), ("delay", "w"), ("w", "lif"), ("lif", "output")]
        return output(graph_of(nodes, edges), x)

    np.testing.assert_array_equal(delayed(1), plain)
    v, history = np.zeros((B, N)), [np.zeros((B, N))] * 3
    for t, value in enumerate(x):
        v = 0.5 * v + value + history[-3] @ weight.T
        z = (v > 1).astype(float)
        v = np.where(z > 0, 0.0, v)
        history.append(z)
        np.testing.assert_array_equal(delayed(3)[t], z)


def soft_reset(size):
    """Return a subgraph of v' = v / 2 + x - z, z' = H(v' - 1 - 1.5 a')."""
    ones = np.ones(size)
    nodes = {
        **ends([size]),
        "v": nir.LI(tau=2 * ones, r=2 * ones, v_leak=0 * ones),
        "spike": nir.Threshold(threshold=ones),
        "reset": nir.Scale(-ones),
        "a": nir.LI(tau=5 * ones, r=ones, v_leak=0 * ones),
        "adapt": nir.Scale(-1.5 * ones),
    }
    edges = [("input", "v"), ("v", "spike"), ("spike", "reset"), ("reset", "v"), ("spike", "a"), ("a", "adapt")]
    return graph_of(nodes, [*edges, ("adapt", "spike"), ("spike", "output")])


def test_neurons_composed_of_nodes():
    """Two loops, one inside the other: the reset and the adaptation both take effect one step after the spike."""
    x = rng(2).normal(0.6, 1.0, (T, B, N))
    v, a, z, expected = 0.0, 0.0, np.zeros((B, N)), []
    for value in x:
        v = 0.5 * v + value - z
        a = 0.8 * a + 0.2 * z
        z = (v - 1.5 * a > 1).astype(float)
        expected.append(z)
    nodes = {**ends([N]), "cell": soft_reset(N)}
    found = output(graph_of(nodes, [("input", "cell"), ("cell", "output")]), x)
    np.testing.assert_array_equal(found, np.stack(expected))
    assert 0.1 < found.mean() < 0.9


def test_a_subgraph_runs_as_if_it_stood_in_the_outer_graph():
    weight = rng(1).normal(0, 1.5, (N, N))
    x = rng(2).normal(0.6, 1.0, (T, B, N))
    inner = graph_of({**ends([N]), "deeper": recurrent(weight, lif(N))}, [("input", "deeper"), ("deeper", "output")])
    outer = graph_of({**ends([N]), "rnn": inner}, [("input", "rnn"), ("rnn", "output")])
    result = interpret(outer, x, dt=1.0, record=["rnn.deeper.w_rec"])
    spikes = output(recurrent(weight, lif(N)), x)
    np.testing.assert_array_equal(result.outputs["output"], spikes)
    np.testing.assert_allclose(result.signals["rnn.deeper.w_rec"], spikes @ weight.T)


@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_depends_on_the_order_in_which_nodes_and_edges_are_listed(seed):
    x = rng(2).normal(0.6, 1.0, (12, 2, 2))
    weight = rng(1).normal(size=(2, 2))
    nodes = {**ends([2]), "cell": soft_reset(2), "lif": lif(2), "w": nir.Linear(weight), "u": nir.Linear(-weight)}
    nodes["delay"] = nir.Delay(np.array([1.0, 2.0]))
    edges = [("input", "cell"), ("cell", "w"), ("w", "lif"), ("lif", "u"), ("u", "cell"), ("input", "lif")]
    edges += [("lif", "delay"), ("delay", "output"), ("cell", "output"), ("lif", "output"), ("input", "output")]
    shuffle = rng(seed).permutation
    names = list(nodes)
    other = graph_of({names[i]: nodes[names[i]] for i in shuffle(len(names))}, [edges[i] for i in shuffle(len(edges))])
    assert flat_graph(other).late == flat_graph(graph_of(nodes, edges)).late
    np.testing.assert_array_equal(output(other, x), output(graph_of(nodes, edges), x))
