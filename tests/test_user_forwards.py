"""What users' forwards do besides calling one layer after the other: sharing, cuts, noise, attention, embeddings."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import lsc_snn as lsc
from cases import normal, seeded
from lsc_snn import gradient_profile, measure, stabilize
from lsc_snn.trace import trace


class Own(nn.Module):
    """Modules, and a forward over them."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            self.add_module(name, module.double())

    def forward(self, x):
        return self.run(self, x)


def linear(*sizes):
    with torch.random.fork_rng():
        torch.manual_seed(sum(sizes))
        return nn.Linear(*sizes)


def cells_of_two_layers(model, x):
    states, outputs = [x.new_zeros(x.shape[1], 6)] * 2, []
    for signal in x:
        for index in range(2):
            states[index] = signal = model.cell(signal, states[index])
        outputs.append(signal)
    return torch.stack(outputs)


SHARED = {
    "linear": lambda: Own(lambda m, x: m.a(m.a(x[0]).relu()), a=linear(6, 6)),
    "residual": lambda: Own(lambda m, x: x[0] + m.a(x[0] + m.a(x[0]).relu()), a=linear(6, 6)),
    "between others": lambda: Own(lambda m, x: m.b(m.a(m.a(m.c(x)))), a=linear(6, 6), b=linear(6, 6), c=linear(6, 6)),
    "sequential": lambda: Own(lambda m, x: m.a(x[0]), a=nn.Sequential(*[linear(6, 6)] * 3)),
    "convolution": lambda: Own(lambda m, x: m.a(m.a(x)), a=nn.Conv1d(3, 3, 1)),
    "sequence module": lambda: Own(lambda m, x: m.a(m.a(x)[0])[0], a=nn.GRU(6, 6)),
    "two layers": lambda: Own(lambda m, x: m.a(m.a(x)[0])[0], a=nn.LSTM(6, 6, 2)),
    "our layer": lambda: Own(lambda m, x: m.a(m.a(x)[0])[0], a=lsc.LIF(6, 6, generator=seeded())),
    "cell": lambda: Own(cells_of_two_layers, cell=nn.GRUCell(6, 6)),
}  # fmt: skip


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("run", [measure, gradient_profile, stabilize])
def test_a_module_that_stands_for_several_layers_is_named(make, run):
    with pytest.raises(
        ValueError, match=r"^layer '(a|cell|a.0)': expected parameters of its own in every layer, got"
    ) as e:
        run(make(), normal(5, 3, 6))
    assert "\n" not in str(e.value)


def rnn(model, x):
    h, outputs = x.new_zeros(x.shape[-2], 6), []
    for step in x if x.dim() > 2 else [x] * 4:
        h = torch.tanh(model.a(step) + model.b(h))
        outputs.append(h)
    return torch.stack(outputs)


def concatenated(model, x):
    h, outputs = x.new_zeros(x.shape[1], 6), []
    for step in x:
        h = torch.tanh(model.a(torch.cat([step, h], 1)))
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Own(rnn, a=linear(6, 6), b=linear(6, 6)), normal(5, 3, 6)),
        (Own(rnn, a=linear(6, 6), b=linear(6, 6)), normal(3, 6)),
        (Own(concatenated, a=linear(12, 6)), normal(5, 3, 6)),
    ],
)
def test_memory_over_linear_layers_is_not_taken_for_sharing(model, x):
    with pytest.raises(ValueError, match=r"layer 'model': .* got Own, which carries memory from step to step"):
        measure(model, x)


def without_gradient(model, x):
    with torch.no_grad():
        return model.a(x)


def hidden(model, x):
    y = model.a(x)
    with torch.no_grad():
        y = 2 * (y[0] if isinstance(y, tuple) else y)
    z = model.b(y)
    return z[0] if isinstance(z, tuple) else z


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Own(lambda m, x: without_gradient(m, x)[0], a=nn.GRU(6, 6)), "'a': expected a gradient from step to step"),
        (Own(without_gradient, a=linear(6, 6)), "'a': expected a gradient through every layer, .* torch.no_grad"),
        (Own(lambda m, x: m.b(without_gradient(m, x)), a=linear(6, 6), b=linear(6, 6)), "'a': expected a gradient thr"),
        (Own(hidden, a=nn.GRU(6, 6), b=nn.GRU(6, 6)), "'b': expected a gradient to the layers below, got none"),
        (Own(hidden, a=linear(6, 6), b=linear(6, 6)), "'b': expected a gradient to the layers below, got none"),
        (Own(lambda m, x: m.b(m.a(x)[0].detach())[0], a=nn.GRU(6, 6), b=nn.GRU(6, 6)), "'b': expected a gradient to"),
    ],
)
@pytest.mark.parametrize("run", [measure, gradient_profile])
def test_what_passes_no_gradient_is_named(model, message, run):
    with pytest.raises(ValueError, match=message):
        run(model, normal(5, 3, 6))


def test_a_profile_of_an_output_without_gradient_is_named():
    model = Own(lambda m, x: m.a(x)[0].detach(), a=nn.GRU(6, 6))
    with pytest.raises(ValueError, match="model: expected an output that a gradient reaches, got none"):
        gradient_profile(model, normal(5, 3, 6))


def noisy(source):
    def forward(model, x):
        return model.a(x + torch.as_tensor(source(x.shape)))[0]

    return Own(forward, a=nn.GRU(6, 6))


NOISE = {
    "torch": lambda shape: torch.randn(shape),
    "numpy": lambda shape: np.random.randn(*shape),
    "python": lambda shape: torch.full(shape, random.random()),
}


