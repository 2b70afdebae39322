"""Learning rates against torch's own schedulers, and optimisers that go on from a checkpoint as if never stopped."""

import pytest
import torch
from torch.optim import lr_scheduler

from cases import normal
from lsc_snn import Network
from lsc_snn.experiments.checkpoint import load_optimizer, load_parameters, optimizer_tensors, snapshot
from lsc_snn.experiments.optimisers import learning_rate_of, make_optimizer, set_learning_rate
from lsc_snn.optim import AdaBelief, Lookahead


def advance(network, optimizer, step):
    optimizer.zero_grad()
    network.eval()(normal(9, 2, 8, seed=step, dtype=torch.float32)).square().mean().backward()
    optimizer.step()


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)


def test_cosine_is_that_of_torch(configure):
    config, optimizer = configure(learning_rate=0.3, schedule="cosine", epochs=12), sgd()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    for epoch in range(1, 13):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate_of(config, epoch, [(0.0, 1.0)]) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_plateau_is_that_of_torch(configure):
    """torch lowers the rate at the first epoch beyond its patience, so at one epoch less than ours waits."""
    config, optimizer = configure(learning_rate=0.3, schedule="plateau", plateau_epochs=3, plateau_factor=0.5), sgd()
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=2, threshold=0, threshold_mode="abs"
    )
    accuracies = torch.randint(0, 12, (60,), generator=torch.Generator().manual_seed(3)).div(12).tolist()
    scores = [(accuracies[0], 1.0)]
    scheduler.step(accuracies[0])
    rates = set()
    for epoch, accuracy in enumerate(accuracies[1:], start=1):
        rates.add(learning_rate_of(config, epoch, scores))
        assert learning_rate_of(config, epoch, scores) == optimizer.param_groups[0]["lr"]
        scores.append((accuracy, 1.0))
        scheduler.step(accuracy)
        # What is still to come changes nothing.
        assert learning_rate_of(config, epoch, scores) == learning_rate_of(config, epoch, scores[:epoch])
    assert len(rates) > 3


def test_plateau_looks_at_the_loss_where_accuracies_are_equal(configure):
    config = configure(learning_rate=1.0, schedule="plateau", plateau_epochs=1, plateau_factor=0.5)
    assert learning_rate_of(config, 2, [(0.5, -1.0), (0.5, -0.9)]) == 1.0
    assert learning_rate_of(config, 2, [(0.5, -1.0), (0.5, -1.0)]) == 0.5


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "adabelief"])
def test_an_optimiser_goes_on_from_its_tensors(configure, optimizer, lookahead):
    """At a step that is no multiple of Lookahead's six."""
    config = configure(optimizer=optimizer, lookahead=lookahead)
    network = Network(config.network, seed=3)
    first = make_optimizer(network, config)
    for step in range(8):
        advance(network, first, step)
    names = {parameter: name for name, parameter in network.named_parameters()}
    state, parameters = snapshot(optimizer_tensors(first, names)), snapshot(network.state_dict())

    other = Network(config.network, seed=9)
    load_parameters(other, parameters, "a.safetensors")
    second = make_optimizer(other, config)
    load_optimizer(second, {parameter: name for name, parameter in other.named_parameters()}, state)
    for step in range(8, 15):
        for module, using in ((network, first), (other, second)):
            set_learning_rate(using, 0.01 / step)
            advance(module, using, step)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def test_optimisers_are_what_they_are_called(configure):
    network = Network(configure().network)
    plain, wrapped = (make_optimizer(network, configure(optimizer="adabelief", lookahead=on)) for on in (False, True))
    assert isinstance(plain, AdaBelief)
    assert isinstance(wrapped, Lookahead)
    assert isinstance(wrapped.inner, AdaBelief)
    set_learning_rate(wrapped, 0.5)
    assert {group["lr"] for group in wrapped.inner.param_groups} == {0.5}
    matrices, vectors = plain.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (1e-4, 0.0)
    assert all(parameter.ndim > 1 for parameter in matrices["params"])
