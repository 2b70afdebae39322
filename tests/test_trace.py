"""Recorded transitions against dense Jacobians of single steps, and of what a user's forward does in between."""

import math

import pytest
import torch
from torch import nn

from cases import normal, seeded
from lsc_snn import ALIF, LI, LIF, LSNN, EventBatch, Network, NetworkConfig
from lsc_snn.grid import Points
from lsc_snn.surrogate import Gaussian
from lsc_snn.trace import record, trace
from reference import depth_jacobian, drive, make_layer, row, run_by_steps, time_jacobian

WIDE = {"surrogate": Gaussian(0.7, sharpness=0.4), "dtype": torch.float64, "detach_reset": False}


class Residual(nn.Module):
    """A user's own module: something between every two layers, and a plain head applied at every step."""

    def __init__(self, head=True):
        super().__init__()
        self.mix = nn.Linear(5, 6, dtype=torch.float64)
        self.first = ALIF(6, 6, generator=seeded(1), threshold=0.4, **WIDE)
        self.norm = nn.LayerNorm(6, dtype=torch.float64)
        self.linear = nn.Linear(6, 6, dtype=torch.float64)
        self.second = LSNN(6, 4, generator=seeded(2), threshold=0.4, **WIDE)
        self.head = nn.Linear(4, 3, dtype=torch.float64)
        self.head_applied = head
        for parameter in (*self.mix.parameters(), *self.linear.parameters(), *self.head.parameters()):
            nn.init.normal_(parameter, std=0.6, generator=seeded(parameter.numel()))

    def before(self, x):
        return torch.tanh(self.mix(x))

    def between(self, y):
        return y + 2 * self.norm(self.linear(y))

    def forward(self, x):
        y, _ = self.first(self.before(x))
        y, _ = self.second(self.between(y))
        return self.head(y).sigmoid() if self.head_applied else y.mean(0)


def check(transition, dense):
    """Check all three products of a transition against dense matrices (K, rows, cols)."""
    assert dense.any()
    torch.testing.assert_close(transition.to_dense(), dense)
    v, u = normal(len(dense), dense.shape[2], seed=8), normal(len(dense), dense.shape[1], seed=9)
    torch.testing.assert_close(transition.matvec(v), torch.einsum("krc,kc->kr", dense, v))
    torch.testing.assert_close(transition.rmatvec(u), torch.einsum("krc,kr->kc", dense, u))


def at_points(points, of):
    """Return of(t, b) at every point, stacked."""
    return torch.stack([of(int(t), int(b)) for t, b in zip(points.times, points.samples, strict=True)]).detach()


@pytest.mark.parametrize("refractory", [0, 2])
@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
@pytest.mark.parametrize("kind", ["LIF", "ALIF", "LSNN"])
def test_transitions_of_a_layer_are_the_dense_jacobians_of_its_step(kind, reset, refractory):
    layer, _ = make_layer(kind, reset=reset, refractory=refractory, detach_reset=False)
    x = drive(20)
    _, states = run_by_steps(layer, x, layer.initial_state(3))
    grid = trace(layer, x, num_times=6)
    record, points = grid.layers[0], grid.points
    check(record.time(), at_points(points, lambda t, b: time_jacobian(layer, x[t, b : b + 1], row(states[t], b))))
    check(record.depth(), at_points(points, lambda t, b: depth_jacobian(layer, x[t, b : b + 1], row(states[t], b))))


def test_what_stands_between_layers_is_part_of_the_depth_transition():
    model, x = Residual(), drive(15)
    y1, states1 = run_by_steps(model.first, model.before(x), model.first.initial_state(3))
    y2, states2 = run_by_steps(model.second, model.between(y1), model.second.initial_state(3))
    grid = trace(model, x, num_times=5)
    first, second = grid.layers
    assert (first.name, second.name, grid.decoder.name) == ("first", "second", "output")
    assert {id(p) for p in grid.decoder.knob.parameters} == {id(p) for p in model.head.parameters()}
    points = grid.points
    encoder = at_points(
        points, lambda t, b: depth_jacobian(model.first, x[t, b : b + 1], row(states1[t], b), model.before)
    )
    check(first.depth(), encoder)
    depth = at_points(
        points, lambda t, b: depth_jacobian(model.second, y1[t, b : b + 1], row(states2[t], b), model.between)
    )
    check(second.depth(), depth)
    time = at_points(
        points, lambda t, b: time_jacobian(model.second, model.between(y1[t, b : b + 1]), row(states2[t], b))
    )
    check(second.time(), time)
    head = at_points(
        points, lambda t, b: torch.autograd.functional.jacobian(lambda y: model.head(y).sigmoid(), y2[t, b])
    )
    check(grid.decoder.transition(), head)
    with torch.no_grad():
        check(grid.decoder.transition(), head)
        check(second.depth(), depth)


