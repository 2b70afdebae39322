"""The benchmarks at tiny sizes: every row is there, its numbers make sense, and the contenders are the same network."""

import contextlib
import io
import json
import math
import sys

import pytest
import torch

from lsc_snn.datasets import EventLoader, cached, file_digest, read_shd
from lsc_snn.experiments import bench, bench_loader, bench_radius, bench_stabilize, bench_training
from lsc_snn.experiments.bench_peers import PEERS, Ours, Sizes, draw_weights, make_peer, matrices
from lsc_snn.experiments.bench_table import Table, interleaved

SIZES = Sizes(num_steps=30, batch=4, num_inputs=40, num_units=16, density=0.2)
TABLES = ["radius", "training_step", "event_product", "procedures", "stabilize", "loader", "epoch"]
NOT_NUMBERS = {"mean bias %", "firing rate", "worst error", "other parameters"}  # these may be zero, or negative


@pytest.fixture(scope="module")
def peers():
    """The peers that are installed."""
    made = {name: make_peer(name, draw_weights(SIZES)) for name in PEERS}
    return {name: network for name, network in made.items() if network is not None}


@pytest.fixture(scope="module")
def quick():
    """One quick run as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert bench.main(["--quick", "--json"]) == 0
    return json.loads(printed.getvalue())


def rows_of(result, name):
    return next(table["rows"] for table in result["tables"] if table["name"] == name)


def test_every_row_is_there(quick):
    assert [table["name"] for table in quick["tables"]] == TABLES
    assert [row["surrogate"] for row in rows_of(quick, "radius")] == ["triangular", "gaussian"]
    names = [row["network"] for row in rows_of(quick, "training_step")]
    assert names == ["lsc_snn, events", "lsc_snn, dense", "snnTorch", "Norse", "sinabs", "matrix products alone"]
    assert [row["procedure"] for row in rows_of(quick, "procedures")] == ["fast", "paper"]
    assert [row["product"] for row in rows_of(quick, "event_product")] == ["forward", "forward and weight gradient"]
    assert [(row["neuron"], row["target"]) for row in rows_of(quick, "stabilize")] == [("ALIF", "half")]
    loaders = ["lsc_snn, events", "lsc_snn, dense tensors", "tonic"]
    assert [row["loader"] for row in rows_of(quick, "loader")] == loaders
    assert [row["training"] for row in rows_of(quick, "epoch")] == ["lsc_snn", "snnTorch and tonic"]
    for table in quick["tables"]:
        for row in table["rows"]:
            for key, value in row.items():
                if isinstance(value, float) and key not in NOT_NUMBERS:
                    assert math.isfinite(value), (table["name"], row)
                    assert value > 0, (table["name"], row)


def test_ratios_are_those_of_the_times(quick):
    rows = {row["network"]: row for row in rows_of(quick, "training_step")}
    for row in rows.values():
        if "ms" in row:
            assert row["against events"] == pytest.approx(row["ms"] / rows["lsc_snn, events"]["ms"])
            assert row["against dense"] == pytest.approx(row["ms"] / rows["lsc_snn, dense"]["ms"])
    for row in rows_of(quick, "radius"):
        assert row["exact / power"] == pytest.approx(row["exact ms"] / row["power ms"])
        assert row["of it eigenvalues ms"] < row["exact ms"]
        assert row["worst error %"] >= abs(row["mean bias %"])
    fast, paper = rows_of(quick, "procedures")
    shown = paper["paper / fast"].removeprefix("> ")
    assert float(shown) == pytest.approx(paper["seconds"] / fast["seconds"], rel=0.01)
    assert paper["paper / fast"].startswith("> ") != paper["converged"]


def test_machine(quick):
    about = quick["machine"]
    assert about["torch"] == torch.__version__
    assert about["threads"] == torch.get_num_threads()
    assert about["cores"] >= 1


def test_memory_is_that_of_a_process_with_torch(quick):
    (row,) = rows_of(quick, "stabilize")
    assert 0.05 < row["peak memory GB"] < 1.5


def test_peers_are_the_same_network(peers):
    weights = draw_weights(SIZES)
    ours = Ours(weights)
    assert matrices(ours) == sorted(tuple(matrix.shape) for pair in weights for matrix in pair)
    per_unit = sum(p.numel() for p in ours.parameters() if p.dim() < 2)
    assert per_unit == 2 * SIZES.num_layers * SIZES.num_units
    inputs = bench_radius.random_events(30, 4, 40, 0.2).to_dense()
    for name, network in peers.items():
        assert matrices(network) == matrices(ours), name
        others = [p for p in network.parameters() if p.requires_grad and p.dim() < 2]
        assert sum(p.numel() for p in others) <= per_unit, name
        output = bench_training.training_step(network, inputs)
        assert output.shape == ours(inputs).shape == (30, 4, 16), name
        assert set(output.unique().tolist()) <= {0.0, 1.0}, name
        assert output.sum() > 0, name
        for p in network.parameters():
            assert p.grad is not None or not p.requires_grad, name


def test_peers_start_every_sequence_afresh(peers):
    inputs = bench_radius.random_events(30, 4, 40, 0.2).to_dense()
    for name, network in peers.items():
        first = bench_training.training_step(network, inputs).detach()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        again = bench_training.training_step(network, inputs).detach()
        assert torch.equal(first, again), name
        for before, p in zip(gradients, (p for p in network.parameters() if p.grad is not None), strict=True):
            torch.testing.assert_close(before, p.grad)


def test_snntorch_has_our_equation(peers):
    """Same equation, same weights: the same spikes, so that the two really do the same work."""
    if "snnTorch" not in peers:
        pytest.skip("snnTorch is not installed")
    inputs = bench_radius.random_events(30, 4, 40, 0.2)
    with torch.no_grad():
        theirs, ours = peers["snnTorch"](inputs.to_dense()), Ours(draw_weights(SIZES))(inputs)
    assert (theirs != ours).float().mean() < 0.001
    assert ours.mean() > 0.01


def test_missing_peers_have_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "norse", None)
    monkeypatch.setitem(sys.modules, "norse.torch", None)
    assert make_peer("Norse", draw_weights(SIZES)) is None
    table = bench_training.step_table(SIZES._replace(num_steps=3), rounds=1, warm_ups=0)
    row = next(row for row in table.rows if row["network"] == "Norse")
    assert row == {"network": "Norse", "note": "not installed: pip install 'lsc-snn[bench]'"}
    assert "not installed" in str(table)


def test_driven_layer_gives_the_transitions_of_one_step():
    case = bench_radius.Case(8, 3)
    record = bench_radius.driven_layer(case, num_inputs=20, num_steps=10)
    transition = record.time()
    assert (transition.batch, transition.rows, transition.cols) == (3, 16, 16)
    oracle = torch.linalg.eigvals(transition.to_dense().double()).abs().amax(1)
    torch.testing.assert_close(bench_radius._exact(record)[0].double(), oracle, rtol=1e-4, atol=1e-4)


def test_interleaved_takes_turns():
    order = []
    contenders = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    medians = interleaved(contenders, rounds=2, warm_ups=1)
    assert order == ["a", "b"] * 3
    assert list(medians) == ["a", "b"]
    assert all(seconds >= 0 for seconds in medians.values())


def test_both_loaders_deliver_the_same_spikes(tmp_path):
    """Tonic reads the generated file as it is; of an end on an edge it leaves the last step out."""
    tonic = pytest.importorskip("tonic")
    sizes = bench.QUICK_RECORDINGS
    folder = bench_loader.folder_with(tmp_path, sizes)
    path = folder / "SHD" / "shd_train.h5"
    loader = bench_loader.our_loader(folder, sizes)
    key = {"file": file_digest(path), "reader": "shd", "bin_ms": sizes.bin_ms}
    assert loader.dataset.labels.tolist() == cached(folder / "cache", key, lambda: None).labels.tolist()
    theirs = bench_loader.tonic_loader(folder, sizes).dataset
    assert isinstance(theirs, tonic.datasets.SHD)
    ours, labels = next(iter(EventLoader(read_shd(path, bin_ms=sizes.bin_ms), sizes.num_samples)))
    ours = ours.to_dense()
    for sample in range(sizes.num_samples):
        frames, label = theirs[sample]
        steps = min(len(frames), len(ours))
        assert label == labels[sample]
        assert torch.equal(ours[:steps, sample], torch.from_numpy(frames[:steps, 0]).float())
        assert not frames[steps:].any()
        assert ours[steps:, sample].sum() <= 2, "spikes on the edge where the sample ends"
        assert ours[:, sample].sum() == len(theirs_times(path, sample)) >= 30


def theirs_times(path, sample):
    import h5py

    with h5py.File(path) as file:
        return file["spikes/times"][sample]


def test_loader_ratios_are_those_of_the_rates(quick):
    ours, dense, tonic = rows_of(quick, "loader")
    for row in (ours, dense):
        assert row["later / tonic"] == pytest.approx(row["later samples/s"] / tonic["later samples/s"])
    assert ours["first / tonic"] == pytest.approx(ours["first epoch samples/s"] / tonic["first epoch samples/s"])
    for row in (ours, tonic):
        assert 0.05 < row["peak memory GB"] < 1.5
    for row in rows_of(quick, "epoch"):
        assert row["of it data s"] < row["first epoch s"]
        assert row["of that data s"] < row["second epoch s"]


def test_a_missing_tonic_has_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "tonic", None)
    table = bench_loader.epoch_table(bench.QUICK_TRAINING)
    assert [row["training"] for row in table.rows] == ["lsc_snn", "snnTorch and tonic"]
    assert table.rows[1]["note"] == "not installed: pip install 'lsc-snn[bench,data]'"


def test_generated_recordings_have_the_asked_size(tmp_path):
    path = tmp_path / "x.h5"
    bench_loader.write_recordings(path, bench_loader.Recordings(num_samples=40, num_spikes=200, seconds=0.5))
    dataset = read_shd(path, bin_ms=4.0)
    assert (len(dataset), dataset.num_classes, dataset.num_units) == (40, 20, 700)
    spikes = [int(dataset[index].counts.sum()) for index in range(40)]
    assert 150 <= min(spikes) < max(spikes) <= 250
    assert 60 <= dataset.lengths.min() < dataset.lengths.max() <= 126


def test_tables_are_markdown(capsys):
    assert bench.main(["--quick", "--only", "event_product"]) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) <= set("|- ")
    assert "torch: " in printed.out.splitlines()[0]
    assert "## Spectral radius" not in printed.out


def test_cells():
    row = {"a": True, "b": 12345.6, "c": 0.00123456, "d": float("nan"), "e": 3, "f": None}
    line = str(Table("t", "T", tuple("abcdef"), (row,), "")).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["yes", "12346", "0.00123", "", "3", ""]


def test_real_recordings_are_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    for name in ("train.h5", "test.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            times = file.create_dataset("spikes/times", (3,), h5py.vlen_dtype("float16"))
            units = file.create_dataset("spikes/units", (3,), h5py.vlen_dtype("uint16"))
            for sample in range(3):
                times[sample], units[sample] = [0.0, 0.01, 0.3], [sample, 5, 600]
            file["labels"] = [0, 1, 2]
    sizes = bench_stabilize.Large(num_steps=20, batch=2)
    events, name = bench_stabilize.load_events(str(tmp_path), sizes)
    assert events.shape == (20, 2, 700)
    assert events.num_events == 4  # the third spike of each sample, at 300 ms, is cut off
    assert name == tmp_path.name
    with pytest.raises(ValueError, match=r"expected a folder with train\.h5 and test\.h5"):
        bench_stabilize.load_events(str(tmp_path / "absent"), sizes)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--only", "speed"], "--only: expected some of radius, training_step, event_product, procedures, stabilize"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
    ],
)
def test_bad_arguments(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        bench.main(argv)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_global_random_state_stays():
    state = torch.get_rng_state()
    Ours(draw_weights(SIZES))
    for name in PEERS:
        make_peer(name, draw_weights(SIZES))
    bench_radius.driven_layer(bench_radius.Case(4, 2), num_inputs=5, num_steps=3)
    assert torch.equal(state, torch.get_rng_state())
