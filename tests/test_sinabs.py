"""Adapters of sinabs, on networks as its users write them: modules over time, batch first, states kept inside."""

import math

import pytest
import torch
from torch import nn

from cases import normal
from contract import NUM_INPUTS, AdapterContract
from lsc_snn import gradient_profile, measure, stabilize
from lsc_snn.adapters import find_adapters
from lsc_snn.trace import trace

layers = pytest.importorskip("sinabs.layers")
activation = pytest.importorskip("sinabs.activation")

ALPHA, SYN, ADAPT, SCALE = math.exp(-1 / 4), math.exp(-1 / 3), math.exp(-1 / 6), 1.8
SURROGATE = activation.SingleExponential(grad_width=0.5, grad_scale=0.5)


def common():
    """Return options of a neuron, with a threshold of its own: loading a state_dict moves the default one of all."""
    return {"spike_fn": activation.SingleSpike, "surrogate_grad_fn": SURROGATE, "spike_threshold": torch.tensor(1.0)}


class Dense(nn.Linear):
    """A linear layer that takes spikes in its own dtype: those of sinabs are float32 whatever the model is."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class Net(nn.Module):
    """A model on (T, B, ...) whose layers work on (B, T, ...), and are reset before every sequence."""

    def __init__(self, neurons, width, outputs=3):
        super().__init__()
        parts = [
            part for i, neuron in enumerate(neurons) for part in (Dense(width if i else NUM_INPUTS, width), neuron)
        ]
        self.net = nn.Sequential(*parts, Dense(width, outputs), layers.ExpLeak(3.0))

    def forward(self, x):
        for module in self.net:
            if isinstance(module, layers.StatefulLayer):
                module.reset_states()
        return self.net(x.transpose(0, 1)).transpose(0, 1)


class SinabsContract(AdapterContract):
    """The contract for a neuron of sinabs. Few sweeps on few units unless targets can be reached."""

    over_time = True
    reachable = ()
    stable_width, stable_steps, stable_batch = 8, 4, 2
    stable_options = {"max_sweeps": 1}  # noqa: RUF012

    def neuron(self, width):
        raise NotImplementedError

    def model(self, layers, width):
        return Net([self.neuron(width) for _ in range(layers)], width)

    def cells(self, model):
        return [module for module in super().cells(model) if not isinstance(module, layers.ExpLeak)]

    def leaving(self, returned):
        return returned.double().transpose(0, 1)

    def with_leaving(self, returned, output):
        return output.transpose(0, 1)


def fired(module, v, threshold):
    """Return spikes and the potential after a soft reset."""
    spikes = activation.SingleSpike.apply(v, threshold, SURROGATE).to(v.dtype)
    return spikes, v - spikes * threshold


class TestLIF(SinabsContract):
    kind, reachable = layers.LIF, ("half",)  # its surrogate is too flat for a depth radius of 1
    stable_width, stable_steps, stable_batch = 32, 20, 8
    stable_options = {"max_sweeps": 10}  # noqa: RUF012

    def neuron(self, width):
        neuron = self.kind(4.0, **common())
        neuron.spike_threshold.requires_grad_(True)
        return neuron

    def one_step(self, module, arrived, memory):
        (v,) = memory
        spikes, v = fired(module, ALPHA * v + (1 - ALPHA) * arrived, module.spike_threshold)
        return spikes, (v,)


class TestLIFWithSynapse(SinabsContract):
    kind = layers.LIF

    def neuron(self, width):
        return self.kind(4.0, tau_syn=3.0, train_alphas=True, norm_input=False, min_v_mem=-0.5, **common())

    def one_step(self, module, arrived, memory):
        v, i = memory
        i = SYN * (i + arrived)
        spikes, v = fired(module, ALPHA * v + i, module.spike_threshold)
        return spikes, (torch.relu(v + 0.5) - 0.5, i)


class TestLIFRecurrent(SinabsContract):
    kind = layers.LIFRecurrent

    def neuron(self, width):
        return self.kind(4.0, Dense(width, width), **common())

    def one_step(self, module, arrived, memory):
        v, recurrent = memory
        spikes, v = fired(module, ALPHA * v + (1 - ALPHA) * (arrived + recurrent), module.spike_threshold)
        return spikes, (v, module.rec_connect(spikes))


class TestALIF(SinabsContract):
    kind = layers.ALIF

    def neuron(self, width):
        return self.kind(4.0, 6.0, tau_syn=3.0, adapt_scale=SCALE, **common())

    def one_step(self, module, arrived, memory):
        v, i, b, _ = memory
        i = (1 - ALPHA) * SYN * (i + arrived)
        spikes, v = fired(module, ALPHA * v + i, 1 + SCALE * b)
        b = ADAPT * b + (1 - ADAPT) * spikes
        return spikes, (v, i, b, 1 + SCALE * b)


class TestALIFRecurrent(SinabsContract):
    kind = layers.ALIFRecurrent

    def neuron(self, width):
        return self.kind(4.0, 6.0, Dense(width, width, bias=False), **common())

    def one_step(self, module, arrived, memory):
        v, b, _, recurrent = memory
        spikes, v = fired(module, ALPHA * v + (1 - ALPHA) * (arrived + recurrent), 1 + SCALE * b)
        b = ADAPT * b + (1 - ADAPT) * spikes
        return spikes, (v, b, 1 + SCALE * b, module.rec_connect(spikes))


def spiking_model(*neurons, width=6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(neurons, width).double()


def double_input(steps=7, batch=3):
    return normal(steps, batch, NUM_INPUTS, seed=1)


@pytest.mark.parametrize(
    ("neuron", "radius"),
    [
        (layers.LIF(4.0, reset_fn=activation.MembraneReset()), ALPHA),
        (layers.LIF(4.0, tau_syn=3.0, reset_fn=activation.MembraneReset(), train_alphas=True), ALPHA),
        (layers.LIF(torch.tensor([2.0, 4.0, 3.0, 1.0]), reset_fn=activation.MembraneReset()), ALPHA),
        (layers.LIF(3.0, tau_syn=4.0, reset_fn=activation.MembraneReset()), ALPHA),
        (layers.IAF(reset_fn=activation.MembraneReset(), spike_threshold=torch.tensor(9.0)), 1.0),
        (layers.ALIF(3.0, 4.0, reset_fn=activation.MembraneReset()), ALPHA),
    ],
)
def test_without_spikes_the_time_radius_is_the_slowest_decay(neuron, radius):
    model = spiking_model(neuron, width=4)
    report = measure(model, 1e-3 * double_input(), method="exact")
    assert report.time.tolist() == pytest.approx([radius], rel=1e-6)
    assert report.rates.tolist() == [0.0]


def test_a_recurrent_layer_at_rest_is_leak_and_surrogate_times_weight():
    recurrent = Dense(6, 6, bias=False)
    model = spiking_model(layers.LIFRecurrent(4.0, recurrent, norm_input=False, **common()))
    with torch.no_grad():
        model.net[0].bias.zero_()
    found = trace(model, 1e-9 * double_input()).layers[0].time().to_dense()[0]
    # There the surrogate has one value f in all units: v' = (1 - f) (alpha v + r) and r' = f W (alpha v + r).
    f, one, weight = math.exp(-2), torch.eye(6, dtype=torch.float64), recurrent.weight.detach()
    rows = [torch.cat([ALPHA * matrix, matrix], 1) for matrix in ((1 - f) * one, f * weight)]
    torch.testing.assert_close(found, torch.cat(rows), rtol=1e-6, atol=1e-8)


def test_input_may_be_batch_first():
    model = spiking_model(layers.LIF(4.0), layers.ALIF(4.0, 6.0))

    class BatchFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model.net

        def forward(self, x):
            for module in self.inner:
                getattr(module, "reset_states", tuple)()
            return self.inner(x)

    x = double_input()
    expected, found = measure(model, x), measure(BatchFirst(), x.transpose(0, 1))
    for one, other in zip(found.entries(), expected.entries(), strict=True):
        assert one[::2] == pytest.approx((other[0], other[2]))


@pytest.mark.parametrize("given", [{"batch_size": 3}, {"num_timesteps": 7}])
def test_squeezed_layers_are_those_over_time(given):
    class Squeezed(nn.Module):
        """Convolutions on (B * T, ...), as sinabs' converted networks have them."""

        def __init__(self, kind, **options):
            super().__init__()
            convolution, linear = nn.Conv2d(1, 2, 3), nn.Linear(4, 3)
            self.parts = nn.ModuleList([convolution, kind(tau_mem=4.0, **common(), **options), linear])
            self.squeezed = bool(options)

        def forward(self, x):
            batch = len(x)
            y = self.parts[0](x.flatten(0, 1))
            y = self.parts[1](y) if self.squeezed else self.parts[1](y.unflatten(0, (batch, -1))).flatten(0, 1)
            return self.parts[2](y.float().flatten(1)).unflatten(0, (batch, -1))

    x = normal(3, 7, 1, 4, 3, dtype=torch.float32)
    plain, squeezed = Squeezed(layers.LIF), Squeezed(layers.LIFSqueeze, **given)
    squeezed.load_state_dict(plain.state_dict())
    expected, found = trace(plain, x).layers[0], trace(squeezed, x).layers[0]
    torch.testing.assert_close(found.time().to_dense(), expected.time().to_dense())
    torch.testing.assert_close(found.depth().to_dense(), expected.depth().to_dense())
    assert (squeezed.parts[1].batch_size, squeezed.parts[1].num_timesteps) == (
        given.get("batch_size", -1),
        given.get("num_timesteps", -1),
    )


