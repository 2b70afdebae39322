"""Knobs: what moves a layer's radii, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Knob:
    """A one-parameter family of changes to a layer: ``turn(f)`` multiplies what it moves by f > 0, in place.

    ``parameters`` are all that it may move; the frozen ones (``requires_grad`` False) it leaves as they are.
    """

    parameters: tuple[nn.Parameter, ...]
    turn: Callable[[float], None]
    floor: float = 0.0
    """About which radius remains, however far the knob is turned down: that of a leak which is a constant."""
    bounded: bool = False
    """Of weights in front of a potential: whether that is bounded, as behind a gate, so that it does not grow as they
    do and a threshold should not go with them."""
    carries: float = 0.0
    """Of such weights: the factor below which the knob takes the threshold along by itself."""


class Knobs(NamedTuple):
    """The knobs of a layer; None where there is nothing to turn.

    ``depth`` and ``time`` raise the radius of that transition; ``threshold`` lowers the firing rate.
    """

    depth: Knob | None = None
    time: Knob | None = None
    threshold: Knob | None = None


def movable(knob: Knob | None) -> bool:
    """Say whether a knob has a parameter that is not frozen."""
    return knob is not None and any(parameter.requires_grad for parameter in knob.parameters)


def changed(parameters: Iterable[nn.Parameter | None], change: Callable[[Tensor, float], Tensor]) -> Knob | None:
    """Return the knob that sets each unfrozen parameter to ``change(parameter, factor)``, or None without any.

    For values behind a parametrisation: ``change`` goes from the parameter to the value, multiplies, and comes back.
    """
    present = tuple(parameter for parameter in parameters if parameter is not None)

    @torch.no_grad()
    def turn(factor: float) -> None:
        for parameter in present:
            if parameter.requires_grad:
                parameter.copy_(change(parameter, factor))

    return Knob(present, turn) if present else None


def multiplied(parameters: Iterable[nn.Parameter | None]) -> Knob | None:
    """Return the knob that multiplies parameters as they are, or None without any.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> multiplied([weight, None]).turn(0.5)
    >>> weight.tolist()
    [0.5, 0.5]
    """
    return changed(parameters, lambda parameter, factor: parameter * factor)


def together(*knobs: Knob | None) -> Knob | None:
    """Return the knob that turns all of these by the same factor, or None without any."""
    present = [knob for knob in knobs if knob is not None]

    def turn(factor: float) -> None:
        for knob in present:
            knob.turn(factor)

    parameters = {id(parameter): parameter for knob in present for parameter in knob.parameters}
    floor = max((knob.floor for knob in present), default=0.0)
    return Knob(tuple(parameters.values()), turn, floor) if present else None
