"""Sweeps: the runs of a grid, whatever the order and the interruptions, end in one table, the same byte for byte."""

import csv
import errno
import json
from collections import Counter

import pytest

from lsc_snn._sweep_figure import sweep_figure
from lsc_snn.datasets import read_shd
from lsc_snn.experiments import files
from lsc_snn.experiments.compare import compare
from lsc_snn.experiments.records import read_result
from lsc_snn.experiments.sweep_run import run_sweep
from lsc_snn.experiments.sweep_summary import write_outputs
from lsc_snn.experiments.sweep_workers import load_parts
from lsc_snn.plots import to_png
from run_cases import contents
from sweep_cases import HerePool, make_recordings, make_sweep, outputs

PARTS = ("train", "test")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return make_recordings(tmp_path_factory.mktemp("data"))


def finish(sweep, folder, **options):
    """Run a sweep to its end and write what it leaves; return the result and the places that were computed."""
    pool = HerePool(folder, **options)
    result = run_sweep(sweep, folder, lambda: pool)
    write_outputs(folder, result, figure=to_png(sweep_figure(result.rows)))
    return result, pool.done


@pytest.fixture(scope="module")
def whole(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "new"
    return folder, *finish(make_sweep(recordings), folder)


def test_every_arm_is_tuned_alike_and_its_seeds_take_the_winner(whole):
    folder, result, done = whole
    assert sorted(done) == sorted(row.run.folder for row in result.rows)
    assert len(result.rows) == result.total == 2 * (2 + 1)
    for arm in ("untreated", "glorot"):
        runs = [row.run for row in result.rows if row.run.target == arm]
        tried = {run.learning_rate: read_result(folder / run.folder).validation for run in runs if run.seed == 0}
        best = max(tried, key=lambda rate: (tried[rate].accuracy, -tried[rate].loss, -rate))
        assert [(run.learning_rate, run.seed) for run in runs] == [(0.01, 0), (0.1, 0), (best, 1)]
        assert [run.chosen for run in runs] == [best == 0.01, best == 0.1, True]


def test_a_sweep_of_one_network_is_a_comparison(whole, recordings, tmp_path):
    """The same runs as ``compare``, which computes one after the other, to the last bit."""
    _, result, _ = whole
    sweep = make_sweep(recordings)
    base = read_result(whole[0] / result.rows[0].run.folder).config
    plan = {"targets": [None, "glorot"], "depths": [1], "seeds": [0, 1], "learning_rates": [0.01, 0.1]}
    comparison = compare(base, load_parts(sweep.data[0], None), tmp_path, **plan)
    ours = [{**row.run.to_dict(), "seconds": 0, "folder": ""} for row in result.rows]
    assert ours == [{**run.to_dict(), "seconds": 0, "folder": ""} for run in comparison.runs]


def test_the_table_is_tidy_and_has_no_times(whole):
    folder, result, _ = whole
    with open(folder / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert "seconds" not in rows[0]
    for row, entry in zip(rows, result.rows, strict=True):
        assert (row["data"], row["network"]) == ("speech", "LIF")
        stored = read_result(folder / row["folder"])
        assert float(row["test_accuracy"]) == stored.test.accuracy == entry.run.test_accuracy
        assert float(row["unseen"]) == stored.unseen
    with open(folder / "seconds.csv") as file:
        assert [row["folder"] for row in csv.DictReader(file)] == [row["folder"] for row in rows]


@pytest.mark.parametrize("stops", [[0], [1, 1], [3, 2]])
def test_interrupted_and_restarted_it_ends_with_the_same_files(whole, recordings, tmp_path, stops):
    sweep, done = make_sweep(recordings), []
    for stop in stops:
        pool = HerePool(tmp_path, stop_after=stop)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(sweep, tmp_path, lambda pool=pool: pool)
        done += pool.done
    done += finish(sweep, tmp_path)[1]
    assert max(Counter(done).values()) == 1
    assert outputs(tmp_path) == outputs(whole[0])


def test_a_finished_sweep_is_only_read(whole, recordings):
    folder = whole[0]
    before = contents(folder)

    def no_pool():
        raise AssertionError("nothing is left to do")

    assert run_sweep(make_sweep(recordings), folder, no_pool) == whole[1]
    assert contents(folder) == before


def test_a_run_that_fails_fails_alone_and_is_tried_again(whole, recordings, tmp_path):
    sweep = make_sweep(recordings)
    broken = "speech/LIF/depth-1/glorot/rate-0.01/seed-0"

    def break_it(job):
        if job.place == broken:
            (tmp_path / broken).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / broken).write_text("in the way")

    result, _ = finish(sweep, tmp_path, before=break_it)
    ((place, reason),) = result.failures
    assert place == broken
    assert "expected a folder to write in" in reason
    # Without its tuning the arm has no learning rate yet, and nothing counts; the other arm is whole.
    assert [row.run.chosen for row in result.rows if row.run.target == "glorot"] == [False]
    assert sum(row.run.chosen for row in result.rows) == 2
    assert f"- `{broken}`: " in (tmp_path / "summary.md").read_text()
    (tmp_path / broken).unlink()
    assert finish(sweep, tmp_path)[0].failures == ()
    assert outputs(tmp_path) == outputs(whole[0])


def test_a_full_disk_stops_it_with_nothing_half(whole, recordings, tmp_path, monkeypatch):
    """Every write fails from the third run on, in the middle of a file; then there is space again."""
    sweep, written, space = make_sweep(recordings), open, files.write_bytes.__globals__

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    runs = []

    def fill(job):
        runs.append(job.place)
        if len(runs) == 3:
            monkeypatch.setitem(space, "open", lambda path, mode: Full(written(path, mode)))

    pool = HerePool(tmp_path, before=fill)
    result = run_sweep(sweep, tmp_path, lambda: pool)
    assert "No space left on device" in result.disk_full
    assert len(result.rows) == 2
    assert len(pool.done) == 3
    assert not [path for path in tmp_path.rglob("*.tmp")]
    monkeypatch.undo()
    finish(sweep, tmp_path)
    assert outputs(tmp_path) == outputs(whole[0])


def test_a_grid_can_grow(whole, recordings, tmp_path):
    finish(make_sweep(recordings, targets=["glorot"], learning_rates=[0.1]), tmp_path)
    grown, done = finish(make_sweep(recordings), tmp_path)
    assert not {place for place in done if "glorot/rate-0.1" in place}
    assert grown.total == 6
    assert outputs(tmp_path) == outputs(whole[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"epochs": 3, "batch_size": 8}}, "grid that it holds, train.epochs = 2, got 3"),
        ({"targets": ["glorot"]}, r"targets = \[None, 'glorot'\], got \['glorot'\]"),
        ({"seeds": [1, 0]}, "first seed = 0, got 1"),
        ({"networks": [{"neuron": "LIF", "num_units": 7}]}, "networks.LIF.options.num_units = 6, got 7"),
        ({"networks": ["GRU"]}, "networks.LIF"),
    ],
)
def test_a_folder_of_another_grid_stays_as_it_is(whole, recordings, changes, message):
    folder = whole[0]
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        run_sweep(make_sweep(recordings, **changes), folder, lambda: HerePool(folder))
    assert contents(folder) == before


