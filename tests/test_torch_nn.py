"""Adapters of torch.nn: the contract of every kind, stacked modules, refusals, knobs, and convolutions by FFT."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_sequence

from cases import normal
from contract import BATCH, NUM_INPUTS, STEPS, AdapterContract
from lsc_snn import gradient_profile, measure, stabilize
from lsc_snn.adapters import find_adapters
from lsc_snn.trace import trace


class CellNet(nn.Module):
    """Cells in a user's loop over time."""

    def __init__(self, cells: list[nn.Module], width: int) -> None:
        super().__init__()
        self.cells, self.head = nn.ModuleList(cells), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, outputs = [None] * len(self.cells), []
        for signal in x:
            for index, cell in enumerate(self.cells):
                states[index] = cell(signal, states[index])
                signal = states[index][0] if isinstance(states[index], tuple) else states[index]
            outputs.append(self.head(signal))
        return torch.stack(outputs)


class SequenceNet(nn.Module):
    """Sequence modules one after the other, with dropout in between."""

    def __init__(self, *layers: nn.Module, width: int, batch_first: bool = False) -> None:
        super().__init__()
        self.layers, self.head, self.batch_first = nn.ModuleList(layers), nn.Linear(width, 3), batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.batch_first else x
        for layer in self.layers:
            x = nn.functional.dropout(layer(x)[0], 0.3, self.training)
        return self.head(x.transpose(0, 1) if self.batch_first else x)


class CellContract(AdapterContract):
    options: dict = {}  # noqa: RUF012

    def model(self, layers, width):
        sizes = [NUM_INPUTS] + [width] * layers
        return CellNet([self.kind(*pair, **self.options) for pair in itertools.pairwise(sizes)], width)

    def one_step(self, module, arrived, memory):
        h = module(arrived, memory[0])
        return h, (h,)


class TestRNNCell(CellContract):
    kind = nn.RNNCell
    options = {"nonlinearity": "relu"}  # noqa: RUF012


class TestGRUCell(CellContract):
    kind = nn.GRUCell


class TestLSTMCell(CellContract):
    kind = nn.LSTMCell

    def one_step(self, module, arrived, memory):
        h, c = module(arrived, memory)
        return h, (h, c)


class SequenceContract(AdapterContract):
    options: dict = {}  # noqa: RUF012

    def model(self, layers, width):
        sizes = [NUM_INPUTS] + [width] * layers
        modules = [self.kind(*pair, **self.options) for pair in itertools.pairwise(sizes)]
        return SequenceNet(*modules, width=width)

    def one_step(self, module, arrived, memory):
        output, h = module(arrived[None], memory[0][None])
        return output[0], (h[0],)


class TestRNN(SequenceContract):
    kind = nn.RNN


class TestGRU(SequenceContract):
    kind = nn.GRU


class TestLSTM(SequenceContract):
    kind = nn.LSTM

    def one_step(self, module, arrived, memory):
        output, (h, c) = module(arrived[None], (memory[0][None], memory[1][None]))
        return output[0], (h[0], c[0])


class Residual(nn.Module):
    """A residual block with a normalisation in front."""

    def __init__(self, width: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.linear(self.norm(x)))


class TestLinear(AdapterContract):
    kind = nn.Linear
    timeless = True
    width, stable_width = 6, 64

    def model(self, layers, width):
        blocks = [Residual(width, (nn.BatchNorm1d, nn.LayerNorm)[i % 2](width)) for i in range(layers - 1)]
        for block in blocks[::2]:
            block.norm.running_mean.normal_()
            block.norm.running_var.uniform_(0.5, 2)
        return nn.Sequential(nn.Linear(NUM_INPUTS, width), nn.GELU(), *blocks)

    def one_step(self, module, arrived, memory):
        return module(arrived), ()


class TestConv2d(AdapterContract):
    closed_forms = ()
    kind = nn.Conv2d
    timeless = True
    width, stable_width = 2, 8

    def inputs(self, steps, batch):
        return normal(batch, 2, 4, 4, seed=1)

    def model(self, layers, width):
        sizes = [2] + [width] * layers
        convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes)]
        return nn.Sequential(*[part for conv in convolutions for part in (conv, nn.ReLU())])

    def one_step(self, module, arrived, memory):
        return module(arrived), ()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("kind", "options"), [(nn.RNN, {}), (nn.GRU, {}), (nn.LSTM, {"proj_size": 4})])
