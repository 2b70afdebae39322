"""A network in integers on Xylo (SynSense): the core as it computes, and Rockpool's simulator of it, xylosim.

Xylo's neuron is not our LIF. In integers, with s the spikes of the step before and x the input events::

    i' = decay(i + (W_in x + W_rec s) << f)               synaptic current
    v' = sat(sat(decay(v) + b) + i')                      potential
    s' = 31 at most:  while v' >= threshold: v' -= threshold

The sum saturates after every source, first the inputs, then the neurons, each in its order.

The decay is that of the format ``xylo``, with which a current that does not last does not exist (k = 0 leaves nothing).
So a weight w arrives as w/2, w/4, ... (k = 1): the same charge, a step or two later; a spike takes one step more from
layer to layer; and a unit may spike more than once in a step. All hidden layers are blocks of one population, with one
f. What that costs in accuracy is measured, not avoided: see ``lsc_snn.experiments.fixed_point``.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsc_snn.events import EventBatch, Inputs
from lsc_snn.fixed_point.formats import NumberFormat
from lsc_snn.fixed_point.quantise import IntegerLayer, IntegerNetwork
from lsc_snn.fixed_point.simulate import check_whole

FORMAT = NumberFormat(weight_bits=8, potential_bits=16, decay="xylo")
"""The format of all chips of the family; ``per_channel`` fits too, because every neuron has its own threshold."""
MAX_SPIKES = 31
SYNAPSE_SHIFT = 1
"""The shortest synaptic current that is not zero: half of it is left after a step."""


class XyloCore(NamedTuple):
    """Registers of a core: integer tensors for I inputs, N hidden and O output neurons."""

    weights_in: Tensor
    """(I, N), from and to, as the two others."""
    weights_rec: Tensor
    """(N, N)."""
    weights_out: Tensor
    """(N, O)."""
    shift: int
    """f of inputs and recurrent weights."""
    shift_out: int
    threshold: Tensor
    """(N,)."""
    bias: Tensor
    """(N,)."""
    bias_out: Tensor
    """(O,)."""
    dash_mem: Tensor
    """(N,) k of the potential."""
    dash_mem_out: Tensor
    """(O,)."""


class XyloRun(NamedTuple):
    """What a core did."""

    spikes: Tensor
    """(T, B, N) int64, how many in each step."""
    potentials: Tensor
    """(T, B, O) int64 of the output neurons; their threshold is the largest potential."""


def to_xylo(network: IntegerNetwork) -> XyloCore:
    """Return the registers for a network in integers; ``check_limits`` says whether a chip has room for them.

    Raises ValueError for a format with other bits or decays than ``FORMAT``, a reset that is not soft, adaptation and
    refractory periods.
    """
    got = network.format
    if (got.weight_bits, got.potential_bits, got.decay) != (FORMAT.weight_bits, FORMAT.potential_bits, FORMAT.decay):
        raise ValueError(
            f"format: expected 8 bits for weights, 16 for potentials and decay 'xylo', got {got.weight_bits}, "
            f"{got.potential_bits} and {got.decay!r}; quantise with xylo.FORMAT"
        )
    hidden, readout = network.layers[:-1], network.readout
    for layer in hidden:
        if layer.reset != "soft" or layer.refractory or (layer.jump is not None and bool(layer.jump.any())):
            raise ValueError(
                f"{layer.name}: expected a soft reset without adaptation or refractory period, got what Xylo lacks; "
                "train a LIF network with reset='soft'"
            )
    shift = min(layer.scale.shift for layer in hidden)
    sizes = [len(layer.weight) for layer in hidden]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    recurrent = torch.zeros(sum(sizes), sum(sizes), dtype=torch.int64)
    for index, (layer, start, size) in enumerate(zip(hidden, starts, sizes, strict=True)):
        own = slice(start, start + size)
        if layer.recurrent is not None:
            recurrent[own, own] = layer.recurrent.T
        if index:
            recurrent[starts[index - 1] : start, own] = layer.weight.T
    inputs = torch.zeros(hidden[0].weight.shape[1], sum(sizes), dtype=torch.int64)
    inputs[:, : sizes[0]] = hidden[0].weight.T
    outputs = torch.zeros(sum(sizes), len(readout.weight), dtype=torch.int64)
    outputs[starts[-1] :] = readout.weight.T
    return XyloCore(
        weights_in=inputs,
        weights_rec=recurrent,
        weights_out=outputs,
        shift=shift,
        shift_out=readout.scale.shift,
        threshold=torch.cat([_coarser(_threshold(layer), layer.scale.shift - shift).clamp(min=1) for layer in hidden]),
        bias=torch.cat([_coarser(layer.bias, layer.scale.shift - shift) for layer in hidden]),
        bias_out=readout.bias,
        dash_mem=torch.cat([layer.decay for layer in hidden]),
        dash_mem_out=readout.decay,
    )


def simulate_core(core: XyloCore, inputs: Inputs) -> XyloRun:
    """Step a core on whole inputs (T, B, I), integers alone: bit for bit what xylosim computes."""
    signal = _dense(core, inputs)
    batch, decayed, saturate = signal.shape[1], FORMAT.decayed, FORMAT.saturate
    i = v = s = torch.zeros(batch, len(core.threshold), dtype=torch.int64)
    i_out = v_out = torch.zeros(batch, core.weights_out.shape[1], dtype=torch.int64)
    synapse, synapse_out = torch.full_like(i[0], SYNAPSE_SHIFT), torch.full_like(i_out[0], SYNAPSE_SHIFT)
    spikes, potentials = [], []
    for x in signal:
        # Output neurons see the spikes of the step before, as hidden ones do.
        i_out = decayed(_received(i_out, s, core.weights_out, core.shift_out), synapse_out)
        v_out = saturate(saturate(decayed(v_out, core.dash_mem_out) + core.bias_out) + i_out)
        v_out = torch.where(v_out == FORMAT.potential_max, 0, v_out)  # one spike, and its reset
        i = _received(i, x, core.weights_in, core.shift)
        i = decayed(_received(i, s, core.weights_rec, core.shift), synapse)
        v = saturate(saturate(decayed(v, core.dash_mem) + core.bias) + i)
        s = (v // core.threshold).clamp(0, MAX_SPIKES)
        v = v - s * core.threshold
        spikes.append(s)
        potentials.append(v_out)
    return XyloRun(torch.stack(spikes), torch.stack(potentials))


def run_xylosim(core: XyloCore, inputs: Inputs) -> XyloRun:
    """Run a core in xylosim, the simulator behind Rockpool's ``XyloSim``: bit for bit what the chip computes.

    Its wheel needs neither Rockpool nor samna, which on PyPI is an empty placeholder. Raises ImportError without it.
    """
    xylosim = simulator()

    def synapses(weights: Tensor) -> list[list[object]]:
        return [
            [xylosim.XyloSynapse(to, 0, int(row[to])) for to in row.nonzero().flatten().tolist()] for row in weights
        ]

    hidden, outputs = core.weights_out.shape
    # The layer keeps no reference to what it is made of: `settings` has to live as long as it does.
    settings = {
        "synapses_in": synapses(core.weights_in),
        "synapses_rec": synapses(core.weights_rec),
        "synapses_out": synapses(core.weights_out),
        "aliases": [[] for _ in range(hidden)],
        "threshold": core.threshold.tolist(),
        "threshold_out": [FORMAT.potential_max] * outputs,
        "has_bias": bool(core.bias.any() or core.bias_out.any()),
        "bias": core.bias.tolist(),
        "bias_out": core.bias_out.tolist(),
        "weight_shift_inp": core.shift,
        "weight_shift_rec": core.shift,
        "weight_shift_out": core.shift_out,
        "dash_mem": core.dash_mem.tolist(),
        "dash_mem_out": core.dash_mem_out.tolist(),
        "dash_syns": [[SYNAPSE_SHIFT, SYNAPSE_SHIFT]] * hidden,
        "dash_syns_out": [[SYNAPSE_SHIFT]] * outputs,
        "name": "lsc_snn",
    }
    layer = xylosim.XyloLayer(**settings)
    spikes, potentials = [], []
    for sample in _dense(core, inputs).unbind(1):
        layer.reset_all()
        layer.evolve(sample.tolist())
        spikes.append(torch.tensor(layer.rec_recurrent_spikes))
        potentials.append(torch.tensor(layer.rec_v_mem_out).T)
    return XyloRun(torch.stack(spikes, 1), torch.stack(potentials, 1))


def simulator() -> Any:
    """Return the module ``xylosim.v2``; ImportError, with what to do, where it is missing."""
    try:
        return importlib.import_module("xylosim.v2")
    except ImportError as error:
        raise ImportError("Xylo's simulator is missing; install it with: pip install xylosim") from error


def _received(current: Tensor, events: Tensor, weights: Tensor, shift: int) -> Tensor:
    """Return currents (B, N) after the events (B, sources) of a step, which saturate source after source."""
    for source in events.any(0).nonzero().flatten().tolist():
        current = FORMAT.saturate(current + (events[:, source : source + 1] * weights[source] << shift))
    return current


def _dense(core: XyloCore, inputs: Inputs) -> Tensor:
    check_whole(inputs, len(core.weights_in))
    dense = inputs.to_dense() if isinstance(inputs, EventBatch) else inputs
    return dense.long()


def _threshold(layer: IntegerLayer) -> Tensor:
    return torch.zeros_like(layer.bias) if layer.threshold is None else layer.threshold


def _coarser(values: Tensor, bits: int) -> Tensor:
    """Return integers in a unit that is 2^bits larger, rounded."""
    return values if bits == 0 else (values + (1 << (bits - 1))) >> bits