def radii_of(report):
    return [radius for _, _, radius in report.entries()]


@pytest.mark.parametrize("batch", [3, 7])
@pytest.mark.parametrize("given", ["batch_size", "num_timesteps"])
def test_a_net_on_batch_times_steps_is_measured_as_it_is(batch, given):
    """Nets of squeezed layers, as sinabs converts them from convolutions, know (B * T, ...) alone."""
    option = {given: batch if given == "batch_size" else 7}
    squeezed = [layers.LIFSqueeze(tau_mem=4.0, **option, **common()) for _ in range(2)]
    neurons = [layers.LIF(4.0, **common()) for _ in range(2)]
    flat, plain = (
        nn.Sequential(nn.Linear(NUM_INPUTS, 6), one, nn.Linear(6, 6), other, nn.Linear(6, 3))
        for one, other in (squeezed, neurons)
    )
    flat.load_state_dict(plain.state_dict())
    x = normal(batch, 7, NUM_INPUTS, dtype=torch.float32)
    expected, found = measure(plain, x), measure(flat, x.flatten(0, 1))
    assert radii_of(found) == pytest.approx(radii_of(expected))
    torch.testing.assert_close(found.rates, expected.rates)
    torch.testing.assert_close(gradient_profile(flat, x.flatten(0, 1)), gradient_profile(plain, x))


