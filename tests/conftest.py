"""Fixtures and settings of every test."""

import pytest
import torch
from hypothesis import settings

from cases import DEVICES

# The same examples in every run, nothing written to disk, and no time limit on a loaded machine.
settings.register_profile("lsc", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("lsc")

# Networks here are small: a second thread costs more than it gives, far more on a loaded machine.
torch.set_num_threads(1)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each device present; CUDA is skipped, with the reason, where there is none."""
    return str(request.param)
