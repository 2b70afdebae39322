"""The grid in YAML: what it says is what is run, and every mistake is one line that names it."""

import re

import pytest
import yaml

from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.sweep import DataSource, NetworkSource, expand
from lsc_snn.experiments.sweep_yaml import grid_file, protocols, read_yaml, sweep_of

FULL = """
data:
  - digits
  - {name: shd, label: shd-8ms, bin_ms: 8, validation: 0.25, verify: false}
networks:
  - lif
  - {neuron: GRU, label: small-GRU, num_units: 32, dropout: 0.1, targets: [none, lsuv], train: {batch_size: 16}}
depths: [2, 5]
targets: [none, half, "0.9:0.1", [1, 1], lsuv]
seeds: [4, 2]
learning_rates: [1e-3, 0.01]
train: {epochs: 7, batch_size: 100, weight_decay: 1E-5, augment: {time_shift: 2}}
train_by_depth: {5: {batch_size: 32}}
"""


def read(tmp_path, text):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    return sweep_of(read_yaml(path))


def test_every_key_reaches_the_runs(tmp_path):
    sweep = read(tmp_path, FULL)
    assert sweep.data == (
        DataSource("digits", "digits"),
        DataSource("shd-8ms", "shd", options={"bin_ms": 8, "validation": 0.25, "verify": False}),
    )
    assert sweep.networks[0] == NetworkSource("LIF", {"neuron": "LIF"})
    cells = expand(sweep, {"digits": (64, 10), "shd-8ms": (700, 20)})
    assert len(cells) == 2 * 2 * (5 + 2)
    assert sweep.num_runs == len(cells) * 3
    first, last = cells[0].tuning[0], cells[-1].others[1][0]
    assert first.place == "digits/LIF/depth-2/untreated/rate-0.001/seed-4"
    assert last.place == "shd-8ms/small-GRU/depth-5/lsuv/rate-0.01/seed-2"
    config = last.config
    assert (config.network.num_inputs, config.network.num_classes, config.network.num_units) == (700, 20, 32)
    assert (config.network.num_layers, config.network.readout_tau, config.network.dropout) == (5, None, 0.1)
    assert (config.initialisation, config.learning_rate, config.seed) == ("lsuv", 0.01, 2)
    assert (config.epochs, config.weight_decay, config.augment.time_shift) == (7, 1e-5, 2)
    assert [cell.tuning[0].config.batch_size for cell in cells[::5]][:2] == [100, 32]
    assert config.batch_size == 16
    assert [cell.tuning[0].config.target for cell in cells[:5]] == [None, "half", (0.9, 0.1), (1.0, 1.0), None]


