"""Metrics and results: through JSON and back to the last bit, numbers that JSON cannot say included."""

import csv
import json
import math
from dataclasses import replace

import pytest

from lsc_snn.experiments.records import EpochMetrics, Evaluation, RunResult, plain, read_result, write_metrics
from lsc_snn.experiments.speakers import SpeakerAccuracy


def row(epoch, largest):
    layers, rates = ("layers.0", "readout"), (1 / 3,)
    return EpochMetrics(epoch, 0.1 + 0.2, 1 / 7, 2.5, 0.5, layers, (1e-300, 1.0), (largest, 2.0), rates, 0.01)


@pytest.fixture
def result(configure):
    found = Evaluation(1 / 3, 0.5, (0.1,))
    return RunResult(
        status="diverged",
        reason="loss was inf in epoch 3, step 1",
        config=configure(target="0.9,0.1"),
        data={"train": {"samples": 3}},
        epochs=2,
        best_epoch=1,
        validation=found,
        test=Evaluation(math.inf, 0.1, (0.2,)),
        initial=found,
        radii={"time": [0.5, "inf"], "decoder": None},
        stabilized=False,
        seconds=1.5,
        history=(row(1, 5.0), row(2, math.inf)),
        speakers=(SpeakerAccuracy(3, True, 4, 1 / 3), SpeakerAccuracy(7, False, 2, 0.5)),
        known=1 / 3,
        unseen=0.5,
        epochs_to_80=1,
        refit=(replace(row(1, 2.0), validation_loss=None, validation_accuracy=None, rates=()),),
        best_on_test=0.75,
    )


def test_round_trip(result):
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert RunResult.from_dict(json.loads(text)) == result


def test_nan_round_trip():
    again = EpochMetrics.from_dict(json.loads(json.dumps(row(1, math.nan).to_dict(), allow_nan=False)))
    assert math.isnan(again.gradient_max[0])
    assert again.gradient_max[1] == 2.0


def test_results_of_older_versions_can_be_read(result):
    data = result.to_dict()
    for name in ("speakers", "known", "unseen", "epochs_to_80", "refit", "best_on_test"):
        del data[name]
    for entry in data["history"]:
        del entry["learning_rate"]
    again = RunResult.from_dict(json.loads(json.dumps(data)))
    assert (again.speakers, again.refit, again.history[0].learning_rate) == ((), None, None)
    assert again.test == result.test


def test_read_result(result, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(result.to_dict()))
    assert read_result(tmp_path) == result
    data = result.to_dict()
    for broken in ({**data, "test": None}, {**data, "more": 1}, {k: v for k, v in data.items() if k != "epochs"}, [1]):
        (tmp_path / "results.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=r"results.json: expected the result of a run, got another file") as caught:
            read_result(tmp_path)
        assert "\n" not in str(caught.value)


def test_metrics_csv(tmp_path):
    write_metrics(tmp_path / "metrics.csv", [row(1, 5.0), row(2, math.inf)])
    with open(tmp_path / "metrics.csv") as file:
        first, second = csv.DictReader(file)
    assert list(first) == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
        "gradient_mean.layers.0",
        "gradient_mean.readout",
        "gradient_max.layers.0",
        "gradient_max.readout",
        "rate.layers.0",
    ]
    assert float(first["train_loss"]) == 0.1 + 0.2
    assert float(second["gradient_max.layers.0"]) == math.inf
    assert (second["epoch"], float(second["rate.layers.0"])) == ("2", 1 / 3)


def test_plain_leaves_other_values():
    assert plain({"a": (1, True, None, "x", 1e308, -math.inf)}) == {"a": [1, True, None, "x", 1e308, "-inf"]}
