"""Dropout from a seed: the same whoever draws it, the right share of entries, and nothing global."""

import pytest
import torch
from torch import nn

from cases import normal
from lsc_snn import Network
from lsc_snn.experiments.dropout import seeded_dropout

CPU = torch.device("cpu")


def dropped(module, signal, key, rank=0, world_size=1, size=None):
    with seeded_dropout(module, CPU, key, rank, world_size, signal.shape[1] if size is None else size):
        return module(signal)


def test_the_key_fixes_the_mask_and_the_global_state_stays():
    module, ones = nn.Dropout(0.3), torch.ones(50, 8, 25)
    before = torch.get_rng_state()
    first, second, other = (dropped(module, ones, key) for key in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(first.unique(), torch.tensor([0, 1 / 0.7]))
    assert float((first > 0).double().mean()) == pytest.approx(0.7, abs=0.02)
    assert module.training
    assert not torch.equal(module(ones), module(ones))


@pytest.mark.parametrize(("size", "world_size"), [(8, 1), (8, 2), (7, 3), (2, 3)])
def test_processes_drop_what_one_would(configure, size, world_size):
    """Through a whole network, whose layers each draw: a sample's output does not depend on who computes it."""
    network = Network(configure(network={"dropout": 0.4, "layer": {"threshold": 0.3}}).network, seed=1)
    signal = normal(9, size, 8, dtype=torch.float32)
    whole = dropped(network, signal, (5,))
    assert not torch.equal(whole, network.eval()(signal))
    network.train()
    for rank in range(world_size):
        start = rank % size
        part = dropped(network, signal[:, start::world_size], (5,), rank, world_size, size)
        torch.testing.assert_close(part, whole[:, start::world_size])


def test_eval_mode_drops_nothing():
    module, signal = nn.Dropout(0.5).eval(), normal(3, 2, 4)
    assert torch.equal(dropped(module, signal, (1,)), signal)
    assert not module.training