def test_layers_in_a_loop_over_steps_are_cells():
    model, x = nn.Sequential(nn.Linear(NUM_INPUTS, 6), layers.ALIF(4.0, 6.0, tau_syn=3.0, **common())), double_input()

    def by_steps(model, x):
        model[1].reset_states()
        return torch.cat([model(x[:, step : step + 1]) for step in range(x.shape[1])], 1)

    x = x.transpose(0, 1).float()
    assert radii_of(measure(model, x, call=by_steps)) == pytest.approx(radii_of(measure(model, x)))
    torch.testing.assert_close(gradient_profile(model, x, call=by_steps), gradient_profile(model, x))


def test_kept_states_are_where_a_measurement_starts_and_are_left_alone():
    model = nn.Sequential(
        nn.Linear(NUM_INPUTS, 4), layers.LIF(4.0), nn.Linear(4, 4), layers.ALIF(4.0, 6.0, tau_syn=3.0)
    )
    x = normal(3, 7, NUM_INPUTS, dtype=torch.float32)
    model(x)
    kept = [dict(module.named_buffers()) for module in model]
    grid = trace(model, x, num_times=7)
    gradient_profile(model, x)
    assert int(grid.points.times[0]) == 0
    for layer, states in zip(grid.layers, kept[1::2], strict=True):
        for recorded, state in zip(layer.memory, states.values(), strict=True):
            torch.testing.assert_close(recorded[: len(x)], state)
    for module, states in zip(model, kept, strict=True):
        assert all(now is states[name] for name, now in module.named_buffers())
    # Of another batch size, LIF draws rows of what it has, and ALIF starts anew.
    one, two = trace(model, torch.cat([x, x])).layers
    assert one.memory[0].shape[1:] == two.memory[0].shape[1:] == (4,)
    assert model[1].v_mem.shape == (3, 4)


