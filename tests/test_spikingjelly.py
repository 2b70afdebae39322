"""Adapters of SpikingJelly, on networks as its users write them, in single-step and in multi-step mode."""

import pytest
import torch
from torch import nn

from cases import normal
from contract import NUM_INPUTS, AdapterContract
from lsc_snn import gradient_profile, measure, stabilize
from lsc_snn.adapters import find_adapters
from lsc_snn.trace import trace

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
functional = pytest.importorskip("spikingjelly.activation_based.functional")
layer = pytest.importorskip("spikingjelly.activation_based.layer")
surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")


class Net(nn.Module):
    """Layers in a row, reset before every sequence: called once over time in multi-step mode, else in a loop."""

    def __init__(self, parts, mode):
        super().__init__()
        self.net = nn.Sequential(*parts)
        self.mode = mode
        functional.set_step_mode(self.net, mode)

    def forward(self, x):
        functional.reset_net(self)
        return self.net(x) if self.mode == "m" else torch.stack([self.net(row) for row in x])


class JellyContract(AdapterContract):
    mode = "s"
    reachable = ()
    stable_width, stable_steps, stable_batch = 8, 4, 2
    stable_options = {"max_sweeps": 1}  # noqa: RUF012

    def neuron(self, width):
        raise NotImplementedError

    def model(self, layers, width):
        rows = [[layer.Linear(width if i else NUM_INPUTS, width), self.neuron(width)] for i in range(layers)]
        return Net([*(part for row in rows for part in row), layer.Linear(width, 3)], self.mode)

    def fired(self, module, h):
        """Return spikes, and the potential after a soft reset by the threshold of 1."""
        spikes = module.surrogate_function(h - 1.0)
        return spikes, h - spikes


class TestParametricLIFNode(JellyContract):
    kind, reachable = neuron.ParametricLIFNode, ("half",)  # its surrogate is too flat for a depth radius of 1
    stable_width, stable_steps, stable_batch = 32, 12, 8
    stable_options = {"max_sweeps": 10}  # noqa: RUF012

    def neuron(self, width):
        return self.kind(v_reset=None, surrogate_function=surrogate.Sigmoid(2.0))

    def one_step(self, module, arrived, memory):
        (v,) = memory
        spikes, v = self.fired(module, v + (arrived - v) * module.w.sigmoid())
        return spikes, (v,)


class TestLIFNode(JellyContract):
    kind, mode = neuron.LIFNode, "m"

    def neuron(self, width):
        return self.kind(tau=2.5, v_reset=-0.2, decay_input=False, store_v_seq=True)

    def one_step(self, module, arrived, memory):
        (v,) = memory
        h = v - (v + 0.2) / 2.5 + arrived
        spikes, _ = self.fired(module, h)
        return spikes, ((1 - spikes) * h - 0.2 * spikes,)


class TestIFNode(JellyContract):
    kind, mode = neuron.IFNode, "m"

    def neuron(self, width):
        return self.kind(v_reset=None, detach_reset=True, surrogate_function=surrogate.ATan())

    def one_step(self, module, arrived, memory):
        (v,) = memory
        spikes, _ = self.fired(module, v + arrived)
        return spikes, (v + arrived - spikes.detach(),)


class TestLinearRecurrentContainer(JellyContract):
    kind, mode, reachable = layer.LinearRecurrentContainer, "m", ("half",)
    stable_width, stable_steps, stable_batch = 32, 12, 8
    stable_options = {"max_sweeps": 10}  # noqa: RUF012

    def neuron(self, width):
        node = neuron.ParametricLIFNode(v_reset=None, decay_input=False)
        return self.kind(nn.Sequential(layer.Dropout(0.5), node), width, width)

    def one_step(self, module, arrived, memory):
        y, v = memory
        node = module.sub_module[1]
        h = v * (1 - node.w.sigmoid()) + module.rc(torch.cat([arrived, y], -1))
        spikes, v = self.fired(node, h)
        return spikes, (spikes, v)


class TestElementWiseRecurrentContainer(JellyContract):
    kind = layer.ElementWiseRecurrentContainer

    def neuron(self, width):
        return self.kind(nn.Sequential(nn.Linear(width, width), neuron.LIFNode(tau=2.5, v_reset=None)), torch.sub)

    def one_step(self, module, arrived, memory):
        y, v = memory
        linear, node = module.sub_module
        spikes, v = self.fired(node, v + (linear(y - arrived) - v) / 2.5)
        return spikes, (spikes, v)


def inputs(steps=7, batch=3, dtype=torch.float64):
    return normal(steps, batch, NUM_INPUTS, seed=1, dtype=dtype)


