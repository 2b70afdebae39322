"""Reports of models: their values, what theory says about them, and that measuring leaves no mark on the model."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from cases import normal, seeded
from lsc_snn import ALIF, LI, LIF, EventBatch, Network, NetworkConfig, gradient_profile, measure
from lsc_snn.measure import RadiusReport, mean_of
from lsc_snn.surrogate import Rectangular
from lsc_snn.trace import trace
from reference import drive, make_layer, radii, run_by_steps


def network(**options):
    layer = {"threshold": 0.3} | options.pop("layer", {})
    return Network(NetworkConfig(**({"num_inputs": 5, "num_classes": 3, "num_units": 12, "layer": layer} | options)))


class Noisy(nn.Module):
    """A model that does in its forward all that must leave no mark."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.first, self.second = ALIF(5, 6, generator=seeded(1)), LIF(6, 4, generator=seeded(2))
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(6)
        self.register_buffer("calls", torch.zeros(()))
        self.hidden, self.fails = None, fails
        self.first.weight.requires_grad_(False)
        self.second.weight.grad = torch.ones_like(self.second.weight)
        self.first.register_forward_hook(lambda module, args, output: None)
        self.norm.eval()
        own = self.second.forward
        self.second.forward = lambda *args: own(*args)  # somebody else has patched it

    def forward(self, x):
        self.calls += 1
        y, state = self.first(x + 0.1 * torch.randn_like(x))
        y = self.norm(self.dropout(y).flatten(0, 1)).reshape(y.shape)
        self.hidden = state
        z, _ = self.second(y)
        if self.fails:
            raise LookupError("the model's own error")
        return z


