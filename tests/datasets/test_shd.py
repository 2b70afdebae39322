"""The SHD reader against small files of the real layout, and against exact fractions."""

import math
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_dir import data_dir
from lsc_snn.datasets import EventDataset, events_dataset, load_folder, read_shd

TIMES = [[0.0, 0.0039, 0.004, 0.0301], [], [0.002, 0.0021]]
UNITS = [[5, 5, 5, 699], [], [0, 1]]


def write(path: Path, times: list, units: list, labels: object, speakers: object = None, dtype: str = "f4") -> Path:
    """Write a file of the SHD layout."""
    with h5py.File(path, "w") as file:
        for key, lists, kind in (("spikes/times", times, dtype), ("spikes/units", units, "u2")):
            node = file.create_dataset(key, (len(lists),), dtype=h5py.vlen_dtype(np.dtype(kind)))
            for index, values in enumerate(lists):
                node[index] = np.asarray(values, kind)
        file["labels"] = labels
        if speakers is not None:
            file["extra/speaker"] = speakers
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a small valid file."""
    return write(tmp_path / "small.h5", TIMES, UNITS, np.array([2, 0, 1], "u2"), np.array([3, 3, 4], "u2"))


def dense(dataset: EventDataset) -> torch.Tensor:
    return dataset.batch(np.arange(len(dataset)))[0].to_dense()


def test_spikes_fall_into_their_bins_and_add_up(path: Path) -> None:
    dataset = read_shd(path)
    expected = torch.zeros(8, 3, 700)
    expected[0, 0, 5], expected[1, 0, 5], expected[7, 0, 699] = 2, 1, 1
    expected[0, 2, 0] = expected[0, 2, 1] = 1
    assert torch.equal(dense(dataset), expected)
    assert dataset.lengths.tolist() == [8, 1, 1]
    assert dataset.labels.tolist() == [2, 0, 1]
    assert dataset.speakers is not None
    assert dataset.speakers.tolist() == [3, 3, 4]
    assert (dataset.num_steps, dataset.num_units, dataset.num_classes, dataset.num_dropped) == (8, 700, 3, 0)


def test_options(path: Path) -> None:
    assert torch.equal(dense(read_shd(path, binary=True)), dense(read_shd(path)).clamp(max=1))
    window = read_shd(path, num_steps=10, num_classes=20)
    assert (window.num_steps, window.num_classes, window.lengths.tolist()) == (10, 20, [8, 1, 1])
    assert read_shd(path, num_steps=10, full_window=True).lengths.tolist() == [10, 10, 10]
    assert read_shd(path, full_window=True).lengths.tolist() == [8, 8, 8]
    coarse = read_shd(path, bin_ms=31)
    assert (coarse.num_steps, int(dense(coarse).sum())) == (1, 6)


def test_a_longer_sample_is_an_error_or_reported_as_cropped(path: Path) -> None:
    with pytest.raises(ValueError, match=r"small\.h5: sample 0: expected at most 7 steps, got a spike in step 7;"):
        read_shd(path, num_steps=7)
    cropped = read_shd(path, num_steps=7, crop=True)
    assert cropped.num_dropped == 1
    assert cropped.lengths.tolist() == [7, 1, 1]
    assert torch.equal(dense(cropped), dense(read_shd(path))[:7])
    with pytest.raises(ValueError, match="crop: expected num_steps with crop=True, got None"):
        read_shd(path, crop=True)


ticks = st.integers(0, 400)


@st.composite
def spike_trains(draw: st.DrawFn) -> tuple[str, float, list[list[float]], list[list[int]]]:
    """Draw samples with many times on, just below and just above the edges of the bins."""
    dtype = draw(st.sampled_from(["f2", "f4"]))
    bin_ms = draw(st.sampled_from([4.0, 1.0, 10.0, 3.0, 0.7]))
    edge = st.builds(lambda tick: np.dtype(dtype).type(tick * bin_ms / 1000), ticks)
    near = st.builds(np.nextafter, edge, st.sampled_from([np.dtype(dtype).type(0), np.dtype(dtype).type(9)]))
    time = st.one_of(edge, near, st.floats(0, 2, width=16).map(np.dtype(dtype).type))
    trains = draw(st.lists(st.lists(time.map(float), max_size=12).map(sorted), min_size=1, max_size=4))
    units = [draw(st.lists(st.integers(0, 5), min_size=len(train), max_size=len(train))) for train in trains]
    return dtype, bin_ms, trains, units


@given(spike_trains())
def test_no_spike_is_lost_or_doubled_on_any_edge(trains: tuple[str, float, list[list[float]], list[list[int]]]) -> None:
    dtype, bin_ms, times, units = trains
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.h5", times, units, np.zeros(len(times), "u2"), dtype=dtype)
        dataset = read_shd(path, bin_ms=bin_ms, num_units=6)
    x = dense(dataset)
    expected = torch.zeros_like(x)
    for sample, (train, channels) in enumerate(zip(times, units, strict=True)):
        for time, unit in zip(train, channels, strict=True):
            expected[math.floor(Fraction(time) * 1000 / Fraction(bin_ms)), sample, unit] += 1
    assert torch.equal(x, expected)
    assert int(x.sum()) == sum(map(len, times))
    active = x.sum(2).T.gt(0)
    assert dataset.lengths.tolist() == [int(row.nonzero().max()) + 1 if row.any() else 1 for row in active]


def test_decimal_edges_in_float64_count_as_edges(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", [[0.3, 0.6, 0.7]], [[0, 0, 0]], [0], dtype="f8")
    assert read_shd(path, bin_ms=100).times.tolist() == [3, 6, 7], "0.3 / 0.1 < 3 in float64"


def test_blocks_join_without_a_seam(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_shd(path)
    monkeypatch.setattr(events_dataset, "_BLOCK_EVENTS", 1)
    split = read_shd(path)
    assert torch.equal(dense(split), dense(whole))
    assert split.offsets.tolist() == whole.offsets.tolist()
    assert split.lengths.tolist() == whole.lengths.tolist()


def test_the_file_is_opened_once_and_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    original = h5py.File

    def counting(name: Path, mode: str) -> h5py.File:
        opened.append(name)
        return original(name, mode)

    monkeypatch.setattr(h5py, "File", counting)
    dataset = read_shd(path)
    monkeypatch.undo()
    with h5py.File(path, "w") as file:  # HDF5 refuses this while another handle is open
        assert not list(file)
    path.unlink()
    assert int(dense(dataset).sum()) == 6
    assert opened == [path]


def test_a_file_of_silent_samples_is_valid(tmp_path: Path) -> None:
    dataset = read_shd(write(tmp_path / "x.h5", [[], []], [[], []], [0, 1]))
    assert dense(dataset).shape == (1, 2, 700)
    assert not dense(dataset).any()
    with h5py.File(tmp_path / "x.h5", "w") as file:  # vlen entries that were never written
        file.create_dataset("spikes/times", (2,), dtype=h5py.vlen_dtype(np.dtype("f2")))
        file.create_dataset("spikes/units", (2,), dtype=h5py.vlen_dtype(np.dtype("u2")))
        file["labels"] = [0, 1]
    assert read_shd(tmp_path / "x.h5").lengths.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("times", "units", "labels", "speakers", "message"),
    [
        (
            [[0.1], [0.1, -0.1]],
            [[1], [1, 2]],
            [0, 1],
            None,
            "sample 1: expected spikes/times >= 0 and finite, got -0.1",
        ),
        ([[0.1], [math.nan]], [[1], [1]], [0, 1], None, "sample 1: expected spikes/times >= 0 and finite, got nan"),
        ([[], [math.inf]], [[], [1]], [0, 1], None, "sample 1: expected spikes/times >= 0 and finite, got inf"),
        ([[0.1], [0.2, 0.1]], [[1], [1, 2]], [0, 1], None, "sample 1: expected sorted spikes/times"),
        ([[0.1], [0.2]], [[1], [700]], [0, 1], None, r"sample 1: expected spikes/units in 0\.\.699, got 700"),
        (
            [[0.1], [0.2]],
            [[1], [1, 2]],
            [0, 1],
            None,
            "sample 1: expected as many spikes/units as spikes/times, got 2 and 1",
        ),
        ([[0.1], [0.2]], [[1], [1]], [0, -1], None, "sample 1: expected labels 0 or above, got -1"),
        ([[0.1], [0.2]], [[1], [1]], [0.0, 1.0], None, "labels: expected one of integers for each sample, got float64"),
        ([[0.1], [0.2]], [[1], [1]], [b"zero", b"one"], None, "labels: expected one of integers for each sample"),
        ([[0.1], [0.2]], [[1], [1]], [[0, 1]], None, r"labels: expected one of integers .* of shape \(1, 2\)"),
        ([[0.1], [0.2]], [[1], [1]], [0], None, "spikes/times: expected 1 samples as in labels, got 2"),
        ([[0.1], [0.2]], [[1]], [0, 1], None, "spikes/units: expected 2 samples as in labels, got 1"),
        ([[0.1], [0.2]], [[1], [1]], [0, 1], [3], "extra/speaker: expected 2 samples as in labels, got 1"),
        ([[0.1], [0.2]], [[1], [1]], [0, 1], [0.5, 1.5], "extra/speaker: expected one of integers"),
        ([], [], np.zeros(0, "u2"), None, "labels: expected at least one sample, got none"),
        ([[0.1], [900.0]], [[1], [1]], [0, 1], None, "sample 1: expected at most 65536 steps, .* in seconds"),
        ([[0.1], [1e30]], [[1], [1]], [0, 1], None, "sample 1: expected at most 65536 steps, .* in seconds"),
    ],
)
def test_bad_content_is_named(
    tmp_path: Path, times: list, units: list, labels: object, speakers: object, message: str
) -> None:
    path = write(tmp_path / "bad.h5", times, units, labels, speakers)
    with pytest.raises(ValueError, match=rf"bad\.h5: .*{message}|bad\.h5: {message}") as caught:
        read_shd(path)
    assert "\n" not in str(caught.value)


def test_labels_and_units_respect_the_given_sizes(path: Path) -> None:
    with pytest.raises(ValueError, match=r"small\.h5: sample 0: expected labels in 0\.\.1, got 2"):
        read_shd(path, num_classes=2)
    with pytest.raises(ValueError, match=r"small\.h5: sample 0: expected spikes/units in 0\.\.98, got 699"):
        read_shd(path, num_units=99)


@pytest.mark.parametrize("key", ["spikes/times", "spikes/units", "labels"])
def test_a_missing_key_is_named(path: Path, key: str) -> None:
    with h5py.File(path, "a") as file:
        del file[key]
    with pytest.raises(ValueError, match=rf"small\.h5: expected the key {key}, got only extra, extra/speaker"):
        read_shd(path)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        (
            "spikes/times",
            np.zeros((3, 2), "f4"),
            "spikes/times: expected a list of floats for each sample, got float32",
        ),
        ("spikes", np.zeros(3), "expected the key spikes/times"),
        ("labels/inner", np.zeros(3), "expected the key labels"),
    ],
)
def test_another_layout_is_named(path: Path, key: str, values: np.ndarray, message: str) -> None:
    with h5py.File(path, "a") as file:
        del file[key.split("/inner")[0]]
        file[key] = values
    with pytest.raises(ValueError, match=rf"small\.h5: {message}"):
        read_shd(path)


def test_integer_times_and_float_units_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.h5", [[1], [2]], [[1], [1]], [0, 1], dtype="i4")
    with pytest.raises(ValueError, match=r"bad\.h5: spikes/times: expected a list of floats for each sample"):
        read_shd(path)


def test_files_that_are_no_hdf5_are_named(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-100], b"not HDF5 at all", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"small\.h5: expected a whole HDF5 file, got: ") as caught:
            read_shd(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"absent\.h5: expected an HDF5 file, got no such file"):
        read_shd(tmp_path / "absent.h5")
    with pytest.raises(ValueError, match="expected an HDF5 file, got a folder"):
        read_shd(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bin_ms": 0.0}, ValueError, "bin_ms: expected a finite number above 0, got 0.0"),
        ({"bin_ms": math.nan}, ValueError, "bin_ms: expected a finite number above 0, got nan"),
        ({"bin_ms": "4"}, TypeError, "bin_ms: expected a number, got str"),
        ({"num_steps": 0}, ValueError, "num_steps: expected an integer >= 1, got 0"),
        ({"num_steps": 70_000}, ValueError, "num_steps: expected at most 65536, got 70000"),
        ({"num_units": -1}, ValueError, "num_units: expected an integer >= 1, got -1"),
        ({"num_classes": 0}, ValueError, "num_classes: expected an integer >= 1, got 0"),
    ],
)
def test_bad_options_are_named(path: Path, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_shd(path, **options)


def test_without_h5py_the_error_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "lsc-snn\[data\]"'):
        read_shd(path)


@pytest.mark.parametrize("prefix", ["", "shd_"])
def test_load_folder_finds_both_parts(tmp_path: Path, prefix: str) -> None:
    write(tmp_path / f"{prefix}train.h5", TIMES, UNITS, [2, 0, 1])
    write(tmp_path / f"{prefix}test.h5", TIMES[:1], UNITS[:1], [1])
    train, test = load_folder(tmp_path, bin_ms=2.0)
    assert (len(train), len(test)) == (3, 1)
    assert (train.num_classes, test.num_classes) == (3, 3)
    assert train.num_steps == 16


def test_load_folder_names_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "train.h5", TIMES, UNITS, [2, 0, 1])
    with pytest.raises(ValueError, match=r"expected a folder with train\.h5 and test\.h5.*, found train\.h5;"):
        load_folder(tmp_path)
    write(tmp_path / "test.h5", TIMES[:1], UNITS[:1], [3])
    with pytest.raises(ValueError, match=r"test\.h5: sample 0: expected labels in 0\.\.2, got 3"):
        load_folder(tmp_path)


def test_recorded_speech_is_read_whole() -> None:
    folder = data_dir("spoken_digits")
    dataset = read_shd(folder / "test.h5")
    with h5py.File(folder / "test.h5") as file:
        times, units = file["spikes/times"][:], file["spikes/units"][:]
        assert dataset.labels.tolist() == file["labels"][:].tolist()
        assert dataset.speakers is not None
        assert dataset.speakers.tolist() == file["extra/speaker"][:].tolist()
    assert (len(dataset), dataset.num_units, dataset.num_classes) == (400, 700, 10)
    chosen = [0, 7, 399]
    batch, _ = dataset.batch(chosen)
    expected = np.zeros(batch.shape, np.float32)
    for position, sample in enumerate(chosen):
        steps = np.floor(times[sample].astype(np.float64) * 1000 / 4.0).astype(int)
        np.add.at(expected, (steps, position, units[sample].astype(int)), 1)
        assert dataset.lengths[sample] == steps.max() + 1
    np.testing.assert_array_equal(batch.to_dense().numpy(), expected)
    assert dataset.counts is not None
    assert int(dataset.counts.sum()) == sum(map(len, times))
