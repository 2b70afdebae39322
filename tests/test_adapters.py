"""The registry, the adapters of this library's own layers, and a module of a user that an adapter teaches it."""

import pytest
import torch
from torch import Tensor, nn

from cases import normal, seeded
from lsc_snn import ALIF, LI, LIF, EventBatch, Network, NetworkConfig, gradient_profile, measure, register_adapter
from lsc_snn.adapters import Knob, Knobs, Pass, SequenceAdapter, find_adapters
from lsc_snn.adapters.own import ReadoutAdapter, SpikingAdapter
from lsc_snn.grid import Points
from reference import KINDS, drive, make_layer


class Leaky(nn.Module):
    """A user's own sequence module, y(t) = decay y(t-1) + weight x(t), whose radii are known."""

    def __init__(self, size: int, decay: float, scale: float) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(decay, dtype=torch.float64))
        self.weight = nn.Parameter(scale * torch.eye(size, dtype=torch.float64))

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        return self.decay * y + x @ self.weight.T

    def forward(self, x: Tensor) -> Tensor:
        y, outputs = torch.zeros_like(x[0]), []
        for row in x:
            y = self.step(row, y)
            outputs.append(y)
        return torch.stack(outputs)


class LeakyAdapter(SequenceAdapter):
    """What the documentation asks of an adapter, and nothing more."""

    def run(self, module, x):
        output = module(x)

        def at(points: Points):
            shifted = torch.cat([torch.zeros_like(output[:1]), output[:-1]]).detach()

            def step(arrived, memory):
                after = module.step(arrived, memory[0])
                return after, (after,)

            return step, (points.take(shifted),)

        return Pass(x, output, lambda replaced: replaced, at)

    def unroll(self, module, x):
        y, outputs = torch.zeros_like(x[0]).requires_grad_(), []
        for row in x:
            y = module.step(row, y)
            outputs.append(y)
        return torch.stack(outputs), [(output,) for output in outputs]

    def knobs(self, module):
        return Knobs(depth=None, time=None)


@pytest.mark.usefixtures("registry")
def test_a_registered_module_is_measured():
    register_adapter(Leaky, LeakyAdapter())
    model = nn.Sequential(Leaky(4, 0.9, 2.0), nn.Tanh(), Leaky(4, 0.5, 3.0))
    report = measure(model, torch.zeros(10, 3, 4, dtype=torch.float64))
    assert report.names == ("0", "2")
    assert report.time.tolist() == pytest.approx([0.9, 0.5])
    assert report.depth.tolist() == pytest.approx([3.0])
    assert report.encoder == pytest.approx(2.0)
    assert report.decoder == pytest.approx(1.0)
    profile = gradient_profile(nn.Sequential(model[2]), normal(10, 3, 4))[:, 0]
    torch.testing.assert_close(profile[:-1] / profile[1:], torch.full((9,), 0.5, dtype=torch.float64))


@pytest.mark.usefixtures("registry")
def test_the_nearest_class_wins_and_subclasses_inherit():
    class Special(ALIF):
        pass

    class Own(SequenceAdapter):
        run = unroll = knobs = None

    model = nn.ModuleDict({"special": Special(3, 4), "plain": ALIF(3, 4), "readout": LI(4, 2), "other": nn.Tanh()})
    kinds = {name: type(adapter) for name, _, adapter in find_adapters(model)}
    assert kinds == {"special": SpikingAdapter, "plain": SpikingAdapter, "readout": ReadoutAdapter}
    register_adapter(Special, Own())
    kinds = {name: type(adapter) for name, _, adapter in find_adapters(model)}
    assert kinds == {"special": Own, "plain": SpikingAdapter, "readout": ReadoutAdapter}


@pytest.mark.usefixtures("registry")
def test_the_outermost_known_module_is_handled_as_a_whole():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = LIF(3, 4)

    class Own(SequenceAdapter):
        run = unroll = knobs = None

    model = nn.ModuleList([Whole(), LIF(3, 4)])
    assert [name for name, _, _ in find_adapters(model)] == ["0.inner", "1"]
    register_adapter(Whole, Own())
    assert [name for name, _, _ in find_adapters(model)] == ["0", "1"]
    assert [name for name, _, _ in find_adapters(model[0])] == [""]
    network = Network(NetworkConfig(3, 2, num_layers=2))
    assert [name for name, _, _ in find_adapters(network)] == ["layers.0", "layers.1", "readout"]