def marks(model):
    """Return everything about a model and the process that a measurement could leave a mark on."""
    modules = dict(model.named_modules())
    return {
        "random": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "flags": {name: (p.requires_grad, id(p)) for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {name: list(module._forward_hooks.values()) for name, module in modules.items()},
        "attributes": {
            (name, key): id(value) for name, module in modules.items() for key, value in vars(module).items()
        },
    }


def equal(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.mark.parametrize("run", [measure, gradient_profile])
def test_a_measurement_leaves_no_mark(run):
    model, x = Noisy(), torch.ones(9, 3, 5)
    kept = x.clone()
    before = marks(model)
    run(model, x)
    assert equal(marks(model), before)
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert model(x).shape == (9, 3, 4), "the model still runs"
    assert not equal(marks(model), before), "a plain forward leaves marks, so this test can see them"


@pytest.mark.parametrize("run", [measure, gradient_profile])
def test_an_error_of_the_model_passes_through_and_leaves_no_mark(run):
    model = Noisy(fails=True)
    before = marks(model)
    with pytest.raises(LookupError, match=r"^the model's own error$") as caught:
        run(model, torch.ones(9, 3, 5))
    assert caught.value.__cause__ is None
    assert equal(marks(model), before)
    with pytest.raises(ValueError, match="inputs: expected finite"):
        run(model, torch.full((9, 3, 5), math.nan))
    assert equal(marks(model), before)


@pytest.mark.parametrize("run", [measure, gradient_profile])
def test_a_measurement_repeats_whatever_the_global_random_state(run):
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            results.append(run(Noisy(), torch.ones(9, 3, 5)))
    if run is measure:
        assert results[0].to_dict() == results[1].to_dict()
    else:
        assert torch.equal(*results)


def test_a_generator_decides_alone():
    model, x = network(), drive().float()
    one, same, other = (measure(model, x, num_times=2, generator=seeded(seed)).to_dict() for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert measure(model, x).to_dict() == measure(copy.deepcopy(model), x).to_dict()


@pytest.mark.parametrize("method", ["exact", "power"])
def test_a_report_holds_the_mean_radii_of_the_grid(method, device):
    model, x = network(num_layers=3).double().to(device), drive(20).to(device)
    report = measure(model, x, method=method, num_matvecs=200, num_times=4)
    grid = trace(model, x, num_times=4)
    assert report.names == ("layers.0", "layers.1", "layers.2")
    assert report.time.dtype == report.depth.dtype == report.rates.dtype == torch.float64
    expected = [float(radii(layer.time().to_dense()).mean()) for layer in grid.layers]
    assert report.time.tolist() == pytest.approx(expected, rel=1e-6)
    expected = [float(radii(layer.depth().to_dense()).mean()) for layer in grid.layers[1:]]
    assert report.depth.tolist() == pytest.approx(expected, rel=1e-6)
    assert report.rates.tolist() == pytest.approx([layer.rate for layer in grid.layers])
    weight = model.readout.weight.detach().cpu()
    assert 0 < report.decoder < float(torch.linalg.matrix_norm(weight, 2))
    assert 0 < report.encoder < float(torch.linalg.matrix_norm(model.layers[0].weight.detach().cpu(), 2))


def test_events_are_measured_as_the_dense_tensor():
    model, x = network().double(), (drive(20) > 0.5).double()
    dense, events = measure(model, x).to_dict(), measure(model, EventBatch.from_dense(x)).to_dict()
    assert dense.pop("names") == events.pop("names")
    errors = dense.pop("errors"), events.pop("errors")
    for one, other in (errors, (dense, events)):
        assert one.keys() == other.keys()
        for key, values in one.items():
            assert other[key] == (None if values is None else pytest.approx(values, rel=1e-9, abs=1e-12))


def test_a_silent_network_is_dead_not_an_error():
    report = measure(network(layer={"threshold": 50.0}), drive().float())
    assert report.depth.tolist() == [0]
    assert report.encoder == 0
    assert report.rates.tolist() == [0, 0]
    assert "dead" in str(report)


def test_errors_are_those_of_means_over_points_and_a_rough_one_shows():
    report = measure(network(), drive().float(), method="exact")
    grid = trace(network(), drive().float())
    radii = torch.linalg.eigvals(grid.layers[1].time().to_dense()).abs().amax(-1)
    assert report.errors["time", "layers.1"] == pytest.approx(float(radii.std() / len(radii) ** 0.5 / radii.mean()))
    assert set(report.errors) == {(kind, name) for kind, name, _ in report.entries() if kind != "decoder"}
    gates = measure(nn.GRU(5, 4), drive().float())
    assert not gates.errors  # only where there is a window can few points carry a radius
    rough = replace(report, errors={**report.errors, ("encoder", "layers.0"): 0.3})
    assert f"~{report.encoder:.3f}" in str(rough)
    assert "~" not in str(report)


def test_the_error_of_a_mean_over_one_point_or_of_a_dead_one_is_not_known():
    for found in (torch.tensor([0.7]), torch.zeros(4), torch.tensor([1.0, math.inf])):
        mean = mean_of(found)
        assert math.isnan(mean.error)
        assert not mean.rough
    one_of_many = mean_of(torch.tensor([1.0] + [0.0] * 63))
    assert one_of_many.error == pytest.approx(1.0)
    assert one_of_many.rough
    assert mean_of(torch.tensor([1.0] * 32 + [0.0] * 32)).rough is False


def test_a_report_prints_a_table_and_is_plain_json():
    column, rates = torch.tensor([[1.0, math.inf], [0.1, 0.2]], dtype=torch.float64)
    errors = {("encoder", "a"): 0.3, ("time", "b"): 0.5}
    report = RadiusReport(("a", "b"), column, torch.tensor([0.0]), 0.25, math.nan, rates, errors)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == {
        "names": ["a", "b"],
        "time": [1.0, "inf"],
        "depth": [0.0],
        "encoder": 0.25,
        "decoder": None,
        "rates": [0.1, 0.2],
        "errors": {"time": [None, 0.5], "depth": [None], "encoder": 0.3},
    }
    lines = [line.split() for line in str(report).splitlines()]
    assert lines == [
        ["layer", "time", "depth", "rate"],
        ["a", "1.000", "~0.250", "0.1000"],
        ["b", "~inf", "dead", "0.2000"],
    ]
    assert hash(report) == hash(report)
    assert [(kind, name) for kind, name, _ in report.entries()] == [
        ("encoder", "a"),
        ("time", "a"),
        ("depth", "b"),
        ("time", "b"),
    ]


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_radius_of_a_depth_transition_is_linear_in_the_weight(factor):
    """With every unit inside a flat surrogate window, dz' / dx = f W whatever the state."""
    model = network(layer={"surrogate": Rectangular(0.7, sharpness=1e-3), "reset": "none"}).double()
    before = measure(model, drive(), method="exact")
    with torch.no_grad():
        model.layers[1].weight.mul_(factor)
    after = measure(model, drive(), method="exact")
    assert float(after.depth / before.depth) == pytest.approx(factor, rel=1e-9)
    assert float(before.depth) == pytest.approx(0.7 * float(radii(model.layers[1].weight[None] / factor)), rel=1e-9)
    assert after.time.tolist() == pytest.approx(before.time.tolist(), rel=1e-9)


def linear_regime(a, b, num_layers, num_units=4, steps=12):
    """Return a stack of LIF layers whose gradient is PascalRNN's: dv'/dv = a and dv'(l) / dv'(l-1) = b, both diagonal.

    The surrogate is 1 everywhere, the reset is none, and nothing is recurrent.
    """
    options = {"recurrent": False, "tau": -1 / math.log(a), "surrogate": Rectangular(1.0, sharpness=1e-6)}
    layers = [LIF(num_units, num_units, reset="none", dtype=torch.float64, **options) for _ in range(num_layers)]
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(b * torch.eye(num_units))

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x):
            for layer in self.layers:
                x, _ = layer(x)
            return x

    return Stack(), normal(steps, 3, num_units)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.9, 0.1), (0.9, 1.5)])
