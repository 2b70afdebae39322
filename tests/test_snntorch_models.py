"""Models of snnTorch's users, as they write them: loops, sequences, states inside, and what cannot be measured."""

import gc
import math
import types
import weakref

import pytest
import snntorch as snn
import torch
from snntorch import utils
from snntorch.functional import quant
from torch import Tensor, nn

from cases import normal, seeded
from lsc_snn import gradient_profile, measure, stabilize
from lsc_snn.trace import trace
from test_snntorch import WIDE, Loop, Whole

NUM_INPUTS = 12


@pytest.fixture(autouse=True)
def instances(monkeypatch):
    """The list of all neurons that snnTorch keeps, empty: its reset functions go through all of them."""
    monkeypatch.setattr(snn.SpikingNeuron, "instances", [])


class Tutorial(nn.Module):
    """The network of snnTorch's tutorials: a static input (B, N), repeated at every step."""

    def __init__(self, layers: int = 2, width: int = 32, learn: bool = True, num_steps: int = 15) -> None:
        super().__init__()
        for index in range(1, layers + 1):
            setattr(self, f"fc{index}", nn.Linear(width if index > 1 else 20, width))
            setattr(self, f"lif{index}", snn.Leaky(beta=0.95, learn_beta=learn))
        self.layers, self.num_steps = layers, num_steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mems = [getattr(self, f"lif{index}").init_leaky() for index in range(1, self.layers + 1)]
        spk_rec, mem_rec = [], []
        for _ in range(self.num_steps):
            spk = x
            for index in range(1, self.layers + 1):
                cur = getattr(self, f"fc{index}")(spk)
                spk, mems[index - 1] = getattr(self, f"lif{index}")(cur, mems[index - 1])
            spk_rec.append(spk)
            mem_rec.append(mems[-1])
        return torch.stack(spk_rec, dim=0), torch.stack(mem_rec, dim=0)


def build(make, *args, **kwargs) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **kwargs)


def images(batch: int = 16) -> Tensor:
    return torch.rand(batch, 20, generator=seeded(3))


def test_the_tutorial_network_is_stabilised_at_five_layers():
    model = build(Tutorial, 5)
    result = stabilize(model, images(), target="half")
    assert result.converged, str(result)
    assert result.before.time.tolist() == pytest.approx([0.95] * 5)
    assert result.after.names == tuple(f"lif{index}" for index in range(1, 6))
    for index in range(1, 6):
        assert float(getattr(model, f"lif{index}").beta.detach()) == pytest.approx(float(result.after.time[index - 1]))


def test_a_fixed_beta_is_said_to_be_fixed():
    model = build(Tutorial, 2, learn=False)
    result = stabilize(model, images(), target="half")
    assert not result.converged
    assert result.reasons == tuple(
        f"lif{index}: time radius 0.95, target 0.5: no parameter of the layer moves it" for index in (1, 2)
    )
    model = build(Loop, lambda n: snn.RLeaky(0.9, linear_features=n, learn_recurrent=False), 2, 16, 20)
    result = stabilize(model, torch.rand(6, 4, 20, generator=seeded()), target="half", max_sweeps=2)
    assert any("time" in reason and "all parameters that move it are frozen" in reason for reason in result.reasons)


