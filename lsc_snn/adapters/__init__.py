"""Adapters teach the library one kind of module each: how it runs, what one step of it is, and what moves its radii.

A new architecture is one new file here. Adapters of this package are found by the package that a module's class comes
from and imported only then, so that ``import lsc_snn`` needs torch and numpy alone.
"""

from lsc_snn.adapters.base import Adapter, Knob, Knobs, Pass, find_adapters, register_adapter

__all__ = ["Adapter", "Knob", "Knobs", "Pass", "find_adapters", "register_adapter"]
