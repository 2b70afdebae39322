"""Baseline initialisations: the property that each paper promises, and a model left as it was on any error."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from cases import normal, seeded
from lsc_snn import ALIF, LIF, LSNN, EventBatch, Network, NetworkConfig
from lsc_snn.baselines import fluctuation_driven, glorot, he, lsuv, orthogonal

RESETS = [orthogonal, glorot, he]
STEPS, BATCH, INPUTS = 40, 8, 60


def spikes(rate=0.05, steps=STEPS, batch=BATCH, units=INPUTS):
    return (torch.rand(steps, batch, units, generator=seeded()) < rate).float()


def network(neuron="ALIF", layers=2, units=50, **options):
    return Network(NetworkConfig(INPUTS, 5, num_layers=layers, num_units=units, neuron=neuron, layer=options), seed=1)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def variance(values):
    return float(values.detach().double().var(correction=0))


# How to make a module, the parameter, its independent matrices (out, in * k), fan-in and fan-out.
every_matrix = pytest.mark.parametrize(
    ("make", "key", "split", "fan_in", "fan_out"),
    [
        (lambda: nn.Linear(90, 60), "weight", lambda w: [w], 90, 60),
        (lambda: nn.Linear(60, 90), "weight", lambda w: [w], 60, 90),
        (lambda: nn.Conv2d(12, 30, 3), "weight", lambda w: [w.flatten(1)], 12 * 9, 30 * 9),
        (lambda: nn.Conv1d(24, 48, 5, groups=3), "weight", lambda w: w.flatten(1).split(16), 8 * 5, 16 * 5),
        (lambda: nn.ConvTranspose2d(20, 12, 3), "weight", lambda w: [w.transpose(0, 1).flatten(1)], 20 * 9, 12 * 9),
        (lambda: nn.LSTM(40, 32, proj_size=10), "weight_ih_l0", lambda w: w.split(32), 40, 32),
        (lambda: nn.LSTM(40, 32, proj_size=10), "weight_hh_l0", lambda w: w.split(32), 10, 32),
        (lambda: nn.LSTM(40, 32, proj_size=10), "weight_hr_l0", lambda w: [w], 32, 10),
        (lambda: nn.GRU(40, 64), "weight_hh_l0", lambda w: w.split(64), 64, 64),
        (lambda: nn.LSTMCell(30, 50), "weight_ih", lambda w: w.split(50), 30, 50),
        (lambda: nn.MultiheadAttention(48, 4), "in_proj_weight", lambda w: w.split(48), 48, 48),
        (lambda: LIF(70, 50), "weight", lambda w: [w], 70, 50),
        (lambda: LIF(70, 50), "recurrent_raw", lambda w: [w], 50, 50),
    ],
)


@every_matrix
def test_orthogonal_matrices_are_orthonormal(make, key, split, fan_in, fan_out):
    module = make()
    assert key in orthogonal(module, gain=1.5, generator=seeded(3)).parameters
    blocks = split(getattr(module, key).detach())
    for block in blocks:
        gram = block @ block.T if len(block) <= block.shape[1] else block.T @ block
        torch.testing.assert_close(gram, 2.25 * torch.eye(len(gram)), atol=1e-5, rtol=0)
    assert all(not torch.equal(one, two) for one, two in itertools.pairwise(blocks))


@every_matrix
@pytest.mark.parametrize("reset", [glorot, he])
def test_variances_are_those_of_the_fans(reset, make, key, split, fan_in, fan_out):
    module = make()
    reset(module, generator=seeded(3))
    weight = getattr(module, key).detach().double()
    expected = 2 / (fan_in + fan_out) if reset is glorot else 2 / fan_in
    # The sample variance of n numbers deviates by sqrt((kurtosis - 1) / n): kurtosis 9/5 if uniform, 3 if normal.
    kurtosis = 1.8 if reset is glorot else 3.0
    assert abs(weight.square().mean() / expected - 1) < 4 * math.sqrt((kurtosis - 1) / weight.numel())
    assert abs((weight**4).mean() / expected**2 - kurtosis) < 4 * math.sqrt(96 / weight.numel())
    assert abs(weight.mean()) < 4 * math.sqrt(expected / weight.numel())
    if reset is glorot:
        assert weight.abs().max() <= math.sqrt(3 * expected) * (1 + 1e-6)


def through(reset, sizes, between):
    """Return the mean squares that leave the last layer, and that arrive at the input as a gradient, from 1 at both."""
    layers = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), between)][:-1]
    model = nn.Sequential(*layers).double()
    reset(model, generator=seeded(1))
    x = normal(200, sizes[0], seed=2).requires_grad_()
    y = model(x)
    (gradient,) = torch.autograd.grad(y, x, normal(200, sizes[-1], seed=3))
    return float(y.detach().square().mean()), float(gradient.square().mean())


def test_glorot_keeps_both_variances_through_a_deep_linear_net():
    # A layer multiplies by 2 n_in / (n_in + n_out): 0.8 and 1.2 in turn, both ways.
    assert through(glorot, [200, 300] * 10 + [200], nn.Identity()) == pytest.approx([0.96**10] * 2, rel=0.25)


def test_he_keeps_both_sizes_through_a_deep_relu_net_where_glorot_dies():
    # 20 matrices double the size and 19 ReLUs halve it.
    assert through(he, [400] * 21, nn.ReLU()) == pytest.approx([2, 2], rel=0.5)
    assert max(through(glorot, [400] * 21, nn.ReLU())) < 1e-5


def test_orthogonal_is_an_isometry_to_double_precision_through_twenty_layers():
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(20)]).double()
    orthogonal(model)
    x = normal(10, 64)
    torch.testing.assert_close(model(x).norm(dim=1), x.norm(dim=1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("reset", RESETS)
def test_every_device_and_precision_gets_the_same_numbers(reset, device):
    reference, half = nn.Linear(20, 30), nn.Linear(20, 30, dtype=torch.bfloat16, device=device)
    reset(reference)
    reset(half)
    assert torch.equal(half.weight.cpu(), reference.weight.to(torch.bfloat16))


@pytest.mark.parametrize("reset", RESETS)
def test_only_matrices_and_the_biases_beside_them_are_reset(reset):
    parts = {"embedding": nn.Embedding(9, 6), "norm": nn.LayerNorm((4, 6)), "flat": nn.BatchNorm1d(6)}
    parts |= {"linear": nn.Linear(6, 6), "layer": ALIF(6, 5, bias=True), "frozen": nn.Linear(6, 6)}
    model = nn.ModuleDict(parts)
    model["frozen"].requires_grad_(False)
    nn.init.ones_(model["layer"].bias)
    before = state(model)
    report = reset(model)
    changed = [name for name, value in state(model).items() if not torch.equal(value, before[name])]
    assert changed == ["linear.weight", "linear.bias", "layer.weight", "layer.bias", "layer.recurrent_raw"]
    assert set(report.parameters) == set(changed)
    assert not model["layer"].bias.any()
    assert not model["linear"].bias.any()
    assert "5 parameters set" in str(report)


def hooked_outputs(model, x):
    """Return all outputs of each Linear and convolution, of all its calls, as one tensor each."""
    outputs, layers = {}, [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [m.register_forward_hook(lambda m, _, y: outputs.setdefault(m, []).append(y.flatten())) for m in layers]
    model.eval()(x)
    for handle in handles:
        handle.remove()
    return [torch.cat(parts) for parts in outputs.values()]


def mlp():
    return nn.Sequential(nn.Linear(30, 60), nn.Tanh(), nn.Dropout(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 9))


def conv_net():
    below = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.MaxPool2d(2)
    return nn.Sequential(*below, nn.Flatten(), nn.Linear(128, 5))


@pytest.mark.parametrize(("make", "shape"), [(mlp, (50, 30)), (conv_net, (20, 2, 12, 12))])
def test_lsuv_gives_every_layer_unit_variance_by_scaled_orthonormal_weights(make, shape):
    model, x = make(), 7 * normal(*shape, dtype=torch.float32) + 1
    before = [variance(y) for y in hooked_outputs(model, x)]
    report = lsuv(model, x, tolerance=0.01, generator=seeded(2))
    assert report.converged
    assert report.before == pytest.approx(before, rel=1e-4)
    after = [variance(y) for y in hooked_outputs(model, x)]
    assert after == pytest.approx([1.0] * 3, abs=0.01 + 1e-5)
    assert report.after == pytest.approx(after, rel=1e-4)
    assert str(report).endswith("\nconverged")
    for module in (m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)):
        for block in module.weight.detach().flatten(1).chunk(getattr(module, "groups", 1)):
            singular = torch.linalg.svdvals(block)
            torch.testing.assert_close(singular, singular[:1].expand_as(singular), rtol=1e-4, atol=0)


@pytest.mark.parametrize("neuron", ["LIF", "ALIF", "LSNN"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "events"])
def test_lsuv_gives_every_spiking_layer_an_input_current_of_unit_variance(neuron, sparse):
    model, batch = network(neuron, layers=3), spikes()
    lengths = torch.arange(STEPS - BATCH, STEPS) + 1 if sparse else torch.full((BATCH,), STEPS)
    valid = torch.arange(STEPS)[:, None] < lengths
    signal = batch * valid[..., None]
    report = lsuv(model, EventBatch.from_dense(signal, lengths) if sparse else signal, tolerance=0.02)
    assert report.converged
    assert report.layers == ("layers.0.weight", "layers.1.weight", "layers.2.weight", "readout.weight")
    for layer in (*model.layers, model.readout):
        assert variance((signal @ layer.weight.T)[valid]) == pytest.approx(1, abs=0.02 + 1e-4)
        signal, _ = layer(signal)
    recurrent = model.layers[1].recurrent_raw.detach()
    torch.testing.assert_close(recurrent @ recurrent.T, torch.eye(50), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {"num_layers": 3}),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 7}),
        (nn.GRU, {"num_layers": 2, "batch_first": True}),
        (nn.RNN, {"num_layers": 2, "nonlinearity": "relu", "bias": False}),
    ],
)
def test_lsuv_scales_every_layer_and_direction_inside_one_module(kind, options):
    """The oracle stacks modules of one layer."""
    model, x = kind(11, 16, **options), normal(20, 6, 11, dtype=torch.float32)
    report = lsuv(model, x, tolerance=0.02)
    assert report.converged
    ways = ("weight_ih_l0", "weight_ih_l0_reverse")[: 1 + options.get("bidirectional", False)]
    assert len(report.layers) == options["num_layers"] * len(ways)
    signal = x
    for depth in range(options["num_layers"]):
        single = kind(signal.shape[-1], 16, **{**options, "num_layers": 1})
        mine = {name.replace(f"_l{depth}", "_l0"): p for name, p in model.named_parameters() if f"_l{depth}" in name}
        single.load_state_dict(mine)
        for key in ways:
            assert variance(signal @ mine[key].T) == pytest.approx(1, abs=0.02 + 1e-4)
        signal, _ = single(signal)
    torch.testing.assert_close(model(x)[0], signal)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_lsuv_takes_a_stack_without_batch_axis_and_with_a_state(kind):
    model, x = kind(11, 16, num_layers=2), normal(20, 1, 11, dtype=torch.float32)
    h = normal(2, 1, 16, dtype=torch.float32, seed=4)
    state, bare = ((h, h), (h[:, 0], h[:, 0])) if kind is nn.LSTM else (h, h[:, 0])
    with_batch = lsuv(copy.deepcopy(model), x, call=lambda model, x: model(x, state))
    without = lsuv(copy.deepcopy(model), x, call=lambda model, x: model(x[:, 0], hx=bare))
    at_rest = lsuv(model, x)
    assert with_batch.before == pytest.approx(without.before, rel=1e-5)
    assert with_batch.before[1] != pytest.approx(at_rest.before[1], rel=1e-3)


class Loop(nn.Module):
    """A cell that a user calls once a step."""

    def __init__(self, cell):
        super().__init__()
        self.out, self.cell = nn.Linear(cell.hidden_size, 3), cell

    def forward(self, x):
        memory, outputs = None, []
        for row in x:
            memory = self.cell(row, memory)
            outputs.append(self.out(memory[0] if isinstance(memory, tuple) else memory))
        return torch.stack(outputs)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_lsuv_goes_in_order_of_execution_and_takes_all_calls_together(kind):
    model = Loop(kind(10, 20))
    x = normal(15, 6, 10, dtype=torch.float32) * torch.arange(15.0)[:, None, None]
    report = lsuv(model, x, tolerance=0.02)
    assert report.layers == ("cell.weight_ih", "out.weight")
    current = x @ model.cell.weight_ih.T
    assert variance(current) == pytest.approx(1, abs=0.02)
    assert variance(current[-1]) > 2
    assert variance(hooked_outputs(model, x)[0]) == pytest.approx(1, abs=0.02 + 1e-4)


def test_lsuv_takes_the_batches_in_turn():
    seen = []
    stream = (normal(9, 8, dtype=torch.float32, seed=seed) for seed in range(3))
    lsuv(nn.Linear(8, 8), stream, tolerance=1e-9, call=lambda model, x: seen.append(float(x.sum())) or model(x))
    assert len(set(seen[:3])) == 3
    assert seen[3:-1] == (seen[:3] * len(seen))[: len(seen) - 4]
    assert seen[-1] == seen[0]


def test_lsuv_says_when_a_variance_cannot_be_reached():
    model, calls = network(), itertools.count()
    report = lsuv(model, torch.zeros(STEPS, BATCH, INPUTS))
    assert not report.converged
    assert report.after[0] == 0
    assert str(report).endswith("did not converge")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    biased = nn.Linear(8, 8)
    nn.init.normal_(biased.bias, std=9, generator=seeded())
    biased.bias.requires_grad_(False)  # has a variance of its own, which no scale of the weights removes
    x = normal(30, 8, dtype=torch.float32)
    assert not lsuv(biased, x, max_iterations=3, call=lambda model, x: model(x) * (next(calls) + 1)).converged
    assert next(calls) == 3 + 3  # before, after the reset, three times, and in the end


def mean_and_deviation(layer, inputs, burn_in):
    """Return the mean and deviation over time and samples of each unit's potential in a copy that never spikes."""
    silent = copy.deepcopy(layer)
    with torch.no_grad():
        silent.threshold_raw.fill_(1e6)
        z, _, after = silent.run(inputs)
    assert not z.any()
    v = after.v[burn_in:].double().flatten(0, 1)
    return v.mean(0), v.std(0)


