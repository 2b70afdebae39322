"""Adapters teach the library one kind of module each: how it runs, what one step of it is, and what moves its radii.

A new architecture is one new file here. Adapters of this package are found by the package that a module's class comes
from and imported only then, so that ``import lsc_snn`` needs torch and numpy alone.
"""

from lsc_snn.adapters.base import Adapter, Pass, SequenceAdapter, StepAdapter, find_adapters, register_adapter
from lsc_snn.knobs import Knob, Knobs, changed, multiplied, together

__all__ = [
    "Adapter",
    "Knob",
    "Knobs",
    "Pass",
    "SequenceAdapter",
    "StepAdapter",
    "changed",
    "find_adapters",
    "multiplied",
    "register_adapter",
    "together",
]
