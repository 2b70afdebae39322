"""A forward that a user wrote, as a graph: its branches, loops, shapes and names."""

import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from torch import nn

import lsc_snn as lsc
from lsc_snn.nir import interpret, to_nir
from nir_cases import spikes

DT = 1e-4


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(36, 5)
        self.lif = snn.Leaky(beta=0.8, threshold=0.2, init_hidden=True)
        self.readout = snn.Leaky(beta=0.9, reset_mechanism="none")

    def forward(self, x):
        self.lif.reset_mem()
        mem, out = self.readout.reset_mem(), []
        for step in x:
            hidden = self.pool(self.lif(self.norm(self.conv(step))))
            _, mem = self.readout(F.dropout(self.fc(hidden.flatten(1)), 0.5, self.training), mem)
            out.append(mem)
        return torch.stack(out)


def test_convolution_pooling_flattening_and_a_potential_for_readout():
    torch.manual_seed(1)
    model, sample = Convolutional().eval(), spikes(5, 12, 3, 2, 8, 8)
    graph = to_nir(model, dt=DT, sample=sample)
    kinds = [type(graph.nodes[name]).__name__ for name in ("conv", "pool", "pool_flatten", "fc", "readout")]
    assert kinds == ["Conv2d", "AvgPool2d", "Flatten", "Affine", "LI"]
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_allclose(got, model(sample).detach().numpy(), atol=1e-5)


def test_the_potential_of_a_neuron_that_resets_to_zero_is_refused():
    torch.manual_seed(7)
    model, sample = Convolutional().eval(), spikes(15, 8, 2, 2, 8, 8)
    model.readout = snn.Leaky(beta=0.9, threshold=0.1)  # subtracts: its potential is that of the composition
    got = interpret(to_nir(model, dt=DT, sample=sample), sample.double().numpy(), dt=DT).outputs["output"]
    with torch.no_grad():
        np.testing.assert_allclose(got, model(sample).numpy(), atol=1e-5)
    model.readout = snn.Leaky(beta=0.9, reset_mechanism="zero")
    with pytest.raises(
        ValueError, match=r"layer 'readout': expected spikes, of a neuron with reset 'zero'.*reset 'none'"
    ):
        to_nir(model, dt=DT, sample=sample)


class Feedback(nn.Module):
    """A recurrence that the user wired."""

    def __init__(self):
        super().__init__()
        self.fc, self.rec, self.lif = nn.Linear(10, 8), nn.Linear(8, 8), snn.Leaky(beta=0.8, threshold=0.3)

    def forward(self, x):
        mem, spk, out = self.lif.reset_mem(), torch.zeros(x.shape[1], 8, dtype=x.dtype), []
        for step in x.unbind(0):
            spk, mem = self.lif(self.fc(step) + self.rec(spk), mem)
            out.append(spk)
        return torch.stack(out).sum(0)  # not the sequence itself


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.readout = lsc.ALIF(10, 10), lsc.LIF(10, 10, reset="hard"), lsc.LI(10, 3)

    def forward(self, x):
        first, _ = self.one(x)
        second, _ = self.two(first)
        return self.readout(first + second)[0]


@pytest.mark.parametrize("kind", [Feedback, Skip])
def test_branches_and_loops_of_the_users(kind):
    torch.manual_seed(2)
    model, sample = kind().eval(), spikes(6, 30, 2, 10)
    got = interpret(to_nir(model, dt=DT, sample=sample), sample.double().numpy(), dt=DT).outputs["output"]
    got = got.sum(0) if kind is Feedback else got
    np.testing.assert_allclose(got, model(sample).detach().numpy(), atol=1e-5)
    assert got.std() > 0


def test_a_sequential_of_anything():
    torch.manual_seed(3)
    lif = norse.LIFCell(norse.LIFParameters(v_th=torch.tensor(0.05)))
    model = nn.Sequential(
        lsc.ALIF(10, 6), nn.Dropout(), nn.Linear(6, 5), snn.RLeaky(beta=0.8, linear_features=5, threshold=0.3), lif
    )
    graph = to_nir(model, dt=DT, sample=spikes(7, 30, 2, 10))
    assert [name for name in graph.nodes if not name.endswith("weights")] == [
        "input", "layer_0", "layer_2", "layer_3", "layer_4", "output"
    ]  # fmt: skip


def test_a_call_for_an_unusual_forward():
    torch.manual_seed(4)
    model = nn.ModuleDict({"fc": nn.Linear(10, 4), "lif": snn.Leaky(beta=0.7, threshold=0.2, init_hidden=True)})
    call = lambda model, x: torch.stack([model["lif"](model["fc"](step)) for step in x])  # noqa: E731
    assert list(to_nir(model, dt=DT, sample=spikes(8, 9, 2, 10), call=call).nodes) == ["input", "fc", "lif", "output"]