@pytest.mark.parametrize("train_alphas", [False, True])
def test_the_time_knob_multiplies_decays_and_recurrent_weights(train_alphas):
    recurrent = Dense(2, 2)
    neuron = layers.LIFRecurrent(
        torch.tensor([4.0, 20.0]), recurrent, tau_syn=3.0, train_alphas=train_alphas, spike_threshold=torch.tensor(0.7)
    )
    knobs = next(find_adapters(nn.Sequential(neuron)))[2].knobs(neuron)
    before = {name: p.detach().clone() for name, p in neuron.named_parameters()}
    knobs.time.turn(0.5)
    torch.testing.assert_close(
        neuron.alpha_mem_calculated.detach(), torch.tensor([0.5 * ALPHA, 0.5 * math.exp(-1 / 20)])
    )
    torch.testing.assert_close(neuron.alpha_syn_calculated.detach(), torch.tensor(0.5 * SYN))
    torch.testing.assert_close(recurrent.weight, 0.5 * before["rec_connect.weight"])
    knobs.time.turn(1e9)
    for decay in (neuron.alpha_mem_calculated, neuron.alpha_syn_calculated):
        assert bool(((decay > 0.99) & (decay < 1)).all())
    slow = layers.LIF(1e5)
    next(find_adapters(nn.Sequential(slow)))[2].knobs(slow).time.turn(1.0)
    assert slow.tau_mem.item() == pytest.approx(1e5, rel=0.01)
    knobs.threshold.turn(2.0)
    assert neuron.spike_threshold.item() == pytest.approx(0.7)  # frozen, as sinabs makes it
    neuron.spike_threshold.requires_grad_(True)
    knobs.threshold.turn(2.0)
    assert neuron.spike_threshold.item() == pytest.approx(1.4)


def test_a_threshold_of_its_own_leaves_the_default_of_all_others_alone():
    one, other = layers.LIF(4.0), layers.LIF(4.0)
    assert one.spike_threshold.data_ptr() == other.spike_threshold.data_ptr()
    one.spike_threshold.requires_grad_(True)
    next(find_adapters(nn.Sequential(one)))[2].knobs(one).threshold.turn(2.0)
    assert [module.spike_threshold.item() for module in (one, other, layers.LIF(4.0))] == [2.0, 1.0, 1.0]


@pytest.mark.parametrize("depth", [2, 5])
def test_a_target_of_one_is_reached_where_the_surrogate_allows_it(depth):
    neurons = [layers.LIF(4.0, norm_input=False, spike_fn=activation.SingleSpike) for _ in range(depth)]
    model = spiking_model(*neurons, width=32).float()
    for neuron in neurons:
        neuron.spike_threshold.requires_grad_(True)
    x = (normal(20, 8, NUM_INPUTS, seed=1) > 1).float()
    result = stabilize(model, x, target="one", max_sweeps=20)
    assert result.converged, str(result)
    assert layers.LIF(4.0).spike_threshold.item() == 1.0


@pytest.mark.parametrize(
    ("neuron", "why"),
    [
        (layers.IAF(**common()), "no parameter of the layer moves it"),
        (
            layers.IAFRecurrent(Dense(6, 6), **common()),
            "not reached: a leak that no parameter moves alone gives about 1",
        ),
    ],
)
def test_an_integrator_without_leak_says_that_nothing_moves_it(neuron, why):
    result = stabilize(spiking_model(neuron), double_input(), max_sweeps=3)
    assert not result.converged
    (reason,) = (line for line in result.reasons if line.startswith("net.1: time"))
    assert reason.endswith(why)


def test_a_leaky_integrator_below_another_layer_is_a_layer():
    model = spiking_model(layers.LIF(4.0), layers.ExpLeak(4.0), layers.LIF(4.0))
    report = measure(model, double_input(), method="exact")
    assert report.names == ("net.1", "net.3", "net.5")
    assert float(report.time[1]) == pytest.approx(ALPHA)
    assert bool((report.depth > 0).all())
    assert [rate >= 0 for rate in report.rates.tolist()] == [True, False, True]


def test_a_leaky_integrator_is_the_decoder():
    model = spiking_model(layers.LIF(4.0))
    grid = trace(model, double_input())
    assert grid.decoder.name == "net.3"
    assert [layer.name for layer in grid.layers] == ["net.1"]
    # Its input is not scaled by 1 - decay: what is left is the linear layer in front, which is also the knob.
    torch.testing.assert_close(grid.decoder.transition().to_dense()[0], model.net[2].weight.detach())
    assert {id(p) for p in grid.decoder.knob.parameters} == {id(p) for p in model.net[2].parameters()}


def test_in_float32_both_transitions_have_a_closed_form():
    model = Net([layers.LIF(4.0, **common()), layers.LIFRecurrent(4.0, Dense(6, 6), **common())], 6)
    for layer in trace(model, normal(7, 3, NUM_INPUTS, dtype=torch.float32)).layers:
        assert layer.time().closed is not None
        assert layer.depth().closed is not None
