"""The initialisations that a user would try instead of ``stabilize``: three resets, LSUV and fluctuation-driven.

All work in place, and on any error, an interrupt included, leave the model exactly as it was. All draw from
``generator`` (CPU), the same every time without one; torch's global random state is neither used nor changed.

A *weight matrix* is a parameter of two axes or more whose name says weight, kernel or recurrent: of Linear, of
convolutions (kernels as (out, in * k)), of nn.RNN-type modules, and of the layers of lsc_snn (``weight`` and
``recurrent_raw``). Matrices stacked in one parameter, the gates of an LSTM or GRU and the groups of a convolution, are
set one by one. Embeddings and the gains of normalisations are none. Frozen parameters (``requires_grad`` False) stay.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lsc_snn import _checks
from lsc_snn._initialising import (
    Draw,
    Moments,
    activities,
    check_called,
    fill,
    full_name,
    input_of,
    is_movable,
    kept_on_error,
    output_variances,
    scaled_by_lsuv,
    source_of,
    stream_of,
    watch,
    weight_matrices,
    zero_biases,
)
from lsc_snn.events import Inputs
from lsc_snn.layers import SpikingLayer
from lsc_snn.trace import Call


@dataclass(frozen=True)
class InitReport:
    """What an initialisation set. ``print(report)`` shows it."""

    method: str
    parameters: tuple[str, ...]
    """Names of the parameters that were set, as in ``model.named_parameters()``."""

    def __str__(self) -> str:
        """Return the method and the names, one a line."""
        return "\n".join([f"{self.method}: {len(self.parameters)} parameters set", *self.parameters])


@dataclass(frozen=True)
class LSUVReport(InitReport):
    """What LSUV set, and the output variance of each layer on the first batch."""

    layers: tuple[str, ...]
    """The weight that was scaled in each layer, in order of execution."""
    before: tuple[float, ...]
    """Variances with the weights that the model came with."""
    after: tuple[float, ...]
    """Variances in the end; 0 is a layer without signal, which no scale can help."""
    converged: bool
    """Whether all of these are within the tolerance of 1."""

    def __str__(self) -> str:
        """Return a table, one line a layer, and the outcome."""
        rows = zip(self.layers, self.before, self.after, strict=True)
        lines = [f"{'output variance':<32}  {'before':>10}  {'after':>10}"]
        lines += [f"{name:<32}  {before:10.4g}  {after:10.4g}" for name, before, after in rows]
        return "\n".join([*lines, "converged" if self.converged else "did not converge"])


@dataclass(frozen=True)
class FluctuationReport(InitReport):
    """What the fluctuation-driven initialisation set, and the rates that it measured."""

    layers: tuple[str, ...]
    """The spiking layers, in order of execution."""
    input_rates: tuple[float, ...]
    """Mean input of each layer, in spikes per presynaptic unit and step."""

    def __str__(self) -> str:
        """Return a table, one line a layer."""
        rows = [f"{name:<32}  {rate:10.4g}" for name, rate in zip(self.layers, self.input_rates, strict=True)]
        return "\n".join([f"{'layer':<32}  {'input rate':>10}", *rows])


def orthogonal(model: nn.Module, *, gain: float = 1.0, generator: torch.Generator | None = None) -> InitReport:
    """Reset every weight matrix to ``gain`` times a random orthogonal one, and biases to 0.

    W W^T = gain^2 I where a matrix has no more rows than columns, else W^T W = gain^2 I. Uniform over all such
    matrices. Source: Saxe, McClelland and Ganguli 2014 (arXiv 1312.6120).

    Raises TypeError or ValueError for what is no module, has no weight matrix, or a gain that is not positive.

    >>> layer = nn.Linear(6, 3)
    >>> orthogonal(layer).parameters
    ('weight', 'bias')
    >>> torch.allclose(layer.weight @ layer.weight.T, torch.eye(3), atol=1e-6)
    True
    """
    _checks.check_positive("gain", gain)
    return _reset("orthogonal", model, _orthonormal(source_of(generator), gain))


def glorot(model: nn.Module, *, generator: torch.Generator | None = None) -> InitReport:
    """Reset every weight matrix to uniform numbers of variance 2 / (fan-in + fan-out), and biases to 0.

    W ~ U(-b, b), b = sqrt(6 / (fan-in + fan-out)): the uniform form, equation 16 of Glorot and Bengio 2010,
    "Understanding the difficulty of training deep feedforward neural networks". Raises as ``orthogonal`` does.

    >>> layer = nn.Linear(100, 50)
    >>> _ = glorot(layer)
    >>> bool(layer.weight.abs().max() <= (6 / 150) ** 0.5)
    True
    """
    source = source_of(generator)

    def draw(empty: Tensor, fan_out: int) -> Tensor:
        bound = math.sqrt(6 / (empty.shape[1] + fan_out))
        return empty.uniform_(-bound, bound, generator=source)

    return _reset("glorot", model, draw)


def he(model: nn.Module, *, generator: torch.Generator | None = None) -> InitReport:
    """Reset every weight matrix to normal numbers of variance 2 / fan-in, made for ReLU, and biases to 0.

    Source: He et al. 2015 (arXiv 1502.01852), equation 10. Raises as ``orthogonal`` does.

    >>> layer = nn.Linear(100, 50)
    >>> print(he(layer))
    he: 2 parameters set
    weight
    bias
    """
    source = source_of(generator)
    return _reset("he", model, lambda empty, _: empty.normal_(0, math.sqrt(2 / empty.shape[1]), generator=source))


def _reset(method: str, model: nn.Module, draw: Draw) -> InitReport:
    matrices = weight_matrices(model)
    with kept_on_error(model):
        return InitReport(method, tuple(fill(matrices, draw)))


def _orthonormal(source: torch.Generator, gain: float = 1.0) -> Draw:
    return lambda empty, _: nn.init.orthogonal_(empty, gain, generator=source)


def lsuv(
    model: nn.Module,
    batches: Inputs | Iterable[Inputs],
    *,
    tolerance: float = 0.1,
    max_iterations: int = 10,
    call: Call | None = None,
    generator: torch.Generator | None = None,
) -> LSUVReport:
    """Layer-sequential unit variance: orthonormal weights, scaled until the output variance of every layer is 1.

    After the reset of ``orthogonal``, each layer in order of execution is divided by the standard deviation of its
    output, until |variance - 1| <= ``tolerance`` or ``max_iterations`` are over. Source: Mishkin and Matas 2016
    (arXiv 1511.06422), algorithm 1. ``batches`` is a tensor, an EventBatch, or an iterable of either, of which every
    forward pass takes the next; ``call(model, inputs)`` runs a model whose forward is unusual.

    The output is that of the model's own forward in eval mode, all units, samples, steps and calls together. It is, for
    Linear, convolutions and other modules of one weight matrix: what they return; for the layers of lsc_snn: the input
    current W x + b; for nn.RNN-type modules and cells, all gates together: W_ih x, of every layer and direction.
    Recurrent weights stay orthonormal.

    Raises ValueError or TypeError for bad inputs, a model without a weight matrix, a layer that is never called, that
    has several matrices of unknown use, or whose output is not finite. One whose variance cannot be reached
    (a silent input) ends with ``converged`` False.

    >>> model = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 50))
    >>> report = lsuv(model, torch.randn(64, 20, generator=torch.Generator().manual_seed(0)), tolerance=0.01)
    >>> report.layers, [round(variance, 1) for variance in report.after]
    (('0.weight', '2.weight'), [1.0, 1.0])
    """
    _checks.check_positive("tolerance", tolerance)
    _checks.check_count("max_iterations", max_iterations)
    source = source_of(generator)
    matrices = weight_matrices(model)
    scaled = scaled_by_lsuv(matrices)
    stream = stream_of(model, batches)
    with kept_on_error(model):
        first = next(stream)
        before = output_variances(model, first, call, scaled)
        parameters = fill(matrices, _orthonormal(source))
        now = output_variances(model, next(stream), call, scaled)
        for name in before:
            for _ in range(max_iterations):
                if not math.isfinite(now[name]):
                    raise ValueError(f"{name}: expected a finite output of its layer, got NaN or inf; scale the data")
                if now[name] == 0 or abs(now[name] - 1) <= tolerance:
                    break
                with torch.no_grad():
                    scaled[name].parameter.div_(math.sqrt(now[name]))
                now = output_variances(model, next(stream), call, scaled)
        after = output_variances(model, first, call, scaled)
    return LSUVReport(
        method="lsuv",
        parameters=tuple(parameters),
        layers=tuple(before),
        before=tuple(before.values()),
        after=tuple(after[name] for name in before),
        converged=all(abs(variance - 1) <= tolerance for variance in after.values()),
    )


def fluctuation_driven(
    model: nn.Module,
    batches: Inputs | Iterable[Inputs],
    *,
    xi: float = 1.0,
    mu: float = 0.0,
    alpha: float = 0.9,
    call: Call | None = None,
    generator: torch.Generator | None = None,
) -> FluctuationReport:
    """Draw weights with which the membrane potential fluctuates, its mean ``xi`` deviations below the threshold.

    A potential v' = d v + W x, fed by n inputs of mean rate nu, has the mean n E[W] nu e1 and, for Poisson spikes, the
    variance n E[W^2] nu e2, where e1 = 1 / (1 - d) and e2 = 1 / (1 - d^2) are the sums of the kernel d^k and of its
    square. So that they are mu theta and sigma^2 = (theta (1 - mu) / xi)^2, for the threshold theta of each unit,

        E[W] = mu theta / (n nu e1),    Var[W] = sigma^2 / (n nu e2) - E[W]^2,    W normal.

    Where a layer feeds itself, the input weights make the share ``alpha`` of sigma^2 and the recurrent ones the rest.
    Source: Rossbroich, Gygax and Zenke 2022 (arXiv 2206.10226); alpha as in their code.

    Rates are measured on ``batches`` layer by layer, in order of execution, every forward pass taking the next batch:
    nu stands for the mean input in the mean, and for the mean squared input in the variance, which is the same for
    spikes. The recurrent rate is that of the layer when its input alone makes all of sigma^2. Biases become 0.
    The kernel is that of a unit at rest: resets and adaptation are left out, as is what precedes the stationary state.

    Set are the weights of LIF, ALIF and LSNN, and of a Linear or convolution whose output goes straight into a
    ``snntorch.Leaky``. Readouts have no threshold and stay as they are.

    ``xi`` > 0; ``mu`` < 1, in units of the threshold; ``alpha`` in (0, 1]. Raises ValueError or TypeError for others,
    bad inputs, a model without such layers or with other spiking ones, a layer that is never called or gets no spikes,
    and a mean too large for the variance.

    >>> from lsc_snn import LIF
    >>> layer = LIF(500, 100, recurrent=False, tau=10.0)
    >>> spikes = torch.rand(50, 4, 500, generator=torch.Generator().manual_seed(0)).lt(0.02).float()
    >>> report = fluctuation_driven(layer, spikes)
    >>> expected = (1 - math.exp(-2 / 10)) / (500 * report.input_rates[0])
    >>> round(float(layer.weight.detach().var()) / expected, 1)
    1.0
    """
    _checks.check_positive("xi", xi)
    if not (_checks.is_number(mu) and mu < 1):
        raise ValueError(f"mu: expected a number below 1, in units of the threshold, got {mu!r}; the default is 0")
    if not (_checks.is_number(alpha) and 0 < alpha <= 1):
        raise ValueError(f"alpha: expected the share of the input, above 0 and at most 1, got {alpha!r}")
    source = source_of(generator)
    weight_matrices(model)  # checks that there are some
    stream = stream_of(model, batches)
    parameters, rates = list[str](), dict[str, float]()
    with kept_on_error(model):
        for site in _sites(model, next(stream), call):
            inputs, _ = activities(model, next(stream), call, site.name, site.layer)
            rates[site.name] = inputs.mean
            connections = [_connection(site, "weight", inputs, source)]
            _draw(site, connections, [1.0], xi, mu)
            recurrent = getattr(site.layer, "recurrent_raw", None)
            if recurrent is not None and recurrent.requires_grad:
                nn.init.zeros_(recurrent)
                _, spikes = activities(model, next(stream), call, site.name, site.layer)
                connections.append(_connection(site, "recurrent_raw", spikes, source))
                _draw(site, connections, [alpha, 1 - alpha], xi, mu)
            parameters += [connection.name for connection in connections if connection.parameter.requires_grad]
            parameters += zero_biases(site.layer, site.name)
    return FluctuationReport("fluctuation_driven", tuple(parameters), tuple(rates), tuple(rates.values()))


class _Site(NamedTuple):
    """A layer of weights, by its name, and the unit behind each row: decay and threshold, float64 on the CPU."""

    name: str
    layer: Any
    decay: Tensor
    threshold: Tensor


class _Connection(NamedTuple):
    """A weight matrix, how many presynaptic units each row has, what they do, and standard normal numbers for it."""

    name: str
    parameter: nn.Parameter
    fan_in: int
    presynaptic: Moments
    noise: Tensor


def _sites(model: nn.Module, batch: Inputs, call: Call | None) -> list[_Site]:
    """Run the model once and return its spiking layers that are not frozen, in order of execution."""
    names = {module: name for name, module in model.named_modules()}
    neurons = {name: m for m, name in names.items() if _is_leaky(m) or (isinstance(m, SpikingLayer) and is_movable(m))}
    _refuse_other_libraries(names)
    if not neurons:
        raise ValueError(
            f"model: expected spiking layers, got {type(model).__name__} with none that is not frozen; supported are "
            "LIF, ALIF and LSNN, and snntorch.Leaky right after a Linear or convolution"
        )
    feeders = {m for m in names if isinstance(m, nn.Linear | _ConvNd) and not isinstance(m, _ConvTransposeNd)}
    latest: dict[nn.Module, Any] = {}
    neuron_of: dict[nn.Module, nn.Module] = {}

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if module in feeders:
            latest[module] = output
        elif isinstance(module, SpikingLayer):
            neuron_of.setdefault(module, module)
        else:
            received = input_of(args, kwargs)
            layer = next((feeder for feeder, made in latest.items() if made is received), None)
            if layer is None:
                raise ValueError(
                    f"layer {names[module]!r}: expected the very output of a Linear or convolution as its input, got "
                    "another tensor; move what stands in between in front of the weights, or behind the neuron"
                )
            neuron_of.setdefault(layer, module)

    called = watch(model, batch, call, [*feeders, *neurons.values()], seen)
    check_called(neurons, called)
    return [_site(names[layer], layer, neuron) for layer, neuron in neuron_of.items() if is_movable(layer)]


def _is_leaky(module: nn.Module) -> bool:
    # A model with a snntorch module in it has imported snntorch already.
    return "snntorch" in sys.modules and isinstance(module, sys.modules["snntorch"].Leaky)


def _refuse_other_libraries(names: dict[nn.Module, str]) -> None:
    for module, name in names.items():
        packages = {base.__module__.partition(".")[0] for base in type(module).__mro__}
        if packages & {"snntorch", "norse", "sinabs", "spikingjelly"} and not _is_leaky(module):
            raise ValueError(
                f"layer {name!r}: expected LIF, ALIF, LSNN or snntorch.Leaky, got {type(module).__name__}; "
                "the kernel of its potential is not known"
            )


def _site(name: str, layer: Any, neuron: Any) -> _Site:
    rows = len(layer.weight)
    decay = neuron.alpha if isinstance(neuron, SpikingLayer) else neuron.beta.clamp(0, 1)
    per_unit = []
    for what, values in (("decay", decay), ("threshold", neuron.threshold)):
        values = torch.as_tensor(values).detach().cpu().double().reshape(-1)
        if len(values) not in (1, rows):
            raise ValueError(f"layer {name!r}: expected one {what}, or one for each of {rows} rows, got {len(values)}")
        per_unit.append(values.expand(rows))
    if not bool((per_unit[0] < 1).all()):
        raise ValueError(f"layer {name!r}: expected a decay below 1, got 1; without a leak the potential has no limits")
    return _Site(name, layer, *per_unit)


def _connection(site: _Site, key: str, presynaptic: Moments, source: torch.Generator) -> _Connection:
    if presynaptic.squares == 0:
        which = "at its input" if key == "weight" else "of its own"
        raise ValueError(
            f"layer {site.name!r}: expected spikes {which} on this batch, got none; lower xi, or give more events"
        )
    parameter = getattr(site.layer, key)
    noise = torch.randn(len(parameter), parameter[0].numel(), dtype=torch.float64, generator=source)
    itself = key == "recurrent_raw" and site.layer.zero_diagonal
    return _Connection(full_name(site.name, key), parameter, max(noise.shape[1] - itself, 1), presynaptic, noise)


@torch.no_grad()
def _draw(site: _Site, connections: list[_Connection], shares: list[float], xi: float, mu: float) -> None:
    """Write the weights with which each connection makes its share of the variance, and all together the mean."""
    kernel, kernel_squares = 1 / (1 - site.decay), 1 / (1 - site.decay**2)
    variance, mean = (site.threshold * (1 - mu) / xi) ** 2, torch.zeros_like(site.threshold)
    if mu:
        mean = mu * site.threshold / (kernel * sum(c.fan_in * c.presynaptic.mean for c in connections))
    for connection, share in zip(connections, shares, strict=True):
        power = connection.fan_in * connection.presynaptic.mean_square * kernel_squares
        of_weights = share * variance / power - mean**2
        if not bool((of_weights >= 0).all()):
            raise ValueError(
                f"layer {site.name!r}: expected a mean that leaves weights a variance, got mu={mu}, xi={xi} "
                f"and a share of {share:.3g}; bring mu nearer to 0, or lower xi"
            )
        if connection.parameter.requires_grad:
            weights = mean[:, None] + of_weights.sqrt()[:, None] * connection.noise
            connection.parameter.copy_(weights.reshape(connection.parameter.shape))
