"""Baseline initialisations: bad input is named, and a model is left as it was on any error."""

import itertools
import math

import pytest
import torch
from torch import nn

from cases import seeded
from lsc_snn import LI, LIF, Network, NetworkConfig
from lsc_snn.baselines import fluctuation_driven, lsuv, orthogonal
from test_baselines import BATCH, INPUTS, RESETS, STEPS, network, same, spikes, state

DATA_DRIVEN = [lsuv, fluctuation_driven]


def unchanged_after(error, match, method, model, *arguments, **options):
    """Say whether a call that raises ``error``, on one line, leaves the model as it was."""
    before = state(model)
    with pytest.raises(error, match=match) as caught:
        method(model, *arguments, **options)
    return "\n" not in str(caught.value) and same(before, state(model))


@pytest.mark.parametrize(
    ("options", "batches", "error", "match"),
    [
        ({}, torch.zeros(STEPS, BATCH, INPUTS), ValueError, r"layers\.0.*at its input"),
        ({"xi": 50.0}, spikes(), ValueError, r"layers\.0.*of its own"),
        ({"xi": 8.0, "mu": 0.9}, spikes(), ValueError, r"layers\.0.*leaves weights a variance"),
        ({"mu": 0.1}, spikes() - spikes().mean(), ValueError, r"layers\.0.*leaves weights a variance"),
        ({"xi": 0.0}, spikes(), ValueError, "xi: expected"),
        ({"xi": "1"}, spikes(), TypeError, "xi: expected"),
        ({"mu": 1.0}, spikes(), ValueError, "mu: expected"),
        ({"mu": math.nan}, spikes(), ValueError, "mu: expected"),
        ({"alpha": 0.0}, spikes(), ValueError, "alpha: expected"),
        ({"alpha": 1.5}, spikes(), ValueError, "alpha: expected"),
    ],
)
def test_what_fluctuation_driven_cannot_reach(options, batches, error, match):
    assert unchanged_after(error, match, fluctuation_driven, network("LIF"), batches, **options)


def test_what_fluctuation_driven_does_not_know():
    assert unchanged_after(
        ValueError, "expected spiking layers", fluctuation_driven, nn.Sequential(nn.Linear(INPUTS, 3)), spikes()
    )
    assert unchanged_after(ValueError, "expected spiking layers", fluctuation_driven, LI(INPUTS, 3), spikes())
    snntorch = pytest.importorskip("snntorch")
    synaptic, leaky, no_leak, two = (
        snntorch.Synaptic(alpha=0.9, beta=0.9),
        *(snntorch.Leaky(beta, init_hidden=True) for beta in (0.9, 1.0, torch.tensor([0.9, 0.8]))),
    )
    for match, layers in (
        ("'1'.*got Synaptic", (nn.Linear(INPUTS, 3), synaptic)),
        ("'2'.*very output", (nn.Linear(INPUTS, 3), nn.ReLU(), leaky)),
        ("'0'.*decay below 1", (nn.Linear(INPUTS, 3), no_leak)),
        ("'0'.*decay.*each of 3 rows, got 2", (nn.Conv1d(BATCH, 3, 59), two)),
    ):
        assert unchanged_after(ValueError, match, fluctuation_driven, nn.Sequential(*layers), spikes())


class Two(nn.Module):
    """A module with two matrices of its own."""

    def __init__(self):
        super().__init__()
        self.weight_a, self.weight_b = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))

    def forward(self, x):
        return x @ self.weight_a @ self.weight_b


def test_what_lsuv_cannot_do():
    x, packed = torch.ones(4, 3), nn.utils.rnn.pack_sequence([torch.ones(4, 3)])
    assert unchanged_after(ValueError, "weight_a, weight_b", lsuv, nn.Sequential(Two()), x)
    assert unchanged_after(TypeError, "PackedSequence", lsuv, nn.LSTM(3, 3), x, call=lambda model, _: model(packed))
    assert unchanged_after(
        ValueError, r"0\.weight: .*finite", lsuv, nn.Sequential(nn.Linear(3, 3)), x, call=lambda m, x: m(x / 0)
    )
    assert unchanged_after(ValueError, "tolerance", lsuv, nn.Linear(3, 3), x, tolerance=0)
    assert unchanged_after(ValueError, "max_iterations", lsuv, nn.Linear(3, 3), x, max_iterations=0)
    assert lsuv(nn.Sequential(Two().requires_grad_(False), nn.Linear(3, 3)), x).layers == ("1.weight",)


