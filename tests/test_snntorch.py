"""The contract of the adapters of snnTorch, neuron by neuron."""

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from cases import normal
from contract import NUM_INPUTS, AdapterContract
from lsc_snn import stabilize
from lsc_snn.surrogate import FastSigmoid

WIDE = FastSigmoid(sharpness=0.25)
"""A surrogate that keeps float64, as those of snnTorch do not."""


def split(neuron: nn.Module, returned) -> tuple[Tensor, ...]:
    """Return the spikes, and the states to pass to the next call, from what a neuron returns."""
    if neuron.init_hidden:
        return (returned[0] if neuron.output else returned,)
    return (returned[0], *returned) if isinstance(neuron, snn.RLeaky | snn.RSynaptic) else returned


class Loop(nn.Module):
    """Linear layers and neurons, and a Python loop over the steps of a batch (T, B, N)."""

    def __init__(self, make, layers: int, width: int, inputs: int = NUM_INPUTS) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(width if index else inputs, width) for index in range(layers))
        self.neurons = nn.ModuleList(make(width) for _ in range(layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states = [self.start(neuron, x) for neuron in self.neurons]
        spikes, membranes = [], []
        for signal in x:
            for index, (linear, neuron) in enumerate(zip(self.linears, self.neurons, strict=True)):
                signal, *states[index] = split(neuron, neuron(linear(signal), *states[index]))
            spikes.append(signal)
            membranes.append(neuron.mem)
        return torch.stack(spikes), torch.stack(membranes)

    def start(self, neuron: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        states = neuron.reset_mem()
        if neuron.init_hidden:
            return ()
        # SLSTM's own zeros are float32.
        zeros = x.new_zeros(x.shape[1], self.linears[0].out_features)
        return (zeros,) * (len(states) if isinstance(states, tuple) else 1)


class NeuronContract(AdapterContract):
    """What neurons that are called once a step have in common."""

    def options(self, width: int) -> dict:
        """Return how a neuron is made, besides its surrogate and a threshold that is learnt."""
        raise NotImplementedError

    def make(self, width: int) -> nn.Module:
        return self.kind(**{"learn_threshold": True, "spike_grad": WIDE} | self.options(width))

    def model(self, layers, width):
        return Loop(self.make, layers, width)

    def one_step(self, module, arrived, memory):
        output, *memory = split(module, module(arrived, *memory))
        return output, tuple(memory)


class Brief:
    """No stabilising beyond the first sweep, which other kinds cover."""

    reachable = ()
    stable_width, stable_steps, stable_batch = 8, 4, 2
    stable_options = {"max_sweeps": 1, "tolerance": 1e-3}  # noqa: RUF012


class TestLeaky(NeuronContract):
    kind = snn.Leaky

    def options(self, width):
        return {"beta": 0.9, "learn_beta": True, "reset_mechanism": "zero"}


class TestLeakyResetAtOnce(Brief, NeuronContract):
    kind = snn.Leaky

    def options(self, width):
        return {"beta": torch.linspace(0.5, 0.9, width), "reset_delay": False, "threshold": torch.full((width,), 0.7)}


class TestRLeaky(Brief, NeuronContract):
    kind = snn.RLeaky

    def options(self, width):
        return {"beta": 0.9, "linear_features": width, "learn_beta": True, "reset_mechanism": "zero"}


class TestRLeakyOneToOne(Brief, NeuronContract):
    kind = snn.RLeaky

    def options(self, width):
        return {"beta": 0.9, "all_to_all": False, "V": torch.linspace(-1, 1, width)}


class TestSynaptic(Brief, NeuronContract):
    kind = snn.Synaptic

    def options(self, width):
        return {"alpha": 0.9, "beta": torch.linspace(0.3, 0.8, width), "learn_alpha": True, "learn_beta": True}


class TestRSynaptic(Brief, NeuronContract):
    kind = snn.RSynaptic

    def options(self, width):
        return {"alpha": 0.4, "beta": 0.7, "linear_features": width, "learn_beta": True, "reset_mechanism": "zero"}


class TestAlpha(Brief, NeuronContract):
    kind = snn.Alpha
    latency = 1

    def options(self, width):
        return {"alpha": 0.5, "beta": 0.4}


class TestLapicque(Brief, NeuronContract):
    kind = snn.Lapicque

    def options(self, width):
        return {"R": 1.0, "C": 2.0, "threshold": 0.3}


class TestSLSTM(Brief, NeuronContract):
    kind = snn.SLSTM

    def options(self, width):
        return {"input_size": width, "hidden_size": width, "threshold": 0.1}


class Hidden(nn.Module):
    """Neurons alone that keep their states inside, on images or features (T, B, ...)."""

    def __init__(self, neurons) -> None:
        super().__init__()
        self.neurons = nn.Sequential(*neurons)

    def forward(self, x: Tensor) -> Tensor:
        for neuron in self.neurons:
            neuron.reset_mem()
        return torch.stack([self.neurons(signal) for signal in x])


class TestSConv2dLSTM(Brief, NeuronContract):
    closed_forms = ()  # units act on each other by convolutions
    kind = snn.SConv2dLSTM
    width, stable_width = 2, 3

    def model(self, layers, width):
        options = {"threshold": 0.1, "learn_threshold": True, "spike_grad": WIDE, "init_hidden": True}
        return Hidden([snn.SConv2dLSTM(width if i else 2, width, 3, **options) for i in range(layers)])

    def inputs(self, steps, batch):
        return normal(steps, batch, 2, 4, 4, seed=1)

    def one_step(self, module, arrived, memory):
        module.syn, module.mem = memory
        output = module(arrived)
        return output, (module.syn, module.mem)


class Whole(nn.Module):
    """Modules that run the whole sequence."""

    def __init__(self, layers) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


class TestStateLeaky(Brief, AdapterContract):
    kind = snn.StateLeaky

    def model(self, layers, width):
        def layer(inputs):
            return nn.Linear(inputs, width), snn.StateLeaky(torch.linspace(0.1, 0.9, width), width, spike_grad=WIDE)

        return Whole(part for index in range(layers) for part in layer(width if index else NUM_INPUTS))

    def one_step(self, module, arrived, memory):
        v = torch.exp(-1 / module.tau) * memory[0] + arrived
        return WIDE(v - module.threshold), (v,)


class TestLinearLeaky(Brief, AdapterContract):
    kind = snn.LinearLeaky
    options: dict = {}  # noqa: RUF012

    def model(self, layers, width):
        options = {"learn_threshold": True, "spike_grad": WIDE} | self.options
        return Whole(snn.LinearLeaky(0.8, width if i else NUM_INPUTS, width, **options) for i in range(layers))

    def one_step(self, module, arrived, memory):
        v = torch.exp(-1 / module.tau) * memory[0] + module.linear(arrived)
        return WIDE(v - module.threshold), (v,)


class TestLeakyParallel(Brief, AdapterContract):
    closed_forms = ("time",)  # the input weights are inside of a module over time
    kind = snn.LeakyParallel

    def model(self, layers, width):
        options = {"beta": 0.8, "learn_beta": True, "learn_threshold": True, "spike_grad": WIDE}
        return Whole(snn.LeakyParallel(width if i else NUM_INPUTS, width, **options) for i in range(layers))

    def one_step(self, module, arrived, memory):
        inner = module.rnn
        drive = arrived @ inner.weight_ih_l0.T + inner.bias_ih_l0 + inner.bias_hh_l0
        h = torch.relu(drive + memory[0] * inner.weight_hh_l0.diagonal())
        return WIDE(h - module.threshold), (h,)


class LearntLinearLeaky(TestLinearLeaky):
    """Not a contract of its own: snnTorch gives it a beta that it never uses, which data parallelism refuses."""

    options = {"learn_beta": True}  # noqa: RUF012


CONTRACTS = [
    TestRLeaky,
    TestSynaptic,
    TestRSynaptic,
    TestAlpha,
    TestLapicque,
    TestSLSTM,
    TestSConv2dLSTM,
    LearntLinearLeaky,
    TestLeakyParallel,
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.kind.__name__)
def test_half_is_reached(contract):
    case = contract()
    model = case.build(2, 4 if contract.kind is snn.SConv2dLSTM else 32, torch.float32)
    result = stabilize(model, case.inputs(12, 8).float(), target="half")
    assert result.converged, str(result)
    assert all(0 < float(rate) < 1 for rate in result.after.rates)
