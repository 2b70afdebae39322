"""What a layer has tried on its way to its goal, and where it was nearest."""

from __future__ import annotations

import math

from torch import Tensor, nn

from lsc_snn._kept import restore, snapshot
from lsc_snn.knobs import Knobs


class Attempt:
    """What a layer has tried: how near it came to its goal, with which parameters, and the sweeps since then."""

    def __init__(self) -> None:
        self.error, self.failures = math.inf, 0
        self.damping = 1.0
        """Share of its steps that a layer takes."""
        self.restarted = False
        self.smooth = False
        """Whether many points have carried its radii while it spiked, since it started."""
        self.strayed = math.inf
        """How near it had come when few points carried its radii, and it went on from where that was."""
        self.wrong: set[str] = set()
        """The kinds of its transitions that were not right where it came nearest."""
        self._first_error = math.inf
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        self._first: list[tuple[nn.Parameter, Tensor]] = []

    def note(self, error: float, wrong: set[str], smooth: bool, knobs: Knobs) -> None:
        """Take note of how far the layer is from its goal, in log, and in which transitions, as its knobs are.

        What it was before it is ``smooth`` for the first time does not count.
        """
        self.failures += 1
        if smooth and not self.smooth:
            self.smooth, self.error, self._kept = True, math.inf, []
        if error < self.error or not self._kept:
            self._kept = snapshot(parameter for knob in knobs if knob for parameter in knob.parameters)
            self.error, self.wrong, self.failures = error, wrong, 0

    def back(self) -> None:
        """Return to the parameters that came nearest, and start counting anew."""
        restore(self._kept)
        self.failures = 0

    def start_again(self) -> None:
        """Return to the parameters that came nearest, and forget how near that was until the layer is given up."""
        self.back()
        if self.error < self._first_error:
            self._first_error, self._first = self.error, self._kept
        self.error, self._kept, self.damping, self.smooth = math.inf, [], 1.0, False

    def give_up(self) -> None:
        """Return to the parameters that came nearest, before or after the second start; there is no third."""
        restore(self._first if self._first_error < self.error else self._kept)
        self.failures, self.restarted = 0, True