@pytest.mark.parametrize(("xi", "mu"), [(1.0, 0.0), (2.0, 0.0), (1.5, 0.3), (1.0, -0.5)])
@pytest.mark.parametrize("kind", [LIF, ALIF, LSNN])
def test_the_potential_fluctuates_as_promised(kind, xi, mu):
    threshold, tau = torch.linspace(0.5, 2.0, 150), torch.linspace(12.0, 3.0, 150)
    layer = kind(200, 150, recurrent=False, tau=tau, threshold=threshold, bias=True)
    batch = spikes(0.02, steps=250, batch=20, units=200)
    report = fluctuation_driven(layer, EventBatch.from_dense(batch), xi=xi, mu=mu)
    assert report.parameters == ("weight", "bias")
    assert report.input_rates == pytest.approx([float(batch.mean())])
    mean, deviation = mean_and_deviation(layer, batch, 60)
    sigma = threshold * (1 - mu) / xi
    assert (deviation / sigma).square().mean().sqrt() == pytest.approx(1, abs=0.1)
    # Weights are fixed: a unit's own mean differs by (n Var[W])^(1/2) nu e1, which averages out over the units.
    decay = torch.exp(-1 / tau)
    spread = sigma / threshold * (0.02 * (1 + decay) / (1 - decay)).sqrt()
    assert abs((mean / threshold).mean() - mu) < 4 * spread.square().mean().sqrt() / math.sqrt(150)


