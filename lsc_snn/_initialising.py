"""What initialisations share: the weight matrices of a model, its forward watched, everything undone on an error."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lsc_snn._kept import cycled, restore, snapshot
from lsc_snn.events import EventBatch, Inputs
from lsc_snn.layers import InputLayer
from lsc_snn.recording import undisturbed
from lsc_snn.trace import Call, check_inputs

# Their 2-D weights are tables of vectors and gains, not matrices that multiply.
_NO_MATRICES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
_MATRIX_NAMES = ("weight", "kernel", "recurrent")


class Matrix(NamedTuple):
    """A parameter that multiplies what a module receives: its full name, its module, and its name there."""

    name: str
    module: nn.Module
    key: str
    parameter: nn.Parameter

    def blocks(self) -> Iterator[Tensor]:
        """Yield the independent matrices that are stacked in it, as views (out, in, kernel...): gates and groups."""
        module, count = self.module, 1
        if isinstance(module, nn.RNNBase | nn.RNNCellBase) and self.key.startswith(("weight_ih", "weight_hh")):
            count = len(self.parameter) // module.hidden_size
        elif isinstance(module, nn.MultiheadAttention) and self.key == "in_proj_weight":
            count = 3
        elif isinstance(module, _ConvNd):
            count = module.groups
        for block in self.parameter.detach().chunk(count):
            yield block.transpose(0, 1) if isinstance(module, _ConvTransposeNd) else block


def weight_matrices(model: nn.Module) -> list[Matrix]:
    """Return the weight matrices of a model that are not frozen, each once, in definition order.

    Raises TypeError where ``model`` is no module, ValueError where there is none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}; pass the model itself")
    found: dict[int, Matrix] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, _NO_MATRICES):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            named = any(word in key for word in _MATRIX_NAMES) and parameter.dim() >= 2
            if named and parameter.is_floating_point() and parameter.requires_grad:
                found.setdefault(id(parameter), Matrix(full_name(prefix, key), module, key, parameter))
    if not found:
        raise ValueError(
            f"model: expected at least one weight matrix that is not frozen, got {type(model).__name__} with none; "
            "pass a model with layers such as lsc_snn.LIF, nn.Linear or nn.Conv2d"
        )
    return list(found.values())


def is_movable(layer: nn.Module) -> bool:
    """Say whether a layer has a matrix of its own that is not frozen."""
    return any(parameter.requires_grad and parameter.dim() >= 2 for parameter in layer.parameters(recurse=False))


def full_name(prefix: str, key: str) -> str:
    """Return the name of a parameter in the model, from that of its module."""
    return f"{prefix}.{key}" if prefix else key


Draw = Callable[[Tensor, int], Tensor]
"""Fills a CPU matrix (rows, fan-in) in place, given its fan-out."""


@torch.no_grad()
def fill(matrices: Iterable[Matrix], draw: Draw) -> list[str]:
    """Draw every block of every matrix anew, set the biases beside them to 0, and return the names of what was set."""
    names = []
    for matrix in matrices:
        for block in matrix.blocks():
            fan_in, fan_out = block[0].numel(), len(block) * block[0, 0].numel()
            # On the CPU and in at least float32: the same numbers on every device, and QR knows no half precision.
            drawn = torch.empty(len(block), fan_in, dtype=torch.promote_types(block.dtype, torch.float32))
            block.copy_(draw(drawn, fan_out).reshape(block.shape))
        names += [matrix.name, *zero_biases(matrix.module, matrix.name.removesuffix(matrix.key).removesuffix("."))]
    return list(dict.fromkeys(names))


@torch.no_grad()
def zero_biases(module: nn.Module, prefix: str) -> list[str]:
    """Set the biases of a module that are not frozen to 0, and return their full names."""
    names = []
    for key, parameter in module.named_parameters(recurse=False):
        if "bias" in key and parameter.requires_grad:
            parameter.zero_()
            names.append(full_name(prefix, key))
    return names


