"""``lsc-snn export``, ``inspect`` and ``peers``: files that say what the run says, and one line for bad input."""

import json
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from cli_cases import refused, run
from lsc_snn import NetworkConfig
from lsc_snn.datasets import load_digits
from lsc_snn.experiments import export
from lsc_snn.experiments.checkpoint import Checkpoint, load_network, snapshot, write_checkpoint
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.data import Splits
from lsc_snn.experiments.train import train
from lsc_snn.network import Network
from lsc_snn.nir import interpret, read_graph

QUIET = ("--threads", "1")
FILES = {
    "nir": ["network.nir", "network.nir.card.json"],
    "onnx": ["network.onnx", "network.onnx.card.json"],
    "safetensors": ["network.json", "network.safetensors", "network.safetensors.card.json"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run: a tiny network with a hard reset, stabilised and trained for an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    splits = Splits(*(part.subset(range(40)) for part in load_digits(num_steps=10)))
    layer = {"reset": "hard", "threshold": 0.5}
    network = NetworkConfig(64, 10, num_layers=2, num_units=12, neuron="LIF", layer=layer)
    train(TrainConfig(network, epochs=1, batch_size=20, target=(0.6, 0.6), stabilize_batch=16), splits, folder)
    return folder


@pytest.fixture(scope="module")
def soft(tmp_path_factory):
    """Return a checkpoint of an untrained ALIF network, which resets by subtraction."""
    return saved(tmp_path_factory.mktemp("soft") / "soft.safetensors", neuron="ALIF", num_layers=1, num_units=6)


def saved(path, **options):
    config = TrainConfig(NetworkConfig(64, 10, **options))
    write_checkpoint(path, Checkpoint(config, 0, {}, snapshot(Network(config.network).state_dict()), {}))
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["nir", "onnx", "safetensors"])
def test_a_run_becomes_a_checked_file_with_a_card(trained, tmp_path, kind):
    result = run(
        "export", trained, "--format", kind, "--check", "--data", "digits", "--licence", "CC0-1.0", *QUIET, "--json"
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["check"]["same"] is True
    assert told["check"]["outputs"] == 64 * 40 * 10
    assert names(tmp_path) == FILES[kind]
    card = json.loads((tmp_path / f"network.{kind}.card.json").read_text())
    results = json.loads((trained / "results.json").read_text())
    assert card == told["card"]
    assert card["radii"]["before"] != card["radii"]["after"] == results["radii"]
    assert card["metrics"]["test"] == results["test"]
    assert card["data"]["parts"] == results["data"]
    assert (card["licence"], card["code"]["licence"], card["data"]["name"]) == ("CC0-1.0", "MIT", "digits")
    assert card["network"]["parameters"] == sum(p.numel() for p in load_network(trained).parameters())


def test_the_forms_of_importers_say_the_same(trained):
    inputs = (torch.rand(20, 3, 64, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    expected = load_network(trained).double()(inputs).detach().numpy()
    for importer in ("any", "snntorch", "norse"):
        arguments = ("--format", "nir", "--for", importer, "--out", f"{importer}.nir", "--dt", "1e-3")
        assert run("export", trained, *arguments, *QUIET).exit_code == 0
        graph = read_graph(f"{importer}.nir")
        np.testing.assert_allclose(interpret(graph, inputs.numpy(), dt=1e-3).outputs["output"], expected, atol=1e-6)
        node = graph.nodes["n01_layers_0" if importer == "snntorch" else "layers_0"].nodes["lif"]
        assert bool((node.v_threshold.round(6) == 1).all()) is (importer == "snntorch")
        assert bool((node.r == 1).all()) is (importer == "norse")


def test_an_approximation_has_lif_nodes_alone(soft):
    assert run("export", soft, "--format", "nir", "--approximate", "--out", "lif.nir", *QUIET).exit_code == 0
    assert run("export", soft, "--format", "nir", "--out", "exact.nir", *QUIET).exit_code == 0
    kinds = {type(node) for node in read_graph("lif.nir").nodes["layers_0"].nodes.values()}
    assert kinds == {nir.Input, nir.LIF, nir.Linear, nir.Output}
    assert nir.Threshold in {type(node) for node in read_graph("exact.nir").nodes["layers_0"].nodes.values()}
    card = json.loads(Path("lif.nir.card.json").read_text())
    assert card["file"] == {"format": "nir", "dt": 1e-4, "form": "--approximate"}
    assert card["metrics"] is None


def test_an_exported_checkpoint_is_that_network(trained, tmp_path):
    assert run("export", trained, "--format", "safetensors", *QUIET).exit_code == 0
    ours, theirs = load_network(trained), load_network(tmp_path / "network.safetensors")
    assert ours.config == theirs.config
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_a_file_that_does_not_give_the_same_is_not_written(trained, tmp_path, monkeypatch):
    graph_of = export.graph_of

    def wrong(network, *arguments, **options):
        graph = graph_of(network, *arguments, **options)
        graph.nodes["readout_weights"].bias = graph.nodes["readout_weights"].bias + 0.1
        return graph

    monkeypatch.setattr(export, "graph_of", wrong)
    result = run("export", trained, "--format", "nir", "--check", *QUIET)
    assert result.exit_code == 1
    assert "not written: " in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert names(tmp_path) == []


def test_nothing_is_replaced_without_force(trained, tmp_path):
    for name in ("network.nir", "network.nir.card.json"):
        (tmp_path / name).write_bytes(b"precious")
        assert "--force" in refused(run("export", trained, "--format", "nir", *QUIET))
        assert names(tmp_path) == [name]
        assert (tmp_path / name).read_bytes() == b"precious"
        assert run("export", trained, "--format", "nir", "--force", *QUIET).exit_code == 0
        assert b"precious" not in (tmp_path / name).read_bytes()
        for made in FILES["nir"]:
            (tmp_path / made).unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "pickle"), "--format: expected one of 'nir', 'safetensors', 'onnx', got 'pickle'"),
        (("--format", "nir", "--out", "a.onnx"), "expected a file name that ends in .nir"),
        (("--format", "nir", "--out", "absent/a.nir"), "expected a file in a folder that exists"),
        (("--format", "nir", "--dt", "-1"), "--dt: expected"),
        (("--format", "nir", "--for", "brian"), "--for: expected one of 'any', 'snntorch', 'norse', got 'brian'"),
        (("--format", "onnx", "--for", "norse"), "expected --format nir with them, got onnx"),
        (("--format", "nir", "--check", "--approximate"), "--check: expected an exact export"),
        (("--format", "nir", "--bin-ms", "4"), "--bin-ms: expected --data with it"),
        (("--format", "nir", "--data", "absent"), "--data: expected a folder"),
    ],
)
def test_bad_flags(trained, tmp_path, arguments, message):
    assert message in refused(run("export", trained, *arguments, *QUIET))
    assert names(tmp_path) == []


