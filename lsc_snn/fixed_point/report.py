"""What fixed point does to a network: accuracy, spikes and radii against bits, as rows and a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

FLOAT, TUNED = "float", "float, fine-tuned as long"
POST, AWARE = "rounded after training", "rounded while fine-tuned"


@dataclass(frozen=True)
class Row:
    """One number format, or the float network itself."""

    method: str
    """``FLOAT``, ``TUNED``, ``POST`` or ``AWARE``."""
    bits: int | None
    """Of a weight; None for float."""
    accuracy: float
    """On the test samples, of the network in integers."""
    agreement: tuple[float, ...]
    """Of each spiking layer, with the float network: see ``Agreement``."""
    time: tuple[float, ...]
    """Radius of each layer's time transition, with the parameters that the integers stand for."""
    depth: tuple[float, ...]
    """Radii of the transitions between layers, likewise."""
    saturated: tuple[float, ...] = ()
    """Share of the potentials of each layer, the readout the last, that were clipped."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; NaN and infinities as strings."""
        return {name: _plain(value) for name, value in asdict(self).items()}


class Agreement:
    """Of the spikes that either of two runs has at a unit and step, the fraction that both have.

    Silence, which is most of the matrix and agrees for nothing, does not count; two silent runs agree, 1.

    >>> import torch
    >>> agreement = Agreement()
    >>> first, mask = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[True]])
    >>> agreement.add([first], [torch.tensor([[[1, 0, 0, 0]]])], mask)
    >>> agreement.values()
    (0.5,)
    """

    def __init__(self) -> None:
        self._both: list[int] = []
        self._either: list[int] = []

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor], mask: Tensor) -> None:
        """Count a batch: spikes (T, B, N) of each layer, in the steps that a mask (T, B) calls valid."""
        self._both = self._both or [0] * len(first)
        self._either = self._either or [0] * len(first)
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            x, y = a[mask] > 0, b[mask] > 0
            self._both[index] += int((x & y).sum())
            self._either[index] += int((x | y).sum())

    def values(self) -> tuple[float, ...]:
        """Return the agreement of each layer so far."""
        return tuple(both / either if either else 1.0 for both, either in zip(self._both, self._either, strict=True))


def to_markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table.

    >>> print(to_markdown([Row("float", None, 0.9, (1.0,), (0.5,), ())]))
    | weights | method | test accuracy | spikes that agree, by layer | radii in time | radii in depth | clipped |
    | --- | --- | --- | --- | --- | --- | --- |
    | float | float | 90.0 % | 100.0 % | 0.500 | none | none |
    """
    header = (
        "weights", "method", "test accuracy", "spikes that agree, by layer", "radii in time", "radii in depth",
        "clipped",
    )  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        cells = (
            "float" if row.bits is None else f"{row.bits} bits",
            row.method,
            f"{100 * row.accuracy:.1f} %",
            _joined(row.agreement, lambda value: f"{100 * value:.1f} %"),
            _joined(row.time, lambda value: f"{value:.3f}"),
            _joined(row.depth, lambda value: f"{value:.3f}"),
            f"{100 * max(row.saturated):.2g} %" if row.saturated else "none",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _joined(values: Sequence[float], text: Any) -> str:
    return ", ".join(map(text, values)) or "none"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
