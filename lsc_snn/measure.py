"""Measure a model: the radii of its transitions, and where its gradient explodes or dies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsc_snn import _checks
from lsc_snn.axes import layouts, of_output
from lsc_snn.events import Inputs
from lsc_snn.grid import Grid, Memory, Points
from lsc_snn.recording import undisturbed, unrolled
from lsc_snn.spectral import METHODS, Method, radius
from lsc_snn.trace import Call, Handled, handled_modules, replaced_forwards, trace
from lsc_snn.transition import Transition, square

ROUGH = 0.25
"""Relative standard error of a mean radius above which it is rough: of 256 points, about 15 carry it."""


class Mean(NamedTuple):
    """A mean radius over the points of a transition."""

    radius: float
    error: float
    """Its standard error, relative to it; NaN where it is not known."""

    @property
    def rough(self) -> bool:
        """Whether few points carry it."""
        return self.error > ROUGH

    def __str__(self) -> str:
        """Return it to three places, with a sign in front where it is rough; or ``dead``."""
        return "dead" if self.radius == 0 else f"{'~' * self.rough}{self.radius:.3f}"


@dataclass(frozen=True)
class RadiusReport:
    """Mean spectral radii over samples and time steps, and mean firing rates. ``print(report)`` shows a table.

    A radius of 0 is a dead transition: no gradient passes at any recorded point. One of inf has overflowed. One that
    the table shows as ~1.000 is a mean that few points carry, and would be another one on the next batch.
    """

    names: tuple[str, ...]
    """Layer names as in ``model.named_modules()``, from the input up; L of them."""
    time: Tensor
    """(L,) radius of each layer's time transition; empty for a feed-forward model."""
    depth: Tensor
    """(L-1,) radius of the transition from each layer to the next."""
    encoder: float
    """Radius from the model's input to the first layer."""
    decoder: float
    """Radius from the last layer to the output; NaN where the output has no time axis, so that there is none."""
    rates: Tensor
    """(L,) firing rate over valid steps, in spikes per unit and step; NaN for a layer that does not spike."""
    errors: Mapping[tuple[str, str], float] = field(default_factory=dict, hash=False)
    """Relative standard error of each radius of a spiking layer as a mean over its points, by transition kind and layer
    name as in ``entries``; NaN where it is not known. Where potentials lie far apart, few of them are in the
    surrogate's window, and most points have a radius near 0: above ``ROUGH`` the mean says little."""

    def entries(self) -> list[tuple[str, str, float]]:
        """Return (transition kind, layer name, radius) of every transition, input first."""
        rows = [("encoder", self.names[0], self.encoder)]
        for index, name in enumerate(self.names):
            if index:
                rows.append(("depth", name, float(self.depth[index - 1])))
            if len(self.time):
                rows.append(("time", name, float(self.time[index])))
        return rows if math.isnan(self.decoder) else [*rows, ("decoder", "output", self.decoder)]

    def means(self, *kinds: str) -> list[Mean]:
        """Return the mean radii of transitions of these kinds, input first."""
        entries = [entry for entry in self.entries() if entry[0] in kinds]
        return [Mean(value, self.errors.get((kind, name), math.nan)) for kind, name, value in entries]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings; what JSON cannot say (NaN, inf) as None and "inf"."""
        return {
            "names": list(self.names),
            "time": [_plain(value) for value in self.time.tolist()],
            "depth": [_plain(value) for value in self.depth.tolist()],
            "encoder": _plain(self.encoder),
            "decoder": _plain(self.decoder),
            "rates": [_plain(value) for value in self.rates.tolist()],
            "errors": {
                "time": [_plain(mean.error) for mean in self.means("time")],
                "depth": [_plain(mean.error) for mean in self.means("depth")],
                "encoder": _plain(self.means("encoder")[0].error),
            },
        }

    def __str__(self) -> str:
        """Return a table: one line a layer, its depth transition being that from below (the encoder, for the first)."""
        width = max(len("decoder"), *(len(name) for name in self.names))
        lines = [f"{'layer':<{width}}  {'time':>8}  {'depth':>8}  {'rate':>8}"]
        from_below = self.means("encoder", "depth")
        times = [str(mean) for mean in self.means("time")] or [""] * len(self.names)
        for name, time, depth, rate in zip(self.names, times, from_below, self.rates.tolist(), strict=True):
            lines.append(f"{name:<{width}}  {time:>8}  {depth!s:>8}  {_rate_cell(rate)}")
        lines += [f"{'decoder':<{width}}  {'':>8}  {mean!s:>8}" for mean in self.means("decoder")]
        return "\n".join(lines)


def _plain(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf"


def _rate_cell(rate: float) -> str:
    return " " * 8 if math.isnan(rate) else f"{rate:8.4f}"


def measure(
    model: nn.Module,
    inputs: Inputs,
    *,
    method: Method = "power",
    num_matvecs: int | None = None,
    num_times: int = 8,
    call: Call | None = None,
    generator: torch.Generator | None = None,
) -> RadiusReport:
    """Measure the mean spectral radius of every time and depth transition of a model on one batch.

    ``inputs`` is (T, B, ...), (B, T, ...), either of these with both axes in one, or an EventBatch; for a model that
    repeats it, or has no time, (B, ...). ``call(model, inputs)`` runs a model whose forward is unusual. Radii are taken
    at ``num_times`` steps of every sample (``trace``) with ``method`` and ``num_matvecs`` (``spectral.radius``). The
    result depends on ``generator`` alone; without one it is the same every time. A neuron on top of which the forward
    takes the potential, and not the spikes, is a readout: the decoder.

    The model is left exactly as it was, and the global random state too. Raises ValueError or TypeError for bad inputs
    and for a model without a known layer.

    >>> from lsc_snn import Network, NetworkConfig
    >>> report = measure(Network(NetworkConfig(num_inputs=8, num_classes=2, num_units=16)), torch.ones(20, 4, 8))
    >>> len(report.time), len(report.depth), report.names
    (2, 1, ('layers.0', 'layers.1'))
    """
    _checks.check_in("method", method, METHODS)
    grid = trace(model, inputs, num_times=num_times, call=call, generator=generator)
    return report_of(grid, method=method, num_matvecs=num_matvecs, seed=draw_seed(generator))


def draw_seed(generator: torch.Generator | None) -> int:
    """Return a seed drawn from a generator, or 0 without one."""
    return 0 if generator is None else int(torch.randint(2**31, (1,), generator=generator))


def report_of(
    grid: Grid,
    *,
    method: Method = "power",
    num_matvecs: int | None = None,
    seed: int = 0,
    earlier: RadiusReport | None = None,
    held: int = 0,
    same_decoder: bool = False,
) -> RadiusReport:
    """Return the radii of a traced grid. The same seed draws the same blocks and starting vectors.

    Where an ``earlier`` report is given, the radii of the first ``held`` layers are taken from it, and that of the
    decoder if it is the ``same_decoder``.
    """

    def mean_radius(transition: Transition) -> Mean:
        generator = torch.Generator().manual_seed(seed)
        block = square(transition, generator)
        return mean_of(radius(block, method=method, num_matvecs=num_matvecs, generator=generator))

    timed = [layer for layer in grid.layers if layer.memory]  # all, or none
    depth, time = list[Mean](), list[Mean]()
    if earlier is not None:
        depth, time = earlier.means("encoder", "depth")[:held], earlier.means("time")[:held]
    depth += [mean_radius(layer.depth()) for layer in grid.layers[len(depth) :]]
    time += [mean_radius(layer.time()) for layer in timed[len(time) :]]
    if grid.decoder is None:
        decoder = None
    elif earlier is not None and same_decoder:
        decoder = earlier.means("decoder")[0]
    else:
        decoder = mean_radius(grid.decoder.transition())
    return report_from(grid, time, depth, decoder)


def mean_of(radii: Tensor) -> Mean:
    """Return the mean of the radii of the points of a transition, with its relative standard error."""
    values = radii.detach().double()
    mean, count = float(values.mean()), len(values)
    known = count > 1 and 0 < mean < math.inf
    return Mean(mean, float(values.std()) / math.sqrt(count) / mean if known else math.nan)


def report_from(grid: Grid, time: list[Mean], depth: list[Mean], decoder: Mean | None) -> RadiusReport:
    """Return the report of a grid with these mean radii; the first of ``depth`` is the encoder's."""
    names = tuple(layer.name for layer in grid.layers)
    rates = [layer.rate for layer in grid.layers]
    rows = [("encoder", names[0], depth[0]), *(("depth", *row) for row in zip(names[1:], depth[1:], strict=True))]
    rows += [("time", *row) for row in zip(names, time, strict=True)] if time else []
    spiking = {name for name, rate in zip(names, rates, strict=True) if not math.isnan(rate)}
    return RadiusReport(
        names=names,
        time=_column([mean.radius for mean in time]),
        depth=_column([mean.radius for mean in depth[1:]]),
        encoder=depth[0].radius,
        decoder=math.nan if decoder is None else decoder.radius,
        rates=_column(rates),
        errors={(kind, name): mean.error for kind, name, mean in rows if name in spiking},
    )


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient_profile(
    model: nn.Module,
    inputs: Inputs,
    *,
    call: Call | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return how large the gradient is at every node of the grid, (T, L): where it explodes or dies.

    The scalar behind it is the output at the last valid step of each sample, projected on a random direction of unit
    variance (drawn from ``generator``, else from a fixed seed): its gradient has to travel through the whole grid to
    reach the first layer at the first step. An entry is the mean over samples of the norm of the gradient in the memory
    of that layer after that step, along all paths. NaN and inf stay as they come.

    The model is left exactly as it was. Raises as ``measure`` does.
    """
    names = [layer.name for layer in trace(model, inputs, num_times=1, call=call).layers]
    columns: dict[str, list[Memory]] = {}

    def unroll(entry: Handled, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return unrolled(entry.name, entry.module, entry.adapter, columns, args, kwargs)

    with undisturbed(model), replaced_forwards(handled_modules(model), unroll), torch.enable_grad():
        output = model(inputs) if call is None else call(model, inputs)
        layers = [columns[name] for name in names]
        scalar = _projected(_last_valid(_tensor_of(output), inputs, layers[-1]), generator)
    nodes = [tensor for memories in layers for memory in memories for tensor in memory]
    gradients = iter(torch.autograd.grad(scalar, nodes, materialize_grads=True))
    norms = [_norms([[next(gradients) for _ in memory] for memory in memories]) for memories in layers]
    return torch.stack(norms, 1)


def _norms(steps: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.stack([torch.cat([g.flatten(1) for g in step], 1).norm(dim=1).mean() for step in steps])


def _tensor_of(output: Any) -> Tensor:
    tensor = output[0] if isinstance(output, tuple | list) and output else output
    if isinstance(tensor, Tensor) and not tensor.requires_grad:
        raise ValueError(
            "model: expected an output that a gradient reaches, got none: it is detached, or computed under "
            "torch.no_grad or without a derivative; pass call= to select another"
        )
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"model: expected a tensor as output, or a tuple that starts with one, got {type(output).__name__}; "
            "pass call= to select it"
        )
    return tensor


def _last_valid(output: Tensor, inputs: Inputs, top: list[Memory]) -> Tensor:
    """Return the output at the last valid step of each sample; all of it without a time axis.

    ``top`` is the memory of the last layer after every step.
    """
    steps, batch = len(top), len(top[0][0])
    found = layouts(output, steps, batch)
    if not found:
        return output
    samples = torch.arange(batch, device=output.device)
    last = torch.full_like(samples, steps) if isinstance(inputs, Tensor) else inputs.lengths
    layout = of_output(found, output, [tensor for memory in top for tensor in memory])
    return output[layout.at(Points(last - 1, samples))]


def _projected(output: Tensor, generator: torch.Generator | None) -> Tensor:
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return (output * direction.to(output.device, output.dtype)).sum()