def test_what_is_left_out_has_defaults():
    sweep = sweep_of({"data": ["digits"]})
    assert (sweep.depths, sweep.targets, sweep.seeds) == ((2, 5), (None, "one", "half"), (0, 1, 2))
    (cell, *_) = expand(sweep, {"digits": (64, 10)})
    assert TrainConfig(cell.tuning[0].config.network) == cell.tuning[0].config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("depht: [2]", "grid: expected known keys, got 'depht'; did you mean 'depths'?"),
        ("train: {epoch: 3}", "train: expected known keys, got 'epoch'; did you mean 'epochs'?"),
        ("train: {seed: 3}", "train: expected known keys, got 'seed'"),
        ("train: {augment: {shift: 3}}", "config augment: expected known keys, got 'shift'; did you mean"),
        ("train: {augment: 3}", "train augment: expected keys with values, got int '3'"),
        ("train: {epochs: many}", "epochs: expected an integer, got str"),
        ("train: [1]", "train: expected keys with values, got list"),
        ("networks: [{neurn: LIF}]", "networks: expected known keys, got 'neurn'; did you mean 'neuron'?"),
        ("networks: [{num_units: 3}]", "networks: expected a neuron, got ['num_units']"),
        ("networks: [{neuron: LIF, dropout: a}]", "networks dropout: expected a number, got 'a'"),
        ("networks: [{neuron: LIF, num_units: a}]", "num_units: expected an integer, got str"),
        (
            "networks: [{neuron: LIF, layer: {taus: 3}}]",
            "layer: expected options of LIF, got 'taus'; did you mean 'tau'?",
        ),
        ("networks: [LIF, lif]", "networks: expected each value once, got LIF twice"),
        (
            "networks: [{neuron: LIF, label: ../x}]",
            "networks: expected a label of letters, digits and ._+-, got '../x'",
        ),
        ("networks: [XYZ]", "neuron: expected one of 'LIF'"),
        ("networks: LIF", "networks: expected a list, got str 'LIF'"),
        ("networks: [{neuron: GRU, targets: [fluctuation]}]", "expected a spiking network for 'fluctuation', got GRU"),
        ("data: [shdd]", "data: expected a folder or one of digits, shd"),
        ("data: [{name: shd, bin: 3}]", "data: expected known keys, got 'bin'; did you mean"),
        ("data: [{name: shd, folder: x}]", "data: expected a name or a folder, got"),
        ("data: [{name: sdh}]", "dataset: expected one of 'digits', 'shd'"),
        ("data: ['']", "data folder: expected a name, got an empty one"),
        ("data: [{name: shd, crop: 'no'}]", "data crop: expected true or false, got str 'no'"),
        ("data: [{name: shd, verify: 0}]", "data verify: expected true or false, got int '0'"),
        ("data: [{name: shd, validation: yes}]", "data validation: expected no truth value, got bool 'True'"),
        ("data: [3]", "data folder: expected a name, got int '3'"),
        ("data: [digits, digits]", "data: expected each value once, got digits twice"),
        ("data: []", "data: expected one value or more, got none; name at least one"),
        ("depths: []", "depths: expected one value or more, got none"),
        ("depths: [2, 2]", "depths: expected each value once, got 2 twice"),
        ("depths: [0]", "depths: expected an integer >= 1, got 0"),
        ("depths: [two]", "depths: expected an integer, got str"),
        ("depths: 2", "depths: expected a list, got int '2'; write it in [ ]"),
        ("depths: [true]", "depths: expected an integer, got bool"),
        ("targets: [halff]", "target: expected one of"),
        ("targets: [none, null]", "targets: expected each value once, got untreated twice"),
        ("targets: [1:1]", "targets: expected a target, got 61; write a pair as [1, 1] or '1:1', in quotes"),
        ("targets: [half, {a: b}]", "target: expected"),
        ("seeds: 0", "seeds: expected an integer >= 1, got 0"),
        ("seeds: [1, 1]", "seeds: expected each value once, got 1 twice"),
        ("seeds: [-1]", "seeds: expected an integer >= 0, got -1"),
        ("seeds: a", "seeds: expected an integer, got str"),
        ("learning_rates: [0]", "learning_rates: expected a finite number above 0, got 0"),
        ("learning_rates: [.inf]", "learning_rates: expected a finite number above 0, got inf"),
        ("learning_rates: [fast]", "learning_rates: expected a number, got str"),
        ("learning_rates: [1e-3, 0.001]", "learning_rates: expected each value once, got 0.001 twice"),
        ("train_by_depth: {3: {epochs: 2}}", "train_by_depth: expected depths of [2, 5], got 3"),
        ("train_by_depth: {a: {epochs: 2}}", "train_by_depth: expected an integer, got str"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    text = changes if changes.startswith("data") else f"data: [digits]\n{changes}"
    with pytest.raises((TypeError, ValueError), match=re.escape(message)) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: [digits", "expected YAML, got: while parsing a flow sequence"),
        (b"[" * 3000, "expected YAML, got: "),
        (b"data: [digits]\ndepths: [2]\ndata: [shd]", "expected each key once, got 'data' twice below line 1"),
        (b"train:\n  epochs: 1\n  epochs: 2", "expected each key once, got 'epochs' twice below line 2"),
        (b"a: &a [1, 2]\nb: [*a, *a]", "expected lists and mappings written out, got an alias of that in line 1"),
        (b"a: &a [*a]", "expected lists and mappings written out"),
        (b"", "expected keys such as data and depths, got nothing"),
        (b"- digits", "expected keys such as data and depths, got list"),
        (b"\xff\xfe\xfa", "expected a YAML file, got: bytes that are no UTF-8"),
        (b"a: \x00", "expected YAML, got: unacceptable character"),
        (b"a: !!python/object/apply:os.getcwd []", "expected YAML, got: could not determine a constructor"),
        (b"? [a, b]\n: 1", "expected YAML, got: while constructing a mapping"),
        (b"a: 2026-99-99", "expected YAML, got: month must be in 1..12"),
    ],
)
def test_files_that_are_no_grid(tmp_path, content, message):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {re.escape(message)}") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_protocol(tmp_path):
    with pytest.raises(ValueError, match=r"absent.yaml: expected a YAML file, got: No such file or directory"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match=r"expected a .yaml file or one of shd, ssc, got 'sdh'; did you mean shd\?"):
        grid_file("sdh")


@pytest.mark.parametrize("name", ["shd", "ssc"])
def test_published_protocols(name):
    assert name in protocols()
    sweep = sweep_of(read_yaml(grid_file(name)))
    assert (sweep.data[0].name, sweep.data[0].options["bin_ms"]) == (name, 4)
    assert (sweep.depths, sweep.targets, len(sweep.seeds)) == ((2, 5), (None, "one", "half"), 4)
    cells = expand(sweep, {name: (700, 20)})
    batches = {cell.tuning[0].config.network.num_layers: cell.tuning[0].config.batch_size for cell in cells}
    assert batches == {2: 100, 5: 32}
    alif = cells[0].tuning[0].config
    assert (alif.learning_rate, alif.network.dropout, alif.network.num_units) == (1e-3, 0.3, 256)
    assert sweep.num_runs == 4 * 2 * 3 * 4


def test_flow_and_block_style_are_the_same(tmp_path):
    block = tmp_path / "block.yaml"
    block.write_text(yaml.safe_dump(read_yaml(_written(tmp_path, FULL)), default_flow_style=False))
    assert sweep_of(read_yaml(block)) == sweep_of(read_yaml(_written(tmp_path, FULL)))


def _written(folder, text):
    path = folder / "grid.yaml"
    path.write_text(text)
    return path
