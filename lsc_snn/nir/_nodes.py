"""The nodes of NIR: their parameters, checked, and the shapes that they take and give.

Shapes are without time and batch. A parameter of a neuron, a ``Scale``, ``Threshold`` or ``Delay`` has the shape of the
node's input, or one that broadcasts to it: a single value, as some exporters write, or one for each channel.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]

PARAMETERS: dict[str, tuple[str, ...]] = {
    "Input": (),
    "Output": (),
    "Affine": ("weight", "bias"),
    "Linear": ("weight",),
    "Scale": ("scale",),
    "Conv1d": ("weight", "bias"),
    "Conv2d": ("weight", "bias"),
    "SumPool2d": (),
    "AvgPool2d": (),
    "Flatten": (),
    "Delay": ("delay",),
    "Threshold": ("threshold",),
    "I": ("r",),
    "IF": ("r", "v_threshold"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "w_in"),
}
"""The kinds of nodes, and the arrays that each must have. Those with a ``v_threshold`` may have a ``v_reset`` too."""

MEMORY = frozenset({"I", "IF", "LI", "LIF", "CubaLI", "CubaLIF"})
"""The kinds that carry a state from step to step; a ``Delay`` does too, and is spoken of by its name."""

TIME_CONSTANTS = frozenset({"tau", "tau_syn", "tau_mem"})

_ELEMENTWISE = MEMORY | {"Scale", "Threshold", "Delay"}
_SPATIAL_AXES = {"Conv1d": 1, "Conv2d": 2, "SumPool2d": 2, "AvgPool2d": 2}
_TO_TAU = 1e-6  # a tau equal to dt, rounded to float32, is no decay below zero


class Window(NamedTuple):
    """How a kernel moves over the spatial axes; each field has one entry for each axis, of padding before and after."""

    kernel: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]
    dilation: Shape


def kind_of(node: object) -> str:
    """Return the name of a node's type, "LIF" for instance."""
    return type(node).__name__


def numbers(name: str, node: Any) -> dict[str, Array]:
    """Return the arrays of a node by parameter, in float64; ValueError for one missing, not finite or wrong."""
    kind = kind_of(node)
    found = {field: _array(_label(name, field), getattr(node, field, None)) for field in PARAMETERS[kind]}
    if "v_threshold" in found and getattr(node, "v_reset", None) is not None:
        found["v_reset"] = _array(_label(name, "v_reset"), node.v_reset)
    for field in TIME_CONSTANTS & found.keys():
        if not bool((found[field] > 0).all()):
            raise ValueError(
                f"{_label(name, field)}: expected time constants above 0, got {found[field].min():g}; "
                "write them in seconds, all positive"
            )
    if kind == "Delay" and not bool((found["delay"] >= 0).all()):
        raise ValueError(
            f"{_label(name, 'delay')}: expected delays of 0 or more, got {found['delay'].min():g}; remove the sign"
        )
    return found


def check_step(name: str, node: Any, dt: float) -> None:
    """Raise ValueError where ``dt`` makes a decay 1 - dt/tau negative, or a delay no whole number of steps."""
    found = numbers(name, node)
    for field in sorted(TIME_CONSTANTS & found.keys()):
        smallest = float(found[field].min())
        if dt > smallest * (1 + _TO_TAU):
            raise ValueError(
                f"dt: expected at most {smallest:g}, the smallest {field} of node {name!r}, got {dt:g}, a decay of "
                f"{1 - dt / smallest:g} in a step; use a smaller dt"
            )
    if kind_of(node) == "Delay":
        delay_steps(name, found["delay"], dt)


def delay_steps(name: str, delay: Array, dt: float) -> NDArray[np.int64]:
    """Return delays as numbers of steps; ValueError unless they are whole, to a thousandth."""
    steps = np.asarray(np.rint(delay / dt), dtype=np.int64)
    worst = int(np.argmax(np.abs(delay / dt - steps)))
    if abs(float(delay.flat[worst]) / dt - int(steps.flat[worst])) > 1e-3:
        raise ValueError(
            f"{_label(name, 'delay')}: expected whole multiples of dt={dt:g}, got {delay.flat[worst]:g}; "
            "use a dt that divides it"
        )
    return steps


