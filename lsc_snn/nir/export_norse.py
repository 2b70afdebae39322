"""Neurons of Norse 1.1 as NIR nodes: the box and the current-based LIF, the integrators, and IAF.

A Norse neuron has a time step of its own: its decay per step is 1 - dt tau_inv with that, and it is what is exported,
whatever the ``dt`` of the graph. The input of a leaky neuron counts (1 - decay), so r = 1.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.module.iaf import IAFCell
from norse.torch.module.leaky_integrator import LI, LICell, LILinearCell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif import LIF, LIFCell, LIFRecurrent, LIFRecurrentCell
from norse.torch.module.lif_box import LIFBoxCell

from lsc_snn.nir import compose
from lsc_snn.nir.export_layers import Block, Layer


def block_of(module: Any, layer: Layer) -> Block:
    """Return the block of a neuron or a leaky integrator of Norse."""
    kind = type(module)
    if kind not in (
        IAFCell,
        LI,
        LICell,
        LILinearCell,
        LIBoxCell,
        LIF,
        LIFCell,
        LIFRecurrent,
        LIFRecurrentCell,
        LIFBoxCell,
    ):
        raise layer.refuse(
            "LIFBox, LIF, LIFRecurrent, LI, LIBox or IAF",
            kind.__name__,
            "no other neuron of Norse has a NIR form: use lsc_snn.ALIF for an adaptive one",
        )
    p = module.p
    if kind is IAFCell:
        ones = np.ones(layer.after)
        threshold, v_reset = layer.per_unit(p.v_th), layer.per_unit(p.v_reset)
        if v_reset.any():  # Norse starts there, NIR at zero
            raise layer.refuse("v_reset=0 in an IAFCell", f"{p.v_reset}", "set it to 0, and lower v_th by it")
        return Block(compose.spiking(nir.IF, r=ones / layer.dt, v_threshold=threshold, v_reset=v_reset))
    leak = layer.per_unit(p.v_leak)
    membrane = {"r": np.ones_like(leak), "v_leak": leak}
    tau = compose.time_constant(
        f"layer {layer.name!r}: membrane decay", 1 - layer.per_unit(module.dt * p.tau_mem_inv), layer.dt
    )
    if kind is LIBoxCell:
        return Block(nir.LI(tau=tau, **membrane))
    if kind is LIFBoxCell:
        return Block(_box(p, layer, tau, membrane))
    synapse = 1 - layer.per_unit(module.dt * p.tau_syn_inv)
    tau_syn = compose.time_constant(f"layer {layer.name!r}: synaptic decay", synapse, layer.dt)
    own = layer.weights(getattr(module, "input_weights", None))
    if kind in (LI, LICell, LILinearCell):
        return Block(_integrator(layer, synapse, tau, membrane), own)
    node = compose.spiking(
        nir.CubaLIF,
        tau_syn=tau_syn,
        tau_mem=tau,
        v_threshold=layer.per_unit(p.v_th),
        w_in=tau_syn / layer.dt,
        v_reset=layer.per_unit(p.v_reset),
        **membrane,
    )
    if kind in (LIFRecurrent, LIFRecurrentCell):
        node = compose.recurrent(node, layer.weight(module.recurrent_weights))
    return Block(node, own)


def _box(p: Any, layer: Layer, tau: Any, membrane: dict[str, Any]) -> Any:
    threshold = layer.per_unit(p.v_th)
    if p.reset_method is reset_subtract and not layer.approximate:
        alpha = 1 - layer.dt / tau
        if membrane["v_leak"].any():
            raise layer.refuse("v_leak=0 with reset_subtract", "another", "move it into the bias of the layer in front")
        # What is subtracted in the step of the spike has decayed once when the next step begins.
        node = compose.composed(layer.name, alpha, threshold, layer.dt, reset=alpha * threshold)
        node.nodes["v"].r = membrane["r"]
        node.nodes["reset"].scale = -alpha * threshold * tau / layer.dt
        return node
    if p.reset_method not in (reset_value, reset_subtract):
        raise layer.refuse("reset_value or reset_subtract", str(p.reset_method), "use one of these")
    v_reset = layer.per_unit(p.v_reset) if p.reset_method is reset_value else np.zeros_like(threshold)
    return compose.spiking(nir.LIF, tau=tau, v_threshold=threshold, v_reset=v_reset, **membrane)


def _integrator(layer: Layer, synapse: Any, tau: Any, membrane: dict[str, Any]) -> Any:
    """Return a synaptic current and a membrane in a row: the node that is both came with nir 1.0.8."""
    size = np.array(layer.after)
    return nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type={"input": size}),
            "synapse": compose.integrator(f"layer {layer.name!r}: synaptic decay", synapse, layer.dt),
            "v": nir.LI(tau=tau, **membrane),
            "output": nir.Output(output_type={"output": size}),
        },
        edges=[("input", "synapse"), ("synapse", "v"), ("v", "output")],
    )
