"""Stabilising: targets reached within the tolerance, and nothing half-changed, whatever happens."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

import lsc_snn as lsc
from lsc_snn.procedures.secant import RateDial, Secant

STEPS, BATCH, INPUTS = 30, 8, 24


def events(seed=0, density=0.1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(STEPS, BATCH, INPUTS, generator=generator) < density).float()


def network(neuron="ALIF", layers=2, units=48, **options):
    config = lsc.NetworkConfig(INPUTS, 5, num_layers=layers, num_units=units, neuron=neuron, layer=options)
    return lsc.Network(config, seed=1)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("target", ["one", "half", "balanced", (0.7, 0.6)], ids=str)
@pytest.mark.parametrize("neuron", ["LIF", "ALIF", "LSNN"])
def test_every_radius_and_rate_ends_where_it_should(neuron, target):
    model = network(neuron, layers=3)
    result = lsc.stabilize(model, events(), target=target)
    wanted = lsc.Target.parse(target, STEPS, 3)
    assert result.converged
    assert result.reasons == ()
    after = lsc.measure(model, events())
    assert (after.time - wanted.time).abs().max() <= 0.05
    assert (after.depth - wanted.depth).abs().max() <= 0.05
    assert abs(after.encoder - wanted.depth) <= 0.05
    assert abs(after.decoder - 1) <= 0.05
    assert ((after.rates >= 0.01) & (after.rates <= 0.5)).all()
    assert after.to_dict() == result.after.to_dict()


@pytest.mark.parametrize(
    "options", [{"recurrent": False}, {"detach_reset": False}, {"reset": "hard"}, {"refractory": 2}]
)
def test_other_dynamics_reach_half(options):
    model = network("ALIF", **options)
    result = lsc.stabilize(model, events())
    assert result.converged, result.reasons


def test_the_exact_oracle_agrees_with_what_was_reached():
    model = network()
    lsc.stabilize(model, events())
    exact = lsc.measure(model, events(), method="exact")
    assert (exact.time - 0.5).abs().max() < 0.06
    assert (exact.depth - 0.5).abs().max() < 0.06


def test_stabilising_is_deterministic_and_repeats_bit_for_bit():
    first, second = network(), network()
    one, two = lsc.stabilize(first, events()), lsc.stabilize(second, events())
    assert same(state(first), state(second))
    assert one.after.to_dict() == two.after.to_dict()
    assert one.sweeps == two.sweeps


def test_a_generator_changes_the_points_and_repeats():
    def run(seed):
        model = network()
        return lsc.stabilize(model, events(), generator=torch.Generator().manual_seed(seed)).after.to_dict()

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_batches_may_be_any_iterable_and_are_gone_through_in_turn():
    seen = []

    def stream():
        for seed in range(2):
            seen.append(seed)
            yield events(seed)

    result = lsc.stabilize(network(), stream(), target="half")
    assert result.converged
    assert seen == [0, 1]


def test_event_batches_give_the_same_as_the_dense_tensor():
    dense, sparse = network(), network()
    lsc.stabilize(dense, events())
    result = lsc.stabilize(sparse, lsc.EventBatch.from_dense(events()))
    assert result.converged
    for name, value in dense.state_dict().items():
        torch.testing.assert_close(value, sparse.state_dict()[name], rtol=1e-2, atol=1e-2)


def test_nothing_but_parameters_changes():
    model = network()
    model.layers[1].eval()
    flags = [module.training for module in model.modules()]
    requires = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    lsc.stabilize(model, events())
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == requires
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("procedure", ["fast", "paper"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_at_any_moment_leaves_the_model_as_it_was(procedure, error):
    for moment in (0, 1, 3):
        model = network()
        before = state(model)
        calls = itertools.count()

        def call(model, inputs, calls=calls, moment=moment):
            if next(calls) > moment:
                raise error("stop")
            return model(inputs)

        with pytest.raises(error, match="stop"):
            lsc.stabilize(model, events(), call=call, procedure=procedure)
        assert same(before, state(model))


def test_frozen_parameters_stay_and_the_report_says_why():
    model = network()
    layer = model.layers[0]
    for parameter in (layer.recurrent_raw, layer.alpha_raw, layer.rho_raw, layer.beta_raw):
        parameter.requires_grad_(False)
    before = state(layer)
    result = lsc.stabilize(model, events(), max_sweeps=6)
    assert not result.converged
    assert any("layers.0: time radius" in line and "frozen" in line for line in result.reasons)
    assert all(
        torch.equal(before[name], layer.state_dict()[name]) for name in ("recurrent_raw", "alpha_raw", "rho_raw")
    )


def test_a_wholly_frozen_model_ends_at_once():
    model = network().requires_grad_(False)
    before = state(model)
    result = lsc.stabilize(model, events())
    assert (not result.converged and result.sweeps == 0) or len(result.history) == 1
    assert same(before, state(model))


def test_a_silent_input_ends_with_a_clear_result_and_no_division():
    model = network()
    result = lsc.stabilize(model, torch.zeros(STEPS, BATCH, INPUTS), max_sweeps=5)
    assert not result.converged
    assert any("firing rate 0" in line for line in result.reasons)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (0.0, (TypeError, ValueError)),
        ((0.0, 0.5), ValueError),
        ((-1.0, 0.5), ValueError),
        ((math.nan, 0.5), ValueError),
        ((2.5, 0.5), ValueError),
        ("hlaf", ValueError),
    ],
)
def test_bad_targets(target, error):
    model = network()
    before = state(model)
    with pytest.raises(error):
        lsc.stabilize(model, events(), target=target)
    assert same(before, state(model))


@pytest.mark.parametrize(
    ("batches", "error", "match"),
    [
        (torch.full((STEPS, BATCH, INPUTS), math.nan), ValueError, "finite"),
        (torch.zeros(STEPS, INPUTS), ValueError, "time steps, batch"),
        (torch.zeros(0, BATCH, INPUTS), ValueError, "empty"),
        (torch.zeros(STEPS, 0, INPUTS), ValueError, "empty"),
        (torch.zeros(STEPS, BATCH, INPUTS, dtype=torch.int64), TypeError, "floating"),
        (torch.zeros(STEPS, BATCH, INPUTS, device="meta"), ValueError, "device"),
        ([], ValueError, "at least one batch"),
        (3, TypeError, "iterable"),
    ],
)
def test_bad_batches(batches, error, match):
    model = network()
    before = state(model)
    with pytest.raises(error, match=match) as caught:
        lsc.stabilize(model, batches)
    assert "\n" not in str(caught.value)
    assert same(before, state(model))


def test_bad_models():
    with pytest.raises(ValueError, match="at least one layer"):
        lsc.stabilize(nn.Sequential(nn.Tanh()), events())
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        lsc.stabilize(lambda x: x, events())
    model = network()
    with torch.no_grad():
        model.layers[1].weight[0, 0] = math.inf
    with pytest.raises(ValueError, match=r"layers\.1\.weight"):
        lsc.stabilize(model, events())
    shared = network(layers=3)
    shared.layers[2].weight = shared.layers[1].weight
    with pytest.raises(ValueError, match="shared by"):
        lsc.stabilize(shared, events())


@pytest.mark.parametrize(
    "options", [{"tolerance": 0}, {"max_sweeps": 0}, {"procedure": "slow"}, {"rate_band": (0.5, 0.1)}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match="expected"):
        lsc.stabilize(network(), events(), **options)


@pytest.mark.slow
def test_the_paper_procedure_reaches_its_own_tolerance():
    model = network("ALIF", units=16, threshold=0.1)
    result = lsc.stabilize(model, events()[:15], procedure="paper", tolerance=0.08, max_sweeps=1000)
    assert result.converged, result.reasons
    assert result.sweeps > 20


def test_the_paper_procedure_comes_closer():
    model = network("ALIF", units=12, threshold=0.1)
    result = lsc.stabilize(model, events()[:12, :4], procedure="paper", tolerance=0.08, max_sweeps=40)

    def worst(report):
        return max(abs(radius - (1 if kind == "decoder" else 0.5)) for kind, _, radius in report.entries())

    assert worst(result.after) < 0.5 * worst(result.before)


def test_a_stabilised_model_still_loads_older_checkpoints():
    model = network()
    keys = list(model.state_dict())
    saved = copy.deepcopy(model.state_dict())
    lsc.stabilize(model, events())
    assert list(model.state_dict()) == keys
    model.load_state_dict(saved)
    assert same(saved, model.state_dict())


def test_report_prints_and_serialises():
    result = lsc.stabilize(network(), events(), max_sweeps=1)
    text, plain = str(result), result.to_dict()
    assert "layers.1" in text
    assert "sweeps" in text
    assert plain["before"]["names"] == ["layers.0", "layers.1"]
    assert len(plain["history"]) == len(result.history)


def test_a_secant_finds_the_root_of_a_power_law():
    secant, position = Secant(), 0.0
    for _ in range(12):
        position += secant.step(1.7 * position + 2.0, 0.5)
    assert abs(1.7 * position + 2.0 - 0.5) < 1e-3


def test_a_bistable_layer_is_silenced_once_more_by_a_shorter_step_and_not_again():
    dial = RateDial((0.01, 0.5))
    raised = dial.step(0.4)
    assert raised > 0
    assert dial.step(0.0) == -raised
    short = dial.step(0.4)
    assert 0 < short < raised  # perhaps it was the step that was too long
    assert dial.step(0.0) == -short
    assert dial.step(0.4) == 0.0


def test_a_rate_within_its_band_is_moved_further_in_a_few_times_only():
    dial = RateDial((0.01, 0.5))
    assert all(dial.step(0.4, ready=False) > 0 for _ in range(9))  # none of them counts while its input still changes
    steps = [dial.step(rate) for rate in (0.4, 0.39, 0.4, 0.41, 0.4, 0.4)]
    assert all(step > 0 for step in steps[:4])
    assert steps[4:] == [0.0, 0.0]
    assert dial.step(0.6) > 0  # outside its band it is moved all the same


def test_a_band_from_zero_still_wakes_a_silent_layer():
    result = lsc.stabilize(network(), events(), rate_band=(0.0, 1.0))
    assert result.converged
    assert (result.after.rates > 0).all()