@pytest.mark.parametrize("method", DATA_DRIVEN)
@pytest.mark.parametrize(
    ("batches", "error", "match"),
    [
        (torch.full((STEPS, BATCH, INPUTS), math.nan), ValueError, "finite"),
        (torch.zeros(INPUTS), ValueError, "time steps, batch"),
        (torch.zeros(0, BATCH, INPUTS), ValueError, "empty"),
        (torch.zeros(STEPS, BATCH, INPUTS, dtype=torch.int64), TypeError, "floating"),
        (torch.zeros(STEPS, BATCH, INPUTS, device="meta"), ValueError, "device"),
        ([], ValueError, "at least one batch"),
        ([spikes(), "b"], TypeError, "Tensor"),
        (3, TypeError, "iterable"),
    ],
)
def test_bad_batches(method, batches, error, match):
    assert unchanged_after(error, match, method, network(), batches)


def test_bad_models_and_generators():
    for method, arguments in [(reset, ()) for reset in RESETS] + [(method, (spikes(),)) for method in DATA_DRIVEN]:
        with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
            method(lambda x: x, *arguments)
        assert unchanged_after(
            ValueError, "at least one weight matrix", method, nn.Sequential(nn.BatchNorm1d(3)), *arguments
        )
        assert unchanged_after(
            ValueError, "weight matrix that is not frozen", method, network().requires_grad_(False), *arguments
        )
        assert unchanged_after(TypeError, "generator: expected", method, network(), *arguments, generator=7)
    assert unchanged_after(ValueError, "gain", orthogonal, network(), gain=-1.0)
    for method in DATA_DRIVEN:
        broken, unused = network(), network()
        nn.init.constant_(broken.layers[1].weight, math.inf)
        assert unchanged_after(ValueError, r"layers\.1\.weight.*finite", method, broken, spikes())
        unused.spare = LIF(3, 3)
        assert unchanged_after(ValueError, r"spare.*expected a call", method, unused, spikes())
        unused.spare.requires_grad_(False)
        assert not any("spare" in name for name in method(unused, spikes()).parameters)


class Restless(Network):
    """A network whose forward leaves traces: in a buffer, an attribute and the global random state."""

    def __init__(self):
        super().__init__(NetworkConfig(INPUTS, 5, num_units=40), seed=1)
        self.register_buffer("counter", torch.zeros(()))
        self.layers[1].eval()

    def forward(self, inputs):
        self.counter += 1
        self.seen = torch.rand(3)
        return super().forward(inputs)


def around(model):
    """Return what an initialisation must not change, besides parameters."""
    modules = list(model.modules())
    hooks = [(m._forward_hooks.copy(), m._forward_pre_hooks.copy(), sorted(m.__dict__)) for m in modules]
    flags = [m.training for m in modules], [p.requires_grad for p in model.parameters()]
    return hooks, flags, [p.grad for p in model.parameters()], torch.get_rng_state().tolist(), model.counter.item()


@pytest.mark.parametrize("method", DATA_DRIVEN)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_at_any_moment_leaves_the_model_as_it_was(method, error):
    for moment in range(5):
        model, calls = Restless(), itertools.count()
        before = around(model)

        def call(model, inputs, calls=calls, moment=moment):
            model(inputs)
            if next(calls) == moment:
                raise error("stop")

        assert unchanged_after(error, "stop", method, model, spikes(), call=call)
        assert around(model) == before


@pytest.mark.parametrize("reset", RESETS)
def test_an_interrupted_reset_leaves_the_model_as_it_was(reset):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(torch.zeros(1).expand(4, 4))  # one number for sixteen: torch refuses to write it
    before = state(model[0])
    with pytest.raises(RuntimeError):
        reset(model)
    assert same(before, state(model[0]))


@pytest.mark.parametrize("method", RESETS + DATA_DRIVEN)
def test_nothing_else_changes_and_the_same_generator_gives_the_same(method):
    arguments = () if method in RESETS else (spikes(),)

    def result(generator=None):
        model = Restless()
        method(model, *arguments, generator=generator)
        return state(model)

    model = Restless()
    frozen = [model.layers[0].recurrent_raw.requires_grad_(False), model.layers[1].weight.requires_grad_(False)]
    before, values = around(model), state(model)
    report = method(model, *arguments)
    assert around(model) == before
    changed = {name for name, value in state(model).items() if not torch.equal(value, values[name])}
    readout = set() if method is fluctuation_driven else {"readout.weight"}
    assert changed == {"layers.0.weight", "layers.1.recurrent_raw"} | readout
    assert changed == set(report.parameters) - {"readout.bias"}
    assert len(frozen) == 2
    assert same(result(), result())
    assert same(result(seeded(5)), result(seeded(5)))
    generator = seeded(5)
    assert not same(result(generator), result(generator))
