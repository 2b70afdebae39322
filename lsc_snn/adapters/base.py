"""What an adapter is, and the registry that finds the adapter of a module."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from lsc_snn.events import EventBatch
from lsc_snn.grid import Memory, Points, Step


class Pass(NamedTuple):
    """What one call of a sequence module did.

    ``inputs`` is what it received, (T, B, ...) or an EventBatch; ``output`` what it hands up, (T, B, ...);
    ``returned`` makes the module's own return value from an output tensor; ``at`` gives, for K points, the pure step of
    the module and the memory (K, ...) that it carried into that step.
    """

    inputs: Tensor | EventBatch
    output: Tensor
    returned: Callable[[Tensor], Any]
    at: Callable[[Points], tuple[Step, Memory]]


@dataclass(frozen=True)
class Knob:
    """A one-parameter family of changes to a layer: ``turn(f)`` multiplies what it moves by f > 0, in place.

    ``parameters`` are all that it may move; the frozen ones (``requires_grad`` False) it leaves as they are.
    """

    parameters: tuple[nn.Parameter, ...]
    turn: Callable[[float], None]


def movable(knob: Knob | None) -> bool:
    """Say whether a knob has a parameter that is not frozen."""
    return knob is not None and any(parameter.requires_grad for parameter in knob.parameters)


class Knobs(NamedTuple):
    """The knobs of a layer; None where there is nothing to turn.

    ``depth`` and ``time`` raise the radius of that transition; ``threshold`` lowers the firing rate.
    """

    depth: Knob | None
    time: Knob | None
    threshold: Knob | None = None


class Adapter(ABC):
    """How to run a sequence module, step it and move its radii."""

    role: Literal["layer", "readout"] = "layer"
    """A layer is a row of the grid; a readout is the decoder."""

    @abstractmethod
    def run(self, module: Any, *args: Any, **kwargs: Any) -> Pass:
        """Run the module's forward on its own arguments, once, and return what it did."""

    @abstractmethod
    def unroll(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, list[Memory]]:
        """Do as forward, by single differentiable steps; return its return value and the memory after every step."""

    @abstractmethod
    def knobs(self, module: Any) -> Knobs:
        """Return the knobs of the module."""


_ADAPTERS: dict[type[nn.Module], Adapter] = {}
_LAZY = {"lsc_snn": "lsc_snn.adapters.own"}
"""Top-level package of a module's class -> the file that registers the adapters for it."""


def register_adapter(module_type: type[nn.Module], adapter: Adapter) -> None:
    """Make an adapter known for a module class and its subclasses; the nearest class in the hierarchy wins.

    Raises TypeError where either is not what it should be.
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(f"module_type: expected a subclass of torch.nn.Module, got {module_type!r}")
    if not isinstance(adapter, Adapter):
        raise TypeError(f"adapter: expected an lsc_snn.adapters.Adapter, got {type(adapter).__name__}")
    _ADAPTERS[module_type] = adapter


def _adapter_of(module: nn.Module) -> Adapter | None:
    for base in type(module).__mro__:
        package = base.__module__.partition(".")[0]
        if package in _LAZY:
            importlib.import_module(_LAZY[package])
        if base in _ADAPTERS:
            return _ADAPTERS[base]
    return None


def find_adapters(model: nn.Module) -> Iterator[tuple[str, nn.Module, Adapter]]:
    """Yield (name, module, adapter) of the outermost modules of a model that an adapter knows, in definition order."""
    known: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") or outer == "" for outer in known):
            continue  # inside a module that is handled as a whole
        adapter = _adapter_of(module)
        if adapter is not None:
            known.append(name)
            yield name, module, adapter