def test_a_stacked_module_is_its_layers_one_after_the_other(kind, options, batch_first):
    torch.manual_seed(0)
    stack = kind(NUM_INPUTS, 6, 3, dropout=0.5, batch_first=batch_first, **options).double()
    width = stack.proj_size or 6
    singles = [kind(width if index else NUM_INPUTS, 6, **options).double() for index in range(3)]
    for index, single in enumerate(singles):
        state = {name: getattr(stack, name.replace("l0", f"l{index}")) for name in single.state_dict()}
        single.load_state_dict(state)
    model, x = SequenceNet(stack, width=width, batch_first=batch_first).double(), normal(STEPS, BATCH, NUM_INPUTS)
    other = SequenceNet(*singles, width=width).double()
    other.head = model.head
    found, expected = measure(model, x), measure(other, x)
    assert found.names == ("layers.0.0", "layers.0.1", "layers.0.2")
    assert [entry[2] for entry in found.entries()] == pytest.approx([entry[2] for entry in expected.entries()])
    torch.testing.assert_close(gradient_profile(model, x), gradient_profile(other, x))


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"}), (nn.GRU, {"bias": False}), (nn.LSTM, {"proj_size": 4})],
)
def test_a_recorded_call_returns_what_forward_returns(kind, options, initial):
    torch.manual_seed(0)
    module = kind(NUM_INPUTS, 6, 2, batch_first=True, **options).double()
    lengths = [module.proj_size or 6, 6] if kind is nn.LSTM else [6]
    first = tuple(normal(2, BATCH, size, seed=size) for size in lengths)
    args = (first if kind is nn.LSTM else first[0],) if initial else ()
    x, returned = normal(BATCH, STEPS, NUM_INPUTS), []

    def call(module, x):
        returned.append(module(x, *args))
        return returned[-1][0]

    for run in (measure, gradient_profile):
        run(module, x, call=call)
    expected, states = module(x, *args)
    whole = [entry for entry in returned if entry[0].shape == expected.shape]  # others are at the points alone
    assert len(whole) == 3
    for output, last in whole:
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(last, states)


class Doubled(nn.GRU):
    def forward(self, x, hx=None):
        output, hx = super().forward(x, hx)
        return 2 * output, hx


class InChunks(nn.Module):
    """A stacked module in a loop over chunks of the sequence."""

    def __init__(self, stack, size=1):
        super().__init__()
        self.stack, self.size = stack, size

    def forward(self, x):
        outputs, state = [], None
        for chunk in x.split(self.size):
            chunk = chunk.transpose(0, 1) if self.stack.batch_first else chunk
            output, state = self.stack(chunk, state)
            outputs.append(output.transpose(0, 1) if self.stack.batch_first else output)
        return torch.cat(outputs)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("kind", "options"), [(nn.RNN, {}), (nn.GRU, {}), (nn.LSTM, {"proj_size": 4})])
def test_a_stacked_module_that_is_called_step_by_step_is_a_cell(kind, options, batch_first):
    torch.manual_seed(0)
    stack, x = kind(NUM_INPUTS, 6, 2, batch_first=batch_first, **options).double(), normal(STEPS, BATCH, NUM_INPUTS)
    found, expected = measure(InChunks(stack), x), measure(InChunks(stack, STEPS), x)
    assert found.names == expected.names == ("stack.0", "stack.1")
    for one, other in zip(found.entries(), expected.entries(), strict=True):
        assert one[2] == pytest.approx(other[2])
    torch.testing.assert_close(gradient_profile(InChunks(stack), x), gradient_profile(InChunks(stack, STEPS), x))
    result = stabilize(InChunks(kind(NUM_INPUTS, 32, 2)), normal(15, 16, NUM_INPUTS, dtype=torch.float32))
    assert result.converged, str(result)


@pytest.mark.parametrize(
    ("module", "x", "message"),
    [
        (nn.GRU(4, 4, bidirectional=True), torch.ones(5, 3, 4), "GRU: expected one direction, got bidirectional=True"),
        (nn.LSTM(4, 4), torch.ones(5, 4), r"LSTM: expected a batch, \(time steps, batch, features\), got shape"),
        (nn.RNN(4, 4, batch_first=True), torch.ones(5, 4), r"RNN: expected a batch, \(batch, time steps, features\)"),
        (nn.Sequential(nn.Flatten(0), nn.GRUCell(4, 4)), torch.ones(2, 2), r"GRUCell: expected a batch, \(batch, feat"),
        (nn.Sequential(nn.Flatten(0), nn.Linear(4, 4)), torch.ones(2, 2), r"Linear: expected a batch, \(batch, ..., f"),
        (nn.Conv2d(3, 4, 3), torch.ones(3, 8, 8), r"Conv2d: expected a batch, \(batch, channels, size, size\), got"),
        (Doubled(4, 4), torch.ones(5, 3, 4), "Doubled: expected the forward of the torch.nn class that it inherits"),
        (
            InChunks(nn.GRU(4, 4), 2),
            torch.ones(5, 3, 4),
            "layer 'stack': expected one call .* got 3; .* one step",
        ),
    ],
)
def test_what_has_no_grid_is_refused(module, x, message):
    with pytest.raises(ValueError, match=message) as caught:
        measure(module, x)
    assert "\n" not in str(caught.value)


def test_packed_sequences_are_refused():
    def call(module, x):
        return module(pack_sequence([x[:4, 0], x[:3, 1]]))[0].data

    with pytest.raises(ValueError, match="LSTM: expected a padded tensor, got a PackedSequence"):
        measure(nn.LSTM(4, 4), torch.ones(5, 2, 4), call=call)


