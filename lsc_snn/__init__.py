"""Measure and fix the gradient stability of deep recurrent and spiking networks before they are trained."""

from typing import TYPE_CHECKING, Any

from lsc_snn.adapters import register_adapter
from lsc_snn.events import EventBatch
from lsc_snn.layers import ALIF, LI, LIF, LSNN
from lsc_snn.measure import RadiusReport, gradient_profile, measure
from lsc_snn.network import Network, NetworkConfig
from lsc_snn.ssm_layers import LRU, S5, SSMBlock
from lsc_snn.stabilize import StabilizeReport, stabilize
from lsc_snn.theory import PascalRNN, Target

if TYPE_CHECKING:
    from lsc_snn.nir import from_nir as from_nir
    from lsc_snn.nir import to_nir as to_nir

__all__ = [
    "ALIF",
    "LI",
    "LIF",
    "LRU",
    "LSNN",
    "S5",
    "SSMBlock",
    "EventBatch",
    "Network",
    "NetworkConfig",
    "PascalRNN",
    "RadiusReport",
    "StabilizeReport",
    "Target",
    "gradient_profile",
    "measure",
    "register_adapter",
    "stabilize",
]


def __getattr__(name: str) -> Any:
    """Import ``to_nir`` and ``from_nir`` when they are asked for: they need the package nir, and the rest does not."""
    if name not in ("to_nir", "from_nir"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lsc_snn import nir

    return getattr(nir, name)