def test_the_gradient_profile_of_a_linear_regime_is_the_path_sum(a, b):
    """d z(T, L) / d v(t, l) = a^dt b^dl C(dt + dl, dl): the measured radii predict where it decays or explodes."""
    model, x = linear_regime(a, b, num_layers=4)
    report = measure(model, x)
    assert report.time.tolist() == pytest.approx([a] * 4, rel=1e-5)
    assert report.depth.tolist() == pytest.approx([b] * 3, rel=1e-5)
    profile = gradient_profile(model, x)
    assert profile.shape == (12, 4)
    expected = torch.tensor(
        [[a**dt * b**dl * math.comb(dt + dl, dl) for dl in range(3, -1, -1)] for dt in range(11, -1, -1)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(profile / profile[-1, -1], expected, rtol=1e-4, atol=0)


def test_the_gradient_profile_of_a_tiny_net_is_the_gradient_by_hand():
    layer, _ = make_layer("ALIF", detach_reset=False)
    x, steps = drive(5), 5
    found = gradient_profile(layer, x)[:, 0]
    direction = torch.randn(3, 6, generator=seeded(0), dtype=torch.float64)
    _, states = run_by_steps(layer, x, layer.initial_state(3))
    for t in range(steps):
        v, a = (part.detach().requires_grad_() for part in states[t + 1][:2])
        state = states[t + 1]._replace(v=v, a=a)
        z = layer.surrogate(v - layer.threshold - layer.beta * a)
        for later in x[t + 1 :]:
            z, state = layer.step(later, state)
        gradients = torch.cat(torch.autograd.grad((z * direction).sum(), (v, a)), 1)
        torch.testing.assert_close(found[t], gradients.norm(dim=1).mean())


def test_the_gradient_profile_starts_at_the_last_valid_step_of_each_sample():
    model, x = network().double(), (drive(12) > 0.3).double()
    lengths = torch.tensor([12, 5, 7])
    x = x * (torch.arange(12)[:, None] < lengths)[:, :, None]
    profile = gradient_profile(model, EventBatch.from_dense(x, lengths=lengths))
    assert profile.shape == (12, 2)
    assert bool((profile > 0).all())
    short = gradient_profile(model, EventBatch.from_dense(x[:, 1:2], lengths=lengths[1:2]))
    assert not short[5:].any()
    assert short[:5].all()


def test_frozen_parameters_change_no_profile():
    model, x = network(), drive().float()
    expected = gradient_profile(model, x)
    model.requires_grad_(False)
    assert torch.equal(gradient_profile(model, x), expected)
    with torch.no_grad():
        assert torch.equal(gradient_profile(model, x), expected)


def test_measuring_without_gradients_or_with_frozen_parameters_changes_nothing():
    model, x = Headed(network().layers[0]), drive().float()
    expected = measure(model, x).to_dict()
    assert expected["decoder"] > 0
    with torch.no_grad():
        assert measure(model, x).to_dict() == expected
    model.requires_grad_(False)
    assert measure(model, x).to_dict() == expected


class Headed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(12, 3)
        nn.init.normal_(self.head.weight, generator=seeded())

    def forward(self, x):
        return self.head(self.layer(x)[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "exakt"}, ValueError, "method: expected one of 'power', 'exact', got 'exakt'; did you mean"),
        ({"num_times": 0}, ValueError, "num_times: expected an integer >= 1, got 0"),
        ({"num_matvecs": 0}, ValueError, "num_matvecs: expected an integer >= 1, got 0"),
        ({"inputs": torch.zeros(9, 3, 4)}, ValueError, "inputs: expected shape .time steps, batch, 5., got .9, 3, 4."),
        ({"model": LI(5, 3)}, ValueError, "model: expected at least one layer that can be measured, got LI with none"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        measure(**({"model": network(), "inputs": torch.zeros(9, 3, 5)} | arguments))


def test_a_profile_needs_a_tensor():
    with pytest.raises(TypeError, match=r"model: expected a tensor as output, .* got dict; pass call= to select it"):
        gradient_profile(network(), drive().float(), call=lambda model, x: {"out": model(x)})