def test_inputs_that_are_no_spikes_count_by_their_mean_square():
    layer, batch = LIF(200, 100, recurrent=False, tau=5.0, threshold=0.7), 3 * normal(200, 10, 200).float()
    fluctuation_driven(layer, batch, xi=1.4)
    assert mean_and_deviation(layer, batch, 30)[1].square().mean().sqrt() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("zero_diagonal", [False, True])
def test_recurrent_weights_make_the_rest_of_the_variance(zero_diagonal):
    layer, batch = LIF(200, 150, tau=5.0, zero_diagonal=zero_diagonal), spikes(0.03, steps=200, batch=10, units=200)
    other = copy.deepcopy(layer)
    nn.init.constant_(other.recurrent_raw, 5.0)
    fluctuation_driven(other, batch, alpha=0.7)
    fluctuation_driven(layer, batch, alpha=0.7)
    assert same(state(layer), state(other))  # what the recurrent weights were before does not matter
    assert mean_and_deviation(layer, batch, 30)[1].square().mean() == pytest.approx(0.7, rel=0.1)
    z = layer(batch)[0].detach()
    feedback = LIF(150, 150, recurrent=False, tau=5.0)
    feedback.weight = nn.Parameter(layer.recurrent_weight)
    # Spikes of the layer are no Poisson process, and their rate was measured without this feedback.
    assert mean_and_deviation(feedback, z, 30)[1].square().mean() == pytest.approx(0.3, rel=0.3)


