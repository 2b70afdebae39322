import json
import math
import sys
from dataclasses import replace

import pytest
import torch

from lsc_snn import Network
from lsc_snn._fixed_point_figure import fixed_point_figure
from lsc_snn.experiments.fixed_point import fine_tune, main, on_xylo, sweep
from lsc_snn.experiments.train import train
from lsc_snn.fixed_point import NumberFormat, scales_of
from lsc_snn.fixed_point.report import AWARE, FLOAT, POST, TUNED, Agreement, Row, to_markdown
from run_cases import make_config, make_splits

FINE = NumberFormat(potential_bits=32, decay="multiply", decay_bits=30)


@pytest.fixture(scope="module")
def splits():
    return make_splits()


@pytest.fixture(scope="module")
def config():
    return make_config(network={"neuron": "LIF", "dropout": 0.0, "layer": {"threshold": 0.5}})


@pytest.fixture(scope="module")
def network(config):
    return Network(config.network, seed=0).eval()


def test_many_bits_are_float_and_few_are_not(network, config, splits):
    rows = sweep(network, config, splits, bits=(2, 28), number_format=FINE)
    assert [(row.method, row.bits) for row in rows] == [("float", None), (POST, 2), (POST, 28)]
    exact, coarse, fine = rows
    assert fine.agreement == exact.agreement == (1.0, 1.0)
    assert fine.accuracy == exact.accuracy
    assert fine.time == pytest.approx(exact.time, rel=1e-3)
    assert fine.depth == pytest.approx(exact.depth, rel=1e-3)
    assert max(coarse.agreement) < 1
    assert coarse.time != pytest.approx(exact.time, rel=1e-3)


def test_fine_tuning_leaves_the_network_and_helps_under_the_rounding(network, config, splits):
    config = replace(config, learning_rate=0.2)  # of which a tenth is used
    before = {name: value.clone() for name, value in network.state_dict().items()}
    number_format = NumberFormat(weight_bits=3)
    events = splits.train.batch(range(16))[0]
    tuned = fine_tune(network, config, splits, number_format, scales_of(network, events, number_format), epochs=3)
    assert list(tuned.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
    rows = sweep(network, config, splits, bits=(3,), aware_epochs=3)
    assert [row.method for row in rows] == [FLOAT, TUNED, POST, AWARE]
    assert rows[1].bits is None
    assert rows[3].accuracy > rows[2].accuracy


def test_xylo(network, config, splits):
    found = on_xylo(network, config, splits, samples=10)
    assert found["samples"] == 10
    assert found["xylosim_equal"] is None
    assert all(0 <= found[f"accuracy_{name}"] <= 1 for name in ("float", "integers", "core"))


def test_the_command_writes_table_and_figure(tmp_path, config, splits, monkeypatch, capsys):
    train(config, splits, tmp_path / "run")
    monkeypatch.setattr("lsc_snn.experiments.fixed_point._splits", lambda options: splits)
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--run", str(tmp_path / "run"), "--bits", "3,8", "--platform", "xylo-imu", "--xylo"]
    assert main(arguments) == 0
    assert "xylo-imu: fits" in capsys.readouterr().out
    found = json.loads((out / "fixed_point.json").read_text())
    assert [row["bits"] for row in found["rows"]] == [None, 3, 8]
    assert found["limits"] == {"xylo-imu": []}
    assert (out / "fixed_point.md").read_text().count("\n") == 5
    assert (out / "fixed_point.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "3,x"], "bits: expected integers separated by commas, got '3,x'"),
        (["--bits", "1"], "weight_bits: expected an integer >= 2, got 1; choose at least 2"),
        (["--bits", "4,40"], "weight_bits: expected 2 to 32 bits, got 40"),
        (["--data", "absent"], "absent"),
        (["--run", "absent"], "absent"),
        (["--xylosim"], "pip install xylosim"),
        (["--aware", "-1"], "aware: expected an integer >= 0, got -1"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "xylosim.v2", None)
    assert main(["--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_agreement_counts_spikes_of_valid_steps_alone():
    agreement = Agreement()
    first, second = torch.zeros(2, 1, 3), torch.zeros(2, 1, 3)
    first[0, 0, :2], second[0, 0, 1:], second[1] = 1, 1, 1
    agreement.add([first, first], [second, first], torch.tensor([[True], [False]]))
    assert agreement.values() == (1 / 3, 1.0)
    assert Agreement().values() == ()


def test_rows_as_table_figure_and_json():
    rows = [
        Row("float", None, 0.9, (1.0, 1.0), (0.5, 0.6), (0.4,)),
        Row(POST, 4, 0.5, (0.6, 0.3), (0.7, math.inf), (0.2,), (0.0, 0.0, 0.01)),
        Row(AWARE, 4, 0.8, (0.5, 0.2), (0.6, 0.7), (0.3,), (0.0, 0.0, 0.0)),
    ]
    assert "| 4 bits | rounded after training | 50.0 % | 60.0 %, 30.0 % | 0.700, inf | 0.200 | 1 % |" in to_markdown(
        rows
    )
    assert rows[1].to_dict()["time"] == [0.7, "inf"]
    accuracy, agreement, radii = fixed_point_figure(rows, "title").axes
    labels = [line.get_label() for line in accuracy.get_lines()]
    assert labels == ["float", POST, AWARE]
    assert [list(line.get_ydata()) for line in accuracy.get_lines()[1:]] == [[50.0], [80.0]]
    assert len(agreement.get_lines()) == 4
    assert len(radii.get_legend_handles_labels()[1]) == 4