@pytest.mark.parametrize("source", NOISE.values(), ids=NOISE)
def test_noise_is_the_same_in_every_measurement_and_goes_on_afterwards(source):
    model, x = noisy(source), normal(5, 3, 6)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first, second = measure(model, x), measure(model, x)
    assert first.to_dict() == second.to_dict()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert not torch.equal(model(x), model(x)), "the model is noisy"


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_noise_of_a_generator_inside_the_model(kind):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(6, 6).double()
            self.drawn = torch.Generator().manual_seed(3) if kind == "torch" else np.random.default_rng(3)

        def forward(self, x):
            if kind == "torch":
                return self.gru(x + torch.randn(x.shape, generator=self.drawn))[0]
            return self.gru(x + torch.as_tensor(self.drawn.standard_normal(x.shape)))[0]

    model, x = Noisy(), normal(5, 3, 6)
    assert measure(model, x).to_dict() == measure(model, x).to_dict()
    fresh = Noisy()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), fresh(x), rtol=0, atol=0)


class Attention(nn.Module):
    def __init__(self, batch_first=True):
        super().__init__()
        self.first, self.last = linear(6, 6), linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=batch_first)
        self.double()

    def forward(self, x):
        y = self.first(x).relu()
        return self.last(y + self.attention(y, y, y, need_weights=False)[0])


@pytest.mark.parametrize("frozen", [False, True])
def test_attention_stands_between_layers(frozen):
    model, x = Attention(), normal(3, 5, 6)
    model.attention.requires_grad_(not frozen)
    grid = trace(model, x)
    assert [layer.name for layer in grid.layers] == ["first", "last"]

    def after(y):
        return model.last(y + model.attention(y, y, y)[0])[0]

    expected = torch.autograd.functional.jacobian(after, model.first(x[:1]).relu().detach()).reshape(30, 30)
    expected = expected * (model.first(x[:1]).flatten() > 0)
    torch.testing.assert_close(grid.layers[1].depth().to_dense()[0], expected)
    assert stabilize(model, x).converged


def test_a_transformer_of_torch():
    layer = nn.TransformerEncoderLayer(6, 2, 24, batch_first=True)
    report = measure(nn.TransformerEncoder(layer, 2).double(), normal(3, 5, 6))
    assert report.names == tuple(f"layers.{index}.linear{part}" for index in (0, 1) for part in (1, 2))
    assert bool((report.depth > 0).all())


@pytest.mark.parametrize(
    "model",
    [
        Attention(batch_first=False),
        nn.Sequential(linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False), linear(6, 6)).double(),
    ],
)
def test_samples_that_mix_are_named(model):
    x = normal(5, 3, 6) if isinstance(model, Attention) else normal(5, 6)
    with pytest.raises(
        ValueError, match=r"'(last|2)': expected samples that do not depend on each other, got an input"
    ):
        measure(model, x)


def test_cells_whose_samples_mix_are_named():
    def forward(model, x):
        h, g, outputs = x.new_zeros(x.shape[1], 6), x.new_zeros(x.shape[1], 6), []
        for step in x:
            h = model.a(step, h)
            g = model.b(h - h.mean(0), g)
            outputs.append(g)
        return torch.stack(outputs)

    with pytest.raises(ValueError, match="'b': expected samples that do not depend on each other"):
        measure(Own(forward, a=nn.GRUCell(6, 6), b=nn.GRUCell(6, 6)), normal(5, 3, 6))


@pytest.mark.parametrize("cells", [False, True])
def test_an_embedding_is_where_the_encoder_starts(cells):
    def after(model, y):
        if not cells:
            return model.layer(y)[0]
        h, outputs = y.new_zeros(y.shape[1], 6), []
        for step in y:
            h = model.layer(step, h)
            outputs.append(h)
        return torch.stack(outputs)

    layer = nn.GRUCell(5, 6) if cells else nn.GRU(5, 6)
    model = Own(lambda model, x: after(model, model.embedding(x.long())), embedding=nn.Embedding(9, 5), layer=layer)
    tokens = torch.randint(9, (7, 3), generator=seeded()).double()
    embedded = model.embedding(tokens.long()).detach()
    expected = measure(model, embedded, call=after)
    for one, other in zip(measure(model, tokens).entries(), expected.entries(), strict=True):
        assert one == pytest.approx(other)
    assert stabilize(model, tokens, max_sweeps=5).after.encoder > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(
        ValueError, match=f"parameter weight_ih_l0: expected float32 or float64, got {dtype}; hand over"
    ):
        measure(nn.GRU(6, 6).to(dtype), normal(5, 3, 6, dtype=torch.float32).to(dtype))


@pytest.mark.parametrize("end", [torch.sigmoid, lambda y: torch.softmax(y, -1)])
def test_an_end_that_nothing_moves_is_said_and_the_rest_is_reached(end):
    torch.manual_seed(0)
    model = Own(lambda m, x: end(m.a(x)[0]), a=nn.GRU(6, 24, 2)).float()
    result = stabilize(model, normal(15, 16, 6, dtype=torch.float32), target="half")
    assert not result.converged
    (reason,) = result.reasons
    assert reason.startswith("output: decoder radius 0.")
    assert reason.endswith("target 1: nothing that may be moved acts between the last layer and the output")
    model = Own(lambda m, x: end(m.b(m.a(x)[0])), a=nn.GRU(6, 24), b=linear(24, 3)).float()
    model.b.requires_grad_(False)
    reasons = stabilize(model, normal(15, 16, 6, dtype=torch.float32), target="half").reasons
    assert [reason.partition(" ")[0] for reason in reasons] == ["output:"]
