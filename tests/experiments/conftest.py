"""Fixtures of the tests of training."""

import pytest
import torch

from run_cases import make_config, make_splits


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Products this small are slower on two threads, much slower on a loaded machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def splits():
    """Return the three parts of the small task."""
    return make_splits()


@pytest.fixture
def configure():
    """Make a configuration of the small task, with options of its own."""
    return make_config