KINDS = {
    "Leaky": lambda n: snn.Leaky(0.9),
    "quantised": lambda n: snn.Leaky(0.9, state_quant=quant.state_quant(num_bits=6)),
    "RLeaky": lambda n: snn.RLeaky(0.9, linear_features=n),
    "Synaptic": lambda n: snn.Synaptic(0.9, 0.8, reset_mechanism="zero"),
    "RSynaptic": lambda n: snn.RSynaptic(0.9, 0.8, linear_features=n, reset_mechanism="none"),
    "Alpha": lambda n: snn.Alpha(0.9, 0.8),
    "Lapicque": lambda n: snn.Lapicque(0.9),
    "SLSTM": lambda n: snn.SLSTM(n, n, threshold=0.1, reset_mechanism="subtract"),
    "inside": lambda n: snn.Leaky(0.9, init_hidden=True),
    "inside, returned": lambda n: snn.RSynaptic(0.9, 0.8, linear_features=n, init_hidden=True, output=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_outputs_stay_the_same(kind):
    model, x = build(Loop, KINDS[kind], 2, 8), torch.rand(6, 4, NUM_INPUTS, generator=seeded())
    instances = list(snn.SpikingNeuron.instances)
    before = model(x)
    states = {name: buffer.clone() for name, buffer in model.named_buffers()}
    report = measure(model, x)
    gradient_profile(model, x)
    assert {name: torch.equal(buffer, states[name]) for name, buffer in model.named_buffers()} == dict.fromkeys(
        states, True
    )
    for one, other in zip(model(x), before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert list(snn.SpikingNeuron.instances) == instances
    assert all(math.isfinite(radius) for _, _, radius in report.entries())


@pytest.mark.parametrize(
    ("make", "radius"),
    [
        (lambda n: snn.Leaky(0.9), 0.9),
        (lambda n: snn.Leaky(0.9, reset_mechanism="none"), 0.9),
        (lambda n: snn.Leaky(0.9, reset_mechanism="zero", threshold=9.0), 0.9),
        (lambda n: snn.Leaky(torch.linspace(0.2, 0.7, n)), 0.7),
        (lambda n: snn.Leaky(1.4), 1.0),
        (lambda n: snn.Leaky(0.9, state_quant=quant.state_quant(num_bits=6)), 0.9),
        (lambda n: snn.RLeaky(0.9, all_to_all=False, V=0.0), 0.9),
        (lambda n: snn.Synaptic(alpha=0.9, beta=0.8), 0.9),
        (lambda n: snn.Synaptic(alpha=0.6, beta=0.8, reset_mechanism="none"), 0.8),
        (lambda n: snn.Alpha(alpha=0.9, beta=0.8, reset_mechanism="none"), 0.9),
        (lambda n: snn.Lapicque(R=2.0, C=4.0), 1 - 1 / 8),
        (lambda n: snn.SLSTM(n + 1, n), 0.0),
    ],
)
def test_time_radii_that_are_known(make, radius):
    class Net(Loop):
        def __init__(self):
            super().__init__(make, 1, 6)
            if isinstance(self.neurons[0], snn.SLSTM):
                self.linears[0] = nn.Linear(NUM_INPUTS, 7)

        def start(self, neuron, x):
            return () if isinstance(neuron, snn.SLSTM) else super().start(neuron, x)

    report = measure(build(Net), torch.rand(6, 3, NUM_INPUTS, generator=seeded()), method="exact")
    assert float(report.time) == pytest.approx(radius, abs=2e-3)


def test_a_reset_that_is_not_delayed_passes_gradient():
    model = build(Loop, lambda n: snn.Leaky(0.9, reset_delay=False, spike_grad=WIDE), 1, 6).double()
    layer = trace(model, normal(6, 3, NUM_INPUTS)).layers[0]
    v = 0.9 * layer.memory[0] + layer.arrived - (layer.memory[0] > 1).double()
    expected = 0.9 * (1 - WIDE.derivative(v - 1))
    torch.testing.assert_close(layer.time().to_dense(), torch.diag_embed(expected), rtol=1e-6, atol=1e-6)


def test_states_kept_inside_give_the_same_radii():
    def net(**options):
        return build(Loop, lambda n: snn.RSynaptic(0.8, 0.7, linear_features=n, **options), 2, 8)

    x = torch.rand(6, 4, NUM_INPUTS, generator=seeded())
    expected = measure(net(), x).entries()
    assert measure(net(init_hidden=True), x).entries() == expected
    assert measure(net(init_hidden=True, output=True), x).entries() == expected


def test_a_sequential_network_called_step_by_step():
    def net():
        neurons = [snn.Leaky(0.8, init_hidden=True), snn.Leaky(0.8, init_hidden=True, output=True)]
        return nn.Sequential(nn.Linear(NUM_INPUTS, 8), neurons[0], nn.Linear(8, 8), neurons[1])

    def forward(model, x):
        utils.reset(model)
        recorded = [model(step) for step in x]
        snn.Leaky.detach_hidden()
        return torch.stack([spk for spk, _ in recorded]), torch.stack([mem for _, mem in recorded])

    x = torch.rand(6, 4, NUM_INPUTS, generator=seeded())
    model = build(net)
    loop = build(Loop, lambda n: snn.Leaky(0.8), 2, 8)
    for linear, index in zip(loop.linears, (0, 2), strict=True):
        linear.load_state_dict(model[index].state_dict())
    report = measure(model, x, call=forward)
    assert report.names == ("1", "3")
    assert [entry[2] for entry in report.entries()] == [entry[2] for entry in measure(loop, x).entries()]
    assert gradient_profile(model, x, call=forward).shape == (6, 2)


def test_a_convolutional_network():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4 * 9, 16)
            self.lif1, self.lif2 = snn.Leaky(0.8, learn_beta=True), snn.Leaky(0.8, learn_beta=True)

        def forward(self, x):
            mem1, mem2, spikes = self.lif1.reset_mem(), self.lif2.reset_mem(), []
            for _ in range(10):
                spk1, mem1 = self.lif1(nn.functional.max_pool2d(self.conv(x), 2), mem1)
                spk2, mem2 = self.lif2(self.fc(spk1.flatten(1)), mem2)
                spikes.append(spk2)
            return torch.stack(spikes)

    result = stabilize(build(Net), torch.rand(8, 1, 8, 8, generator=seeded()), target="half")
    assert result.converged, str(result)


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature:UserWarning")
def test_inhibition_lets_one_unit_through():
    model = build(Loop, lambda n: snn.Leaky(0.9, threshold=0.1, inhibition=True), 2, 8)
    x = torch.rand(6, 4, NUM_INPUTS, generator=seeded())
    report = measure(model, x)
    assert report.rates.tolist() == pytest.approx(model(x)[0].mean().repeat(2).tolist(), abs=1 / 8)
    assert int(torch.linalg.matrix_rank(trace(model, x).layers[1].depth().to_dense()).max()) == 1


def test_spikes_in_float32_between_membranes_in_float64():
    class Net(Loop):
        def forward(self, x):
            mems, spikes = [torch.zeros(x.shape[1], 8, dtype=x.dtype) for _ in self.neurons], []
            for signal in x:
                for index, (linear, neuron) in enumerate(zip(self.linears, self.neurons, strict=True)):
                    spk, mems[index] = neuron(linear(signal), mems[index])
                    signal = spk.to(x.dtype)
                spikes.append(signal)
            return torch.stack(spikes)

    x = torch.rand(6, 4, NUM_INPUTS, generator=seeded())
    single, double = (measure(build(Net, lambda n: snn.Leaky(0.9), 2, 8).to(x), x) for x in (x, x.double()))
    for one, other in zip(single.entries(), double.entries(), strict=True):
        assert one[2] == pytest.approx(other[2], rel=1e-4)


def test_a_neuron_without_a_surrogate_is_dead_in_depth():
    report = measure(build(Loop, lambda n: snn.Leaky(0.9, surrogate_disable=True), 2, 8), torch.rand(6, 4, NUM_INPUTS))
    assert report.depth.tolist() == [0.0]
    assert report.time.tolist() == pytest.approx([0.9, 0.9])


def test_a_filter_without_spikes_has_no_rate():
    def layers():
        return Whole(
            [
                snn.StateLeaky(0.5, NUM_INPUTS, output=False),
                snn.LinearLeaky(0.8, NUM_INPUTS, 8, kernel_truncation_steps=6),
            ]
        )

    model, x = build(layers), torch.rand(6, 4, NUM_INPUTS, generator=seeded())
    report = measure(model, x)
    assert math.isnan(report.rates[0])
    assert float(report.rates[1]) == pytest.approx(float(model(x).detach().mean()))
    assert report.time.tolist() == pytest.approx([math.exp(-0.5), math.exp(-0.2)], rel=1e-3)
    assert report.encoder == pytest.approx(1.0)
    assert bool((gradient_profile(nn.Sequential(model.layers[0]), x) > 0).all())


def test_states_from_before_are_where_the_next_forward_starts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(NUM_INPUTS, 4), snn.Leaky(0.9, init_hidden=True)

        def forward(self, x):
            return torch.stack([self.lif(self.fc(step)) for step in x])

    model, x = build(Net), torch.rand(6, 3, NUM_INPUTS, generator=seeded())
    model(x).sum().backward()
    before = model.lif.mem
    layer = trace(model, x, num_times=6).layers[0]
    assert model.lif.mem is before
    torch.testing.assert_close(layer.memory[0][:3], before.detach(), rtol=0, atol=0)
    assert gradient_profile(model, x).shape == (6, 1)


class Bare(nn.Module):
    """One neuron, called at every step."""

    def __init__(self, neuron: nn.Module, between=lambda: None) -> None:
        super().__init__()
        self.fc, self.neuron, self.between = nn.Linear(NUM_INPUTS, NUM_INPUTS), neuron, between

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for step in x:
            returned = self.neuron(self.fc(step))
            outputs.append(returned[0] if isinstance(returned, tuple) else returned)
            self.between()
        return torch.stack(outputs)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (
            lambda: Bare(snn.DeltaLeaky(beta=0.9, init_hidden=True)),
            ValueError,
            "^DeltaLeaky: expected a snnTorch neuron whose",
        ),
        (
            lambda: Whole([snn.AssociativeLeaky(NUM_INPUTS, 2, 2, 4)]),
            ValueError,
            "^AssociativeLeaky: .*register_adapter$",
        ),
        (
            lambda: Whole([snn.StateLeaky(0.9, NUM_INPUTS, kernel_truncation_steps=3)]),
            ValueError,
            "^StateLeaky: expected a kernel_truncation_steps of None or at least the 6 steps of the input, got 3",
        ),
        (
            lambda: Bare(snn.Leaky(0.9, spike_grad=snn.surrogate.SSO(), init_hidden=True)),
            ValueError,
            "^Leaky: expected a surrogate with one derivative, got SSO",
        ),
        (
            lambda: Bare(snn.Leaky(0.9, init_hidden=True), snn.Leaky.detach_hidden),
            ValueError,
            "^layer 'neuron': expected a gradient from step to step, got none: its state is detached, or reset",
        ),
        (
            lambda: Bare(snn.RLeaky(0.9, linear_features=NUM_INPUTS, init_hidden=True), snn.RLeaky.reset_hidden),
            ValueError,
            "^layer 'neuron': expected a gradient from step to step, got none: its state is detached, or reset",
        ),
        (
            lambda: nn.Sequential(Wrong(snn.Leaky(0.9, init_hidden=True))),
            TypeError,
            "^`mem` should not be passed as an argument while `init_hidden=True`$",
        ),
        (lambda: nn.Sequential(Wrong(snn.Leaky(0.9), 2)), TypeError, "too many positional arguments"),
    ],
)
def test_what_cannot_be_measured_is_named(model, error, message):
    model = build(model)
    parameters = [parameter.detach().clone() for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        stabilize(model, torch.rand(6, 4, NUM_INPUTS, generator=seeded()))
    assert torch.equal(torch.get_rng_state(), random_state)
    for parameter, before in zip(model.parameters(), parameters, strict=True):
        assert torch.equal(parameter, before)


class Wrong(nn.Module):
    """A neuron that gets states which its forward does not take."""

    def __init__(self, neuron: nn.Module, states: int = 1) -> None:
        super().__init__()
        self.neuron, self.states = neuron, states

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.neuron(step, *[torch.zeros_like(step)] * self.states)[0] for step in x])


def patched(neuron):
    """Give a neuron a forward that calls its own."""
    own = neuron.forward
    neuron.forward = types.MethodType(lambda self, input_, mem=None: own(input_, mem), neuron)
    return neuron


def test_a_patched_neuron_is_measured_and_not_kept_alive():
    model = Tutorial()
    patched(model.lif1)
    measure(model, normal(3, 20).float())
    kept = weakref.ref(model.lif1)
    del model
    snn.SpikingNeuron.instances.clear()
    gc.collect()
    assert kept() is None
