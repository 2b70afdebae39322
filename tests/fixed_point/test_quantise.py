import pytest
import torch

from lsc_snn import Network, NetworkConfig
from lsc_snn.fixed_point import NumberFormat, dequantised, quantise, scales_of, simulate

INPUTS = (torch.rand(30, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()


def make(neuron="LIF", **layer):
    network = Network(NetworkConfig(6, 3, 2, 5, neuron=neuron, layer={"bias": True, **layer}), seed=1)
    return network.double()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_weights_are_within_half_a_unit(per_channel, power_of_two):
    network = make()
    number_format = NumberFormat(5, 24, per_channel=per_channel, power_of_two=power_of_two)
    scales = scales_of(network, INPUTS, number_format)
    for module, layer in zip(network.layers, quantise(network, number_format, scales).layers, strict=False):
        unit = layer.scale.weight.unsqueeze(1)
        for values, integers in ((module.weight, layer.weight), (module.recurrent_raw, layer.recurrent)):
            assert int(integers.abs().max()) <= 15
            assert bool(((values - integers * unit).abs() <= unit / 2 + 1e-12).all())
        assert len(unit.unique()) == (5 if per_channel and not power_of_two else len(unit.unique()))
        assert per_channel or len(unit.unique()) == 1
        largest = torch.maximum(layer.weight.abs().amax(1), layer.recurrent.abs().amax(1))
        if power_of_two:
            assert torch.equal(torch.log2(unit), torch.log2(unit).round())
        else:  # no bit is wasted
            assert int(largest.max() if not per_channel else largest.min()) == 15
        assert torch.equal(layer.scale.weight, layer.scale.potential * 2**layer.scale.shift)


def test_the_largest_potential_fits_twice():
    network = make()
    number_format = NumberFormat(8, 12)
    scale = scales_of(network, INPUTS, number_format)[0]
    peak = network.layers[0].run(INPUTS)[2].v.abs().max()
    assert float(2 * peak / scale.potential[0]) <= number_format.potential_max
    assert float(4 * peak / scale.potential[0]) > number_format.potential_max


def test_few_bits_of_a_potential_coarsen_the_weights():
    network = make()
    number_format = NumberFormat(16, 8)
    layer = quantise(network, number_format, scales_of(network, INPUTS, number_format)).layers[0]
    assert layer.scale.shift == 0
    assert int(layer.weight.abs().max()) < 2**7


@pytest.mark.parametrize("neuron", ["LIF", "ALIF", "LSNN"])
@pytest.mark.parametrize("rule", ["shift", "multiply"])
def test_integers_become_parameters_and_the_same_integers_again(neuron, rule):
    network = make(neuron)
    number_format = NumberFormat(8, 20, decay=rule)
    scales = scales_of(network, INPUTS, number_format)
    before = quantise(network, number_format, scales)
    twin = dequantised(network, before)
    assert twin.state_dict().keys() == network.state_dict().keys()
    for first, second in zip(before.layers, quantise(twin, number_format, scales).layers, strict=True):
        for name in ("weight", "recurrent", "bias", "decay", "threshold", "adaptation_decay", "jump"):
            a, b = getattr(first, name), getattr(second, name)
            assert (a is None) == (b is None)
            if a is not None:
                tolerance = 1 if name == "jump" else 0  # the floor under |beta|
                assert int((a - b).abs().max()) <= tolerance, name
    assert not torch.equal(twin.layers[0].weight, network.layers[0].weight)


def test_a_silent_network_has_units_too():
    network = make(threshold=1e6)
    with torch.no_grad():
        network.readout.weight[:] = 0
    scales = scales_of(network, INPUTS, NumberFormat())
    assert [bool(torch.isfinite(scale.weight).all()) for scale in scales] == [True] * 3
    integers = quantise(network, NumberFormat(), scales)
    assert not simulate(integers, INPUTS).potentials.any()
    assert max(scale.shift for scale in scales) < 16


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="network: expected layers of LIF, ALIF or LSNN, got GRU"):
        scales_of(Network(NetworkConfig(6, 3, neuron="GRU")), INPUTS.float(), NumberFormat())
    with pytest.raises(TypeError, match=r"network: expected an lsc_snn.Network, got Linear"):
        scales_of(torch.nn.Linear(2, 2), INPUTS, NumberFormat())
    network = make()
    scales = scales_of(network, INPUTS, NumberFormat())[:1]
    with pytest.raises(ValueError, match="scales: expected one for each of 2 layers and the readout, got 1"):
        quantise(network, NumberFormat(), scales)


def test_parameters_that_are_not_finite_are_named():
    network = make()
    with torch.no_grad():
        network.layers[1].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"parameter layers\.1\.weight: expected finite values"):
        scales_of(network, INPUTS, NumberFormat())
