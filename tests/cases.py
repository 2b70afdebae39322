"""Cases shared by the tests: the devices present, and seeded random tensors."""

import pytest
import torch
from torch import Tensor

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


def seeded(seed: int = 0, device: str = "cpu") -> torch.Generator:
    """Return a generator of its own, so that no test reads or moves the global random state."""
    return torch.Generator(device).manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """Return standard normal numbers, the same on every device."""
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype).to(device)