@contextlib.contextmanager
def kept_on_error(model: nn.Module) -> Iterator[None]:
    """Run a block that writes parameters; if it raises, an interrupt included, they are as before."""
    kept = snapshot(model.parameters())
    try:
        yield
    except BaseException:
        restore(kept)
        raise


def source_of(generator: torch.Generator | None) -> torch.Generator:
    """Return the generator to draw from, one of a fixed seed if None; raise TypeError or ValueError for another."""
    if generator is None:
        return torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != "cpu":
        raise ValueError(f"generator: expected one on the CPU, got {generator.device}; use torch.Generator()")
    return generator


def stream_of(model: nn.Module, batches: Inputs | Iterable[Inputs]) -> Iterator[Inputs]:
    """Yield checked batches, gone through again and again.

    Raises TypeError or ValueError, when the batch at fault comes, for no batch at all, one that is empty,
    not floating, not finite or on another device than the model, and for parameters that are not finite.
    """
    for batch in cycled(batches):
        check_inputs(model, batch, "batches")
        yield batch


Seen = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
"""What to do after a call of a module, with its arguments, keyword arguments and output."""


def watch(
    model: nn.Module, batch: Inputs, call: Call | None, modules: Iterable[nn.Module], seen: Seen
) -> set[nn.Module]:
    """Run the model's own forward once, in eval mode and without gradient; ``seen`` runs after each call of a module.

    Returns which of the modules were called. The model is as before afterwards.
    """
    called = set()

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        called.add(module)
        seen(module, args, kwargs, output)

    with contextlib.ExitStack() as stack:
        stack.enter_context(undisturbed(model))
        stack.enter_context(torch.no_grad())
        for module in modules:
            stack.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        if call is None:
            model(batch)
        else:
            call(model, batch)
    return called


def check_called(modules: dict[str, nn.Module], called: set[nn.Module]) -> None:
    """Raise ValueError for a module, by its name, that was not called."""
    for name, module in modules.items():
        if module not in called:
            raise ValueError(
                f"layer {name!r}: expected a call in the forward pass, got none; "
                "call it, or freeze its weights (requires_grad False) to leave it out"
            )


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a module received: its first argument, or the one whose name begins with "input"."""
    return args[0] if args else next(value for key, value in kwargs.items() if key.startswith("input"))


@dataclass
class Moments:
    """Running sums over entries: of what a layer receives or hands up."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: Inputs, batch: Inputs) -> None:
        """Add the entries of a tensor or of events; those of time steps beyond the end of a sample are left out."""
        if isinstance(values, EventBatch):
            self.count += int(values.lengths.sum()) * values.num_units
            values = values.counts
        else:
            if isinstance(batch, EventBatch) and values.shape[:2] == batch.shape[:2]:
                values = values[batch.mask()]
            self.count += values.numel()
        values = values.double()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    @property
    def mean(self) -> float:
        """Mean of the entries."""
        return self.total / self.count

    @property
    def mean_square(self) -> float:
        """Mean of their squares."""
        return self.squares / self.count

    @property
    def variance(self) -> float:
        """Variance of all entries together; 0 where it is no more than rounding, inf where the sums have overflowed."""
        variance = self.mean_square - self.mean**2
        if not math.isfinite(variance):
            return math.inf
        return variance if variance > 1e-12 * self.mean_square else 0.0


def activities(
    model: nn.Module, batch: Inputs, call: Call | None, name: str, layer: nn.Module
) -> tuple[Moments, Moments]:
    """Return the moments of what a layer receives, and of what it hands up, in one forward pass."""
    received, returned = Moments(), Moments()

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        received.add(input_of(args, kwargs), batch)
        returned.add(output[0] if isinstance(output, tuple) else output, batch)

    check_called({name: layer}, watch(model, batch, call, [layer], seen))
    return received, returned


