"""Models of Norse's users: states of any form, hooks, containers, feedback, and what is refused."""

import norse.torch as norse
import pytest
import torch
from norse.torch.functional.lif import lif_feed_forward_step
from norse.torch.module.snn import SNNCell
from torch import nn

from contract import NUM_INPUTS
from lsc_snn import gradient_profile, measure
from lsc_snn.trace import trace
from test_norse import PAIRS, Net, built, spikes


class Looped(nn.Module):
    def __init__(self, cell, state):
        super().__init__()
        self.cell, self.state = cell, state

    def forward(self, x):
        state, out = self.state, []
        for row in x:
            y, state = self.cell(row, state)
            out.append(y)
        return torch.stack(out)


def test_states_of_any_shape_and_with_more_fields_than_needed():
    x, zero = 5 * spikes(6, 3), torch.tensor(0.0)
    expected = measure(Looped(norse.LIFCell(), None), x).entries()
    for state in (
        norse.LIFFeedForwardState(v=zero, i=zero),
        norse.LIFFeedForwardState(v=0.0, i=torch.zeros(NUM_INPUTS)),
        norse.LIFState(z=zero, v=torch.zeros(3, 1), i=zero),
    ):
        assert measure(Looped(norse.LIFCell(), state), x).entries() == expected
    other = norse.LIFFeedForwardState(v=torch.full((3, NUM_INPUTS), 0.5), i=zero)
    assert measure(Looped(norse.LIFCell(), other), x).entries() != expected
    state = norse.LSNNState(*torch.zeros(4, 3, 6).double())
    profile = gradient_profile(Looped(norse.LSNNRecurrentCell(NUM_INPUTS, 6).double(), state), x)
    assert bool(torch.isfinite(profile).all())


def test_constants_of_the_module_do_not_start_to_require_gradients():
    p = norse.IAFParameters(v_reset=torch.tensor(0.0))
    model = Net([norse.IAFCell(p=p)], NUM_INPUTS, False).double()
    measure(model, spikes(6, 3))
    assert not p.v_reset.requires_grad
    model(spikes(6, 3))
    assert p.v_reset.requires_grad  # Norse's own forward marks it


def test_hooks_on_states_run_as_often_as_in_the_users_forward():
    model, calls = built(PAIRS["LIF"][0]), []
    model.net.register_forward_state_hooks(lambda module, args, output: calls.append(module))
    measure(model, spikes(6, 3))
    assert len(calls) == 6 * 2  # the neuron and the readout


def test_lifted_cells_are_found():
    class Lifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights, self.neuron = norse.Lift(nn.Linear(NUM_INPUTS, 6)), norse.Lift(norse.LIFCell())
            self.readout = norse.Lift(norse.LILinearCell(6, 3))

        def forward(self, x):
            return self.readout(self.neuron(self.weights(x))[0])[0]

    model = built(lambda _: Lifted())
    report = measure(model, spikes(6, 3), method="exact")
    assert report.names == ("neuron.lifted_module",)
    weight = model.readout.lifted_module.input_weights
    grid = trace(model, spikes(6, 3), num_times=2)
    dense = grid.decoder.transition().to_dense()  # v <- 0.9 v + 0.1 (i + W x)
    torch.testing.assert_close(dense, 0.1 * weight.detach().expand_as(dense), rtol=1e-6, atol=0)
    assert grid.decoder.knob.parameters == (weight,)


def test_feedback_of_a_recurrent_sequential_counts_as_memory():
    class Fed(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(NUM_INPUTS, 6)
            self.net = norse.RecurrentSequential(nn.Linear(6, 6), norse.LIFCell())

        def forward(self, x):
            state, out = None, []
            for row in x:
                y, state = self.net(self.encode(row), state)
                out.append(y)
            return torch.stack(out)

    model = built(lambda _: Fed())
    (layer,) = trace(model, spikes(6, 3), num_times=2).layers
    assert layer.own is not None
    assert layer.time().cols == 3 * 6  # v, i, and the output that comes back
    assert model.net.module[0].weight in set(layer.knobs.time.parameters)


def test_what_norse_can_do_but_radii_cannot_follow_is_refused():
    recording = Net([norse.LIF(record_states=True)], NUM_INPUTS, True)
    with pytest.raises(ValueError, match=r"^LIF: expected record_states=False, got True; set it to False"):
        measure(recording, spikes(4, 2))
    sparse = Looped(norse.LIFRecurrentCell(NUM_INPUTS, 6).double(), None)
    with pytest.raises(TypeError, match=r"^LIFRecurrentCell: expected a dense input, got a sparse tensor"):
        measure(sparse, spikes(4, 2), call=lambda model, x: model([row.to_sparse() for row in x]))


class Adaptive(SNNCell):
    """A user's neuron whose state has another form where it adapts."""

    def __init__(self, adapts):
        super().__init__(activation=self.advance, state_fallback=self.start, p=norse.LIFParameters())
        self.adapts = adapts

    def start(self, x):
        return (torch.zeros_like(x),) * (3 if self.adapts else 2)

    def advance(self, x, state, p, dt):
        v, i, *b = state
        z, (v, i) = lif_feed_forward_step(x, norse.LIFFeedForwardState(v, i), p, dt)
        return z, (v, i, *(0.9 * part + z for part in b))


def test_the_form_of_a_state_is_that_of_each_neuron_not_of_its_class():
    x = spikes(9, 3).float()
    for adapts in ((False, True), (True, True), (False, False)):
        parts = [part for kind in adapts for part in (nn.Linear(NUM_INPUTS, NUM_INPUTS), Adaptive(kind))]
        layers = trace(Net(parts, NUM_INPUTS, over_time=False), x).layers
        assert [len(layer.memory) for layer in layers] == [3 if kind else 2 for kind in adapts]