def test_other_data_and_other_folders_are_refused(whole, recordings, tmp_path):
    folder = whole[0]
    before = contents(folder)
    other = make_recordings(tmp_path)
    (other / "test.h5").write_bytes((other / "train.h5").read_bytes())
    with pytest.raises(ValueError, match=r"grid that it holds, speech.test.samples = 6, got 24"):
        run_sweep(make_sweep(other), folder, lambda: HerePool(folder))
    single = folder / "speech"
    with pytest.raises(ValueError, match="expected a folder of a sweep, or a new one, got one of other runs"):
        run_sweep(make_sweep(recordings), single, lambda: HerePool(single))
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ValueError, match="expected a folder to write in"):
        run_sweep(make_sweep(recordings), file, lambda: HerePool(file))
    assert contents(folder) == before


def test_options_that_a_layer_does_not_take_are_found_before_any_run(recordings, tmp_path):
    wrong = [{"neuron": "LIF", "num_units": 6}, {"neuron": "ALIF", "num_units": 6, "layer": {"threshold": -1}}]
    with pytest.raises(ValueError, match="network ALIF: threshold: expected positive values, got -1"):
        run_sweep(make_sweep(recordings, networks=wrong), tmp_path / "new", pytest.fail)
    assert not (tmp_path / "new").exists()


def test_a_comparison_does_not_go_into_the_folder_of_a_sweep(whole, recordings):
    folder, result, _ = whole
    base, before = read_result(folder / result.rows[0].run.folder).config, contents(folder)
    plan = {"targets": [None], "depths": [1], "seeds": [0], "learning_rates": [0.01]}
    with pytest.raises(ValueError, match="expected a folder for a comparison, got one of a sweep"):
        compare(base, load_parts(make_sweep(recordings).data[0], None), folder, **plan)
    assert contents(folder) == before


def test_what_is_cropped_is_counted_and_said(recordings, tmp_path):
    source = {"folder": str(recordings), "label": "speech", "bin_ms": 50.0, "num_steps": 5, "crop": True}
    small = {"targets": ["none"], "seeds": 1, "learning_rates": [0.01]}
    lost = sum(read_shd(recordings / f"{part}.h5", bin_ms=50.0, num_steps=5, crop=True).num_dropped for part in PARTS)
    result, _ = finish(make_sweep(recordings, data=[source], **small), tmp_path)
    assert lost > 0
    assert result.dropped == (("speech", lost),)
    assert f"Cropped away from speech: {lost} spikes." in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    "content", ["{", "[]", json.dumps({"format": "another"}), json.dumps({"format": 1, "grid": 2})]
)
def test_a_broken_claim_is_refused(recordings, tmp_path, content):
    (tmp_path / "grid.json").write_text(content)
    with pytest.raises(ValueError, match=r"grid.json|format = "):
        run_sweep(make_sweep(recordings), tmp_path, lambda: HerePool(tmp_path))
    assert contents(tmp_path) == {(tmp_path / "grid.json").relative_to(tmp_path): content.encode()}


def test_two_sweeps_do_not_share_a_folder(recordings, tmp_path):
    sweep = make_sweep(recordings, learning_rates=[0.01], seeds=1, targets=["none"])

    def intrude(job):
        with pytest.raises(ValueError, match="expected a folder that no other process works in, got a busy one"):
            run_sweep(sweep, tmp_path, lambda: HerePool(tmp_path))

    result, _ = finish(sweep, tmp_path, before=intrude)
    assert len(result.rows) == 1