def scaled_by_lsuv(matrices: list[Matrix]) -> dict[str, Matrix]:
    """Return by name the matrices that LSUV scales: the input weights, not the recurrent ones."""
    scaled = {}
    for matrix in matrices:
        name, module, key, _ = matrix
        beside = [other.key for other in matrices if other.module is module]
        if isinstance(module, InputLayer):
            moved = key == "weight"
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            moved = key.startswith("weight_ih")
        elif len(beside) > 1:
            raise ValueError(
                f"layer {name.rpartition('.')[0]!r}: expected one weight matrix, got {', '.join(beside)}; "
                f"LSUV cannot tell what a {type(module).__name__} multiplies by each: freeze all but one"
            )
        else:
            moved = True
        if moved:
            scaled[name] = matrix
    return scaled


def output_variances(model: nn.Module, batch: Inputs, call: Call | None, scaled: dict[str, Matrix]) -> dict[str, float]:
    """Return the output variance of each layer, in order of execution, by the name of its weight."""
    names: dict[nn.Module, dict[str, str]] = {}
    for name, matrix in scaled.items():
        names.setdefault(matrix.module, {})[matrix.key] = name
    moments: dict[str, Moments] = {}

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        for key, values in _outputs(module, list(names[module]), args, kwargs, output):
            if key in names[module]:
                moments.setdefault(names[module][key], Moments()).add(values, batch)

    called = watch(model, batch, call, names, seen)
    check_called({name: matrix.module for name, matrix in scaled.items()}, called)
    return {name: entries.variance for name, entries in moments.items()}


def _outputs(
    module: nn.Module, keys: list[str], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Iterable[tuple[str, Tensor]]:
    """Return what LSUV calls the output, for each of these weights of a module that was just called."""
    if isinstance(module, nn.RNNBase):
        return _input_products(module, args, kwargs)
    if isinstance(module, InputLayer):
        return [(key, module.current(input_of(args, kwargs))) for key in keys]
    if isinstance(module, nn.RNNCellBase):
        return [(key, functional.linear(input_of(args, kwargs), getattr(module, key))) for key in keys]
    returned = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(returned, Tensor):
        raise TypeError(f"{type(module).__name__}: expected a tensor as its output, got {type(returned).__name__}")
    return [(key, returned) for key in keys]


def _input_products(module: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each input weight of an nn.RNN, nn.GRU or nn.LSTM, and its product W x with what it received.

    Layers above the first receive what the module keeps to itself, so that each but the last is run once more.
    Raises TypeError for packed sequences.
    """
    x, state = input_of(args, kwargs), args[1] if len(args) > 1 else kwargs.get("hx")
    if not isinstance(x, Tensor):
        raise TypeError(f"{type(module).__name__}: expected a tensor as its input, got {type(x).__name__}; pad it")
    if x.dim() == 2:  # no batch axis
        batch_axis = 0 if module.batch_first else 1
        x, state = x.unsqueeze(batch_axis), _mapped(state, lambda part: part.unsqueeze(1))
    ways = 1 + module.bidirectional
    if state is None:
        shape = (module.num_layers * ways, x.shape[0 if module.batch_first else 1])
        hidden = x.new_zeros(*shape, module.proj_size or module.hidden_size)
        state = (hidden, x.new_zeros(*shape, module.hidden_size)) if module.mode == "LSTM" else hidden
    run = getattr(torch, module.mode.lower())  # torch.lstm, torch.gru, torch.rnn_tanh or torch.rnn_relu
    for rows in (slice(first, first + ways) for first in range(0, module.num_layers * ways, ways)):
        directions = module._all_weights[rows]
        for names in directions:
            yield names[0], functional.linear(x, getattr(module, names[0]))
        if rows.stop < module.num_layers * ways:
            weights = [getattr(module, name) for names in directions for name in names]
            start = _mapped(state, operator.itemgetter(rows))
            x = run(x, start, weights, module.bias, 1, 0.0, False, module.bidirectional, module.batch_first)[0]


def _mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change each part of a hidden state: a tensor, a tuple of them, or None."""
    if state is None:
        return None
    return tuple(change(part) for part in state) if isinstance(state, tuple) else change(state)
