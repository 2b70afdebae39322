"""The summary of a sweep: its statistics against SciPy, its tables against numbers made up beforehand."""

import math
import sys
from dataclasses import fields

import numpy as np
import pytest

from lsc_snn._sweep_figure import sweep_figure
from lsc_snn.experiments.sweep_run import Row, SweepResult
from lsc_snn.experiments.sweep_summary import (
    compare_arms,
    holm,
    markdown,
    paired_t,
    t_quantile,
    t_within,
    table_of,
    write_outputs,
)
from lsc_snn.experiments.table import Run

stats = pytest.importorskip("scipy.stats")


def make_run(target, seed, accuracy, **more):
    values = dict.fromkeys((field.name for field in fields(Run)), math.nan)
    values |= {"depth": 2, "learning_rate": 0.01, "chosen": True, "status": "finished", "stabilized": None}
    values |= {"epochs": 3, "best_epoch": 2, "seconds": 1.0 + seed, "folder": f"{target}/{seed}"}
    return Run(**{**values, "target": target, "seed": seed, "test_accuracy": accuracy, **more})


UNTREATED, HALF, ONE = (0.50, 0.55, 0.52), (0.60, 0.66, 0.61), (0.58, 0.71, 0.55)
RUNS = [
    make_run(target, seed, accuracy)
    for target, row in {"untreated": UNTREATED, "half": HALF, "one": ONE}.items()
    for seed, accuracy in enumerate(row)
]
ROWS = tuple(Row("speech", "LIF", run) for run in RUNS)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 10, 29])
def test_students_t(degrees):
    for t in (-3.0, 0.0, 0.1, 1.0, 2.5, 12.0):
        assert t_within(t, degrees) == pytest.approx(1 - 2 * stats.t.sf(abs(t), degrees), abs=1e-12)
    for within in (0.5, 0.95, 0.999):
        assert t_quantile(within, degrees) == pytest.approx(stats.t.ppf(0.5 + within / 2, degrees), rel=1e-9)


def test_paired_t():
    differences = np.subtract(HALF, UNTREATED)
    mean, half_width, p = paired_t(differences.tolist())
    expected = stats.ttest_rel(HALF, UNTREATED)
    low, high = expected.confidence_interval(0.95)
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))
    assert p == pytest.approx(expected.pvalue)
    assert np.isnan(paired_t([0.1])[1:]).all()
    assert np.isnan(paired_t([0.1, 0.1])[1:]).all()


def test_intervals_cover_what_they_say():
    """Of 4,000 samples of three normal differences about 95 % have the true mean in their interval."""
    rng = np.random.default_rng(0)
    results = [paired_t(row)[:2] for row in (0.3 + rng.standard_normal((4000, 3))).tolist()]
    covered = np.mean([abs(mean - 0.3) <= half_width for mean, half_width in results])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_holm_rejects_no_more_than_it_should():
    assert holm([0.04]) == [0.04]
    assert holm([0.5, 0.9, 0.8]) == [1.0, 1.0, 1.0]
    assert holm([0.02, math.nan, 0.01])[::2] == [0.02, 0.02]


def test_arms_are_paired_by_seed():
    """Shuffled, and with a seed that one of the arms does not have."""
    runs = [*RUNS[::-1], make_run("half", 9, 0.0), make_run("half", 0, 0.0, chosen=False)]
    pairs = {(pair.first, pair.second): pair for pair in compare_arms(runs)}
    arms = {"untreated": UNTREATED, "half": HALF, "one": ONE}
    assert list(pairs) == [("one", "half"), ("one", "untreated"), ("half", "untreated")]
    raw = [stats.ttest_rel(arms[first], arms[second]).pvalue for first, second in pairs]
    assert pairs["half", "untreated"].num_seeds == 3
    assert pairs["half", "untreated"].difference == pytest.approx(np.mean(UNTREATED) - np.mean(HALF))
    assert pairs["half", "untreated"].p == pytest.approx(3 * min(raw))
    assert pairs["half", "untreated"].verdict() == "half is better than untreated"
    assert pairs["one", "half"].verdict() == "not told apart"


def test_depths_and_speakers_are_compared_each_for_itself():
    runs = [make_run(arm, seed, 0.5 + 0.1 * seed, depth=depth, unseen=unseen + 0.01 * seed * depth)
            for depth in (1, 2) for arm, unseen in (("untreated", 0.2), ("half", 0.3)) for seed in (0, 1)]  # fmt: skip
    found = [(pair.depth, pair.metric, round(pair.difference, 6), pair.verdict()) for pair in compare_arms(runs)]
    same = "the same difference at every seed: no interval"
    assert found == [(d, m, x, same) for d in (1, 2) for m, x in (("test_accuracy", 0.0), ("unseen", 0.1))]


def test_markdown_says_what_there_is():
    text = markdown(SweepResult(ROWS, (("a/b", "it broke"),), 10, "No space left"))
    low, high = stats.ttest_rel(HALF, UNTREATED).confidence_interval(0.95)
    assert "9 of 10 runs done, 9 of them count" in text
    assert "- `a/b`: it broke" in text
    assert "the disk is full: No space left." in text
    assert "## LIF on speech" in text
    assert "| 2 | half | 62.3 ± 3.2 % | none | none | 3 | 0.01 |" in text
    assert f"| 2 | test accuracy | half - untreated | +10.0 | {100 * low:+.1f} to {100 * high:+.1f} | 3 |" in text
    single = markdown(SweepResult(tuple(Row("d", "n", run) for run in RUNS[::3]), (), 3))
    assert "| none | 1 | none | one seed says nothing |" in single


def test_the_same_runs_give_the_same_files(tmp_path):
    for name, seconds in (("a", 0.0), ("b", 5.0)):
        rows = tuple(Row(r.data, r.network, make_run(r.run.target, r.run.seed, r.run.test_accuracy, seconds=seconds))
                     for r in ROWS)  # fmt: skip
        (tmp_path / name).mkdir()
        write_outputs(tmp_path / name, SweepResult(rows, (), 9))
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab")
    assert first.keys() == {"table.csv", "seconds.csv", "summary.md"}
    assert [name for name in first if first[name] != second[name]] == ["seconds.csv"]


def test_parquet_holds_the_table(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_outputs(tmp_path, SweepResult(ROWS, (), 9), parquet=True)
    table = parquet.read_table(tmp_path / "table.parquet")
    header, rows = table_of(ROWS)
    assert table.column_names == header
    assert table.column("test_accuracy").to_pylist() == [row[header.index("test_accuracy")] for row in rows]


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="--parquet needs pyarrow; install it with: pip install pyarrow"):
        write_outputs(tmp_path, SweepResult(ROWS, (), 9), parquet=True)
    assert list(tmp_path.iterdir()) == []


def test_the_figure_shows_every_run_that_counts():
    rows = (*ROWS, Row("speech", "GRU", make_run("none", 0, 0.4)), Row("x", "GRU", make_run("none", 0, 0.7, depth=5)),
            Row("speech", "LIF", make_run("half", 5, 0.1, chosen=False)))  # fmt: skip
    figure = sweep_figure(rows)
    assert [axes.get_title() for axes in figure.axes] == ["LIF on speech", "GRU on speech", "LIF on x", "GRU on x"]
    points = [np.concatenate([c.get_offsets()[:, 1] for c in axes.collections] or [[]]) for axes in figure.axes]
    assert points[0].tolist() == pytest.approx([100 * a for row in (UNTREATED, HALF, ONE) for a in row])
    assert [part.tolist() for part in points[1:]] == [[40.0], [], [70.0]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["2 layers, a point a run", "5 layers, a point a run", "mean"]
