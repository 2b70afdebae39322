"""What all figures share: styles of the arms, and Figures made without pyplot."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE_SIZE = 10.5
"""Font sizes in points."""
TEXT_SIZE = 9.5


class Style(NamedTuple):
    """How an arm is drawn in every figure."""

    colour: str
    marker: str
    line: str


_ARMS = {
    "untreated": Style("#5c5c5c", "s", ":"),
    "one": Style("#d55e00", "^", "--"),
    "half": Style("#0072b2", "o", "-"),
    "balanced": Style("#009e73", "D", "-."),
}
_OTHERS = (Style("#cc79a7", "v", "--"), Style("#e69f00", "P", "-."), Style("#56b4e9", "X", "-"))


def style_of(arm: str, position: int = 0) -> Style:
    """Return the style of an arm by its name; arms of other names take turns by their ``position``.

    >>> style_of("half").colour
    '#0072b2'
    """
    return _ARMS.get(arm, _OTHERS[position % len(_OTHERS)])


def new_figure(width: float, height: float) -> Figure:
    """Return an empty Figure, sizes in inches, its parts laid out without overlap; ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib; install it with: pip install "lsc-snn[cli]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure, *, dpi: int = 150) -> bytes:
    """Return a Figure as the bytes of a PNG file, ``dpi`` pixels an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
