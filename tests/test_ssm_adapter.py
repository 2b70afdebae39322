"""Adapters of LRU, S5 and the residual block: the contract, dense oracles in NumPy, and knobs by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cases import normal, seeded
from contract import NUM_INPUTS, AdapterContract
from lsc_snn import LRU, S5, SSMBlock, gradient_profile, measure, stabilize
from lsc_snn.adapters.ssm import BlockAdapter, StateSpaceAdapter
from lsc_snn.grid import Points
from lsc_snn.knobs import movable
from lsc_snn.spectral import radius
from lsc_snn.ssm import MAX_MAGNITUDE
from lsc_snn.ssm_layers import StateSpaceLayer
from lsc_snn.trace import trace
from lsc_snn.unitwise import Unitwise

N, P = 4, 6
LAYERS = {
    "LRU": lambda **o: LRU(N, P, r_max=0.95, generator=seeded(1), **o),
    "S5": lambda **o: S5(N, P, dt_min=0.1, dt_max=1.0, generator=seeded(1), **o),
    "S5-bilinear": lambda **o: S5(N, P, dt_max=1.0, discretisation="bilinear", generator=seeded(1), **o),
}
KINDS = list(LAYERS)


def make(kind):
    return LAYERS[kind](dtype=torch.float64)


def make_block(kind="LRU", **options):
    return SSMBlock(make(kind), generator=seeded(2), **options)


def one_record(model, steps=5):
    """Return the only layer of the grid of a model, at every step of two samples."""
    (record,) = trace(model, normal(steps, 2, N, seed=3), num_times=steps).layers
    return record


class Stack(nn.Module):
    """A projection, layers, a head: as users write it."""

    def __init__(self, make_layer, layers, width):
        super().__init__()
        self.encoder = nn.Linear(NUM_INPUTS, width)
        self.layers = nn.ModuleList(make_layer(width) for _ in range(layers))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.encoder(x)
        for layer in self.layers:
            x, _ = layer(x)
        return self.head(x)


class TestLRU(AdapterContract):
    closed_forms = ("time",)  # two matrices, one behind the other
    kind = LRU

    def make_layer(self, width):
        return LRU(width, width)

    def model(self, layers, width):
        return Stack(self.make_layer, layers, width)

    def one_step(self, module, arrived, memory):
        outputs, state = module(arrived[None], torch.complex(*memory))
        return outputs[0], (state.real, state.imag)


class TestS5(TestLRU):
    kind = S5

    def make_layer(self, width):
        return S5(width, width // 2, discretisation="bilinear")


class TestSSMBlock(TestLRU):
    kind = SSMBlock

    def make_layer(self, width):
        return SSMBlock(S5(width, width // 2))


@pytest.mark.parametrize("kind", KINDS)
def test_transitions_are_scaled_rotations_and_the_instant_path_of_the_published_equations(kind):
    layer = make(kind)
    value = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    B, C = (value[name][..., 0] + 1j * value[name][..., 1] for name in "BC")
    if kind == "LRU":
        decay = np.exp(-np.exp(value["nu_log"]) + 1j * np.exp(value["theta_log"]))
        gain, pairs = np.exp(value["gamma_log"]), 1
    else:
        rate, step, pairs = -np.exp(value["rate_log"]) + 1j * value["omega"], np.exp(value["step_log"]), 2
        if kind == "S5":
            decay, gain = np.exp(rate * step), (np.exp(rate * step) - 1) / rate
        else:
            decay, gain = (1 + step / 2 * rate) / (1 - step / 2 * rate), step / (1 - step / 2 * rate)
    rotations = np.block([[np.diag(decay.real), -np.diag(decay.imag)], [np.diag(decay.imag), np.diag(decay.real)]])
    record = one_record(nn.Sequential(layer))
    for time, depth in zip(record.time().to_dense().numpy(), record.depth().to_dense().numpy(), strict=True):
        np.testing.assert_allclose(time, rotations, atol=1e-13)
        np.testing.assert_allclose(depth, pairs * (C @ (gain[:, None] * B)).real + np.diag(value["D"]), atol=1e-13)
    report = measure(nn.Sequential(layer), normal(5, 2, N), method="exact")
    assert report.time.tolist() == pytest.approx([np.abs(decay).max()], rel=1e-12)


@pytest.mark.parametrize("model", [make("LRU"), make("S5-bilinear"), make_block("S5")], ids=["LRU", "S5", "block"])
def test_closed_products_are_those_of_the_dense_jacobian(model):
    time = one_record(nn.Sequential(model)).time()
    dense = time.to_dense()
    vectors = normal(time.batch, time.rows, seed=7)
    assert isinstance(time.closed, Unitwise)
    torch.testing.assert_close(time.matvec(vectors), torch.einsum("krc,kc->kr", dense, vectors))
    torch.testing.assert_close(time.rmatvec(vectors), torch.einsum("krc,kr->kc", dense, vectors))
    torch.testing.assert_close(radius(time), radius(time, method="exact"))
    torch.testing.assert_close(radius(time, create_graph=True).detach(), radius(time))


def test_the_radius_is_right_where_hundreds_of_eigenvalues_crowd_near_one():
    layer = LRU(N, 300, r_min=0.9, r_max=0.999, generator=seeded(1), dtype=torch.float64)
    layer.scale_eigenvalues(2.0)
    time = one_record(nn.Sequential(layer)).time()
    torch.testing.assert_close(radius(time), torch.full((time.batch,), MAX_MAGNITUDE, dtype=torch.float64))
    assert float((radius(Plain(time)) - MAX_MAGNITUDE).abs().max()) < 0.01, "what products say"


class Plain:
    """A transition whose closed form is not seen."""

    def __init__(self, transition):
        self.batch, self.rows, self.cols = transition.batch, transition.rows, transition.cols
        self.dtype, self.device = transition.dtype, transition.device
        self.rmatvec, self.matvec = transition.rmatvec, transition.matvec


def test_a_subclass_that_steps_otherwise_is_measured_as_it_steps():
    class Faded(LRU):
        def step(self, inputs, state):
            output, state = super().step(inputs, state)
            return output, 0.5 * state

    faded = Faded(N, P, generator=seeded(1), dtype=torch.float64)
    for model in (faded, SSMBlock(faded, generator=seeded(2))):
        time = one_record(nn.Sequential(model)).time()
        expected = float(faded.eigenvalues.detach().abs().max()) / 2
        assert radius(time).tolist() == pytest.approx([expected] * time.batch)


def test_memories_are_the_states_before_each_step_and_a_handed_state_is_the_first():
    class Carried(nn.Module):
        def __init__(self, layer, first):
            super().__init__()
            self.layer, self.first = layer, first

        def forward(self, x):
            return self.layer(x, state=self.first)[0]

    x = normal(5, 2, N, seed=3)
    for layer in (make("LRU"), make_block("S5")):
        for first in (None, normal(2, P, seed=4, dtype=torch.complex128)):
            state, states = layer.initial_state(2) if first is None else first, []
            for row in x:
                states.append(state)
                _, state = layer.step(row, state)
            grid = trace(Carried(layer, first), x, num_times=5)
            expected = torch.stack(states)[grid.points.times, grid.points.samples].detach()
            torch.testing.assert_close(torch.complex(*grid.layers[0].memory), expected)
            profile = gradient_profile(Carried(layer, first), x)
            assert profile.shape == (5, 1)


def test_the_pass_hands_back_what_forward_returns():
    x = normal(5, 2, N, seed=3)
    for layer, adapter in ((make("S5"), StateSpaceAdapter()), (make_block(), BlockAdapter())):
        expected = layer(x)
        done = adapter.run(layer, x)
        unrolled, _ = adapter.unroll(layer, x)
        for returned in (done.returned(done.output), unrolled):
            for one, other in zip(returned, expected, strict=True):
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_the_time_knob_multiplies_the_radius_and_stops_below_one(kind):
    layer = make(kind)
    knob, others = StateSpaceAdapter().knobs(layer).time, [layer.B, layer.C, layer.D]
    before, kept = layer.eigenvalues.detach(), [parameter.detach().clone() for parameter in others]
    knob.turn(0.5)
    torch.testing.assert_close(layer.eigenvalues, before / 2)
    report = measure(nn.Sequential(layer), normal(5, 2, N))
    assert float(report.time) == pytest.approx(float(before.abs().max()) / 2, rel=1e-9)
    knob.turn(1e6)
    report = measure(nn.Sequential(layer), normal(5, 2, N))
    assert float(report.time) == pytest.approx(MAX_MAGNITUDE, abs=1e-9)
    assert all(torch.equal(one, other) for one, other in zip(others, kept, strict=True))


@pytest.mark.parametrize(
    ("kind", "name", "still"),
    [
        ("LRU", "nu_log", True),
        ("S5", "rate_log", True),
        ("S5-bilinear", "rate_log", False),
        ("S5-bilinear", "omega", False),
    ],
)
def test_a_frozen_parameter_of_the_time_knob_stays(kind, name, still):
    layer = make(kind)
    frozen = getattr(layer, name).requires_grad_(False)
    value, before = frozen.clone(), layer.eigenvalues.detach()
    knob = StateSpaceAdapter().knobs(layer).time
    knob.turn(0.5)
    assert torch.equal(frozen, value)
    assert torch.equal(layer.eigenvalues.detach(), before) is still
    assert movable(knob) is not still


@pytest.mark.parametrize("free", ["BCD", "BD", "CD"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_depth_knob_multiplies_the_depth_transition(kind, free):
    layer = make(kind)
    for name in "BCD":
        getattr(layer, name).requires_grad_(name in free)
    before = {name: getattr(layer, name).detach().clone() for name in "BCD"}
    transition, eigenvalues = one_record(nn.Sequential(layer)).depth().to_dense(), layer.eigenvalues
    StateSpaceAdapter().knobs(layer).depth.turn(9.0)
    torch.testing.assert_close(one_record(nn.Sequential(layer)).depth().to_dense(), 9 * transition)
    assert torch.equal(layer.eigenvalues, eigenvalues)
    expected = {"BCD": (3, 3, 9), "BD": (9, 1, 9), "CD": (1, 9, 9)}[free]
    for name, factor in zip("BCD", expected, strict=True):
        torch.testing.assert_close(getattr(layer, name).detach(), factor * before[name])


def test_a_block_without_a_branch_has_the_radius_of_its_residual():
    block = make_block()
    with torch.no_grad():
        block.gate.weight[:N] = 0
    report = measure(nn.Sequential(block), normal(5, 2, N))
    assert report.encoder == pytest.approx(1.0)
    assert report.time.tolist() == pytest.approx([float(block.ssm.eigenvalues.detach().abs().max())])
    BlockAdapter().knobs(block).depth.turn(0.3)
    assert measure(nn.Sequential(block), normal(5, 2, N)).encoder == pytest.approx(0.3)


def test_the_depth_knob_of_a_block_multiplies_the_residual_and_by_its_square_the_branch():
    block, identity = make_block("S5"), torch.eye(N, dtype=torch.float64)
    with torch.no_grad():
        block.gate.bias.copy_(normal(2 * N, seed=5))
    closing, before = block.gate.weight[N:].detach().clone(), one_record(nn.Sequential(block)).depth().to_dense()
    BlockAdapter().knobs(block).depth.turn(0.3)
    after = one_record(nn.Sequential(block)).depth().to_dense()
    torch.testing.assert_close(after, 0.3 * identity + 0.09 * (before - identity))
    assert torch.equal(block.gate.weight[N:], closing)
    block.residual_scale.requires_grad_(False)
    block.gate.bias.requires_grad_(False)
    kept = block.gate.bias.clone()
    BlockAdapter().knobs(block).depth.turn(2.0)
    assert float(block.residual_scale) == pytest.approx(0.3)
    assert torch.equal(block.gate.bias, kept)
    torch.testing.assert_close(block.gate.weight[N:], closing)


def test_a_block_in_training_is_measured_without_dropout():
    block = make_block(dropout=0.5).train()
    record = one_record(nn.Sequential(block))
    expected = one_record(nn.Sequential(make_block())).depth().to_dense()
    torch.testing.assert_close(record.depth().to_dense(), expected)
    assert block.training
    assert block.dropout.training


def test_transitions_are_differentiable_in_the_parameters():
    layer = make("LRU")
    time = one_record(nn.Sequential(layer)).time()
    # The squared entries of a rotation by lambda sum to 2 |lambda|^2, where log |lambda| = -exp(nu_log).
    (gradient,) = torch.autograd.grad(time.to_dense(create_graph=True)[0].square().sum(), layer.nu_log)
    rate = layer.nu_log.detach().exp()
    torch.testing.assert_close(gradient, -4 * rate * torch.exp(-2 * rate))


def test_the_gradient_profile_of_one_state_decays_by_its_magnitude_even_if_all_is_frozen():
    layer = LRU(1, 1, r_min=0.5, r_max=0.7, generator=seeded(1), dtype=torch.float64).requires_grad_(False)
    profile = gradient_profile(nn.Sequential(layer), normal(8, 1, 1))[:, 0]
    magnitude = float(layer.eigenvalues.abs())
    torch.testing.assert_close(profile[:-1] / profile[1:], torch.full((7,), magnitude, dtype=torch.float64))
    # The last output is Re(C x) of the last state, and the scalar that output times one normal number.
    number = abs(float(normal(1, 1, seed=0)))
    assert float(profile[-1]) == pytest.approx(number * math.hypot(*layer.C.flatten().tolist()))


def test_what_cannot_be_reached_is_named():
    batch = normal(10, 4, N)
    result = stabilize(nn.Sequential(make("LRU")), batch, target=(1.2, 0.5))
    assert not result.converged
    (reason,) = result.reasons
    assert reason.startswith("0: time radius 1, target 1.2: not reached")
    layer = make("S5")
    layer.rate_log.requires_grad_(False)
    kept = layer.eigenvalues.detach()
    (reason,) = stabilize(nn.Sequential(layer), batch, target=(0.3, 0.5)).reasons
    assert reason.endswith("all parameters that move it are frozen")
    assert torch.equal(layer.eigenvalues, kept)


def test_a_layer_whose_eigenvalues_are_not_known_has_no_time_knob():
    class Fixed(StateSpaceLayer):
        def __init__(self):
            super().__init__(N, P, device=None, dtype=torch.float64)
            self.inner = make("LRU").requires_grad_(False)
            for name in "BCD":
                getattr(self, name).data.copy_(getattr(self.inner, name))

        def system(self):
            return self.inner.system()

        def scale_eigenvalues(self, factor):
            raise NotImplementedError

    for model in (Fixed(), SSMBlock(Fixed(), generator=seeded(2))):
        (record,) = trace(nn.Sequential(model), normal(5, 2, N)).layers
        assert record.knobs.time is None
        assert record.knobs.depth is not None


def test_inputs_that_the_layer_refuses_raise_its_own_error():
    layer = make("LRU")
    for function in (measure, gradient_profile):
        with pytest.raises(ValueError, match=r"inputs: expected shape \(time steps, batch, 4\), got \(5, 2, 3\)"):
            function(nn.Sequential(layer), normal(5, 2, 3))
        with pytest.raises(ValueError, match=r"inputs: expected shape \(time steps, batch, 4\), got \(5, 2\)"):
            function(nn.Sequential(layer), normal(5, 2))


def test_a_step_takes_any_number_of_points():
    layer = make("LRU")
    done = StateSpaceAdapter().run(layer, normal(5, 2, N))
    step, memory = done.at(Points(torch.tensor([0, 1, 4]), torch.tensor([0, 1, 1])))
    output, after = step(normal(3, N), memory)
    assert output.shape == (3, N)
    assert [tensor.shape for tensor in (*memory, *after)] == [(3, P)] * 4
