import pytest
import torch

from lsc_snn import Network, NetworkConfig
from lsc_snn.fixed_point import PLATFORMS, NumberFormat, check_limits, exceeded_limits, quantise, scales_of
from lsc_snn.fixed_point.xylo import FORMAT


def integers(number_format=FORMAT, num_inputs=4, num_classes=3, num_layers=1, num_units=5, neuron="LIF", **layer):
    network = Network(NetworkConfig(num_inputs, num_classes, num_layers, num_units, neuron=neuron, layer=layer))
    return quantise(network, number_format, scales_of(network, torch.ones(4, 1, num_inputs), number_format))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_small_network_fits(platform):
    assert exceeded_limits(integers(num_layers=2), platform) == ()
    check_limits(integers(), platform)


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"num_inputs": 17}, ["input channels: expected at most 16, got 17"]),
        ({"num_classes": 9}, ["output neurons: expected at most 8, got 9"]),
        (
            {"num_units": 501, "num_layers": 2, "recurrent": False},
            [
                "hidden neurons: expected at most 1000, got 1002",
                "connections from one hidden neuron: expected at most 64, got ",
                "connections between hidden neurons: expected at most 32000, got ",
            ],
        ),
        ({"number_format": NumberFormat(10, 16, "xylo")}, ["bits of a weight: expected at most 8, got 10"]),
        ({"number_format": NumberFormat(8, 20, "xylo")}, ["bits of a potential: expected at most 16, got 20"]),
        ({"number_format": NumberFormat(8, 16, "multiply")}, ["decay: expected at most a shift of 15"]),
        ({"reset": "hard"}, ["reset of layers.0: expected at most a subtraction, got hard"]),
        ({"refractory": 2}, ["refractory steps of layers.0: expected at most 0, got 2"]),
        ({"neuron": "ALIF"}, ["adaptation of layers.0: expected at most none, got a moving threshold"]),
    ],
)
def test_each_limit_is_named_with_both_numbers(options, limits):
    found = [str(limit) for limit in exceeded_limits(integers(**options), "xylo-audio-2")]
    assert len(found) == len(limits)
    assert all(got.startswith(expected) for got, expected in zip(found, limits, strict=True))


def test_fan_out_counts_connections_that_are_not_zero():
    network = integers(num_units=70)
    recurrent = network.layers[0].recurrent
    most = max(int((recurrent[:, unit] != 0).sum()) for unit in range(70))
    assert f"connections from one hidden neuron: expected at most 64, got {most}" in map(
        str, exceeded_limits(network, "xylo-audio-2")
    )
    recurrent[:] = 0
    assert exceeded_limits(network, "xylo-audio-2") == ()


def test_all_of_them_are_in_the_error():
    network = integers(num_inputs=20, num_classes=10)
    with pytest.raises(ValueError, match=r"^xylo-audio-2: input channels: .* 16, got 20; output .* 8, got 10; events "):
        check_limits(network, "xylo-audio-2", input_events=16)
    with pytest.raises(ValueError, match=r"platform: expected one of .*; did you mean 'xylo-imu'"):
        exceeded_limits(network, "xylo-imo")