@pytest.mark.parametrize("neuron", ["LIF", "ALIF", "LSNN"])
def test_each_layer_of_a_network_is_drawn_from_the_rate_below_it(neuron):
    model, signal = network(neuron, layers=3, units=100, recurrent=False, tau=8.0), spikes()
    readout = state(model.readout)
    events = EventBatch.from_dense(signal)
    padded = EventBatch(
        *(getattr(events, key) for key in ("times", "samples", "units", "counts", "lengths")), 99, INPUTS
    )
    report = fluctuation_driven(model, padded)
    assert report.layers == ("layers.0", "layers.1", "layers.2")
    assert "layers.2" in str(report)
    assert same(readout, state(model.readout))
    for layer, rate in zip(model.layers, report.input_rates, strict=True):
        assert rate == pytest.approx(float(signal.mean()), rel=1e-5)
        expected = (1 - math.exp(-2 / 8.0)) / (layer.num_inputs * rate)
        assert variance(layer.weight) == pytest.approx(expected, rel=4 * math.sqrt(2 / layer.weight.numel()))
        signal = layer(signal)[0].detach()


class Tutorial(nn.Module):
    """The shape of snnTorch's tutorials."""

    def __init__(self, snntorch):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(INPUTS, 80), snntorch.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(80, 40), snntorch.Leaky(beta=0.8, threshold=0.5)

    def forward(self, x):
        mem1, mem2, outputs = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for row in x:
            spk1, mem1 = self.lif1(self.fc1(row), mem1)
            _, mem2 = self.lif2(self.fc2(spk1), mem2)
            outputs.append(spk1)
        return torch.stack(outputs)


