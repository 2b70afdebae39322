"""Fixed point: a network's parameters as integers, the network stepped in integers, and the limits of chips."""

from lsc_snn.fixed_point.aware import rounded
from lsc_snn.fixed_point.formats import NumberFormat
from lsc_snn.fixed_point.quantise import IntegerLayer, IntegerNetwork, Scale, dequantised, quantise, scales_of
from lsc_snn.fixed_point.simulate import IntegerRun, simulate
from lsc_snn.fixed_point.targets import PLATFORMS, Exceeded, Platform, check_limits, exceeded_limits
from lsc_snn.fixed_point.xylo import XyloCore, XyloRun, run_xylosim, simulate_core, to_xylo

__all__ = [
    # a network in integers
    "NumberFormat",
    "scales_of",
    "quantise",
    "dequantised",
    "simulate",
    "Scale",
    "IntegerLayer",
    "IntegerNetwork",
    "IntegerRun",
    # trained for it
    "rounded",
    # chips
    "PLATFORMS",
    "Platform",
    "check_limits",
    "exceeded_limits",
    "Exceeded",
    "to_xylo",
    "simulate_core",
    "run_xylosim",
    "XyloCore",
    "XyloRun",
]
