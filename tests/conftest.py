"""Fixtures and settings of every test."""

import pytest
import torch
from hypothesis import settings
from torch import nn

from cases import DEVICES
from lsc_snn.adapters import base
from lsc_snn.layers import LI

# The same examples in every run, nothing written to disk, and no time limit on a loaded machine.
settings.register_profile("lsc", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("lsc")

# Networks here are small: a second thread costs more than it gives, far more on a loaded machine.
torch.set_num_threads(1)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each device present; CUDA is skipped, with the reason, where there is none."""
    return str(request.param)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry of adapters, restored afterwards."""
    for module in (LI(1, 1), nn.Linear(1, 1)):  # an adapter file registers but once, when it is first imported
        list(base.find_adapters(module))
    monkeypatch.setattr(base, "_ADAPTERS", dict(base._ADAPTERS))