def test_snntorch_leaky_after_linear_fluctuates_as_promised():
    model, batch = Tutorial(pytest.importorskip("snntorch")), spikes(0.03, steps=150, batch=12)
    buffers = dict(model.named_buffers())
    report = fluctuation_driven(model, batch, xi=1.25)
    assert report.layers == ("fc1", "fc2")
    assert report.parameters == ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    assert all(value is buffers[name] for name, value in model.named_buffers())
    same_kernel = LIF(INPUTS, 80, recurrent=False, tau=-1 / math.log(0.9))
    same_kernel.weight = model.fc1.weight
    assert mean_and_deviation(same_kernel, batch, 40)[1].square().mean().sqrt() == pytest.approx(0.8, rel=0.1)
    expected = (0.5 / 1.25) ** 2 * (1 - 0.8**2) / (80 * float(model(batch).detach().mean()))
    assert variance(model.fc2.weight) == pytest.approx(expected, rel=4 * math.sqrt(2 / 3200))


def test_snntorch_leaky_after_a_convolution():
    leaky = pytest.importorskip("snntorch").Leaky
    model = nn.Sequential(nn.Conv2d(4, 32, 3), leaky(beta=0.7, init_hidden=True))
    batch = spikes(0.1, 30, 2, 4 * 64).unflatten(-1, (4, 8, 8))
    report = fluctuation_driven(model, batch, call=lambda model, x: [model(row) for row in x])
    expected = (1 - 0.7**2) / (36 * report.input_rates[0])
    assert variance(model[0].weight) == pytest.approx(expected, rel=4 * math.sqrt(2 / model[0].weight.numel()))
