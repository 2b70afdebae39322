"""``lsc-snn train``: what it compares, that every flag reaches the run, and that bad flags change nothing."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lsc_snn
from cli_cases import ARMS, QUICK, in_an_empty_folder, make_recordings, refused, run
from lsc_snn._cli_inputs import load_splits
from lsc_snn.datasets.augment import Augmentation
from lsc_snn.experiments.checkpoint import load_network
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.records import read_result
from run_cases import contents

same_threads = pytest.fixture(autouse=True)(in_an_empty_folder)
recordings = pytest.fixture(make_recordings)


def test_train_compares_and_its_runs_can_be_measured(recordings, tmp_path):
    command = ("train", "--data", recordings, "--out", "runs", *QUICK, *ARMS)
    result = run(*command, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [(cell["depth"], cell["target"], cell["num_runs"]) for cell in told["cells"]] == [
        (1, "untreated", 2), (1, "half", 2), (2, "untreated", 2), (2, "half", 2),
    ]  # fmt: skip
    assert json.loads((tmp_path / "runs" / "comparison.json").read_text())["cells"] == told["cells"]

    before = contents(tmp_path)
    assert "expected a folder without runs" in refused(run(*command))
    assert contents(tmp_path) == before

    table = run(*command, "--resume")
    assert table.exit_code == 0
    assert "untreated" in table.stdout
    assert "wrote runs" in table.stdout

    measured = run("measure", "--run", tmp_path / "runs" / told["runs"][0]["folder"], "--data", recordings,
                   "--bin-ms", "50", "--batch-size", "4", "--json")  # fmt: skip
    assert json.loads(measured.stdout)["network"]["num_layers"] == 1


def test_train_takes_every_flag_into_the_configuration(recordings, tmp_path):
    result = run("train", "--data", recordings, "--out", "runs", *QUICK, "--depths", "2", "--seeds", "1",
                 "--targets", "lsuv", "--learning-rates", "0.01", "--neuron", "lif", "--readout-tau", "none",
                 "--optimizer", "adabelief", "--lookahead", "--weight-decay", "0.01", "--schedule", "plateau",
                 "--plateau-epochs", "2", "--plateau-factor", "0.3", "--gradient-clip", "5", "--readout", "sum",
                 "--precision", "bf16-mixed", "--rate-band", "0.01:0.3", "--rate-strength", "2", "--dropout", "0.1",
                 "--blend", "0.5", "--time-scale", "0.1", "--time-shift", "1", "--channel-shift", "20",
                 "--channel-jitter", "2", "--event-dropout", "0.1", "--refit", "--track-test", "--pool", "7",
                 "--keep", "last", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    (folder,) = [tmp_path / "runs" / entry["folder"] for entry in told["runs"]]
    got = TrainConfig.from_dict(json.loads((folder / "config.json").read_text()))
    network = lsc_snn.NetworkConfig(100, 3, num_units=6, neuron="LIF", dropout=0.1, readout_tau=None)
    augment = Augmentation(0.5, 0.1, 1, 20, 2.0, 0.1)
    assert got == TrainConfig(
        network, None, 0, 2, 8, 0.01, 0.01, 10, "sum", 5.0, initialisation="lsuv", optimizer="adabelief",
        lookahead=True, schedule="plateau", plateau_epochs=2, plateau_factor=0.3, rate_band=(0.01, 0.3),
        rate_strength=2.0, augment=augment, precision="bf16-mixed", refit=True, track_test=True,
        keep="last",
    )  # fmt: skip
    result = read_result(folder)
    assert {entry.speaker for entry in result.speakers} == {0, 1, 2}
    assert result.best_on_test is not None
    assert "network/layers.0.weight" in load_file(folder / "refit.safetensors")
    assert told["cells"][0]["target"] == "lsuv"


def test_train_takes_layers_without_spikes(recordings):
    arms = ("--depths", "1", "--targets", "none,half,orthogonal", "--seeds", "1", "--learning-rates", "0.01")
    result = run("train", "--data", recordings, "--out", "runs", *QUICK, *arms, "--neuron", "gru")
    assert result.exit_code == 0, result.output
    assert "orthogonal" in result.stdout
    folder = Path("runs/depth-1/half/rate-0.01/seed-0")
    assert load_network(folder).config.readout_tau is None
    measured = run("measure", "--run", folder, "--data", recordings, "--bin-ms", "50", "--batch-size", "4", "--json")
    assert json.loads(measured.stdout)["network"]["neuron"] == "GRU"


def test_channels_are_pooled_in_training_and_in_what_measures_the_run(recordings):
    flags = ("--data", recordings, "--bin-ms", "50", "--pool", "5", "--threads", "1")
    arms = ("--depths", "1", "--targets", "none", "--seeds", "1", "--learning-rates", "0.01")
    result = run("train", "--out", "runs", *flags, *arms, "--units", "6", "--epochs", "1", "--json")
    assert json.loads(result.stdout)["base"]["network"]["num_inputs"] == 140
    parts, pooled = load_splits(str(recordings), 50.0), load_splits(str(recordings), 50.0, 5)
    for part, other in zip(parts, pooled, strict=True):
        whole = part.batch(range(len(part)))[0].to_dense()
        assert torch.equal(other.batch(range(len(part)))[0].to_dense(), whole.unflatten(2, (140, 5)).sum(3))
    folder = Path("runs/depth-1/untreated/rate-0.01/seed-0")
    measured = run("measure", "--run", folder, *flags, "--batch-size", "4", "--json")
    assert json.loads(measured.stdout)["network"]["num_inputs"] == 140
    assert "expected 140 input units" in refused(run("measure", "--run", folder, *flags[:4], "--batch-size", "4"))
    assert "pool: expected a divisor of the 700 units" in refused(run("measure", *flags[:4], "--pool", "3"))


def test_train_reads_text(monkeypatch, tmp_path):
    lines = ["the cat sat on the mat", "the dog sat on the log"] * 10
    for name, size in (("train", 20), ("valid", 4), ("test", 6)):
        (tmp_path / f"ptb.{name}.txt").write_text("\n".join(lines[:size]) + "\n")
    monkeypatch.setattr("lsc_snn.datasets.load", functools.partial(lsc_snn.datasets.load, verify=False))
    arms = (
        "--depths",
        "1",
        "--targets",
        "none",
        "--seeds",
        "1",
        "--learning-rates",
        "0.01",
        "--units",
        "8",
        "--epochs",
        "1",
    )
    command = (
        "train",
        "--data",
        "ptb",
        "--root",
        tmp_path,
        "--out",
        "runs",
        *arms,
        "--neuron",
        "GRU",
        "--batch-size",
        "2",
        "--epochs",
        "1",
    )
    assert "bptt_steps: expected a number of steps for text" in refused(run(*command))
    assert not (tmp_path / "runs").exists()
    result = run(*command, "--bptt-steps", "3", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["base"]["network"]["num_inputs"] == 9


def test_help_of_train_is_grouped():
    page = run("train", "--help").stdout
    for panel in ("Data and network", "Training", "Optimiser", "Regularisation", "Augmentation", "Output"):
        assert panel in page


BAD_FLAGS = {
    "no output folder": ("train",),
    "no depth": ("train", "--out", "runs", "--depths", ""),
    "depth twice": ("train", "--out", "runs", "--depths", "2,2"),
    "depth zero": ("train", "--out", "runs", "--depths", "0"),
    "unknown target": ("train", "--out", "runs", "--targets", "none,quarter"),
    "no seed": ("train", "--out", "runs", "--seeds", "0"),
    "learning rate zero": ("train", "--out", "runs", "--learning-rates", "0"),
    "no epochs": ("train", "--out", "runs", "--epochs", "0"),
    "dropout one": ("train", "--out", "runs", "--dropout", "1"),
    "unknown readout": ("train", "--out", "runs", "--readout", "first"),
    "unknown epoch to keep": ("train", "--out", "runs", "--keep", "first"),
    "unknown optimiser": ("train", "--out", "runs", "--optimizer", "adam"),
    "unknown schedule": ("train", "--out", "runs", "--schedule", "step"),
    "plateau that raises": ("train", "--out", "runs", "--plateau-factor", "1"),
    "unknown precision": ("train", "--out", "runs", "--precision", "16"),
    "weight decay negative": ("train", "--out", "runs", "--weight-decay", "-1"),
    "clip of zero": ("train", "--out", "runs", "--gradient-clip", "0"),
    "one rate": ("train", "--out", "runs", "--rate-band", "0.1"),
    "rates in the wrong order": ("train", "--out", "runs", "--rate-band", "0.2:0.1"),
    "rates of a GRU": ("train", "--out", "runs", "--neuron", "GRU", "--rate-band", "0.1:0.2"),
    "fluctuation of a GRU": ("train", "--out", "runs", "--neuron", "GRU", "--targets", "fluctuation"),
    "a folder and a root": ("train", "--out", "runs", "--data", ".", "--root", "."),
    "a download of a folder": ("train", "--out", "runs", "--data", ".", "--download"),
    "recurrent GRU": ("train", "--out", "runs", "--neuron", "GRU", "--feed-forward"),
    "readout time constant": ("train", "--out", "runs", "--readout-tau", "fast"),
    "blend above one": ("train", "--out", "runs", "--blend", "1.5"),
    "time shift negative": ("train", "--out", "runs", "--time-shift", "-1"),
    "pool of zero": ("train", "--out", "runs", "--pool", "0"),
    "pooled digits": ("train", "--out", "runs", "--pool", "2"),
    "pooled text": ("train", "--data", "ptb", "--out", "runs", "--pool", "5"),
    "pieces of samples": ("train", "--out", "runs", "--bptt-steps", "5"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags_get_one_line_and_change_nothing(name, tmp_path):
    line = refused(run(*BAD_FLAGS[name]))
    assert len(line) > len("lsc-snn: ") + 10
    assert contents(tmp_path) == {}