class Narrow(nn.Module):
    """A forward that makes a float32 tensor whatever the type of the model."""

    def __init__(self):
        super().__init__()
        self.fc, self.rec, self.lif = nn.Linear(10, 8), nn.Linear(8, 8), snn.Leaky(beta=0.8, threshold=0.3)

    def forward(self, x):
        mem, spk, out = self.lif.reset_mem(), torch.zeros(x.shape[1], 8, dtype=torch.float32), []
        for step in x:
            spk, mem = self.lif(self.fc(step) + self.rec(spk), mem)
            out.append(spk)
        return torch.stack(out)


def test_a_forward_that_insists_on_float32():
    torch.manual_seed(6)
    model, sample = Narrow().eval(), spikes(13, 30, 2, 10)
    got = interpret(to_nir(model, dt=DT, sample=sample), sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(got, model(sample).detach().numpy())
    assert torch.get_default_dtype() == torch.float32


def test_names_stay_apart():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.input, self.a_b = lsc.LIF(4, 4), nn.Linear(4, 4)
            self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
            self.output = lsc.LI(4, 2)

        def forward(self, x):
            return self.output(self.a["b"](self.a_b(self.input(x)[0])))[0]

    names = list(to_nir(Named(), dt=DT, sample=spikes(17, 9, 2, 4)).nodes)
    assert names == ["input", "input__weights", "input_", "a_b", "a_b_", "output__weights", "output_", "output"]


def test_a_constant_current_in_a_loop_with_nothing_in_front():
    torch.manual_seed(8)
    model, sample = snn.RLeaky(beta=0.8, linear_features=4, threshold=0.5), spikes(18, 30, 2, 4)
    graph = to_nir(model, dt=DT, sample=sample)
    assert list(graph.nodes) == ["input", "layer", "layer_bias", "output"]
    spk, mem, expected = *model.reset_mem(), []
    for step in sample:
        spk, mem = model(step, spk, mem)
        expected.append(spk)
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(got, torch.stack(expected).detach().numpy())


class Reused(nn.Module):
    """A pool, a Linear and a dropout that come twice in every step; a layer of neurons that does not."""

    def __init__(self, twice):
        super().__init__()
        self.conv, self.pool, self.drop = nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2), nn.Dropout(0.5)
        self.fc, self.twice = nn.Linear(4, 4), twice
        self.one, self.two = (snn.Leaky(beta=0.8, threshold=0.1) for _ in range(2))

    def forward(self, x):
        first, second, out = self.one.reset_mem(), self.two.reset_mem(), []
        for step in x:
            spk, first = self.one(self.pool(self.conv(self.drop(step))), first)
            hidden = self.fc(self.fc(self.drop(self.pool(spk).flatten(1))))
            spk, second = self.two(hidden, second)
            if self.twice:
                spk, second = self.two(spk, second)
            out.append(spk)
        return torch.stack(out).mean(0)


def test_a_module_that_comes_twice_in_a_step():
    torch.manual_seed(9)
    model, sample = Reused(twice=False).eval(), spikes(19, 20, 3, 1, 8, 8)
    graph = to_nir(model, dt=DT, sample=sample)
    assert list(graph.nodes)[1:-1] == ["conv", "pool", "one", "pool_1", "pool_1_flatten", "fc", "fc_1", "two"]
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"].mean(0)
    np.testing.assert_allclose(got, model(sample).detach().numpy(), atol=1e-6)
    assert got.std() > 0
    with pytest.raises(ValueError, match=r"layer 'two': expected one call for each time step of neurons, got more"):
        to_nir(Reused(twice=True), dt=DT, sample=sample)


class Merged(nn.Module):
    """Time and batch as one batch where nothing has a memory."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.lif = (
            nn.Conv2d(1, 2, 3),
            nn.BatchNorm2d(2),
            lsc.LIF(72, 5, reset="hard", threshold=0.2),
        )

    def forward(self, x):
        merged = self.norm(self.conv(x.flatten(0, 1)))
        return self.lif(merged.view(*x.shape[:2], *merged.shape[1:]).flatten(2))[0]


def test_time_and_batch_merged():
    torch.manual_seed(10)
    model, sample = Merged().eval(), spikes(20, 20, 3, 1, 8, 8)
    graph = to_nir(model, dt=DT, sample=sample)
    assert list(graph.nodes) == ["input", "conv", "norm_flatten", "lif_weights", "lif", "output"]
    got = interpret(graph, sample.double().numpy(), dt=DT).outputs["output"]
    np.testing.assert_array_equal(got, model(sample).detach().numpy())
    assert got.any()
