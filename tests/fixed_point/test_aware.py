import pytest
import torch

from lsc_snn import Network, NetworkConfig
from lsc_snn.fixed_point import NumberFormat, dequantised, quantise, rounded, scales_of

INPUTS = (torch.rand(30, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
FORMAT = NumberFormat(weight_bits=4)


def make(neuron="ALIF", **options):
    return Network(NetworkConfig(6, 3, 2, 5, neuron=neuron, layer={"threshold": 0.5}, **options), seed=1)


def test_inside_it_computes_what_the_integers_stand_for():
    network = make()
    scales = scales_of(network, INPUTS, FORMAT)
    twin = dequantised(network, quantise(network, FORMAT, scales))
    with rounded(network, FORMAT, scales):
        for ours, theirs in zip([*network.layers, network.readout], [*twin.layers, twin.readout], strict=True):
            for name in ("weight", "recurrent_weight", "alpha", "rho"):
                if getattr(ours, name, None) is not None:
                    assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6), name
        inside = network(INPUTS)
    assert not torch.allclose(inside, network(INPUTS))


def test_parameters_and_their_names_are_as_before():
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    identity = {name: parameter for name, parameter in network.named_parameters()}
    with rounded(network, FORMAT, scales_of(network, INPUTS, FORMAT)):
        pass
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter is identity[name] for name, parameter in network.named_parameters())
    assert type(network.layers[0]).__name__ == "ALIF"


def test_an_error_inside_leaves_them_too():
    network = make()
    names = list(network.state_dict())
    with pytest.raises(KeyError), rounded(network, FORMAT, scales_of(network, INPUTS, FORMAT)):
        raise KeyError
    assert list(network.state_dict()) == names


def test_gradients_pass_straight_through():
    network, inputs = make().double(), INPUTS.double()
    scales = scales_of(network, inputs, FORMAT)
    twin = dequantised(network, quantise(network, FORMAT, scales))
    with torch.no_grad():  # these are not rounded in training
        for ours, theirs in zip(network.layers, twin.layers, strict=True):
            theirs.threshold_raw.copy_(ours.threshold_raw)
            theirs.beta_raw.copy_(ours.beta_raw)
    with rounded(network, FORMAT, scales):
        network(inputs).square().mean().backward()
    twin(inputs).square().mean().backward()
    for ours, theirs in zip(network.layers, twin.layers, strict=True):
        assert float(ours.weight.grad.abs().max()) > 0
        for name in ("weight", "recurrent_raw", "alpha_raw", "rho_raw"):
            assert torch.allclose(getattr(ours, name).grad, getattr(theirs, name).grad, rtol=1e-6), name


def test_weights_beyond_the_range_get_no_gradient():
    network = make("LIF")
    scales = scales_of(network, INPUTS, FORMAT)
    with torch.no_grad():
        network.layers[0].weight[0, 0] = 100.0
    with rounded(network, FORMAT, scales):
        assert float(network.layers[0].weight.detach().max()) == pytest.approx(7 * float(scales[0].weight[0]))
        network.layers[0].weight.sum().backward()
    gradient = network.layers[0].weight.grad
    assert float(gradient[0, 0]) == 0
    assert int(gradient.sum()) == 5 * 6 - 1


def test_a_linear_readout_is_rounded_too():
    network = make("LIF", readout_tau=None)
    with rounded(network, FORMAT, scales_of(network, INPUTS, FORMAT)):
        assert len(network.readout.weight.detach().unique()) <= 15


def test_scales_of_another_network_are_refused():
    network = make()
    scales = scales_of(network, INPUTS, FORMAT)
    message = "scales: expected one for each of 2 layers and the readout, got 2"
    with pytest.raises(ValueError, match=message), rounded(network, FORMAT, scales[:2]):
        pass
