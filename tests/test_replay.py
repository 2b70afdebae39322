"""What stands between sequence modules is run again at the points alone, where that gives the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lsc_snn as lsc
from lsc_snn import replay
from lsc_snn.events import EventBatch
from lsc_snn.trace import trace

T, B, N = 24, 4, 6


class Blocks(nn.Module):
    """Linear, normalisation and a sequence module, twice, with something more in between."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.front, self.norm, self.head = nn.Linear(5, N), nn.LayerNorm(N), nn.Linear(N, 3)
        self.first, self.second = nn.GRU(N, N), lsc.LRU(N, N)
        self.between = between
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(tuple(x.shape))
        y = self.first(self.norm(self.front(x)))[0]
        z = self.second(torch.tanh(self.between(y)) + y)
        output: Tensor = self.head(z[0] if isinstance(z, tuple) else z)
        return output


def blocks(between: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Blocks(between).double(), torch.randn(T, B, 5, dtype=torch.float64)


def shapes(model: nn.Module, inputs: Tensor) -> list[tuple[int, ...]]:
    """Return the shapes on which the model's forward ran in one trace."""
    seen: list[tuple[int, ...]] = []

    def call(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(tuple(batch.shape))
        output: Tensor = model(batch)
        return output

    trace(model, inputs, num_times=2, call=call)
    return seen


def report(model: nn.Module, inputs: Tensor | EventBatch, monkeypatch: pytest.MonkeyPatch | None = None) -> list[float]:
    if monkeypatch is not None:
        monkeypatch.setattr("lsc_snn.assemble.at_points", lambda whole, *_: whole)
    got = lsc.measure(model, inputs, method="exact", num_times=2)
    return [got.encoder, *got.depth.tolist(), *got.time.tolist(), got.decoder]


def test_radii_are_those_of_the_whole_pass(monkeypatch):
    model, inputs = blocks()
    assert shapes(model, inputs) == [(T, B, 5), (1, 2 * B, 5)]
    short = report(model, inputs)
    assert short == pytest.approx(report(model, inputs, monkeypatch), rel=1e-12)


def test_the_callers_gradient_mode_does_not_matter():
    model, inputs = blocks()
    expected = report(model, inputs)
    with torch.no_grad():
        assert report(model, inputs) == expected


def test_batch_first_input_stays_batch_first(monkeypatch):
    class BatchFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = blocks()[0]

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.inner(x.transpose(0, 1)).transpose(0, 1)
            return output

    model, inputs = BatchFirst(), blocks()[1].transpose(0, 1)
    assert shapes(model, inputs) == [(B, T, 5), (2 * B, 1, 5)]
    assert report(model, inputs) == pytest.approx(report(model, inputs, monkeypatch), rel=1e-12)


def test_events_go_to_the_first_layer_as_events(monkeypatch):
    class Eventful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.first, self.second = (lsc.ALIF(5, N, generator=generator), lsc.ALIF(N, N, generator=generator))
            self.norm = nn.LayerNorm(N)

        def forward(self, x: EventBatch) -> Tensor:
            output: Tensor = self.second(self.norm(self.first(x)[0]))[0]
            return output

    drawn = torch.rand(T, B, 5, generator=torch.Generator().manual_seed(0))
    model, inputs = Eventful().double(), EventBatch.from_dense((drawn < 0.5).double())
    assert report(model, inputs) == pytest.approx(report(model, inputs, monkeypatch), rel=1e-12)


@pytest.mark.parametrize(
    "mixing", [lambda y: y - y.mean(0), lambda y: y.cumsum(0), lambda y: y.flip(1)], ids=["mean", "sum", "samples"]
)
def test_what_mixes_steps_or_samples_is_not_run_again(mixing, monkeypatch):
    model, inputs = blocks(mixing)
    assert report(model, inputs) == report(model, inputs, monkeypatch)


def test_a_forward_that_takes_no_other_batch_size_is_measured_as_it_is(monkeypatch):
    model, inputs = blocks(lambda y: y.reshape(T, B, N))
    assert report(model, inputs) == report(model, inputs, monkeypatch)


def test_a_loop_over_time_is_not_run_again():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(5, N).double()

        def forward(self, x: Tensor) -> Tensor:
            h, outputs = x.new_zeros(x.shape[1], N), []
            for step in x:
                h = self.cell(step, h)
                outputs.append(h)
            return torch.stack(outputs)

    assert shapes(Loop(), blocks()[1]) == [(T, B, 5)]


def test_signals_are_close_up_to_rounding_only():
    one = torch.tensor([1.0, 2.0])
    assert replay.close(one, one * (1 + 1e-6))
    assert not replay.close(one, one * 1.01)
    assert not replay.close(one, one[:1])
    assert not replay.close(one, one * torch.nan)
