"""Folders that are not theirs, or that cannot be written: one line, and nothing changed."""

import json

import numpy as np
import pytest

from lsc_snn.experiments.train import train
from run_cases import StopError, contents, stop_at

BAD_FOLDERS = {
    "another run": (
        lambda folder, train_in: train_in(folder),
        {},
        "expected a folder without a run, got one with config.json; resume it or choose another",
    ),
    "a finished run, other options": (
        lambda folder, train_in: train_in(folder),
        {"resume": True, "epochs": 2},
        r"expected the run that it holds, epochs = 1, got 2; choose another folder",
    ),
    "foreign files of the same names": (
        lambda folder, train_in: (folder.mkdir(), (folder / "last.safetensors").write_bytes(b"x")),
        {"resume": True},
        "expected config.json of a run, got last.safetensors without it",
    ),
    "a broken config": (
        lambda folder, train_in: (folder.mkdir(), (folder / "config.json").write_text("{")),
        {"resume": True},
        r"config.json: expected JSON, got a broken file",
    ),
    "a broken result": (
        lambda folder, train_in: (train_in(folder), (folder / "results.json").write_text('{"status": "x"}')),
        {"resume": True},
        r"results.json: expected the result of a run, got another file",
    ),
    "a truncated checkpoint": (
        lambda folder, train_in: (
            train_in(folder),
            (folder / "results.json").unlink(),
            (folder / "last.safetensors").write_bytes((folder / "last.safetensors").read_bytes()[:500]),
        ),
        {"resume": True},
        r"last.safetensors: expected a whole safetensors file, got a broken one",
    ),
    "the checkpoint of another network": (
        lambda folder, train_in: (
            train_in(folder),
            train_in(folder.with_name("other"), network={"num_units": 9}),
            (folder / "results.json").unlink(),
            (folder.with_name("other") / "last.safetensors").rename(folder / "last.safetensors"),
        ),
        {"resume": True},
        r"last.safetensors: expected a checkpoint of this run with network.num_units = 12, got 9; remove it",
    ),
    "a file": (lambda folder, train_in: folder.write_text("x"), {}, "expected a folder to write in, got: File exists"),
    "below a file": (
        lambda folder, train_in: folder.write_text("x"),
        {"below": "run"},
        "expected a folder to write in, got: Not a directory",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders_stay_as_they_are(configure, splits, tmp_path, case):
    prepare, options, message = BAD_FOLDERS[case]
    folder = tmp_path / "run"
    prepare(folder, lambda where, **more: train(configure(**{"epochs": 1, **more}), splits, where))
    before = contents(tmp_path)
    options = dict(options)
    where, resume = folder / options.pop("below", ""), options.pop("resume", False)
    with pytest.raises(ValueError, match=message) as caught:
        train(configure(**{"epochs": 1, **options}), splits, where, resume=resume)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_data_do_not_continue_a_run(configure, splits, tmp_path, finished):
    config = configure(epochs=2)
    if finished:
        train(config, splits, tmp_path)
    else:
        with pytest.raises(StopError):
            train(config, splits, tmp_path, on_epoch=stop_at(1))
    before = contents(tmp_path)
    other = splits._replace(validation=splits.validation.subset(range(20)))
    with pytest.raises(ValueError, match=r"expected the data of the run .* validation.samples = 21, got 20"):
        train(config, other, tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_counted_data_do_not_continue_a_run_on_binary_ones(configure, splits, tmp_path):
    config, train_part = configure(epochs=1), splits.train
    counted = train_part.subset(range(len(train_part)))
    counted.counts = np.full(len(counted.times), 2)
    train(config, splits, tmp_path)
    with pytest.raises(ValueError, match=r"expected the data of the run that it holds, train.spikes = \d+, got \d+"):
        train(config, splits._replace(train=counted), tmp_path, resume=True)


def test_runs_of_earlier_versions_whose_data_do_not_name_spikes_are_read(configure, splits, tmp_path):
    config = configure(epochs=1)
    result = train(config, splits, tmp_path)
    file = tmp_path / "results.json"
    written = json.loads(file.read_text())
    for part in written["data"].values():
        del part["spikes"]
    file.write_text(json.dumps(written))
    assert train(config, splits, tmp_path, resume=True).test == result.test


def test_bad_networks_leave_no_folder(configure, splits, tmp_path):
    with pytest.raises(TypeError, match="thresold"):
        train(configure(network={"layer": {"thresold": 1.0}}), splits, tmp_path / "run")
    with pytest.raises(ValueError, match="splits train: expected 9 units as the network has inputs, got 8"):
        train(configure(network={"num_inputs": 9}), splits, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
