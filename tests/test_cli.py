"""The command line: what it prints, what it writes, and that bad input gets exit code 2, one line, and no file."""

import functools
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image
from safetensors.torch import load_file

import lsc_snn
from cli_cases import QUICK, SMALL, SPEECH, in_an_empty_folder, make_recordings, refused, run, write_recordings
from lsc_snn import _cli_networks, cli
from lsc_snn._cli_inputs import load_splits
from lsc_snn.experiments import demo
from lsc_snn.experiments.checkpoint import load_network
from run_cases import contents, make_config, make_splits

same_threads = pytest.fixture(autouse=True)(in_an_empty_folder)
recordings = pytest.fixture(make_recordings)


def test_help_shows_every_command_and_no_command_shows_the_help():
    result = run("--help")
    assert result.exit_code == 0
    assert run().output == result.output
    for command in ("demo", "measure", "stabilize", "train", "bench"):
        assert command in result.stdout
        page = run(command, "--help")
        assert page.exit_code == 0
        assert f"lsc-snn {command}" in page.stdout.split("For example:")[1]


def test_measure_prints_the_radii_that_the_library_measures():
    result = run("measure", *SMALL, "--json", "--neuron", "lif", "--threshold", "0.5", "--seed", "3")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    dataset = load_splits("digits", None).train
    loader = lsc_snn.datasets.EventLoader(dataset, 8, shuffle=True, seed=3)
    layer = {"threshold": 0.5}
    config = lsc_snn.NetworkConfig(64, 10, num_layers=2, num_units=12, neuron="LIF", layer=layer)
    report = lsc_snn.measure(lsc_snn.Network(config, seed=3), next(iter(loader))[0])
    assert told["radii"] == report.to_dict()
    assert told["network"]["layer"] == layer
    assert told["batch"] == {"steps": 40, "samples": 8, "units": 64}


def test_measure_shows_a_table_and_draws_a_figure(tmp_path):
    result = run("measure", *SMALL, "--figure", "radii.png", "--feed-forward", "--threshold", "0.3", "--reset", "hard")
    assert result.exit_code == 0, result.output
    assert "layers.1" in result.stdout
    assert "decoder" in result.stdout
    assert "wrote radii.png" in result.stdout
    assert image.imread(io.BytesIO((tmp_path / "radii.png").read_bytes())).std() > 0.02
    assert [path.name for path in tmp_path.iterdir()] == ["radii.png"]


def test_the_reset_is_that_of_the_network():
    told = json.loads(run("measure", *SMALL, "--reset", "none", "--json").stdout)
    assert told["network"]["layer"]["reset"] == "none"


def test_measure_reads_a_folder_of_recordings(recordings):
    result = run("measure", *SPEECH, "--data", recordings, "--json")
    told = json.loads(result.stdout)
    assert told["batch"] == {"steps": 10, "samples": 4, "units": 700}
    assert told["network"]["num_classes"] == 3


