"""What an adapter is, and the registry that finds the adapter of a module."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from lsc_snn.events import EventBatch
from lsc_snn.grid import Memory, Points, Step
from lsc_snn.knobs import Knobs


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


class Adapter(ABC):
    """What the library knows about one kind of module. Use ``StepAdapter``, or ``SequenceAdapter`` for fused ones."""

    role: Literal["layer", "readout", "feedforward"] = "layer"
    """A layer is a row of the grid; a readout is the decoder; a feed-forward layer is a row if no layer has memory."""

    spiking: bool = False
    """Whether the output is spikes, whose rate is kept inside a band."""

    @abstractmethod
    def knobs(self, module: Any) -> Knobs:
        """Return the knobs of the module.

        Without a depth knob, the parameters that act last on what arrives (a linear layer in front) are the knob.
        """

    def spikes(self, module: Any) -> bool:
        """Say whether the output of this module is spikes; ``spiking`` here."""
        return self.spiking


class SequenceAdapter(Adapter):
    """An adapter of sequence modules that know how to run fast over time."""

    @abstractmethod
    def run(self, module: Any, *args: Any, **kwargs: Any) -> Pass:
        """Run the module's forward on its own arguments, once, and return what it did."""

    @abstractmethod
    def unroll(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, list[Memory]]:
        """Do as forward, by single differentiable steps; return its return value and the memory after every step."""


class StepAdapter(Adapter):
    """An adapter of modules that say themselves what one step is: four short methods, and the rest follows.

    Cells (called once a time step, in a loop of the user's) and sequence modules (``over_time``) are both of this kind.
    ``step`` must be pure: what the module keeps inside belongs into the memory. While it runs, changes of the module's
    attributes are undone.
    """

    @abstractmethod
    def unpack(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Memory]:
        """Return what arrives, (B, ...) or (T, B, ...) for a sequence, and the memory, from the arguments of a call."""

    @abstractmethod
    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Do one time step: what leaves, and the next memory, in the order of ``unpack``."""

    @abstractmethod
    def pack(self, module: Any, output: Tensor, memory: Memory) -> Any:
        """Return what the module's forward returns (and keep inside the module what it keeps)."""

    def over_time(self, module: Any) -> bool:
        """Say whether one call runs the whole sequence; else it is one step. False here."""
        return False

    def parts(self, module: Any) -> tuple[Any, ...]:
        """Return the layers of a stacked module, from the input up, each of which ``step`` takes as its module.

        The memory of ``unpack`` and ``pack`` is then that of the parts, one after the other. Here the module itself.
        """
        return (module,)


AnyAdapter = StepAdapter | SequenceAdapter
_ADAPTERS: dict[type[nn.Module], AnyAdapter] = {}
_LAZY = {
    "lsc_snn": "lsc_snn.adapters.own",
    "norse": "lsc_snn.adapters.norse",
    "sinabs": "lsc_snn.adapters.sinabs",
    "snntorch": "lsc_snn.adapters.snntorch",
    "spikingjelly": "lsc_snn.adapters.spikingjelly",
    "torch": "lsc_snn.adapters.torch_nn",
}
"""Top-level package of a module's class -> the file that registers the adapters for it."""


def register_adapter(module_type: type[nn.Module], adapter: AnyAdapter) -> None:
    """Make an adapter known for a module class and its subclasses; the nearest class in the hierarchy wins.

    Raises TypeError where either is not what it should be.
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(f"module_type: expected a subclass of torch.nn.Module, got {module_type!r}")
    if not isinstance(adapter, AnyAdapter):
        raise TypeError(f"adapter: expected an lsc_snn.adapters.StepAdapter, got {type(adapter).__name__}")
    _ADAPTERS[module_type] = adapter


def _adapter_of(module: nn.Module) -> AnyAdapter | None:
    for base in type(module).__mro__:
        package = base.__module__.partition(".")[0]
        if package in _LAZY:
            importlib.import_module(_LAZY[package])
        if base in _ADAPTERS:
            return _ADAPTERS[base]
    return None


def find_adapters(model: nn.Module) -> Iterator[tuple[str, nn.Module, AnyAdapter]]:
    """Yield (name, module, adapter) of the outermost modules of a model that an adapter knows, in definition order."""
    known: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") or outer == "" for outer in known):
            continue  # inside a module that is handled as a whole
        adapter = _adapter_of(module)
        if adapter is not None:
            known.append(name)
            yield name, module, adapter
