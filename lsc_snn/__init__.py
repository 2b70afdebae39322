"""Measure and fix the gradient stability of deep recurrent and spiking networks before they are trained."""

from lsc_snn.events import EventBatch
from lsc_snn.layers import ALIF, LI, LIF, LSNN
from lsc_snn.measure import RadiusReport, gradient_profile, measure
from lsc_snn.network import Network, NetworkConfig

__all__ = [
    "ALIF",
    "LI",
    "LIF",
    "LSNN",
    "EventBatch",
    "Network",
    "NetworkConfig",
    "RadiusReport",
    "gradient_profile",
    "measure",
]