def test_bad_runs_and_networks(tmp_path):
    assert "expected a checkpoint" in refused(run("export", "absent", "--format", "nir", *QUIET))
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 50)
    assert "broken.safetensors: expected a whole" in refused(
        run("export", "broken.safetensors", "--format", "nir", *QUIET)
    )
    gru = saved(tmp_path / "gru.safetensors", neuron="GRU", num_units=4)
    line = refused(run("export", gru, "--format", "nir", *QUIET))
    assert "expected LIF, ALIF or LSNN, which NIR knows, got GRU; export it to ONNX" in line
    assert "got GRU; export it to ONNX" in refused(run("peers", gru, *QUIET))
    hard = saved(tmp_path / "hard.safetensors", neuron="ALIF", num_units=4, layer={"reset": "hard"})
    assert "layer 'layers.0': expected reset='soft'" in refused(run("export", hard, "--format", "nir", *QUIET))
    assert not list(tmp_path.glob("network*")) + list(tmp_path.glob(".export*"))


def test_inspect_tells_what_is_in_a_file(trained):
    for kind in ("nir", "safetensors", "onnx"):
        assert run("export", trained, "--format", kind, *QUIET).exit_code == 0
    network = load_network(trained)
    tau = -1 / torch.log(network.layers[0].alpha.detach().double())
    found = {kind: json.loads(run("inspect", f"network.{kind}", "--json").stdout) for kind in FILES}
    layer = next(part for part in found["safetensors"]["parts"] if part["name"] == "layers.0")
    assert (layer["kind"], layer["size"]) == ("LIF", [12])
    assert layer["tau"] == pytest.approx([float(tau.min()), float(tau.max())])
    node = next(part for part in found["nir"]["parts"] if part["name"] == "layers_0.lif")
    seconds = 1e-4 / (1 - network.layers[0].alpha.detach().double())
    assert node["tau"] == pytest.approx([float(seconds.min()), float(seconds.max())], rel=1e-5)
    assert found["nir"]["parts"][0]["name"] == "input"
    ports = {part["name"]: part["size"] for part in found["onnx"]["parts"]}
    assert ports["input"] == ["batch", 64]
    assert ports["layer_1_v_next"] == ["batch", 12]
    for kind in FILES:
        assert found[kind]["card"]["file"]["format"] == kind
        text = run("inspect", f"network.{kind}").stdout
        assert "radii after: time 0." in text
        assert "test accuracy: " in text


def test_inspect_without_a_card_says_so(soft):
    text = run("inspect", soft).stdout
    assert "no model card beside it" in text
    assert "ALIF" in text


@pytest.mark.parametrize("kind", ["nir", "safetensors", "onnx"])
def test_inspect_refuses_truncated_and_foreign_files(trained, tmp_path, kind):
    file = tmp_path / f"network.{kind}"
    assert run("export", trained, "--format", kind, *QUIET).exit_code == 0
    whole = file.read_bytes()
    for content in (b"", b"hello", whole[:100], whole[: len(whole) // 2], b"\xff" * 400):
        file.write_bytes(content)
        assert file.name in refused(run("inspect", file))
    file.unlink()
    assert "no such file" in refused(run("inspect", file)).lower()
    file.write_bytes(whole)
    (tmp_path / f"{file.name}.card.json").write_text("{}")
    assert "expected a model card" in refused(run("inspect", file))
    assert "expected a file that ends in .nir, .safetensors, .onnx" in refused(run("inspect", "a.txt"))


@pytest.mark.slow
def test_peers_prints_the_matrix(trained):
    result = run("peers", trained, "--markdown", *QUIET)
    assert result.exit_code == 0, result.output
    lines = {
        tuple(cell.strip() for cell in line.split("|")[1:4]): line for line in result.stdout.splitlines() if "|" in line
    }
    norse = next(line for (name, _, form), line in lines.items() if (name, form) == ("Norse", "--for norse"))
    assert [cell.strip() for cell in norse.split("|")[4:6]] == ["100", "100"]
    assert "layers.1" in run("peers", trained, *QUIET).stdout
    told = json.loads(run("peers", trained, "--json", *QUIET).stdout)
    assert {"this library, float32", "NIR interpreter", "snnTorch", "Norse"} <= {
        row["simulator"] for row in told["rows"]
    }


def test_peers_of_nothing_is_one_line():
    assert "no such file" in refused(run("peers", "absent", *QUIET))
