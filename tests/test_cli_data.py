"""``lsc-snn data`` and datasets by name: what is printed and drawn, and that bad input gets exit code 2 and a line."""

import io
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image
from typer.testing import CliRunner

from data_dir import data_dir
from event_files import write_idx, write_shd
from lsc_snn._cli_app import app
from lsc_snn._cli_inputs import load_splits
from lsc_snn._raster_figure import raster_figure
from lsc_snn.datasets import EventDataset, card, names, registry
from run_cases import contents

DATA = os.environ.get("LSC_SNN_DATA")


@pytest.fixture
def development_data(monkeypatch):
    """Return ``data_dir`` as it is outside of these tests, which set the variable that it reads."""

    def find(name):
        with monkeypatch.context() as patch:
            patch.delenv("LSC_SNN_DATA") if DATA is None else patch.setenv("LSC_SNN_DATA", DATA)
            return data_dir(name)

    return find


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Work in an empty folder, with data and caches beside it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("LSC_SNN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def shd(home, monkeypatch):
    """Make a small SHD, and a card that takes its sizes for the published ones."""
    write_shd(home / "data/shd/shd_train.h5", np.arange(40) % 20, [0, 1, 2, 3, 4] * 8)
    write_shd(home / "data/shd/shd_test.h5", np.arange(20), [0, 9] * 10, seed=1)
    small = replace(card("shd"), samples=(("train", 40), ("test", 20)))
    monkeypatch.setitem(registry._CARDS, "shd", small)
    return home / "data"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result):
    """Return the one line of a command that was refused."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("lsc-snn: ")
    return line


def test_help_shows_the_commands_and_no_command_shows_the_help():
    result = run("data", "--help")
    assert result.exit_code == 0
    assert run("data").output == result.output
    for command in ("list", "info", "show"):
        assert command in result.stdout
        assert f"lsc-snn data {command}" in run("data", command, "--help").stdout.split("For example:")[1]


def test_list_names_every_dataset_and_where_its_files_are(shd):
    result = run("data", "list")
    lines = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith("│")}
    assert sorted(lines) == sorted(names())
    assert " here " in lines["shd"]
    assert " download " in lines["ssc"]
    assert " by hand " in lines["ptb"]
    assert " none needed " in lines["digits"]
    told = json.loads(run("data", "list", "--root", shd / "absent", "--json").stdout)
    assert {each["name"]: each["files_are"] for each in told}["shd"] == "download"


def test_info_shows_the_card(shd):
    told = json.loads(run("data", "info", "shd", "--json").stdout)
    assert told["classes"] == 20
    assert told["options"]["bin_ms"] == 4.0
    assert told["found"]["shd_test.h5"] == str(shd / "shd/shd_test.h5")
    text = run("data", "info", "shd").stdout
    for part in ("Cramer", "CC BY 4.0", "bin_ms=4.0", "train 40, test 20", str(shd / "shd/shd_train.h5")):
        assert part in text
    assert f"expected as {shd / 'ptb/ptb.train.txt'}" in run("data", "info", "ptb").stdout


def ink(path):
    """Return the fraction of coloured pixels of a picture."""
    pixels = image.imread(io.BytesIO(path.read_bytes()))[..., :3]
    return float((pixels.max(-1) - pixels.min(-1) > 0.2).mean())


def test_show_draws_samples_by_name_or_folder(shd, home):
    result = run("data", "show", "shd", "--samples", "4", "--json")
    told = json.loads(result.stdout)
    assert told["drawn"]["samples"] == 4
    assert told["drawn"]["units"] == 700
    assert told["samples"]["train"] + told["samples"]["validation"] == 40
    assert [path.name for path in contents(home / "work")] == ["shd.png"]
    assert ink(home / "work/shd.png") > 1e-4
    result = run("data", "show", shd / "shd", "--out", "folder.png", "--bin-ms", "100")
    assert "drew 6 samples, 5 steps, 700 inputs" in result.stdout
    assert "wrote folder.png" in result.stdout


def test_show_draws_a_text(home, development_data):
    root = development_data("wikitext2").parent
    result = run("data", "show", "wikitext-2-small", "--samples", "2", "--root", root)
    assert "drew 2 samples, 100 steps, 14143 inputs, 100 events a sample" in result.stdout
    assert ink(home / "work/wikitext-2-small.png") > 1e-4


def test_a_wrong_checksum_is_one_line_with_both_sums(home):
    pixels = np.random.default_rng(0).integers(0, 256, (10000, 28, 28))
    write_idx(home / "data/mnist/t10k-images-idx3-ubyte", pixels)
    write_idx(home / "data/mnist/t10k-labels-idx1-ubyte", np.arange(10000) % 10)
    line = refused(run("data", "show", "s-mnist-10k"))
    assert "t10k-images-idx3-ubyte: expected the MD5 sum 2646ac647ad5339dbf082846283269ea, got" in line
    assert contents(home / "work") == {}


def test_raster_marks_events_values_and_what_is_beyond_the_length():
    sizes = {"num_steps": 10, "num_classes": 2}
    events = EventDataset([0, 9, 2], [1, 3, 0], [0, 2, 3], [0, 1], [10, 3], num_units=4, **sizes)
    figure = raster_figure("$title", events.batch([0, 1])[0], ["class 0", "costs $5"], 4.0)
    first, second, empty = figure.axes
    assert first.collections[0].get_offsets().tolist() == [[2.0, 1.0], [38.0, 3.0]]
    assert second.get_xlim() == (0, 40)
    assert not empty.get_visible()
    assert [patch.get_x() for patch in second.patches] == [12.0]
    values = EventDataset([1, 3], [0, 0], [0, 2], [0], [10], num_units=1, counts=[51, 255], scale=1 / 255, **sizes)
    (line,) = raster_figure("values", values.batch([0])[0], ["class 0"]).axes[0].lines
    assert line.get_ydata().tolist() == pytest.approx([0, 0.2, 0, 1, 0, 0, 0, 0, 0, 0])


BAD = {
    "unknown command": ("data", "shw"),
    "unknown name": ("data", "info", "sdh"),
    "no name": ("data", "show"),
    "unknown name to show": ("data", "show", "shdd"),
    "nothing on disk": ("data", "show", "ssc"),
    "no samples": ("data", "show", "digits", "--samples", "0"),
    "bins of digits": ("data", "show", "digits", "--bin-ms", "4"),
    "bins of text": ("data", "show", "ptb", "--bin-ms", "4"),
    "picture of another kind": ("data", "show", "digits", "--out", "a.gif"),
    "picture in no folder": ("data", "show", "digits", "--out", "absent/a.png"),
    "negative seed": ("data", "show", "digits", "--seed", "-1"),
    "a folder without recordings": ("data", "show", "."),
    "a folder and a root": ("data", "show", ".", "--root", "."),
    "training on text": ("train", "--data", "ptb", "--out", "runs"),
    "training on what is not there": ("train", "--data", "ssc", "--out", "runs"),
    "bins of manifolds": ("measure", "--data", "manifolds", "--bin-ms", "4"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line_and_changes_nothing(name, home):
    assert len(refused(run(*BAD[name]))) > len("lsc-snn: ") + 10
    assert contents(home / "work") == {}


def test_what_is_expected_where_and_the_nearest_name_are_said(home):
    assert f"{home / 'data/ssc/ssc_train.h5'}: expected this file" in refused(run("data", "show", "ssc"))
    assert "did you mean 'shd'" in refused(run("data", "show", "sdh"))
    assert "--data: expected samples with labels, got ptb" in refused(run("measure", "--data", "ptb"))


def test_networks_take_a_dataset_by_name(shd):
    splits = load_splits("shd", 50.0)
    assert splits.train.num_steps <= 10
    assert not set(splits.train.speakers) & set(splits.validation.speakers)
    options = ("--layers", "1", "--units", "6", "--batch-size", "4", "--threads", "1", "--json")
    result = run("measure", "--data", "shd", "--bin-ms", "50", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["batch"]["units"] == 700
