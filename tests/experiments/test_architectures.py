"""The table of supported kinds at a tiny size: every kind is there, and what it says is what stabilize says."""

import json
import warnings

import pytest
import torch

import lsc_snn as lsc
from lsc_snn.experiments import architectures
from lsc_snn.experiments.architecture_kinds import FAMILIES, Size
from lsc_snn.experiments.architectures import COLUMNS, WITHOUT_TIME
from lsc_snn.experiments.bench_table import Table

SIZE = Size(layers=2, units=24, inputs=24, steps=20, batch=8, conv_layers=2, channels=6, conv_steps=10)


def test_every_kind_of_this_library_and_of_torch_has_a_row():
    table = architectures.architectures_table(SIZE, ["torch"], ["half"], density=0.2)
    kinds = [row["kind"] for row in table.rows]
    known = [*FAMILIES["lsc_snn"](), *FAMILIES["torch"]()]
    assert kinds == known
    assert all(set(row) == set(COLUMNS) for row in table.rows)
    assert table.rows[0]["x own"] == 1
    by_kind = {row["kind"]: row for row in table.rows}
    assert [by_kind[kind]["reached"] for kind in ("ALIF", "nn.GRU", "SSMBlock(LRU)")] == ["yes"] * 3
    (line,) = (line for line in architectures.to_markdown(table).splitlines() if line.startswith("| nn.Linear |"))
    assert line.count("| depth ") == 2
    assert "(target 1)" in line


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_kind_is_measured_as_a_user_would_build_it(family):
    pytest.importorskip({"lsc_snn": "torch", "spikingjelly": "spikingjelly.activation_based"}.get(family, family))
    inputs = (torch.rand(20, 8, 24, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    for kind, build in FAMILIES[family]().items():
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(0)
            report = lsc.measure(build(SIZE), architectures.inputs_of(kind, inputs, SIZE), num_times=2)
        layers = SIZE.conv_layers if "onv" in kind else SIZE.layers
        assert len(report.names) == layers, kind
        assert len(report.time) == (0 if kind in WITHOUT_TIME else layers), kind
        assert report.encoder > 0, kind


def test_the_markdown_has_a_line_for_each_kind_and_says_what_was_missed():
    done = {"kind": "a", "target": "one", "time": "0.90", "depth": "0.10", "time after": "1.00", "depth after": "1.01"}
    missed = {**done, "target": "half", "time after": "0.90", "depth after": "0.50", "CPU s": 2.0, "reached": "no knob"}
    table = Table("t", "T", COLUMNS, ({**done, "CPU s": 1.0, "reached": "yes"}, missed), "")
    lines = architectures.to_markdown(table).splitlines()
    assert lines[0] == "| layer | untreated (time; depth) | `one` | `half` | CPU s |"
    assert lines[2:] == ["| a | 0.90; 0.10 | 1.00; 1.01 | 0.90; 0.50 (no knob) | 1, 2 |"]


def test_a_row_is_what_stabilize_returns():
    inputs = (torch.rand(20, 8, 24, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    build = FAMILIES["torch"]()["nn.GRU"]
    row = architectures._row("nn.GRU", build, inputs, SIZE, "half")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = build(SIZE)
    result = lsc.stabilize(model, inputs, target="half")
    assert row["sweeps"] == result.sweeps
    low, high = float(result.after.time.min()), float(result.after.time.max())
    assert row["time after"] in (f"{low:.2f} to {high:.2f}", f"{low:.2f}")


def test_a_family_that_is_not_installed_is_named(monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("nothing")

    monkeypatch.setattr(architectures, "FAMILIES", {"lsc_snn": dict, "norse": missing})
    assert architectures.main(["--json", "--families", "norse", "--units", "4"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert "Not installed: norse." in table["note"]
    assert table["rows"] == []


def test_an_unknown_family_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        architectures.main(["--families", "torch,nothing"])
    assert stop.value.code == 2
    assert "got 'nothing'" in capsys.readouterr().err
