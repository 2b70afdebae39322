import sys

import pytest
import torch

from lsc_snn import EventBatch, Network, NetworkConfig
from lsc_snn.fixed_point import NumberFormat, XyloCore, quantise, run_xylosim, scales_of, simulate_core, to_xylo
from lsc_snn.fixed_point.xylo import FORMAT

T = torch.tensor
# Recorded from xylosim 0.1.3, xylosim.v2.XyloLayer with dash_syn 1.
CORE = XyloCore(
    weights_in=T([[92, 58, 79, 97], [12, -21, -5, -13], [-30, 91, -8, 18]]),
    weights_rec=T([[5, 29, 6, 49], [-45, -6, 20, -16], [-24, -31, 51, -14], [12, 38, -43, 54]]),
    weights_out=T([[4, 80], [60, 1], [-86, -77], [69, 32]]),
    shift=2,
    shift_out=1,
    threshold=T([173, 200, 212, 341]),
    bias=T([6, -3, 3, 6]),
    bias_out=T([-5, 0]),
    dash_mem=T([1, 4, 2, 4]),
    dash_mem_out=T([3, 1]),
)
EVENTS = [
    [1, 0, 2], [1, 0, 1], [1, 2, 1], [2, 0, 0], [0, 1, 2], [2, 1, 1], [0, 2, 2], [1, 2, 2], [2, 1, 1], [2, 0, 0],
    [0, 2, 2], [1, 1, 2],
]  # fmt: skip
SPIKES = [
    [0, 2, 0, 0], [0, 2, 1, 1], [0, 3, 2, 1], [0, 2, 3, 2], [0, 2, 3, 1], [0, 2, 4, 1], [0, 2, 3, 1], [0, 2, 4, 1],
    [0, 2, 5, 1], [0, 0, 6, 2], [0, 1, 5, 1], [0, 1, 5, 1],
]  # fmt: skip
POTENTIALS = [
    [-5, 0], [111, 2], [256, -41], [378, -160], [406, -315], [322, -471], [108, -666], [-63, -745], [-291, -852],
    [-615, -1017], [-1099, -1201], [-1545, -1298],
]  # fmt: skip


def test_a_core_gives_what_xylosim_gave():
    run = simulate_core(CORE, T(EVENTS).unsqueeze(1))
    assert run.spikes[:, 0].tolist() == SPIKES
    assert run.potentials[:, 0].tolist() == POTENTIALS


def test_a_unit_spikes_31_times_at_most():
    core = CORE._replace(threshold=torch.ones(4, dtype=torch.int64))
    assert int(simulate_core(core, T(EVENTS).unsqueeze(1)).spikes.max()) == 31


def network_of(seed=0, **layer):
    config = NetworkConfig(12, 4, 2, 20, neuron="LIF", layer={"bias": True, **layer})
    network = Network(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.layers:
            module.bias.normal_(0, 0.02, generator=generator)
    return network, (torch.rand(40, 3, 12, generator=generator) < 0.1).float()


def core_of(network, inputs, number_format=FORMAT):
    return to_xylo(quantise(network, number_format, scales_of(network, inputs, number_format)))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_xylosim_spikes_alike(seed, per_channel):
    pytest.importorskip("xylosim", reason="xylosim is not installed")
    network, inputs = network_of(seed)
    core = core_of(network, inputs, NumberFormat(8, 16, "xylo", per_channel=per_channel))
    ours, theirs = simulate_core(core, inputs), run_xylosim(core, inputs)
    assert int(ours.spikes.sum()) > 50
    assert torch.equal(ours.spikes, theirs.spikes)
    assert torch.equal(ours.potentials, theirs.potentials)


@pytest.mark.parametrize("seed", range(3))
def test_xylosim_saturates_alike(seed):
    pytest.importorskip("xylosim", reason="xylosim is not installed")
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    core = XyloCore(
        draw(-128, 127, 6, 8), draw(-128, 127, 8, 8), draw(-128, 127, 8, 3), 4, 5, draw(300, 4000, 8),
        draw(-300, 300, 8), draw(-300, 300, 3), draw(0, 5, 8), draw(0, 5, 3),
    )  # fmt: skip
    events = draw(0, 8, 30, 2, 6)
    ours, theirs = simulate_core(core, events), run_xylosim(core, events)
    assert int(ours.potentials.max()) > 20000
    assert torch.equal(ours.spikes, theirs.spikes)
    assert torch.equal(ours.potentials, theirs.potentials)


def test_a_current_saturates_source_after_source():
    core = CORE._replace(weights_in=torch.full((3, 4), 127), shift=7, bias=torch.zeros(4, dtype=torch.int64))
    core.weights_in[2] = -128
    # 15 * 127 * 2^7 is clipped to 32767, from which 15 * 128 * 2^7 goes to -32768; half of it decays at once.
    run = simulate_core(core._replace(dash_mem=torch.full((4,), 15)), T([[[15, 0, 15]], [[0, 15, 15]], [[0, 0, 0]]]))
    assert not run.spikes.any()
    core.weights_in[2] = 0
    run = simulate_core(core._replace(threshold=torch.full((4,), 16384)), T([[[15, 15, 0]]]))
    assert run.spikes.flatten().tolist() == [1, 1, 1, 1]


def test_layers_are_blocks_of_one_population():
    network, inputs = network_of()
    core = core_of(network, inputs)
    integers = quantise(network, FORMAT, scales_of(network, inputs, FORMAT))
    first, second, readout = integers.layers
    assert torch.equal(core.weights_in[:, :20], first.weight.T)
    assert not core.weights_in[:, 20:].any()
    assert torch.equal(core.weights_rec[:20, :20], first.recurrent.T)
    assert torch.equal(core.weights_rec[:20, 20:], second.weight.T)
    assert torch.equal(core.weights_rec[20:, 20:], second.recurrent.T)
    assert not core.weights_rec[20:, :20].any()
    assert torch.equal(core.weights_out[20:], readout.weight.T)
    assert not core.weights_out[:20].any()
    # Thresholds are the same multiple of a weight as in the layers.
    for layer, part in ((first, core.threshold[:20]), (second, core.threshold[20:])):
        wanted = layer.threshold * 2.0**core.shift / 2.0**layer.scale.shift
        assert bool(((part - wanted).abs() <= 0.5).all())


def test_events_are_taken_too():
    network, inputs = network_of()
    core = core_of(network, inputs)
    dense, events = simulate_core(core, inputs), simulate_core(core, EventBatch.from_dense(inputs))
    assert torch.equal(dense.spikes, events.spikes)


def test_what_a_core_has_no_rule_for():
    network, inputs = network_of()
    with pytest.raises(ValueError, match=r"format: expected 8 bits for weights.* got 8, 16 and 'shift'"):
        core_of(network, inputs, NumberFormat())
    with pytest.raises(ValueError, match=r"layers\.0: expected a soft reset"):
        core_of(network_of(reset="hard")[0], inputs)


def test_xylosim_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "xylosim.v2", None)
    with pytest.raises(ImportError, match="pip install xylosim"):
        run_xylosim(CORE, T(EVENTS).unsqueeze(1))
