"""Networks in other simulators: the same spikes where they do as the file says, and the smallest case where not."""

import importlib.metadata
from dataclasses import replace

import nir
import numpy as np
import pytest
import torch

from lsc_snn import NetworkConfig
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.peer_graphs import DT, FORMS, Form, graph_of, up_to, with_unit_thresholds
from lsc_snn.experiments.peer_simulators import INTERPRETER, SIMULATORS, Simulator, undisturbed
from lsc_snn.experiments.peers import compare_peers, layer_spikes
from lsc_snn.network import Network
from lsc_snn.nir import interpret, read_graph, write_graph
from nir_cases import chain, lif
from run_cases import NUM_UNITS, make_splits, make_text

BY_NAME = {simulator.name: simulator for simulator in SIMULATORS}
NIRTORCH = tuple(int(part) for part in importlib.metadata.version("nirtorch").split(".")[:2])
OLD = pytest.mark.skipif(NIRTORCH >= (2, 6), reason="nirtorch 2.6 mended it")
pytestmark = pytest.mark.skipif(nir.version != "1.0.4" and NIRTORCH < (2, 6), reason="this nirtorch needs nir 1.0.4")
TEST = make_splits().test


def run_config(neuron="LIF", **layer):
    return TrainConfig(
        NetworkConfig(NUM_UNITS, 2, num_layers=2, num_units=12, neuron=neuron, dropout=0.2, layer=layer), batch_size=10
    )


