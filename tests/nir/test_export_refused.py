"""What NIR cannot say, and arguments that are no model, sample or time step: refused by name."""

import norse.torch as norse
import pytest
import snntorch as snn
import torch
from torch import nn

import lsc_snn as lsc
from lsc_snn.nir import to_nir
from nir_cases import spikes

DT = 1e-4


class Hidden(nn.Module):
    """A forward that does between its layers what is no module."""

    def __init__(self, between):
        super().__init__()
        self.fc, self.lif, self.between = nn.Linear(10, 6), lsc.LIF(6, 4, recurrent=False), between

    def forward(self, x):
        return self.lif(self.between(self.fc(x)))[0]


REFUSED = {
    "refractory": (lsc.LIF(10, 4, refractory=2), r"layer 'layer': expected refractory=0, got 2; .*train without"),
    "hard ALIF": (lsc.ALIF(10, 4, reset="hard"), r"layer 'layer': expected reset='soft' or 'none'.*approximate=True"),
    "LRU": (lsc.LRU(10, 4), r"layer 'layer': expected a layer that NIR can express, got LRU; .*complex.*ONNX"),
    "S5": (nn.Sequential(lsc.S5(10, 4)), r"layer '0': expected .*, got S5;"),
    "GRU": (nn.GRU(10, 4), r"layer 'layer': expected .*, got GRU; NIR has no gates"),
    "MaxPool2d": (nn.Sequential(nn.Conv1d(10, 4, 1), nn.MaxPool2d(2)), r"layer '1': expected .*got MaxPool2d; use Avg"),
    "LayerNorm": (nn.Sequential(nn.Linear(10, 4), nn.LayerNorm(4)), r"layer '1': expected .*got LayerNorm; use LIF"),
    "BatchNorm alone": (nn.Sequential(nn.BatchNorm1d(10)), r"layer '0': expected a Linear or Conv in front"),
    "reset": (
        nn.Sequential(nn.Linear(10, 4), snn.Leaky(beta=0.9, reset_delay=False)),
        r"layer '1': expected a reset that NIR has, got reset_mechanism='subtract' with reset_delay=False; use",
    ),
    "dropped input": (
        nn.Sequential(nn.Linear(10, 4), snn.Synaptic(alpha=0.5, beta=0.9, reset_mechanism="zero")),
        r"layer '1': expected a reset that NIR has, got reset_mechanism='zero' with reset_delay=True; use",
    ),
    "Alpha": (nn.Sequential(snn.Alpha(alpha=0.9, beta=0.8)), r"layer '0': expected Leaky, RLeaky.*, got Alpha;"),
    "LSNN of Norse": (nn.Sequential(norse.LSNNCell()), r"layer '0': expected LIFBox.*, got LSNNCell; .*lsc_snn.ALIF"),
    "a function": (Hidden(torch.relu), r"layer 'lif': expected what other modules hand up.*, got the output of 'relu'"),
    "a constant": (Hidden(lambda x: x + 1), r"layer 'lif': .*got the output of 'an addition of a constant'"),
    "noise": (Hidden(torch.rand_like), r"layer 'lif': .*got the output of 'rand_like'"),
    "shift": (Hidden(lambda x: x.roll(1, 0)), r"layer 'lif': .*got the output of 'roll'"),
    "a function inside": (Hidden(nn.Tanh()), r"layer 'between': expected .*got Tanh"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_nir_cannot_say_is_named(kind):
    model, message = REFUSED[kind]
    sample = spikes(9, 6, 2, 10, 3) if kind == "MaxPool2d" else spikes(9, 20, 2, 10)
    with pytest.raises(ValueError, match=message):
        to_nir(model, dt=DT, sample=sample)


class Late(nn.Module):
    """Hands the spikes of two steps before on; and one that multiplies what it keeps, which no tensor shows."""

    def __init__(self, hidden):
        super().__init__()
        self.fc, self.lif, self.top = nn.Linear(10, 6), snn.Leaky(beta=0.8, threshold=0.2), nn.Linear(6, 2)
        self.hidden = hidden

    def forward(self, x):
        mem, out, past = self.lif.reset_mem(), [], [torch.zeros(x.shape[1], 6, dtype=x.dtype)] * 2
        for step in x:
            spk, mem = self.lif(self.fc(step), mem * 0.5 if self.hidden else mem)
            past.append(spk)
            out.append(self.top(spk if self.hidden else past[-3]))
        return torch.stack(out)


def test_an_order_that_nir_has_not_and_what_cannot_be_seen_are_refused():
    sample = spikes(10, 12, 2, 10)
    with pytest.raises(ValueError, match=r"layer 'top': expected the output of 'lif' of the same time step or the one"):
        to_nir(Late(hidden=False), dt=DT, sample=sample)
    with pytest.raises(ValueError, match=r"model: expected a graph that gives what the model gives, got \d+ of 48"):
        to_nir(Late(hidden=True), dt=DT, sample=sample)


def test_a_hidden_state_with_a_graph_is_refused():
    model = nn.Sequential(nn.Linear(10, 4), snn.Leaky(beta=0.9, init_hidden=True))
    model(spikes(16, 2, 10))
    with pytest.raises(
        ValueError, match="model: expected no hidden state that carries a graph, got one; call its reset"
    ):
        to_nir(model, dt=DT, sample=spikes(16, 4, 2, 10))


@pytest.mark.parametrize("dt", [0.0, -1e-3, float("nan"), float("inf")])
def test_a_bad_time_step(dt):
    with pytest.raises(ValueError, match="dt: expected a finite number above 0"):
        to_nir(lsc.LIF(3, 2), dt=dt)


def test_bad_models_and_samples():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got str"):
        to_nir("model", dt=DT)
    with pytest.raises(
        ValueError, match=r"sample: expected an input \(T, B, \.\.\.\) of this model.*, got None; pass one"
    ):
        to_nir(Late(hidden=False), dt=DT)
    for sample, error in ((torch.zeros(3, 10), ValueError), (torch.ones(2, 2, 10, dtype=torch.long), TypeError)):
        with pytest.raises(error, match="sample: expected"):
            to_nir(Late(hidden=False), dt=DT, sample=sample)
    broken = lsc.LIF(3, 2)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="parameter weight: expected finite values"):
        to_nir(broken, dt=DT)
