"""Neurons of snnTorch 1.x as NIR nodes.

What resets when decides what NIR can say. ``subtract`` with ``reset_delay=True``, snnTorch's default, is a composition.
``zero`` is a LIF node for Leaky, and for the others with ``reset_delay=False`` alone: with the delay they also drop the
input of the step of the reset. ``subtract`` with ``reset_delay=False`` subtracts later where a potential passed twice
the threshold, which no node does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import snntorch as snn
from torch import nn

from lsc_snn.nir import compose
from lsc_snn.nir.export_layers import Block, Layer

_KNOWN = (snn.Leaky, snn.RLeaky, snn.Synaptic, snn.RSynaptic)
_RESETS = ("subtract", "zero", "none")


def block_of(module: Any, layer: Layer) -> Block:
    """Return the block of Leaky, RLeaky, Synaptic or RSynaptic."""
    kind = type(module).__name__
    if type(module) not in _KNOWN:
        raise layer.refuse("Leaky, RLeaky, Synaptic or RSynaptic", kind, "no other neuron of snnTorch has a NIR form")
    if module.inhibition or module.state_quant or bool((module.graded_spikes_factor != 1).any()):
        raise layer.refuse("a plain neuron", f"{kind} with inhibition, state_quant or graded spikes", "turn them off")
    alpha = layer.per_unit(module.beta.clamp(0, 1))
    synapse = layer.per_unit(module.alpha.clamp(0, 1)) if hasattr(module, "alpha") else None
    threshold = layer.per_unit(module.threshold)
    reset = _RESETS[int(module.reset_mechanism_val)]
    weight, bias = _recurrence(module, layer)
    exact = reset == "none" or (reset == "subtract") == bool(module.reset_delay) or type(module) is snn.Leaky
    if reset == "subtract" and not module.reset_delay:
        exact = False
    if not exact and not layer.approximate:
        raise layer.refuse(
            "a reset that NIR has",
            f"reset_mechanism={reset!r} with reset_delay={bool(module.reset_delay)}",
            "use 'subtract' with reset_delay=True or 'zero' with reset_delay=False, or approximate=True",
        )
    if layer.potential and reset == "zero":
        raise layer.refuse("spikes, of a neuron with reset 'zero', to be read", "its potential", "use reset 'none'")
    if reset == "zero" or (layer.approximate and reset == "subtract" and not layer.potential):
        hard = compose.hard(layer.name, alpha, threshold, layer.dt, synapse)
        return Block(hard if weight is None else compose.recurrent(hard, weight), bias=bias)
    subtracted = threshold if reset == "subtract" else None
    if layer.potential and subtracted is None and weight is None and synapse is None:
        return Block(compose.integrator(f"layer {layer.name!r}", alpha, layer.dt))
    node = compose.composed(layer.name, alpha, threshold, layer.dt, reset=subtracted, weight=weight, synapse=synapse)
    if layer.potential:
        node.edges[-1] = ("v", "output")
    return Block(node, bias=bias)


def widen(module: Any) -> None:
    """Make a neuron give spikes of the type of its potential; snnTorch's surrogates give float32 whatever comes."""
    if isinstance(module, snn.SpikingNeuron):
        narrow = module.spike_grad
        module.spike_grad = lambda potential: narrow(potential).to(potential.dtype)


def _recurrence(module: Any, layer: Layer) -> tuple[Any, Any]:
    """Return the recurrent matrix and its bias, which the input takes over: it comes at every step, the first too."""
    inner = getattr(module, "recurrent", None)
    if inner is None:
        return None, None
    if isinstance(inner, nn.Linear):
        bias = None if inner.bias is None else np.asarray(inner.bias.detach().cpu(), dtype=np.float64)
        return layer.weights(inner.weight), bias
    if isinstance(inner, nn.Conv2d) or len(layer.after) != 1:
        raise layer.refuse("a recurrent matrix or vector", type(inner).__name__, "NIR's recurrent neurons are dense")
    return np.diag(layer.per_unit(inner.V)).astype(layer.dtype), None