def test_an_output_without_a_time_axis_has_no_decoder():
    assert trace(Residual(head=False), drive(15)).decoder is None


def test_the_decoder_of_a_readout_is_its_input_matrix():
    network = Network(NetworkConfig(5, 3, num_layers=1, num_units=6)).double()
    grid = trace(network, drive(15), num_times=2)
    assert grid.decoder.name == "readout"
    assert {id(p) for p in grid.decoder.knob.parameters} == {id(p) for p in network.readout.parameters()} - {
        id(network.readout.alpha_raw)
    }
    check(grid.decoder.transition(), network.readout.weight.detach().expand(6, -1, -1))


def test_events_give_the_transitions_of_the_dense_tensor():
    network = Network(NetworkConfig(5, 3, num_layers=2, num_units=6, layer={"threshold": 0.3})).double()
    x = (normal(12, 3, 5) > 0.6).double()
    ours, dense = (trace(network, inputs, num_times=4) for inputs in (EventBatch.from_dense(x), x))
    for layer, expected in zip(ours.layers, dense.layers, strict=True):
        assert layer.rate == expected.rate
        check(layer.depth(), expected.depth().to_dense())
        check(layer.time(), expected.time().to_dense())
    check(ours.decoder.transition(), dense.decoder.transition().to_dense())