def window(name: str, node: Any) -> Window:
    """Return how a convolution or pooling moves; ValueError for sizes that are no whole numbers, or too small."""
    kind = kind_of(node)
    axes = _SPATIAL_AXES[kind]
    conv = kind in ("Conv1d", "Conv2d")
    kernel = np.shape(node.weight)[2:] if conv else _whole(name, node, "kernel_size", axes, 1)
    stride = _whole(name, node, "stride", axes, 1)
    dilation = _whole(name, node, "dilation", axes, 1) if conv else (1,) * axes
    padding = getattr(node, "padding", None)
    if conv and isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(
                f"{_label(name, 'padding')}: expected 'same', 'valid' or numbers, got {padding!r}; choose one"
            )
        if padding == "same" and set(stride) != {1}:
            raise ValueError(
                f"{_label(name, 'padding')}: expected a stride of 1 with 'same', got {stride}; use numbers"
            )
        extra = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        return Window(kernel, stride, tuple((e // 2, e - e // 2) for e in extra), dilation)
    return Window(kernel, stride, tuple((p, p) for p in _whole(name, node, "padding", axes, 0)), dilation)


def groups_of(name: str, node: Any) -> int:
    """Return the groups of a convolution."""
    return _whole(name, node, "groups", 1, 1)[0]


def flattened(name: str, node: Any, shape: Shape) -> Shape:
    """Return the shape after a ``Flatten``, whose axes count without time and batch; ValueError for axes not there."""
    start, end = (_whole(name, node, field, 1, None)[0] for field in ("start_dim", "end_dim"))
    first, last = (axis + len(shape) if axis < 0 else axis for axis in (start, end))
    if not 0 <= first <= last < len(shape):
        raise ValueError(
            f"node {name!r}: expected start_dim <= end_dim within the {len(shape)} axes of its input {shape}, got "
            f"{start} and {end}; count the axes without time and batch, from 0"
        )
    return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def declared_shape(name: str, node: Any) -> Shape | None:
    """Return the shape that an ``Input`` or ``Output`` says, or None where it says nothing."""
    declared = node.input_type["input"] if isinstance(node.input_type, dict) else node.input_type
    if declared is None:
        return None
    found = _array(f"node {name!r}: shape", declared, empty=True)
    if found.ndim != 1 or not bool(((found >= 1) & (found == np.rint(found))).all()):
        raise ValueError(f"node {name!r}: shape: expected sizes of 1 or more, got {found.tolist()}; write one an axis")
    return tuple(int(size) for size in found)


def output_shape(name: str, node: Any, shape: Shape) -> Shape:
    """Return the shape that a node gives, from the shape that it gets; ValueError where they do not fit."""
    kind = kind_of(node)
    if kind in ("Input", "Output"):
        declared = declared_shape(name, node)
        if declared not in (None, shape):
            raise _wrong_input(name, node, str(declared), shape)
        return shape
    if kind == "Flatten":
        return flattened(name, node, shape)
    if kind in _ELEMENTWISE:
        for field, value in numbers(name, node).items():
            if not _fits(value.shape, shape):
                raise _wrong_input(name, node, f"{value.shape}, that of {field}", shape)
        return shape
    if kind in ("Affine", "Linear"):
        return _after_matrix(name, node, shape)
    return _after_window(name, node, shape)


def _after_matrix(name: str, node: Any, shape: Shape) -> Shape:
    """Return the shape after a matrix: (..., in) to (..., out); a stack of matrices takes the stack's axes in front."""
    found = numbers(name, node)
    weight = found["weight"].shape
    if len(weight) < 2:
        raise ValueError(f"{_label(name, 'weight')}: expected shape (out, in), got {weight}; reshape it to 2 axes")
    if "bias" in found and found["bias"].shape != (*weight[:-2], weight[-2]):
        raise ValueError(
            f"{_label(name, 'bias')}: expected shape {(*weight[:-2], weight[-2])}, got {found['bias'].shape}; "
            "it holds one value for each output"
        )
    if shape[-1:] != weight[-1:] or (len(weight) > 2 and shape[:-1] != weight[:-2]):
        raise _wrong_input(name, node, str((*weight[:-2], weight[-1])), shape)
    return (*shape[:-1], weight[-2])


def _after_window(name: str, node: Any, shape: Shape) -> Shape:
    """Return the shape after a convolution or pooling: (channels, *space) to (channels, *space)."""
    kind = kind_of(node)
    axes = _SPATIAL_AXES[kind]
    if len(shape) != axes + 1:
        raise _wrong_input(name, node, f"(channels, {', '.join(['space'] * axes)})", shape)
    channels = shape[0]
    if kind in ("Conv1d", "Conv2d"):
        channels = _conv_channels(name, node, shape)
    geometry = window(name, node)
    space = tuple(
        (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, (before, after), dilation in zip(shape[1:], *geometry, strict=True)
    )
    if min(space) < 1:
        raise ValueError(
            f"node {name!r}: expected an input of at least the kernel's size {geometry.kernel}, got {shape}; "
            "pad it, or use a smaller kernel"
        )
    return (channels, *space)


def _conv_channels(name: str, node: Any, shape: Shape) -> int:
    """Return the output channels of a convolution whose weight, bias, groups and input fit."""
    found, groups, axes = numbers(name, node), groups_of(name, node), _SPATIAL_AXES[kind_of(node)]
    weight = found["weight"].shape
    if len(weight) != axes + 2 or weight[0] % groups:
        raise ValueError(
            f"{_label(name, 'weight')}: expected {axes + 2} axes, (out, in / groups, kernel), with out a multiple of "
            f"{groups} groups, got {weight}; reshape it"
        )
    if found["bias"].shape != weight[:1]:
        raise ValueError(
            f"{_label(name, 'bias')}: expected shape {weight[:1]}, got {found['bias'].shape}; "
            "it holds one value for each output channel"
        )
    if shape[0] != weight[1] * groups:
        raise _wrong_input(name, node, f"{weight[1] * groups} channels", shape)
    said = getattr(node, "input_shape", None)
    if said is not None and tuple(np.atleast_1d(np.asarray(said)).tolist()) != shape[1:]:
        raise _wrong_input(name, node, f"input_shape {np.atleast_1d(np.asarray(said)).tolist()}", shape)
    return int(weight[0])


def _fits(parameter: Shape, shape: Shape) -> bool:
    """Whether a parameter broadcasts to an input: one value, or all axes of the input that are not leading ones."""
    if math.prod(parameter) == 1 and len(parameter) <= max(1, len(shape)):
        return True
    if len(parameter) > len(shape) or math.prod(shape[: len(shape) - len(parameter)]) != 1:
        return False
    return all(p in (1, s) for p, s in zip(parameter, shape[len(shape) - len(parameter) :], strict=True))


def _array(label: str, value: object, *, empty: bool = False) -> Array:
    if value is None:
        raise ValueError(f"{label}: expected an array, got none; the parameter is missing")
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"got {array.dtype}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{label}: expected an array of real numbers, {error}; write numbers") from None
    with np.errstate(all="ignore"):  # what float64 cannot hold becomes NaN or infinite, and is refused below
        array = array.astype(np.float64)
    if array.size == 0 and not empty:
        raise ValueError(f"{label}: expected at least one value, got shape {array.shape}; write the values")
    if not bool(np.isfinite(array).all()):
        nans, infinities = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        raise ValueError(
            f"{label}: expected finite values, got {nans} NaN and {infinities} infinite of {array.size}; "
            "write finite values"
        )
    return array


def _whole(name: str, node: Any, field: str, axes: int, minimum: int | None) -> Shape:
    """Return a field as one whole number for each axis; a single number stands for all axes."""
    found = np.atleast_1d(_array(_label(name, field), getattr(node, field, None)))
    below = minimum is not None and bool((found < minimum).any())
    if found.shape not in ((1,), (axes,)) or below or not bool((found == np.rint(found)).all()):
        least = "" if minimum is None else f" of at least {minimum}"
        count = "a whole number" if axes == 1 else f"{axes} whole numbers"
        raise ValueError(f"{_label(name, field)}: expected {count}{least}, got {found.tolist()}; write whole numbers")
    return tuple(int(size) for size in np.broadcast_to(found, (axes,)))


def _label(name: str, field: str) -> str:
    return f"node {name!r}: {field}"


def _wrong_input(name: str, node: Any, expected: str, got: Shape) -> ValueError:
    return ValueError(
        f"node {name!r}: expected an input of shape {expected}, got {got}; "
        f"change this {kind_of(node)} or what is wired to it"
    )
