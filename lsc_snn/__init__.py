"""Measure and fix the gradient stability of deep recurrent and spiking networks before they are trained."""

from lsc_snn.adapters import register_adapter
from lsc_snn.events import EventBatch
from lsc_snn.layers import ALIF, LI, LIF, LSNN
from lsc_snn.measure import RadiusReport, gradient_profile, measure
from lsc_snn.network import Network, NetworkConfig
from lsc_snn.ssm_layers import LRU, S5, SSMBlock
from lsc_snn.stabilize import StabilizeReport, stabilize
from lsc_snn.theory import PascalRNN, Target

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