def network(*nodes, mode="m", width=6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = [[layer.Linear(width if i else NUM_INPUTS, width), node] for i, node in enumerate(nodes)]
    return Net([part for row in rows for part in row], mode).double()


def knobs_of(module):
    return next(find_adapters(nn.Sequential(module)))[2].knobs(module)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize(
    ("make", "radius"),
    [
        (lambda: neuron.LIFNode(tau=2.5, v_reset=None, detach_reset=True), 1 - 1 / 2.5),
        (lambda: neuron.ParametricLIFNode(init_tau=4.0, v_reset=None, detach_reset=True), 1 - 1 / 4),
        (lambda: neuron.IFNode(v_reset=None, detach_reset=True), 1.0),
    ],
)
def test_with_a_detached_reset_the_time_radius_is_the_leak(make, radius, mode):
    report = measure(network(make(), mode=mode), 3 * inputs(), method="exact")
    assert report.time.tolist() == pytest.approx([radius])
    assert 0 < float(report.rates[0]) < 1


def test_both_step_modes_have_the_same_radii():
    def report(mode):
        return measure(network(neuron.LIFNode(), neuron.ParametricLIFNode(v_reset=None), mode=mode), inputs())

    assert [entry[2] for entry in report("s").entries()] == pytest.approx([entry[2] for entry in report("m").entries()])


@pytest.mark.parametrize("mode", ["s", "m"])
def test_what_a_module_holds_is_where_a_measurement_starts_and_is_left_alone(mode):
    container = layer.LinearRecurrentContainer(neuron.LIFNode(v_reset=None), 6, 6)
    model = nn.Sequential(layer.Linear(NUM_INPUTS, 6), container, layer.Linear(6, 6), neuron.IFNode()).double()
    functional.set_step_mode(model, mode)

    def forward(model, x):
        return model(x) if mode == "m" else torch.stack([model(row) for row in x])

    x = inputs()
    forward(model, x)
    held = [container.y, container.sub_module.v, model[3].v]
    grid = trace(model, x, num_times=7, call=forward)
    gradient_profile(model, x, call=forward)
    for recorded, tensor in zip([*grid.layers[0].memory, *grid.layers[1].memory], held, strict=True):
        torch.testing.assert_close(recorded[:3], tensor.detach())
    assert all(now is then for now, then in zip([container.y, container.sub_module.v, model[3].v], held, strict=True))
    # A node that holds the state of another batch starts anew, as its forward does.
    node = network(neuron.LIFNode(v_reset=-0.5), mode=mode)
    node.net(x if mode == "m" else x[0])
    grid = trace(node.net, x[:, :2], num_times=7, call=forward)
    assert torch.equal(grid.layers[0].memory[0][:2], torch.full((2, 6), -0.5, dtype=torch.float64))
    assert node.net[1].v.shape == (3, 6)


def test_a_state_detached_between_steps_is_refused():
    class Truncated(Net):
        def forward(self, x):
            functional.reset_net(self)
            rows = []
            for row in x:
                rows.append(self.net(row))
                functional.detach_net(self)
            return torch.stack(rows)

    model = Truncated([layer.Linear(NUM_INPUTS, 4), neuron.LIFNode()], "s")
    with pytest.raises(ValueError, match=r"'net.1': expected a gradient from step to step, got none: its state is det"):
        measure(model, inputs(dtype=torch.float32))


def test_the_time_knob_multiplies_the_decay_behind_w():
    node = neuron.ParametricLIFNode(init_tau=4.0)
    knob = knobs_of(node).time
    knob.turn(0.5)
    assert 1 - node.w.detach().sigmoid() == pytest.approx(0.375)
    for factor, decay in ((1e9, 0.995), (1e-9, 0.001)):
        knob.turn(factor)
        assert 1 - node.w.detach().sigmoid() == pytest.approx(decay, rel=1e-3)
    node.w.requires_grad_(False)
    knob.turn(2.0)
    assert 1 - node.w.detach().sigmoid() == pytest.approx(0.001, rel=1e-3)
    slow = neuron.ParametricLIFNode(init_tau=1e4)
    knobs_of(slow).time.turn(1.0)
    assert 1 / slow.w.detach().sigmoid() == pytest.approx(1e4, rel=0.01)


def test_the_knobs_of_a_container_are_the_two_halves_of_its_weight():
    container = layer.LinearRecurrentContainer(neuron.ParametricLIFNode(init_tau=4.0), 3, 3)
    weight, bias = container.rc.weight.detach().clone(), container.rc.bias.detach().clone()
    knobs = knobs_of(container)
    knobs.depth.turn(2.0)
    knobs.time.turn(0.5)
    torch.testing.assert_close(container.rc.weight.detach(), weight * torch.tensor([2, 2, 2, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(container.rc.bias.detach(), 2 * bias)
    assert 1 - container.sub_module.w.detach().sigmoid() == pytest.approx(0.375)
    container.rc.weight.requires_grad_(False)
    knobs.depth.turn(2.0)
    torch.testing.assert_close(container.rc.weight[:, :3], 2 * weight[:, :3])
    linear, node = nn.Linear(3, 3), neuron.ParametricLIFNode(init_tau=4.0)
    weight = linear.weight.detach().clone()
    knobs = knobs_of(layer.ElementWiseRecurrentContainer(nn.Sequential(linear, node), torch.add))
    assert knobs.depth is None
    knobs.time.turn(0.5)
    torch.testing.assert_close(linear.weight.detach(), 0.5 * weight)
    assert 1 - node.w.detach().sigmoid() == pytest.approx(0.375)


def test_a_fixed_leak_says_that_nothing_moves_it():
    model = network(neuron.LIFNode(tau=10.0)).float()
    result = stabilize(model, inputs(dtype=torch.float32), max_sweeps=2)
    assert not result.converged
    assert any("net.1: time" in line and "no parameter of the layer moves it" in line for line in result.reasons)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_convolutional_net_is_measured(mode):
    parts = [layer.Conv2d(1, 2, 3), neuron.LIFNode(), layer.MaxPool2d(2), layer.Flatten(), layer.Linear(8, 4)]
    model = Net([*parts, neuron.LIFNode()], mode).double()
    report = measure(model, normal(6, 3, 1, 6, 6))
    assert report.names == ("net.1", "net.5")
    assert report.time.shape == (2,)
    assert bool((report.depth > 0).all())