def test_errors_of_torch_pass_through():
    with pytest.raises(RuntimeError, match="Expected 4, got 6"):
        measure(nn.GRU(4, 4), torch.ones(5, 3, 6))
    with pytest.raises(RuntimeError, match="Expected hidden size"):
        measure(nn.GRU(4, 4), torch.ones(5, 3, 4), call=lambda module, x: module(x, x.new_zeros(2, 3, 4)))


def test_subclasses_are_known():
    class Own(nn.Linear):
        def forward(self, x):
            return 3 * super().forward(x)

    class Kept(nn.LSTM):
        pass

    assert [name for name, _, _ in find_adapters(nn.Sequential(Own(4, 4), nn.ReLU(), Kept(4, 4)))] == ["0", "2"]
    layer = Own(4, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    assert measure(layer, normal(2, 4)).encoder == pytest.approx(3)


def test_the_gate_opens_to_a_half_or_where_it_was():
    cell = nn.LSTMCell(3, 4, dtype=torch.float64)
    with torch.no_grad():
        cell.bias_ih[4:8], cell.bias_hh[4:8] = 0.5, torch.tensor([-2.5, -1.5, -0.5, 0.5])
    (_, _, adapter), *_ = find_adapters(cell)
    knob = adapter.knobs(cell).time
    weight, gate = cell.weight_hh.detach().clone(), lambda: (cell.bias_ih + cell.bias_hh)[4:8].detach()
    others = torch.cat([cell.bias_hh[:4], cell.bias_hh[8:]]).detach()
    knob.turn(math.e**0.5)
    torch.testing.assert_close(gate(), torch.tensor([-1, 0, 0, 1], dtype=torch.float64))
    knob.turn(math.e**-0.5)
    torch.testing.assert_close(gate(), torch.tensor([-2, -1, -1, 0], dtype=torch.float64))
    torch.testing.assert_close(cell.weight_hh.detach(), weight)
    assert torch.equal(torch.cat([cell.bias_hh[:4], cell.bias_hh[8:]]), others)
    cell.bias_hh.requires_grad_(False)
    kept = cell.bias_hh.clone()
    adapter.knobs(cell).time.turn(math.e)
    torch.testing.assert_close(gate(), torch.tensor([0, 0, 0, 0], dtype=torch.float64).clamp(min=0))
    assert torch.equal(cell.bias_hh, kept)


def test_a_parametrised_weight_is_moved_by_value():
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Linear(32, 32)), nn.ReLU(), weight_norm(nn.Linear(32, 32)))
    keys = list(model.state_dict())
    result = stabilize(model, normal(16, 32, dtype=torch.float32), target="one")
    assert result.converged, str(result)
    assert list(model.state_dict()) == keys
    for parameter in model[0].parametrizations.parameters():
        parameter.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    result = stabilize(model, normal(16, 32, dtype=torch.float32), target=(1.0, 0.5), max_sweeps=6)
    assert any("all parameters that move it are frozen" in reason for reason in result.reasons)


@pytest.mark.parametrize("activation", [torch.relu, torch.sin, torch.cos, nn.functional.gelu])
def test_deep_feed_forward_nets_reach_one(activation):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(10))

        def forward(self, x):
            x = self.layers[0](x)
            for layer in self.layers[1:]:
                x = layer(activation(x))
            return x

    torch.manual_seed(0)
    result = stabilize(Deep(), normal(16, 64, dtype=torch.float32), target="one")
    assert result.converged, str(result)
    assert float((result.before.depth - 1).abs().min()) > 0.2


@pytest.mark.parametrize("channels", [1, 3])
def test_the_radius_of_a_circular_convolution_is_that_of_its_symbol(channels):
    torch.manual_seed(0)
    size = 32
    model = nn.Sequential(
        *[nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular", dtype=torch.float64) for _ in range(2)]
    )
    report = measure(model, normal(2, channels, size, size), num_matvecs=256)
    for conv, found in zip(model, (report.encoder, float(report.depth[0])), strict=True):
        # A circular convolution is diagonal in frequency: there it multiplies by a matrix (channels, channels).
        symbol = torch.fft.fft2(conv.weight.detach(), s=(size, size)).permute(2, 3, 0, 1)
        assert found == pytest.approx(float(torch.linalg.eigvals(symbol).abs().max()), rel=0.01)


def test_a_convolution_that_narrows_and_strides_is_measured_by_a_square_block():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 4, 3, stride=2), nn.Flatten())
    x = normal(4, 4, 10, 10, dtype=torch.float32)
    layer = trace(model, x).layers[1]
    transition = layer.depth()
    assert (transition.rows, transition.cols) == (4 * 4 * 4, 16 * 10 * 10)
    frobenius = transition.to_dense().square().sum((1, 2)).sqrt().mean() / math.sqrt(transition.cols)
    report = measure(model, x)
    assert float(report.depth[0]) == pytest.approx(float(frobenius), rel=0.25)
    result = stabilize(model, x, target="one")
    assert result.converged, str(result)