def test_stabilize_saves_the_network_and_measure_takes_it_up(tmp_path):
    wanted = ("--target", "0.6:0.4", "--tolerance", "0.2")
    result = run("stabilize", *SMALL, *wanted, "--out", "stable.safetensors", "--json")
    told = json.loads(result.stdout)
    assert told["stabilize"]["target"] == {"time": 0.6, "depth": 0.4}
    assert result.exit_code == (0 if told["stabilize"]["converged"] else 1)
    assert load_network(tmp_path / "stable.safetensors").config.num_units == 12
    again = run("measure", "--run", "stable.safetensors", "--batch-size", "8", "--json")
    radii = json.loads(again.stdout)["radii"]
    assert radii["time"] == pytest.approx(told["stabilize"]["after"]["time"], abs=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stable.json", "stable.safetensors"]


def test_stabilize_shows_before_and_after_and_draws_them(tmp_path):
    result = run("stabilize", *SMALL, "--tolerance", "0.3", "--figure", "radii.png")
    assert "before" in result.stdout
    assert "after" in result.stdout
    assert "converge" in result.stdout
    assert image.imread(io.BytesIO((tmp_path / "radii.png").read_bytes())).std() > 0.02


def test_stabilize_says_with_exit_code_one_what_it_could_not_reach():
    result = run("stabilize", *SMALL, "--tolerance", "1e-9", "--max-sweeps", "1", "--json")
    told = json.loads(result.stdout)["stabilize"]
    assert result.exit_code == 1
    assert told["converged"] is False
    assert told["sweeps"] == 1
    assert any("layers.0" in reason for reason in told["reasons"])


def test_stabilize_replaces_a_file_only_by_force(tmp_path):
    out = tmp_path / "stable.safetensors"
    out.write_bytes(b"precious")
    line = refused(run("stabilize", *SMALL, "--out", out))
    assert "--force" in line
    assert out.read_bytes() == b"precious"
    assert run("stabilize", *SMALL, "--tolerance", "0.3", "--out", out, "--force").exit_code in (0, 1)
    assert "network/layers.0.weight" in load_file(out)


def test_validation_is_by_speaker_where_speakers_are_known(recordings):
    splits = load_splits(str(recordings), None)
    train, validation = (set(part.speakers.tolist()) for part in (splits.train, splits.validation))
    assert train | validation == {0, 1, 2}
    assert not train & validation
    assert len(validation) == 1


def test_validation_is_stratified_where_they_are_not(recordings):
    write_recordings(recordings / "train.h5", 24, 1)
    splits = load_splits(str(recordings), None)
    assert np.bincount(splits.validation.labels).tolist() == [1, 1, 1]
    assert len(splits.train) == 21


BAD_FLAGS = {
    "unknown reset": ("measure", *SMALL, "--reset", "subtract"),
    "unknown flag": ("measure", "--foo"),
    "unknown command": ("mesure",),
    "no number": ("measure", "--layers", "many"),
    "no layers": ("measure", "--layers", "0"),
    "unknown neuron": ("measure", "--neuron", "ALIEN"),
    "beta without adaptation": ("measure", "--neuron", "LIF", "--beta", "1"),
    "negative threshold": ("measure", "--threshold", "-1"),
    "threshold NaN": ("measure", "--threshold", "nan"),
    "time constant of zero": ("measure", "--tau", "0"),
    "negative seed": ("measure", "--seed", "-1"),
    "no samples": ("measure", "--batch-size", "0"),
    "no time steps": ("measure", "--num-times", "0"),
    "unknown method": ("measure", "--method", "guess"),
    "no threads": ("measure", "--threads", "0"),
    "digits in bins": ("measure", "--bin-ms", "4"),
    "no data": ("measure", "--data", "absent"),
    "no run": ("measure", "--run", "absent"),
    "run and flags of a network": ("measure", "--run", "absent", "--units", "3"),
    "figure of another kind": ("measure", "--figure", "radii.gif"),
    "figure in no folder": ("measure", "--figure", "absent/radii.png"),
    "target zero": ("stabilize", "--target", "0:0.5"),
    "target negative": ("stabilize", "--target", "0.5:-1"),
    "target NaN": ("stabilize", "--target", "nan:0.5"),
    "target above two": ("stabilize", "--target", "2.5:0.5"),
    "target unknown": ("stabilize", "--target", "hald"),
    "target none": ("stabilize", "--target", "none"),
    "target of three": ("stabilize", "--target", "1:1:1"),
    "tolerance negative": ("stabilize", "--tolerance", "-0.1"),
    "no sweeps": ("stabilize", "--max-sweeps", "0"),
    "unknown procedure": ("stabilize", "--procedure", "slow"),
    "network of another kind": ("stabilize", "--out", "stable.pt"),
    "network in no folder": ("stabilize", "--out", "absent/stable.safetensors"),
    "threshold of an LRU": ("measure", "--neuron", "LRU", "--threshold", "1"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags_get_one_line_and_change_nothing(name, tmp_path):
    line = refused(run(*BAD_FLAGS[name]))
    assert len(line) > len("lsc-snn: ") + 10
    assert contents(tmp_path) == {}


GOOD = np.array([0.1, 0.2, 0.3], np.float16)
BAD_FILES = {
    "no units": {"units": None},
    "units too high": {"units": [np.array([1, 2, 700])] * 2},
    "times negative": {"times": [np.array([-0.1, 0.2, 0.3])] * 2},
    "times NaN": {"times": [np.array([0.1, 0.2, np.nan])] * 2},
    "times unsorted": {"times": [GOOD[::-1]] * 2},
    "unequal lengths": {"units": [np.array([1, 2])] * 2},
    "label negative": {"labels": np.array([-1, 0])},
}


@pytest.mark.parametrize("command", [("measure",), ("stabilize", "--out", "s.safetensors"), ("train", "--out", "runs")])
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_recordings_get_one_line_and_change_nothing(name, command, recordings, tmp_path):
    values = {"times": [GOOD] * 2, "units": [np.array([1, 2, 3])] * 2, **BAD_FILES[name]}
    write_recordings(recordings / "train.h5", 2, 2, **values)
    before = contents(tmp_path)
    assert str(recordings / "train.h5") in refused(run(*command, "--data", recordings))
    assert contents(tmp_path) == before


def test_truncated_recordings_get_one_line(recordings):
    whole = (recordings / "train.h5").read_bytes()
    (recordings / "train.h5").write_bytes(whole[: len(whole) // 2])
    assert "expected a whole HDF5 file" in refused(run("measure", "--data", recordings))


def test_a_label_of_the_test_part_that_training_lacks_gets_one_line(recordings):
    write_recordings(recordings / "test.h5", 2, 1, labels=np.array([0, 3]))
    assert "test.h5" in refused(run("train", "--data", recordings, "--out", "runs"))


def test_a_truncated_checkpoint_gets_one_line(tmp_path):
    file = tmp_path / "stable.safetensors"
    run("stabilize", *SMALL, "--tolerance", "0.3", "--out", file)
    file.write_bytes(file.read_bytes()[:-100])
    assert "stable.safetensors" in refused(run("measure", "--run", file))


def test_a_network_of_other_data_gets_one_line(recordings, tmp_path):
    run("stabilize", *SMALL, "--tolerance", "0.3", "--out", "stable.safetensors")
    line = refused(run("measure", "--run", "stable.safetensors", "--data", recordings))
    assert "expected 64 input units" in line


def test_an_output_that_cannot_be_a_folder_gets_one_line(recordings, tmp_path):
    (tmp_path / "file").write_text("precious")
    for command in (("train", "--data", recordings, *QUICK), ("demo",)):
        refused(run(*command, "--out", tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_demo_reports_what_was_run_and_goes_on_with_what_is_there(monkeypatch, tmp_path):
    config = make_config(epochs=1, network={"num_layers": 1, "num_units": 4, "layer": {"beta": 0.1}})
    small = functools.partial(demo.run_demo, config=config, targets=(None, "half"), splits=make_splits())
    monkeypatch.setattr(demo, "run_demo", small)
    first = run("demo", "--threads", "1", "--json")
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert [arm["label"] for arm in told["arms"]] == ["untreated", "half"]
    assert told["folder"] == "runs/demo"
    checkpoint = tmp_path / "runs" / "demo" / "half" / "last.safetensors"
    written = checkpoint.stat().st_mtime_ns
    second = run("demo", "--threads", "1")
    assert second.exit_code == 0
    assert f"{100 * told['arms'][1]['run']['test']['accuracy']:.1f} % stabilised to half" in second.stdout
    assert "runs/demo/report.html" in second.stdout
    assert checkpoint.stat().st_mtime_ns == written
    assert run("demo", "--threads", "1", "--force").exit_code == 0
    assert checkpoint.stat().st_mtime_ns > written


def test_demo_refuses_a_folder_with_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    assert "expected an empty folder or one of a demo" in refused(run("demo", "--out", tmp_path, "--force"))
    assert list(contents(tmp_path).values()) == [b"precious"]


def test_interrupt_gets_one_line_and_exit_code_130(monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli_networks, "stabilize", interrupted)
    result = run("stabilize", *SMALL, "--out", "stable.safetensors", "--json")
    assert result.exit_code == 130
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert contents(tmp_path) == {}


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a fault")

    monkeypatch.setattr(_cli_networks, "measure", broken)
    result = run("measure", *SMALL)
    assert isinstance(result.exception, RuntimeError)


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "lsc_snn._cli_app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == 'lsc-snn: the command line needs typer; install it with: pip install "lsc-snn[cli]"\n'


@pytest.mark.parametrize(("module", "extra"), [("matplotlib.figure", "cli"), ("sklearn", "data")])
def test_a_missing_package_is_named_before_the_work(monkeypatch, module, extra, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    assert f"lsc-snn[{extra}]" in refused(run("measure", *SMALL, "--figure", "radii.png"))
    assert contents(tmp_path) == {}


def test_the_installed_command_runs_without_pyplot_and_keeps_the_random_state():
    program = """
import sys
sys.argv = ["lsc-snn", "measure", "--layers", "1", "--units", "4", "--batch-size", "4", "--figure", "r.png", "--json"]
import torch
from lsc_snn.cli import main
state = torch.random.get_rng_state()
try:
    main()
finally:
    assert "matplotlib.pyplot" not in sys.modules
    assert torch.equal(state, torch.random.get_rng_state())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["network"]["num_units"] == 4
