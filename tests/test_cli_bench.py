"""``lsc-snn bench``: a grid from a file or flags, run in processes, and refused in one line where it is wrong."""

import errno
import json
import sys

import pytest
import yaml

from cli_cases import refused, run
from lsc_snn.experiments import sweep_summary, sweep_workers
from lsc_snn.experiments.config import TrainConfig
from run_cases import contents
from sweep_cases import HerePool, grid_values, make_recordings

FLAGS = (
    *("--bin-ms", "50", "--networks", "LIF", "--units", "6", "--depths", "1", "--targets", "none,glorot"),
    *("--seeds", "1", "--learning-rates", "0.01", "--epochs", "1", "--batch-size", "8", "--patience", "4"),
)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return make_recordings(tmp_path_factory.mktemp("data"))


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Work in an empty folder, and compute in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_workers, "LocalPool", lambda folder, root, **_: HerePool(folder))


def write_grid(recordings, path, **changes):
    path.write_text(yaml.safe_dump(grid_values(recordings, **changes)))
    return path


def test_flags_are_a_grid(here, recordings, tmp_path):
    result = run("bench", "--data", recordings, "--out", "out", *FLAGS, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [(r["data"], r["network"], r["depth"], r["target"]) for r in told["runs"]] == [
        ("recordings", "LIF", 1, "untreated"),
        ("recordings", "LIF", 1, "glorot"),
    ]
    assert (told["failures"], told["total"]) == ({}, 2)
    config = TrainConfig.from_dict(
        json.loads((tmp_path / "out" / told["runs"][1]["folder"] / "config.json").read_text())
    )
    assert (config.initialisation, config.learning_rate, config.epochs) == ("glorot", 0.01, 1)
    assert (config.batch_size, config.patience, config.network.num_units) == (8, 4, 6)
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    before = contents(tmp_path)
    again = run("bench", "--data", recordings, "--out", "out", *FLAGS)
    assert again.exit_code == 0
    assert "LIF on recordings" in again.stdout
    assert "2 of 2 runs done" in again.stdout
    assert contents(tmp_path) == before


def test_flags_stand_in_place_of_the_file(here, recordings, tmp_path):
    grid = write_grid(recordings, tmp_path / "grid.yaml")
    result = run("bench", grid, "--out", "out", "--seeds", "1", "--learning-rates", "0.1", "--units", "5",
                 "--epochs", "1", "--targets", "none", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)["runs"]
    config = TrainConfig.from_dict(json.loads((tmp_path / "out" / told["folder"] / "config.json").read_text()))
    assert (config.epochs, config.batch_size, config.network.num_units, config.learning_rate) == (1, 8, 5, 0.1)


def test_depths_of_a_flag_leave_out_what_the_file_says_of_others(here, recordings, tmp_path):
    write_grid(recordings, tmp_path / "g.yaml", depths=[1, 2], train_by_depth={1: {"batch_size": 7}, 2: {"epochs": 9}})
    result = run(
        "bench", "g.yaml", "--out", "out", *FLAGS[:2], "--depths", "1", "--targets", "none", "--seeds", "1", "--json"
    )
    assert result.exit_code == 0, result.output
    (first, *_) = json.loads(result.stdout)["runs"]
    config = json.loads((tmp_path / "out" / first["folder"] / "config.json").read_text())
    assert config["batch_size"] == 7


def test_a_file_with_a_wrong_train_is_refused_also_with_flags(here, recordings, tmp_path):
    grid = write_grid(recordings, tmp_path / "grid.yaml", train=[1])
    assert "train: expected keys with values, got list" in refused(run("bench", grid, "--out", "out", "--epochs", "3"))
    assert not (tmp_path / "out").exists()


def test_in_processes(recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = run("bench", "--data", recordings, "--out", tmp_path / "out", *FLAGS, "--workers", "2", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["runs"]) == 2


def test_failed_runs_are_said_and_end_with_1(here, recordings, tmp_path, monkeypatch):
    def obstruct(folder, root, **_):
        (folder / "recordings/LIF/depth-1/glorot/rate-0.01").mkdir(parents=True)
        (folder / "recordings/LIF/depth-1/glorot/rate-0.01/seed-0").write_text("in the way")
        return HerePool(folder)

    monkeypatch.setattr(sweep_workers, "LocalPool", obstruct)
    result = run("bench", "--data", recordings, "--out", "out", *FLAGS)
    assert result.exit_code == 1
    assert "1 of 2 runs done" in result.stdout
    assert "1 of 2 runs failed, first recordings/LIF/depth-1/glorot/rate-0.01/seed-0: " in result.stderr
    assert "expected a folder to write in" in result.stderr


@pytest.mark.parametrize("where", ["run", "table"])
def test_a_full_disk_ends_with_2_and_the_table_of_what_is_done(here, recordings, tmp_path, monkeypatch, where):
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(path, *_):
        path.with_name(f".{path.name}.tmp").write_bytes(b"half")
        raise full

    def fill(job):
        if where == "run" and "glorot" in job.place:
            raise_in_train(monkeypatch, full)

    monkeypatch.setattr(sweep_workers, "LocalPool", lambda folder, root, **_: HerePool(folder, before=fill))
    if where == "table":
        monkeypatch.setattr(sweep_summary, "write_csv", refuse)
    arms = [*FLAGS]
    arms[arms.index("none,glorot")] = "glorot,none"  # the pool begins with the last
    result = run("bench", "--data", recordings, "--out", "out", *arms)
    assert result.exit_code == 2
    assert "LIF on recordings" in result.stdout
    assert result.stderr.count("free space") == 1
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    if where == "run":
        assert "1 of 2 runs done" in (tmp_path / "out" / "summary.md").read_text()


def raise_in_train(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(sweep_workers, "train", refuse)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "data: expected one data set or more, got none"),
        (("--data", "shdd"), "data: expected a folder or one of digits"),
        (("absent.yaml",), "absent.yaml: expected a YAML file, got: No such file or directory"),
        (("sdh",), "grid: expected a .yaml file or one of shd, ssc, got 'sdh'; did you mean shd?"),
        (("grid.yaml", "--depths", "1,1"), "grid.yaml: depths: expected each value once, got 1 twice"),
        (("grid.yaml", "--depths", "a"), "--depths: expected int numbers with commas"),
        (("grid.yaml", "--seeds", "0"), "grid.yaml: seeds: expected an integer >= 1, got 0"),
        (("grid.yaml", "--workers", "0"), "--workers: expected an integer >= 1, got 0"),
        (("grid.yaml", "--threads", "0"), "--threads: expected an integer >= 1, got 0"),
        (("grid.yaml", "--gpus", "1"), "--gpus: expected --ray with it, got 1.0; leave it out"),
        (("grid.yaml", "--epochs", "0"), "grid.yaml: epochs: expected an integer >= 1, got 0"),
        (("bad.yaml",), "bad.yaml: grid: expected known keys, got 'depht'; did you mean 'depths'?"),
        (("shd", "--root", "."), "shd/shd_train.h5: expected this file of Spiking Heidelberg Digits, got none"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(here, recordings, tmp_path, flags, message):
    write_grid(recordings, tmp_path / "grid.yaml")
    write_grid(recordings, tmp_path / "bad.yaml", depht=[1])
    before = contents(tmp_path)
    line = refused(run("bench", *flags, "--out", "out"))
    assert message in line
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_grid(here, recordings, tmp_path):
    assert run("bench", "--data", recordings, "--out", "out", *FLAGS).exit_code == 0
    before = contents(tmp_path)
    line = refused(run("bench", "--data", recordings, "--out", "out", *FLAGS, "--batch-size", "4"))
    assert "out: expected the grid that it holds, train.batch_size = 8, got 4; choose another folder" in line
    assert contents(tmp_path) == before


def test_parquet_without_pyarrow_is_refused_first(here, recordings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = refused(run("bench", "--data", recordings, "--out", "out", *FLAGS, "--parquet"))
    assert "--parquet needs pyarrow" in line
    assert list(tmp_path.iterdir()) == []
