"""Comparisons: every arm tuned in the same way, and every number of the table recomputed from the runs' own files."""

import csv
import json
import math
import statistics
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from lsc_snn.experiments import fitting
from lsc_snn.experiments.compare import CompareEvent, compare, place_of
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.records import read_result
from lsc_snn.experiments.table import summarize, to_markdown
from lsc_snn.stabilize import stabilize
from run_cases import StopError, contents, make_config, make_splits

RATES, SEEDS, DEPTHS, TARGETS = (0.003, 0.03), (5, 2, 7), (1, 2), (None, "half")
PLAN = {"targets": TARGETS, "depths": DEPTHS, "seeds": SEEDS, "learning_rates": RATES}
SMALL = {"targets": (None,), "depths": (1,), "seeds": (0,), "learning_rates": (0.01,)}


def base(**options):
    return make_config(epochs=2, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One comparison, stabilised in one sweep to be quick: its folder, what it returned, the events that it told."""
    folder, events = tmp_path_factory.mktemp("compare") / "new", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "stabilize", partial(stabilize, max_sweeps=1))
        comparison = compare(base(), make_splits(), folder, **PLAN, on_event=events.append)
    return folder, comparison, events


def results(folder):
    """Return every results.json below a folder as plain data, by (layers, target, rate, seed)."""
    found = {}
    for path in folder.rglob("results.json"):
        data = json.loads(path.read_text())
        config = data["config"]
        key = config["network"]["num_layers"], config["target"], config["learning_rate"], config["seed"]
        assert key not in found
        found[key] = data
    return found


def chosen_rate(found, depth, target):
    """Return the rate with the best validation accuracy of the first seed, the lower loss where that is equal."""
    best = None
    for rate in RATES:
        validation = found[depth, target, rate, SEEDS[0]]["validation"]
        score = validation["accuracy"], -validation["loss"]
        if best is None or score > best[0]:
            best = score, rate
    return best[1]


def test_every_arm_is_tuned_in_the_same_way(done):
    folder, _, events = done
    starts = [event for event in events if event.kind == "start"]
    tried = [(e.config.network.num_layers, e.config.target, e.config.learning_rate, e.config.seed) for e in starts]
    found = results(folder)
    assert sorted(map(str, tried)) == sorted(map(str, found))
    for depth in DEPTHS:
        for target in TARGETS:
            arm = [(rate, seed) for d, t, rate, seed in tried if (d, t) == (depth, target)]
            rate = chosen_rate(found, depth, target)
            assert arm == [(r, SEEDS[0]) for r in RATES] + [(rate, seed) for seed in SEEDS[1:]]
    for event in starts:
        same = replace(event.config, seed=0, learning_rate=0.02, target=None)
        assert replace(same, network=replace(same.network, num_layers=2)) == base()


def test_events(done):
    _, comparison, events = done
    assert [event.index for event in events if event.kind == "start"] == list(range(1, 17))
    assert {event.total for event in events} == {16}
    assert Counter(event.kind for event in events) == {"start": 16, "epoch": 32, "end": 16}
    ends = [event.result.test.accuracy for event in events if event.kind == "end"]
    assert ends == [run.test_accuracy for run in comparison.runs]
    assert isinstance(events[0], CompareEvent)


def test_table_by_hand(done):
    folder, comparison, _ = done
    found = results(folder)
    lines = (folder / "comparison.md").read_text().splitlines()
    assert len(lines) == 2 + len(DEPTHS) * len(TARGETS)
    assert str(comparison).splitlines() == lines
    names = [name.strip() for name in lines[0].strip("|").split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    for cells, (depth, target) in zip(rows, [(d, t) for d in DEPTHS for t in TARGETS], strict=True):
        row = dict(zip(names, cells, strict=True))
        rate = chosen_rate(found, depth, target)
        runs = [found[depth, target, rate, seed] for seed in SEEDS]
        accuracies = [run["test"]["accuracy"] for run in runs]
        mean = sum(accuracies) / 3
        deviation = math.sqrt(sum((accuracy - mean) ** 2 for accuracy in accuracies) / 2)
        assert row["layers"] == str(depth)
        assert row["target"].split(" ")[0] == (target or "untreated")
        assert row["test accuracy"] == f"{100 * mean:.1f} ± {100 * deviation:.1f} %"
        assert row["runs"] == "3"
        assert float(row["learning rate"]) == rate
        assert row["epochs to best"] == f"{sum(run['best_epoch'] for run in runs) / 3:.1f}"
        radii = [statistics.mean(run["radii"]["time"]) for run in runs]
        assert row["radius in time"] == f"{sum(radii) / 3:.3f}"
        if depth == 1:
            assert row["radius in depth"] == "none"
        else:
            assert row["radius in depth"] == f"{sum(run['radii']['depth'][0] for run in runs) / 3:.3f}"
        rates = [rate for run in runs for rate in run["validation"]["rates"]]
        expected = f"{statistics.mean(rates):.3f} ({min(rates):.3f} to {max(rates):.3f})"
        assert row["firing rate (lowest to highest layer)"] == expected
        assert row["diverged"] == "0"
        assert (row["known speakers"], row["unseen speakers"]) == ("none", "none")
        largest = max(norm for run in runs for epoch in run["history"] for norm in epoch["gradient_max"])
        assert row["largest gradient"] == f"{largest:.2g}"
        first = []
        for run in runs:
            curve = [run["initial"]["accuracy"], *(epoch["validation_accuracy"] for epoch in run["history"])]
            first.append(min(i for i, accuracy in enumerate(curve) if accuracy >= 0.8 * max(curve)))
        assert row["epochs to 80 %"] == f"{sum(first) / 3:.1f}"


def test_files_agree(done):
    folder, comparison, _ = done
    with open(folder / "comparison.csv") as file:
        rows = list(csv.DictReader(file))
    data = json.loads((folder / "comparison.json").read_text())
    assert TrainConfig.from_dict(data["base"]) == base()
    assert len(rows) == len(data["runs"]) == len(comparison.runs) == 16
    for row, entry, run in zip(rows, data["runs"], comparison.runs, strict=True):
        result = read_result(folder / run.folder)
        assert run.folder == row["folder"] == place_of(result.config)
        assert float(row["test_accuracy"]) == entry["test_accuracy"] == result.test.accuracy
        assert float(row["validation_loss"]) == entry["validation_loss"] == result.validation.loss
        assert row["chosen"] == str(entry["chosen"]) == str(run.chosen)
    assert sum(run.chosen for run in comparison.runs) == 12
    assert data["cells"][0]["test_accuracy"] == comparison.cells[0].test_accuracy


def test_finished_runs_are_only_read(done):
    folder, comparison, _ = done
    before, events = contents(folder), []
    again = compare(base(), make_splits(), folder, **PLAN, on_event=events.append)
    assert again.to_dict() == comparison.to_dict()
    assert contents(folder) == before
    assert all(event.kind != "epoch" for event in events)


def test_an_interrupted_comparison_goes_on_and_can_grow(splits, tmp_path):
    plan = {**SMALL, "seeds": (0, 1)}

    def stop(event):
        if event.kind == "epoch" and (event.config.seed, event.metrics.epoch) == (1, 1):
            raise StopError

    with pytest.raises(StopError):
        compare(base(), splits, tmp_path, **plan, on_event=stop)
    assert not (tmp_path / "comparison.json").exists()
    events = []
    comparison = compare(base(), splits, tmp_path, **plan, on_event=events.append)
    assert [(e.config.seed, e.metrics.epoch) for e in events if e.kind == "epoch"] == [(1, 2)]
    grown = compare(base(), splits, tmp_path, **{**plan, "seeds": (0, 1, 2)})
    before, after = ([replace(run, seconds=0.0).to_dict() for run in runs] for runs in (comparison.runs, grown.runs))
    assert after[:2] == before
    assert grown.cells[0].num_runs == 3


def test_ties_go_to_the_earlier_rate(splits, tmp_path):
    """Steps too small to move a float32 weight leave every candidate with the same validation result."""
    still = base(weight_decay=0.0)
    comparison = compare(still, splits, tmp_path, **{**SMALL, "learning_rates": (2e-30, 1e-30, 3e-30)})
    assert [run.chosen for run in comparison.runs] == [True, False, False]
    assert comparison.cells[0].learning_rate == 2e-30


def test_diverged_runs_are_counted(splits, tmp_path):
    comparison = compare(base(), splits, tmp_path, **{**SMALL, "seeds": (0, 1), "learning_rates": (1e30,)})
    assert [run.status for run in comparison.runs] == ["diverged", "diverged"]
    assert comparison.cells[0].diverged == 2
    assert comparison.cells[0].num_runs == 2
    assert str(comparison).splitlines()[-1].endswith("| 2 |")


def test_initialisations_are_arms(splits, tmp_path):
    comparison = compare(base(), splits, tmp_path, **{**SMALL, "targets": ("lsuv", None, "fluctuation")})
    assert [cell.target for cell in comparison.cells] == ["lsuv", "untreated", "fluctuation"]
    assert len({run.radius_time for run in comparison.runs}) == 3
    result = read_result(tmp_path / comparison.runs[0].folder)
    assert (result.config.initialisation, result.config.target) == ("lsuv", None)


def test_speakers_in_the_table(done):
    """Mean over runs; the deviation is that of the seeds."""
    run = replace(done[1].runs[0], chosen=True, known=0.8, unseen=0.25)
    (cell,) = summarize([run, replace(run, seed=1, known=0.9, unseen=0.35)])
    assert (cell.known, cell.unseen) == pytest.approx((0.85, 0.3))
    assert "| 85.0 ± 7.1 % | 30.0 ± 7.1 % |" in to_markdown([cell])


def test_networks_without_spikes_have_no_rate(splits, tmp_path):
    gru = base(network={"neuron": "GRU", "layer": {}, "readout_tau": None})
    comparison = compare(gru, splits, tmp_path, **SMALL)
    lines = str(comparison).splitlines()
    names, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], lines[2]))
    assert dict(zip(names, cells, strict=True))["firing rate (lowest to highest layer)"] == "none"


def test_one_run_has_no_deviation(done):
    _, comparison, _ = done
    run = replace(comparison.runs[0], chosen=True, stabilized=False, test_accuracy=0.5, target="half")
    (cell,) = summarize([run, replace(run, chosen=False, test_accuracy=0.9)])
    assert (cell.num_runs, cell.test_accuracy, cell.not_stabilized) == (1, 0.5, 1)
    assert math.isnan(cell.test_accuracy_std)
    assert "| half (1 not reached) | 50.0 % | none | none | 1 |" in to_markdown([cell])
    assert cell.to_dict()["test_accuracy_std"] == "nan"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"seeds": ()}, r"seeds: expected one value or more, each once, got \[\]"),
        ({"seeds": (1, 1)}, r"seeds: expected one value or more, each once, got \[1, 1\]"),
        ({"targets": ((0.5, 0.5), "0.5,0.5")}, "targets: expected one value or more, each once"),
        ({"targets": ("haff",)}, "target: expected one of"),
        ({"depths": (0,)}, "num_layers: expected an integer >= 1, got 0"),
        ({"learning_rates": (0.1, -0.1)}, "learning_rate: expected a finite number above 0, got -0.1"),
    ],
)
def test_bad_plans_change_nothing(splits, tmp_path, plan, message):
    with pytest.raises(ValueError, match=message):
        compare(base(), splits, tmp_path / "new", **{**SMALL, **plan})
    assert list(tmp_path.iterdir()) == []


def test_bad_folders_stay_as_they_are(splits, tmp_path):
    compare(base(), splits, tmp_path / "a", **SMALL)
    (tmp_path / "file").write_text("x")
    before = contents(tmp_path)
    run = place_of(replace(base(), network=replace(base().network, num_layers=1), learning_rate=0.01))
    cases = [
        ({"resume": False}, "a", "expected a folder without runs, got some; resume them or choose another"),
        ({"base": base(batch_size=8)}, "a", r"config.json: expected the run that it holds, batch_size = 16, got 8"),
        ({}, f"a/{run}", "expected a folder for a comparison, got one of a single run; choose another"),
        ({}, "file", "expected a folder to write in, got: File exists"),
    ]
    for options, where, message in cases:
        options = dict(options)
        with pytest.raises(ValueError, match=message):
            compare(options.pop("base", base()), splits, tmp_path / where, **SMALL, **options)
        assert contents(tmp_path) == before


def test_two_comparisons_do_not_share_a_folder(tmp_path):
    splits, intruded = make_splits(), []

    def intrude(event):
        with pytest.raises(ValueError, match="expected a folder that no other process works in, got a busy one"):
            compare(base(), splits, tmp_path, **SMALL)
        intruded.append(event.kind)

    compare(base(), splits, tmp_path, **SMALL, on_event=intrude)
    assert "end" in intruded