def test_a_passed_state_is_the_memory_before_the_first_step():
    layer, _ = make_layer("ALIF")

    class Continued(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            _, state = self.layer.run(x, None)[:2]
            return self.layer(x, state)[0]

    x = drive(3)
    grid = trace(Continued(), x, num_times=3)
    record = grid.layers[0]
    _, state = layer(x)
    _, states = run_by_steps(layer, x, state)
    points = grid.points
    check(record.time(), at_points(points, lambda t, b: time_jacobian(layer, x[t, b : b + 1], row(states[t], b))))


@pytest.mark.parametrize("generator", [None, 3])
def test_points_are_distinct_valid_and_spread_over_every_sample(generator):
    lengths = torch.tensor([1, 3, 8, 20, 33])
    x = torch.zeros(40, 5, 5)
    batch = EventBatch.from_dense(x, lengths=lengths)
    layer = LIF(5, 6)
    for _ in range(5):
        points = trace(layer, batch, num_times=8, generator=generator and seeded(generator)).points
        pairs = list(zip(points.times.tolist(), points.samples.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)
        for sample, length in enumerate(lengths.tolist()):
            times = sorted(t for t, b in pairs if b == sample)
            assert len(times) == min(8, length)
            assert times[-1] < length
            shares = [math.floor((t + 1e-9) * len(times) / length) for t in times]
            assert max(abs(share - index) for index, share in enumerate(shares)) <= 1, "one in each share"
        generator = generator and generator + 1


def test_a_generator_draws_the_steps_and_repeats():
    x = drive(40)
    layer, _ = make_layer("LIF")

    def times(generator):
        return trace(layer, x, num_times=4, generator=generator).points.times

    assert torch.equal(times(seeded(1)), times(seeded(1)))
    assert not torch.equal(times(seeded(1)), times(seeded(2)))
    assert times(None).reshape(4, 3)[:, 0].tolist() == [5, 15, 25, 35]


def test_wide_layers_are_measured_at_fewer_of_the_same_points_spread_over_steps_and_samples():
    layer, _ = make_layer("LIF")  # 6 variables for each sample
    x = torch.zeros(40, 16, 5, dtype=torch.float64)
    pairs = [
        list(zip(points.times.tolist(), points.samples.tolist(), strict=True))
        for points in (record(layer, x).grid(8, None, wide).points for wide in (None, 6, 3, 2, 1))
    ]
    assert [len(found) for found in pairs] == [128, 128, 32, 14, 8]
    assert pairs[1] == pairs[0]
    for found in pairs[2:]:
        assert set(found) < set(pairs[0])
        assert len(set(found)) == len(found)
        assert len({time for time, _ in found}) >= 4
        assert len({sample for _, sample in found}) >= 6


def test_a_short_sample_does_not_enter_its_own_products_twice():
    """With something between the layers, a step that was recorded twice once doubled the depth radius."""
    model, x = Residual(), drive(3)
    every, few = (trace(model, x, num_times=count).layers[1].depth().to_dense() for count in (8, 3))
    torch.testing.assert_close(every, few)
    op = trace(model, x, num_times=8).layers[1].depth()
    u = normal(op.batch, op.rows, seed=9)
    torch.testing.assert_close(op.rmatvec(u), torch.einsum("krc,kr->kc", op.to_dense(), u))


def test_the_rate_is_the_mean_over_valid_steps():
    x = (normal(12, 3, 5) > 0).float()
    lengths = torch.tensor([12, 4, 7])
    x = x * (torch.arange(12)[:, None] < lengths)[:, :, None]
    layer = LIF(5, 6, threshold=0.2, generator=seeded())
    z = layer(x)[0].detach()
    expected = sum(float(z[:length, b].sum()) for b, length in enumerate(lengths.tolist())) / (6 * 23)
    found = trace(layer, EventBatch.from_dense(x, lengths=lengths)).layers[0].rate
    assert found == pytest.approx(expected)
    assert 0 < found < 1


def test_layers_stand_in_the_order_of_their_calls():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.top, self.bottom = LIF(6, 4, generator=seeded()), LIF(5, 6, generator=seeded())

        def forward(self, x):
            return self.top(self.bottom(x)[0])[0]

    assert [layer.name for layer in trace(Backwards(), drive().float()).layers] == ["bottom", "top"]


def test_call_runs_an_unusual_forward():
    layer = LIF(5, 5, generator=seeded())
    seen = []

    def call(model, inputs):
        seen.append((model, inputs.shape))
        return {"out": model(inputs.flip(0))[0]}

    grid = trace(layer, drive().float(), call=call)
    assert seen == [(layer, (9, 3, 5))]
    assert grid.decoder is None
    assert grid.layers[0].name == ""


class Twice(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.layer, self.other, self.times = LIF(5, 5), LIF(5, 5), times

    def forward(self, x):
        x, _ = self.other(x)
        for _ in range(self.times):
            x, _ = self.layer(x)
        return x


class Densified(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = LIF(5, 5)

    def forward(self, x):
        return self.layer(2 * x.to_dense())


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        (Twice(0), torch.ones(9, 2, 5), ValueError, "layer 'layer': expected a call in every forward pass, got none"),
        (Twice(2), torch.ones(9, 2, 5), ValueError, "layer 'layer': expected parameters of its own in every layer"),
        (nn.Identity(), torch.ones(9, 2, 5), ValueError, "model: expected at least one layer that can be measured"),
        (LI(5, 5), torch.ones(9, 2, 5), ValueError, "model: expected at least one layer that can be measured"),
        (trace, torch.ones(9, 2, 5), TypeError, "model: expected a torch.nn.Module, got function"),
        (LIF(5, 5), torch.ones(5), ValueError, "inputs: expected .time steps, batch, features...."),
        (LIF(5, 5), torch.ones(0, 2, 5), ValueError, "inputs: expected .time steps, batch, features...."),
        (LIF(5, 5), torch.ones(9, 2, 5).long(), TypeError, "inputs: expected a floating-point tensor"),
        (LIF(5, 5), torch.full((9, 2, 5), math.nan), ValueError, "inputs: expected finite values, got 90 NaN"),
        (LIF(5, 5), [1.0], TypeError, "inputs: expected a torch.Tensor, got list"),
        (
            LIF(5, 5).to("meta"),
            torch.ones(9, 2, 5),
            ValueError,
            "inputs: expected the model's device meta, got cpu",
        ),
        (Densified(), EventBatch.from_dense(torch.ones(9, 2, 5)), ValueError, "layer 'layer': expected the model's Ev"),
    ],
)
def test_bad_models_and_inputs_are_named(model, inputs, error, message):
    with pytest.raises(error, match=message) as caught:
        trace(model, inputs)
    assert "\n" not in str(caught.value)


def test_bad_parameters_counts_and_modes_are_named():
    layer = LIF(5, 5)
    with pytest.raises(ValueError, match="num_times: expected an integer >= 1, got 0"):
        trace(layer, torch.ones(9, 2, 5), num_times=0)
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"got torch.inference_mode; use torch.no_grad instead"),
    ):
        trace(layer, torch.ones(9, 2, 5))
    with torch.no_grad():
        layer.weight[0, 0] = math.inf
    with pytest.raises(ValueError, match="parameter weight: expected finite values, got 0 NaN and 1 infinite"):
        trace(layer, torch.ones(9, 2, 5))


def test_points_take_rows_of_a_sequence():
    sequence = normal(5, 2, 3)
    points = Points(torch.tensor([4, 0]), torch.tensor([1, 0]))
    assert torch.equal(points.take(sequence), torch.stack([sequence[4, 1], sequence[0, 0]]))
