"""The table of supported kinds at a tiny size: every kind is there, and what it says is what stabilize says."""

import json

import pytest
import torch

import lsc_snn as lsc
from lsc_snn.experiments import architectures
from lsc_snn.experiments.architectures import COLUMNS, FAMILIES, Size

SIZE = Size(layers=2, units=24, inputs=24, steps=20, batch=8)


def test_every_kind_of_this_library_and_of_torch_has_a_row():
    table = architectures.architectures_table(SIZE, ["torch"], ["half"], density=0.2)
    kinds = [row["kind"] for row in table.rows]
    assert kinds == [*FAMILIES["lsc_snn"](), *FAMILIES["torch"]()]
    assert all(set(row) == set(COLUMNS) for row in table.rows)
    assert table.rows[0]["x own"] == 1
    by_kind = {row["kind"]: row for row in table.rows}
    assert [by_kind[kind]["reached"] for kind in ("ALIF", "nn.GRU", "LRU block")] == ["yes"] * 3


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
