"""The demo on a small task: its report says what the runs say, loads nothing, and a second call goes on or refuses."""

import base64
import io
import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from matplotlib import image

from lsc_snn import plots
from lsc_snn.experiments import demo, report
from lsc_snn.experiments.demo import run_demo
from lsc_snn.experiments.records import read_result
from lsc_snn.measure import gradient_profile, measure
from lsc_snn.network import Network
from run_cases import contents, make_config, make_splits

NETWORK = {"num_layers": 2, "num_units": 12, "layer": {"threshold": 1.0, "beta": 0.1}}
CONFIG = make_config(epochs=2, network=NETWORK, stabilize_batch=16)
TARGETS = (None, (0.8, 0.2), "half")  # reached in a few sweeps, which "one" is not by a network this small


@pytest.fixture(scope="module")
def splits():
    return make_splits()


@pytest.fixture(scope="module")
def result(tmp_path_factory, splits):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = run_demo(tmp_path_factory.mktemp("demo") / "new", config=CONFIG, targets=TARGETS, splits=splits)
    torch.set_num_threads(threads)
    return made


def arms(result):
    """Return everything of a demo that does not depend on the clock."""
    told = result.to_dict()["arms"]
    for arm in told:
        arm["run"].pop("seconds")
        if arm["stabilize"] is not None:
            arm["stabilize"].pop("seconds")
    return told


def pngs(page):
    return [base64.b64decode(data) for data in re.findall(r"src='data:image/png;base64,([^']+)'", page)]


def test_the_three_arms_start_from_one_network(result):
    untreated, pair, half = result.arms
    assert [arm.label for arm in result.arms] == ["untreated", "0.8,0.2", "half"]
    assert untreated.treated is None
    assert untreated.before is untreated.after
    assert pair.before.to_dict() == half.before.to_dict()
    assert {arm.run.config.learning_rate for arm in result.arms} == {CONFIG.learning_rate}


def test_the_radii_shown_are_those_of_the_networks_that_were_trained(result):
    for arm in result.arms:
        assert arm.after.to_dict() == arm.run.radii
    stored = json.loads((result.folder / "half" / "stabilize.json").read_text())
    assert result.arms[2].before.to_dict() == stored["before"]


def test_the_gradient_shown_is_that_of_the_network_before_training(result, splits):
    untreated = result.arms[0]
    network = Network(CONFIG.network, seed=CONFIG.seed)
    batch, _ = splits.train.batch(demo.shuffled(len(splits.train), CONFIG.seed, 0)[: CONFIG.stabilize_batch])
    torch.testing.assert_close(untreated.profile, gradient_profile(network, batch), rtol=0, atol=0)
    assert (
        measure(network, batch, generator=torch.Generator().manual_seed(CONFIG.seed)).to_dict() == untreated.run.radii
    )
    assert not torch.equal(untreated.profile, result.arms[2].profile)


def test_report_png_can_be_seen(result):
    seen = image.imread(io.BytesIO((result.folder / "report.png").read_bytes()))[..., :3]
    height = len(seen)
    parts = [seen[int(height * low) : int(height * high)] for low, high in ((0, 0.5), (0.5, 0.75), (0.75, 1))]
    assert min(part.std() for part in parts) > 0.02


def test_report_html_loads_nothing_and_carries_its_pictures(result):
    page = (result.folder / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert re.findall(r"src='(data:image/png;base64),", page) == ["data:image/png;base64"] * 4
    assert min(image.imread(io.BytesIO(png))[..., :3].std() for png in pngs(page)) > 0.02
    assert "arXiv 2308.12075" in page


def test_the_numbers_in_the_page_are_those_of_the_runs(result):
    page = (result.folder / "report.html").read_text()
    for arm in result.arms:
        run = read_result(result.folder / arm.label)
        assert run.test == arm.run.test
        assert f"<td>{arm.label}</td>" in page
        assert f"<td>{100 * run.test.accuracy:.1f}</td>" in page
        assert f"{100 * run.test.accuracy:.1f} % " in report.headline(result)
    reached, total = plots.count_reached(result.arms[2].after, result.arms[2].treated.target, demo.TOLERANCE)
    assert f"<td>{reached} of {total}</td>" in page


def test_the_figure_carries_every_arm(result):
    figure = report.report_figure(result)
    maps = [axes for axes in figure.axes if axes.get_xlabel() == "time (steps)"]
    assert len(maps) == 3
    assert len({axes.collections[0].get_clim() for axes in maps}) == 1
    accuracy = next(axes for axes in figure.axes if axes.get_ylabel() == "validation accuracy (%)")
    for line, arm in zip(accuracy.lines, result.arms, strict=True):
        expected = [arm.run.initial.accuracy, *(row.validation_accuracy for row in arm.run.history)]
        assert (line.get_ydata() / 100).tolist() == pytest.approx(expected)


def test_results_json_holds_what_is_returned(result):
    assert json.loads((result.folder / "results.json").read_text()) == demo.plain(result.to_dict())


def test_a_second_call_reads_what_is_there(result, splits):
    before = contents(result.folder)
    again = run_demo(result.folder, config=CONFIG, targets=TARGETS, splits=splits)
    assert arms(again) == arms(result)
    after = contents(result.folder)
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {"results.json", "report.html"}  # the time that stabilising took


def test_an_interrupted_demo_goes_on_to_the_same_result(result, splits, tmp_path):
    seen = []

    def interrupt(*event):
        seen.append(event)
        if event == ("0.8,0.2", 1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "new", config=CONFIG, targets=TARGETS, splits=splits, on_progress=interrupt)
    assert not (tmp_path / "new" / "report.html").exists()
    assert seen[:3] == [("untreated", 0, 2), ("untreated", 1, 2), ("untreated", 2, 2)]
    assert arms(run_demo(tmp_path / "new", config=CONFIG, targets=TARGETS, splits=splits)) == arms(result)


def test_a_demo_of_other_settings_is_refused_until_it_is_overwritten(splits, tmp_path):
    folder = tmp_path / "new"
    run_demo(folder, config=CONFIG, targets=(None,), splits=splits)
    (folder / "notes.txt").write_text("precious")
    before = contents(folder)
    other = replace(CONFIG, epochs=1)
    with pytest.raises(ValueError, match=r"config\.epochs = 2, got 1"):
        run_demo(folder, config=other, targets=(None,), splits=splits)
    assert contents(folder) == before
    made = run_demo(folder, config=other, targets=(None,), splits=splits, overwrite=True)
    assert [arm.run.epochs for arm in made.arms] == [1]
    assert (folder / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused(splits, tmp_path, overwrite):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match="expected an empty folder or one of a demo"):
        run_demo(tmp_path, config=CONFIG, splits=splits, overwrite=overwrite)
    assert list(contents(tmp_path).values()) == [b"precious"]


@pytest.mark.parametrize("targets", [(), ("half", "half"), (None, "quarter")])
def test_bad_targets_write_nothing(splits, tmp_path, targets):
    with pytest.raises(ValueError, match="target"):
        run_demo(tmp_path / "new", config=CONFIG, targets=targets, splits=splits)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_nothing_is_trained(splits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"lsc-snn\[cli\]"):
        run_demo(tmp_path / "new", config=CONFIG, splits=splits)
    assert list(tmp_path.iterdir()) == []


def test_the_demo_itself_is_five_recurrent_layers_on_the_digits():
    network = demo.CONFIG.network
    assert (network.num_layers, network.neuron, network.num_inputs, network.num_classes) == (5, "ALIF", 64, 10)
    assert network.layer.get("recurrent", True)
    assert demo.ARMS == (None, "one", "half")
