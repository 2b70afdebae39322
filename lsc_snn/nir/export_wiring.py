"""How the modules of a model are wired: found by running it once and following its tensors from module to module.

A model that is a chain (one layer, an ``nn.Sequential``, a ``Network``) is run layer by layer. Any other forward is run
as it is: every tensor that a module returns is remembered with the module's name and time step, and what becomes of it
before it reaches another module is watched. Additions, flattening, and indexing, unbinding and stacking of time can be
followed; anything else is named where it reaches a module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lsc_snn.adapters.base import SequenceAdapter, find_adapters
from lsc_snn.network import Network
from lsc_snn.recording import run_by_steps, undisturbed
from lsc_snn.trace import Call, Handled, replaced_forwards

INPUT = "<input>"
"""What stands for the model's input among the names of modules; no module is called so."""
Shape = tuple[int, ...]
Edge = tuple[str, str]


@dataclass
class Wiring:
    """The modules by name, in the order of their first call, and how they are wired; shapes are without time and batch.

    ``late`` are the edges that deliver the output of the step before. ``potentials`` are the neurons of which another
    module, or the output, reads the potential and not the spikes. ``means`` are the mean outputs, and ``result``
    (T, B, ...) is what the module named ``output`` gave. Names of nodes leave ``prefix`` out.
    """

    input_shape: Shape
    modules: dict[str, nn.Module] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    shapes: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    late: set[Edge] = field(default_factory=set)
    potentials: set[str] = field(default_factory=set)
    means: dict[str, Tensor] = field(default_factory=dict)
    output: str = INPUT
    prefix: str = ""
    result: Tensor = field(default_factory=lambda: torch.empty(0))

    def sources(self, name: str) -> list[str]:
        """Return the modules that feed one, or the input."""
        return [source for source, target in self.edges if target == name]

    def targets(self, name: str) -> list[str]:
        """Return the modules that one feeds; the model's output is not among them."""
        return [target for source, target in self.edges if source == name]


def chain_of(model: nn.Module, name: str = "") -> list[tuple[str, nn.Module]] | None:
    """Return the names and modules of a model that runs its layers one after the other, or None if it need not."""
    if isinstance(model, Network):
        layers = [(f"layers.{index}", layer) for index, layer in enumerate(model.layers)]
        return [*layers, ("readout", model.readout)]
    if isinstance(model, nn.Sequential):
        parts = [
            chain_of(child, f"{name}.{key}" if name else key) or [(f"{name}.{key}" if name else key, child)]
            for key, child in model.named_children()
        ]
        return [entry for part in parts for entry in part]
    if next(iter(find_adapters(model)), ("none",))[0] == "" or not any(True for _ in model.children()):
        return [(name or "layer", model)]
    return None


IDENTITIES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity)
"""Modules that are the identity in eval mode."""


@torch.no_grad()
def wire_chain(chain: list[tuple[str, nn.Module]], sample: Tensor) -> Wiring:
    """Run a sample (T, B, ...) through a chain, in eval mode, and return its wiring."""
    wiring = Wiring(tuple(sample.shape[2:]))
    signal = sample
    for name, module in chain:
        with undisturbed(module):
            output = _run(module, signal)
        if isinstance(module, IDENTITIES):
            continue
        wiring.modules[name] = module
        wiring.shapes[name] = tuple(signal.shape[2:]), tuple(output.shape[2:])
        wiring.means[name] = output.mean((0, 1))
        wiring.edges.append((wiring.output, name))
        wiring.output, signal = name, output
    wiring.result = signal
    return wiring


def _run(module: nn.Module, signal: Tensor) -> Tensor:
    """Run a whole sequence through one layer of any kind, from its state at rest."""
    adapter = next((found for name, _, found in find_adapters(module) if name == ""), None)
    if adapter is None or adapter.role == "feedforward":
        return torch.stack([module(step) for step in signal.unbind(0)])
    if isinstance(adapter, SequenceAdapter):
        output: Tensor = adapter.run(module, signal).output
        return output
    unfold = adapter.over_time(module)
    _, memory = adapter.unpack(module, signal if unfold else signal[0])
    for part in adapter.parts(module):
        size = len(memory) // len(adapter.parts(module))
        done, _ = run_by_steps(adapter, part, signal, memory[:size])
        signal, memory = done.output, memory[size:]
    return signal


class Term(NamedTuple):
    """A module's output at one time step, or over all steps; ``port`` is "" or "potential"."""

    name: str
    step: int
    port: str = ""


WHOLE, MERGED = -1, -2
"""In place of a step: the whole sequence, (T, B, ...), and the same as one batch, (T B, ...)."""


@dataclass(frozen=True)
class Unknown:
    """A tensor that came out of an operation that cannot be followed."""

    operation: str


Origin = tuple[Term, ...] | Unknown
"""Where a tensor came from: the sum of these outputs."""

_SAME = {"detach", "clone", "contiguous", "to", "float", "double", "requires_grad_", "type_as", "detach_", "dropout"}
_ADD = {"add", "__add__", "__radd__", "add_", "__iadd__"}
_RESHAPE = {"flatten", "view", "reshape", "unflatten"}