def test_only_adapters_for_modules_are_registered():
    with pytest.raises(TypeError, match=r"module_type: expected a subclass of torch.nn.Module, got <class 'int'>"):
        register_adapter(int, LeakyAdapter())
    with pytest.raises(TypeError, match=r"module_type: expected a subclass of torch.nn.Module, got Linear\("):
        register_adapter(nn.Linear(1, 1), LeakyAdapter())
    with pytest.raises(TypeError, match=r"adapter: expected an lsc_snn.adapters.StepAdapter, got ABCMeta"):
        register_adapter(nn.Linear, LeakyAdapter)


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "LI"])
def test_run_and_unroll_are_the_forward(kind, events):
    if kind == "LI":
        layer, adapter = LI(5, 6, generator=seeded(), dtype=torch.float64), ReadoutAdapter()
    else:
        layer, adapter = make_layer(kind, refractory=1)[0], SpikingAdapter()
    x = (drive() > 0.5).double()
    inputs = EventBatch.from_dense(x) if events else x
    expected, expected_state = layer(x)
    done = adapter.run(layer, inputs)
    assert done.inputs is inputs
    torch.testing.assert_close(done.output, expected)
    marker = torch.ones_like(expected)
    output, state = done.returned(marker)
    assert output is marker
    (output, unrolled_state), memories = adapter.unroll(layer, inputs)
    torch.testing.assert_close(output, expected)
    assert len(memories) == len(x)
    for states in (state, unrolled_state):
        last = states if kind == "LI" else states.v
        torch.testing.assert_close(last, expected_state if kind == "LI" else expected_state.v)
        torch.testing.assert_close(memories[-1][0], last)
    assert len(memories[0]) == (2 if kind in ("ALIF", "LSNN") else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_at_the_points_goes_on_as_the_sequence_did(kind):
    layer, adapter = make_layer(kind, refractory=2)[0], SpikingAdapter()
    x = drive()
    first = layer(drive(seed=9))[1]
    done = adapter.run(layer, x, first)
    points = Points(torch.tensor([0, 4, 8]), torch.tensor([2, 0, 1]))
    step, memory = done.at(points)
    output, after = step(points.take(x), memory)
    assert torch.equal(output, points.take(done.output))
    _, memories = adapter.unroll(layer, x, first)
    for index, part in enumerate(after):
        torch.testing.assert_close(part, points.take(torch.stack([memory[index] for memory in memories])))


@pytest.mark.parametrize("factor", [0.3, 0.9, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_knob_moves_its_parameters_and_no_other(kind, factor):
    for name in Knobs._fields:
        layer, _ = make_layer(kind)
        knob = getattr(SpikingAdapter().knobs(layer), name)
        mine = {id(parameter) for parameter in knob.parameters}
        assert mine <= {id(parameter) for parameter in layer.parameters()}
        before = {key: p.detach().clone() for key, p in layer.named_parameters()}
        knob.turn(1.0)
        for key, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter, before[key], rtol=1e-6, atol=1e-6)
        knob.turn(factor)
        moved = {id(p) for key, p in layer.named_parameters() if (p - before[key]).abs().max() > 1e-3}
        assert moved
        assert moved <= mine
        assert all(bool(torch.isfinite(p).all()) for p in layer.parameters())


def test_knobs_multiply_the_values_behind_the_parameters():
    layer, values = make_layer("ALIF")
    knobs = SpikingAdapter().knobs(layer)
    knobs.threshold.turn(3.0)
    torch.testing.assert_close(layer.threshold, 3 * torch.as_tensor(values["threshold"]), rtol=1e-4, atol=0)
    alpha, rho, recurrent = (value.detach().clone() for value in (layer.alpha, layer.rho, layer.recurrent_raw))
    knobs.time.turn(0.5)
    torch.testing.assert_close(layer.recurrent_raw, 0.5 * recurrent)
    torch.testing.assert_close(layer.alpha, 0.5 * alpha, rtol=1e-4, atol=0)
    torch.testing.assert_close(layer.rho, 0.5 * rho, rtol=1e-4, atol=0)
    weight = layer.weight.detach().clone()
    knobs.depth.turn(2.0)
    torch.testing.assert_close(layer.weight, 2 * weight)
    readout = LI(5, 3, generator=seeded())
    weight = readout.weight.detach().clone()
    knobs = ReadoutAdapter().knobs(readout)
    knobs.depth.turn(0.25)
    torch.testing.assert_close(readout.weight, 0.25 * weight)
    assert knobs.time is None


def test_an_absurd_turn_leaves_a_valid_layer():
    layer, _ = make_layer("ALIF")
    for name in Knobs._fields:
        for factor in (1e-12, 1e12):
            getattr(SpikingAdapter().knobs(layer), name).turn(factor)
    assert bool(((layer.alpha > 0) & (layer.alpha < 1) & (layer.rho > 0) & (layer.rho < 1)).all())
    assert bool((layer.threshold > 0).all())


def test_a_frozen_parameter_does_not_turn():
    layer, _ = make_layer("ALIF")
    layer.alpha_raw.requires_grad_(False)
    alpha, recurrent = layer.alpha.detach().clone(), layer.recurrent_raw.detach().clone()
    knob = SpikingAdapter().knobs(layer).time
    assert isinstance(knob, Knob)
    knob.turn(0.5)
    assert torch.equal(layer.alpha, alpha)
    torch.testing.assert_close(layer.recurrent_raw, 0.5 * recurrent)
    feedforward, _ = make_layer("LIF", recurrent=False)
    alpha = feedforward.alpha.detach().clone()
    SpikingAdapter().knobs(feedforward).time.turn(0.5)
    torch.testing.assert_close(feedforward.alpha, 0.5 * alpha, rtol=1e-4, atol=0)
