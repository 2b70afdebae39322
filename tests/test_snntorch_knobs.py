"""What the knobs of snnTorch's neurons turn."""

import pytest
import snntorch as snn
import torch

from lsc_snn.adapters import find_adapters
from lsc_snn.adapters.snntorch import DECAY_MAX


def knobs(module):
    ((_, _, adapter),) = find_adapters(module)
    return adapter.knobs(module)


@pytest.mark.parametrize("factor", [0.5, 1.1, 1e6])
def test_time_knobs_multiply_the_decays_and_keep_them_below_one(factor):
    betas = torch.tensor([-0.1, 0.3, 0.8, 1.2])
    neuron = snn.RSynaptic(
        0.6, betas.clone(), linear_features=4, learn_alpha=True, learn_beta=True, learn_threshold=True
    )
    recurrent = neuron.recurrent.weight.detach().clone()
    knobs(neuron).time.turn(factor)
    # Beta is the slowest: alpha goes up no farther than it was.
    torch.testing.assert_close(neuron.alpha.detach(), torch.tensor(0.6 * min(factor, 1.0)))
    torch.testing.assert_close(neuron.beta.detach(), (betas.clamp(0, 1) * factor).clamp(max=DECAY_MAX))
    torch.testing.assert_close(neuron.recurrent.weight.detach(), factor * recurrent)
    knobs(neuron).threshold.turn(factor)
    assert float(neuron.threshold.detach()) == pytest.approx(factor)
    module = snn.StateLeaky(0.8, 4, learn_beta=True)
    before = torch.exp(-1 / module.tau.detach())
    knobs(module).time.turn(factor)
    torch.testing.assert_close(torch.exp(-1 / module.tau.detach()), (before * factor).clamp(max=DECAY_MAX))


@pytest.mark.parametrize("factor", [0.5, 1.1, 1e6])
def test_the_slowest_of_the_learnable_decays_alone_rises_above_where_it_was(factor):
    faster = snn.Synaptic(0.9, 0.5, learn_alpha=True, learn_beta=True)
    knobs(faster).time.turn(factor)
    assert float(faster.alpha.detach()) == pytest.approx(min(0.9 * factor, DECAY_MAX))
    assert float(faster.beta.detach()) == pytest.approx(0.5 * min(factor, 1.0))
    faster.alpha.requires_grad_(False)
    knob = knobs(faster).time
    knob.turn(0.5)
    knob.turn(3.0)  # now beta is the slowest that may be learnt
    assert float(faster.beta.detach()) == pytest.approx(min(0.75 * min(factor, 1.0), DECAY_MAX))


def test_what_is_fixed_has_no_knob():
    for fixed in (snn.Leaky(0.9), snn.Alpha(0.9, 0.8, learn_beta=True), snn.Lapicque(0.9, learn_beta=True)):
        assert knobs(fixed).time is None
        assert knobs(fixed).threshold is None