def network(config, seed=0):
    """Return a network whose time constants and thresholds differ, as after training."""
    made = Network(config.network, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in made.layers:
            layer.weight *= 1.5
            for raw in (layer.alpha_raw, layer.threshold_raw):
                raw += 0.3 * torch.randn(raw.shape, generator=generator)
    return made


def rows_of(neuron="LIF", simulators=SIMULATORS, **layer):
    config = run_config(neuron, **layer)
    matrix = compare_peers(network(config), config, TEST, simulators=simulators)
    return matrix, {(row.simulator, row.form): row for row in matrix.rows}


def simulate(name, graph, inputs):
    with undisturbed(), torch.no_grad():
        return BY_NAME[name].run(graph, inputs)


@pytest.mark.parametrize("recurrent", [True, False])
def test_snntorch_and_norse_agree_on_every_spike(recurrent):
    wanted = ["snnTorch by nirtorch.load", "Norse"] + ["snnTorch"] * (not recurrent)
    matrix, rows = rows_of(reset="hard", recurrent=recurrent, simulators=[BY_NAME[name] for name in wanted])
    for name in wanted:
        row = rows[name, str(BY_NAME[name].form)]
        assert row.agreement == (1.0, 1.0), row
        assert (row.accuracy, row.samples, row.reason) == (matrix.accuracy, 0, "")
    assert rows["Norse", "plain"].agreement[0] < 0.9
    assert rows["Norse", "plain"].reason == "ignores r"
    assert rows["snnTorch by nirtorch.load", "plain"].reason.startswith("fails: AssertionError: ")
    for form in FORMS.values():
        assert rows["NIR interpreter", str(form)].agreement == (1.0, 1.0)


def test_every_cell_below_all_has_a_reason():
    for layer in ({"reset": "hard"}, {"reset": "soft", "recurrent": False}):
        matrix, _ = rows_of(**layer)
        for row in matrix.rows:
            whole = row.agreement == (1.0,) * 2
            assert bool(row.reason) is not whole, row
            assert row.reason != "unexplained", row
        assert {row.simulator for row in matrix.rows} >= set(BY_NAME)


def test_lif_nodes_cannot_say_a_soft_reset_and_the_composition_can():
    _, rows = rows_of(reset="soft", simulators=[BY_NAME["Norse"]])
    assert rows["NIR interpreter", "plain"].agreement == (1.0, 1.0)
    lossy = rows["NIR interpreter", "--for norse --approximate"]
    assert lossy.reason == "a LIF node resets to zero, this network does not"
    assert 0 < min(lossy.agreement) < 0.95
    assert (
        rows["Norse", "--for norse --approximate"].agreement == lossy.agreement
    )  # Norse loses what the node loses, no more


def test_adaptation_is_named_too():
    _, rows = rows_of("ALIF", simulators=[BY_NAME["Norse"]], recurrent=False)
    assert rows["NIR interpreter", "plain"].agreement == (1.0, 1.0)
    assert "a LIF node has no adaptation" in rows["Norse", "--for norse --approximate"].reason


def test_agreement_counts_spikes_and_not_silence():
    config = run_config(reset="hard")
    silent = Simulator("silent", "torch", Form(), lambda graph, x: torch.zeros(*x.shape[:2], 12))
    double = Simulator("double", "torch", Form(), lambda graph, x: 2 * INTERPRETER.run(graph, x))
    matrix = compare_peers(network(config), config, TEST, simulators=[silent, double])
    rows = {row.simulator: row for row in matrix.rows}
    assert rows["silent"].agreement == (0.0, 0.0)
    assert rows["silent"].reason == "unexplained"
    assert rows["double"].agreement == (0.5, 0.5)
    assert rows["double"].samples == len(TEST)


def test_what_did_not_run_is_said():
    config = run_config(reset="hard")
    others = [
        Simulator("absent", "no-such-package", Form(), lambda graph, x: x),
        Simulator("mute", "torch", Form(), None, absent="has no importer of NIR"),
        Simulator("short", "torch", Form(), lambda graph, x: x[:3]),
    ]
    matrix = compare_peers(network(config), config, TEST, simulators=others)
    reasons = {row.simulator: row.reason for row in matrix.rows}
    assert reasons["absent"] == "not installed: pip install no-such-package"
    assert reasons["mute"] == "has no importer of NIR"
    assert reasons["short"].startswith("gives out (3, 10, 8) values instead of (")
    text = str(matrix.table())
    assert "| absent" in text
    assert "no-such-package" in text


@pytest.mark.parametrize(("neuron", "layer"), [("LIF", {"bias": True}), ("ALIF", {}), ("LSNN", {"reset": "none"})])
def test_thresholds_of_one_change_no_spike(neuron, layer):
    made = network(run_config(neuron, **layer)).double()
    inputs = TEST.batch(list(range(8)))[0].to_dense().double()
    twin = with_unit_thresholds(made)
    for ours, theirs in zip(layer_spikes(made, inputs), layer_spikes(twin, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert ours.any()
    for layer in twin.layers:
        torch.testing.assert_close(layer.threshold, torch.ones(12).double())
    assert len(torch.unique(made.layers[0].threshold)) == 12


def test_a_graph_is_cut_behind_a_layer():
    made = network(run_config(reset="hard")).double()
    inputs = TEST.batch(list(range(4)))[0].to_dense().double()
    part = up_to(graph_of(made), "layers_0", 12)
    got = interpret(part, inputs.numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(got, layer_spikes(made, inputs)[0].numpy())


def test_names_keep_their_order_in_a_file(tmp_path):
    graph = graph_of(network(run_config(reset="hard")), FORMS["snntorch"])
    write_graph(tmp_path / "network.nir", graph)
    names = [name for name in read_graph(tmp_path / "network.nir").nodes if name != "output"]
    assert names == [name for name in graph.nodes if name != "output"]


# The smallest case of each departure: one or two neurons. Where one of these fails, an importer was mended.


def current(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)


def test_norse_ignores_the_resistance_of_a_lif():
    node = lif(1, tau=2 * DT)  # r = tau, and the input counts r dt / tau = DT: no spike, ever
    graph = chain([1], nir.Affine(np.ones((1, 1)), np.zeros(1)), node)
    node.r = np.full(1, 20.0)
    x = current(0.15, 0.0)
    assert interpret(graph, x.numpy(), dt=DT).outputs["output"].ravel().tolist() == [1.0, 0.0]
    assert simulate("Norse", graph, x).ravel().tolist() == [0.0, 0.0]


def test_snntorch_takes_one_threshold():
    node = lif(2, tau=2 * DT)
    node.v_threshold = np.array([1.0, 2.0])
    graph = chain([2], nir.Affine(np.eye(2), np.zeros(2)), node)
    with pytest.raises(AssertionError, match="v_threshold must be same"):
        simulate("snnTorch", graph, torch.zeros(1, 1, 2))


@OLD
def test_snntorch_import_of_recurrence_fails():
    part = up_to(graph_of(network(run_config(reset="hard")), FORMS["snntorch"]), "layers_0", 12)
    with pytest.raises(RecursionError):
        simulate("snnTorch", part, torch.zeros(1, 1, NUM_UNITS).double())


def test_sinabs_reads_time_constants_in_steps():
    node = lif(1, tau=10 * DT)
    node.r = np.full(1, 10.0)  # v = 0.9 v + x
    graph = chain([1], nir.Affine(np.ones((1, 1)), np.zeros(1)), node)
    x = current(0.9, 0.9)
    assert interpret(graph, x.numpy(), dt=DT).outputs["output"].ravel().tolist() == [0.0, 1.0]
    assert simulate("sinabs", graph, x).ravel().tolist() == [0.0, 0.0]


def test_random_state_and_output_are_left_alone(capsys):
    before = torch.random.get_rng_state()
    rows_of(reset="hard", recurrent=False)
    assert torch.equal(before, torch.random.get_rng_state())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("config", "test", "message"),
    [
        (
            replace(run_config(), network=NetworkConfig(NUM_UNITS, 2, neuron="GRU")),
            TEST,
            "expected LIF, ALIF or LSNN, got",
        ),
        (run_config(), make_text().test, "expected samples with labels, got text"),
        (replace(run_config(), network=NetworkConfig(9, 2)), TEST, "expected 9 units as the network has inputs, got 8"),
    ],
)
def test_what_is_refused(config, test, message):
    with pytest.raises(ValueError, match=message):
        compare_peers(Network(config.network), config, test, simulators=[])


def test_every_simulator_has_a_row():
    _, rows = rows_of(reset="hard")
    assert {simulator for simulator, _ in rows} == {"this library, float32", "NIR interpreter", *BY_NAME}


@pytest.mark.parametrize(("layers", "first"), [(2, "n00_"), (60, "n000_")])
def test_files_keep_the_order_of_any_number_of_nodes(layers, first):
    made = Network(NetworkConfig(3, 2, num_layers=layers, num_units=2, neuron="LIF", layer={"reset": "hard"}))
    sample = torch.ones(3, 1, 3)
    names = [n for n in graph_of(made, FORMS["snntorch"], sample=sample).nodes if n not in ("input", "output")]
    assert names == sorted(names)
    assert names[0].startswith(first)