class Recorder(TorchFunctionMode):
    """Follows tensors from module to module while a model runs."""

    def __init__(self, sample: Tensor, calls: dict[str, int]) -> None:
        super().__init__()
        self._expected = calls
        self.wiring = Wiring(tuple(sample.shape[2:]))
        self._whole = tuple(sample.shape[:2])
        self._inside = False
        self._origins: dict[int, tuple[Tensor, Origin]] = {}  # the tensor too: else its id could be given away
        self._outputs: dict[tuple[str, str], list[Tensor]] = {}
        self._calls: dict[str, int] = {}
        self.set(sample, (Term(INPUT, WHOLE),))

    def set(self, tensor: Tensor, origin: Origin) -> None:
        """Remember where a tensor came from."""
        self._origins[id(tensor)] = (tensor, origin)

    def origin(self, value: Any) -> Origin | None:
        """Return where a tensor came from, or None for a constant."""
        return self._origins[id(value)][1] if id(value) in self._origins else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self._inside:
            self._inside = True
            try:
                self._follow(getattr(func, "__name__", str(func)), args, kwargs, output)
            finally:
                self._inside = False
        return output

    def _follow(self, operation: str, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        known = [tensor for tensor in _tensors((args, kwargs)) if self.origin(tensor) is not None]
        made = list(_tensors(output))
        if not known or not made:
            return
        origin = self.origin(args[0]) if args else None
        found: list[Origin | None] = [None] * len(made)
        if operation in _SAME and (operation != "dropout" or torch.equal(made[0], args[0])):
            found = [origin]
        elif operation in _ADD:
            found = [self._sum(args, kwargs)]
        elif operation in ("__getitem__", "select") and isinstance(origin, tuple):
            found = [self._step(origin, args[1:])]
        elif (
            operation in ("unbind", "__iter__") and isinstance(origin, tuple) and not kwargs and args[1:] in ((), (0,))
        ):
            found = [self._step(origin, (index,)) for index in range(len(made))]
        elif operation == "stack" and not kwargs.get("dim", 0) and args[1:] in ((), (0,)):
            found = [self._stacked(args[0] if args else kwargs["tensors"])]
        elif operation in _RESHAPE and isinstance(origin, tuple):
            found = [self._reshaped(origin, args[0], made[0])]
        for tensor, one in zip(made, found, strict=False):
            if id(tensor) not in {id(entry) for entry in known} or operation in ("add_", "__iadd__"):
                self.set(tensor, Unknown(operation) if one is None else one)

    def _sum(self, args: Any, kwargs: dict[str, Any]) -> Origin | None:
        terms: list[Term] = []
        if kwargs or len(args) != 2:
            return None
        for value in args:
            origin = self.origin(value)
            if isinstance(origin, tuple):
                terms += origin
            elif isinstance(origin, Unknown):
                return origin
            elif bool((torch.as_tensor(value) != 0).any()):
                return Unknown("an addition of a constant")
        return tuple(terms)

    def _step(self, origin: tuple[Term, ...], index: tuple[Any, ...]) -> Origin | None:
        if index and isinstance(index[0], int) and (len(index) == 1 or index == (0, index[-1])):
            step = index[-1]
        else:
            return None
        if any(term.step != WHOLE for term in origin):
            return None
        return tuple(term._replace(step=step % self._whole[0]) for term in origin)

    def _stacked(self, tensors: Any) -> Origin | None:
        origins = [self.origin(tensor) for tensor in tensors]
        first = origins[0]
        if not isinstance(first, tuple):
            return first
        for step, origin in enumerate(origins):
            if origin != tuple(term._replace(step=step) for term in first):
                return None
        return tuple(term._replace(step=WHOLE) for term in first)

    def _reshaped(self, origin: tuple[Term, ...], before: Tensor, after: Tensor) -> Origin | None:
        if before.shape == after.shape:
            return origin
        step = origin[0].step
        if step == WHOLE and after.shape == (before.shape[:2].numel(), *before.shape[2:]):
            return tuple(term._replace(step=MERGED) for term in origin)
        if step == MERGED and after.shape == (*self._whole, *before.shape[1:]):
            return tuple(term._replace(step=WHOLE) for term in origin)
        lead = 2 if step == WHOLE else 1
        if before.shape[:lead] != after.shape[:lead] or after.dim() != lead + 1 or len(origin) != 1:
            return None
        name = f"{origin[0].name}.flatten"
        self.wiring.modules.setdefault(name, nn.Flatten())
        self.wiring.shapes[name] = tuple(before.shape[lead:]), tuple(after.shape[lead:])
        self._connect(origin[0], name, step)
        return (Term(name, step),)

    def _connect(self, term: Term, name: str, step: int) -> None:
        lag = step - term.step
        if lag not in (0, 1) or (lag and min(step, term.step) < 0):
            raise ValueError(
                f"layer {name!r}: expected the output of {term.name!r} of the same time step or the one before, got "
                f"step {term.step} at step {step}; NIR has no other order"
            )
        if (term.name, name) not in self.wiring.edges:
            self.wiring.edges.append((term.name, name))
        if lag:
            self.wiring.late.add((term.name, name))
        if term.port:
            self.wiring.potentials.add(term.name)

    def called(self, entry: Handled, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module as the model asks for it, and remember the call."""
        name, module, adapter = entry
        arrived = next((tensor for tensor in _tensors((args, kwargs))), None)
        if self._inside or arrived is None:
            return module(*args, **kwargs)
        count = self._calls[name] = self._calls.get(name, -1) + 1
        origin = self.origin(arrived)
        self._inside = True
        try:
            returned = module(*args, **kwargs)
        finally:
            self._inside = False
        first, *others = _tensors(returned)
        if isinstance(module, IDENTITIES) and origin is not None:
            self.set(first, origin)
            return returned
        if isinstance(origin, Unknown):
            raise ValueError(
                f"layer {name!r}: expected what other modules hand up, added, flattened or taken at a time step, got "
                f"the output of {origin.operation!r}; make it a module that NIR knows, or export the parts"
            )
        if origin is None and bool((arrived != 0).any()):
            raise ValueError(
                f"layer {name!r}: expected what the input or other modules give, got a constant; feed it in"
            )
        step = WHOLE if origin is None else origin[0].step
        if step >= 0 or (self._expected[name] % self._whole[0] == 0 and origin is None):
            each = max(1, self._expected[name] // self._whole[0])  # calls in one time step
            step, count = divmod(count, each)
        if count and adapter is not None and adapter.role != "feedforward":
            raise ValueError(
                f"layer {name!r}: expected one call for each time step of neurons, got more; make a layer for each"
            )
        name = f"{name}.{count}" if count else name
        self.wiring.modules.setdefault(name, module)
        for term in origin or ():
            self._connect(term, name, step)
        lead = 2 if step == WHOLE else 1
        self.wiring.shapes[name] = tuple(arrived.shape[lead:]), tuple(first.shape[lead:])
        self._give(first, Term(name, step))
        # snnTorch returns (spikes, synaptic current, potential); of what Norse keeps in a state nothing is followed.
        if step >= 0 and others and isinstance(returned, tuple) and isinstance(returned[-1], Tensor):
            self._give(returned[-1], Term(name, step, "potential"))
        return returned

    def _give(self, tensor: Tensor, term: Term) -> None:
        if self.origin(tensor) is None:
            self.set(tensor, (term,))
        self._outputs.setdefault((term.name, term.port), []).append(tensor)

    def finish(self, returned: Any) -> Wiring:
        """Return the wiring, given what the model returned: that, or else the one module that feeds no other."""
        wiring = self.wiring
        origins = [self.origin(tensor) for tensor in _tensors(returned)]
        terms = [one for one in origins if isinstance(one, tuple) and len(one) == 1][:1]
        feeding = {source for source, target in wiring.edges if (source, target) not in wiring.late}
        ends = [name for name in wiring.modules if name not in feeding]
        if terms:
            (term,) = terms[0]
        elif len(ends) == 1:
            term = Term(ends[0], WHOLE)
        else:
            raise ValueError(
                f"model: expected its first output to be what one of its layers hands up, at all time steps, got "
                f"something else, and layers {ends} that feed no other; return it as torch.stack gives it"
            )
        wiring.output = term.name
        if term.port:
            wiring.potentials.add(term.name)
        for (name, port), given in self._outputs.items():
            sequence = torch.stack(given) if len(given) > 1 else given[0]
            if sequence.shape[:2] != self._whole:  # one call, on the merged sequence, or one step
                sequence = sequence.reshape(*self._whole, *given[0].shape[1:])
            if not port:
                wiring.means[name] = sequence.mean((0, 1))
            if (name, port) == (term.name, term.port):
                wiring.result = sequence
        return wiring


@torch.no_grad()
def wire(model: nn.Module, sample: Tensor, call: Call | None) -> Wiring:
    """Run a model on a sample (T, B, ...), in eval mode, and return its wiring.

    It is run twice: first to see how often each module is called, which tells a module that is used again further up
    from one of the next time step.

    Raises ValueError where something between two modules cannot be followed.
    """
    outer = [Handled(*entry) for entry in find_adapters(model)]
    names = {entry.name for entry in outer}
    handled = outer + [
        Handled(name, module, None)  # type: ignore[arg-type]
        for name, module in model.named_modules()
        if name and not any(True for _ in module.children()) and not _inside(name, names)
    ]
    calls: dict[str, int] = {}

    def count(entry: Handled, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls[entry.name] = calls.get(entry.name, 0) + 1
        return entry.module(*args, **kwargs)

    run = call or (lambda model, inputs: model(inputs))
    with undisturbed(model), replaced_forwards(handled, count):
        run(model, sample)
    recorder = Recorder(sample, calls)
    with undisturbed(model), replaced_forwards(handled, recorder.called), recorder:
        returned = run(model, sample)
    return recorder.finish(returned)


def _inside(name: str, known: set[str]) -> bool:
    return name in known or any(name.startswith(f"{outer}.") for outer in known)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)
