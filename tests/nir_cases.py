"""Networks, spikes and NIR graphs for the tests, the same under releases of nir that check shapes."""

import copy
import inspect
from itertools import pairwise

import nir
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lsc_snn as lsc

UNCHECKED = {"type_check": False} if "type_check" in inspect.signature(nir.NIRGraph).parameters else {}
WEIGHT = np.array([[0.5, 0.2, 0], [0.1, 0.9, 0.3], [0, 0.4, 0.7]])
"""A matrix between three neurons."""


def spikes(seed, *shape):
    """Return random spikes in float32, two fifths of them 1."""
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def network(neuron="LIF", seed=0, **layer):
    """Return an untrained network in float64: 12 inputs, two layers of 16 neurons, 5 outputs."""
    config = lsc.NetworkConfig(12, 5, num_layers=2, num_units=16, neuron=neuron, dropout=0.3, layer=layer)
    return lsc.Network(config, seed=seed).double().eval()


def any_network(test):
    """Run a test on draws of `kind` (a neuron and a reset that NIR can express), `recurrent` and `seed`."""
    kinds = [(neuron, reset) for neuron in ("LIF", "ALIF", "LSNN") for reset in ("soft", "hard", "none")]
    kinds = [(neuron, reset) for neuron, reset in kinds if neuron == "LIF" or reset != "hard"]
    return settings(max_examples=12)(
        given(kind=st.sampled_from(kinds), recurrent=st.booleans(), seed=st.integers(0, 2**31))(test)
    )


def graph_of(nodes, edges):
    """Return a graph of named nodes; nothing is checked."""
    return nir.NIRGraph(nodes=dict(nodes), edges=list(edges), **UNCHECKED)


def ends(shape, out=None):
    """Return the Input and Output of a graph by name."""
    return {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array(shape if out is None else out))}


def chain(shape, *nodes, out=None):
    """Return input -> n0 -> n1 ... -> output."""
    names = ["input", *(f"n{index}" for index in range(len(nodes))), "output"]
    named = {**ends(shape, out), **dict(zip(names[1:-1], nodes, strict=True))}
    return graph_of(named, pairwise(names))


def spiking(kind, *, v_reset=None, **values):
    """Return an IF, LIF or CubaLIF node that resets to `v_reset`, or by subtraction where it is None, under any nir."""
    node = kind(**{name: np.asarray(value, float) for name, value in values.items()})
    node.v_reset = None if v_reset is None else np.asarray(v_reset, float)
    return node


def alike(kind, shape, *, v_reset=None, **values):
    """Return a `spiking` node of equal neurons."""
    reset = None if v_reset is None else np.full(shape, v_reset)
    return spiking(kind, v_reset=reset, **{name: np.full(shape, value) for name, value in values.items()})


def lif(size=2, tau=2.0, threshold=1.0, v_reset=0.0):
    """Return a LIF of equal neurons whose input is not scaled at dt = 1."""
    return alike(nir.LIF, size, tau=tau, r=tau, v_leak=0, v_threshold=threshold, v_reset=v_reset)


def quick_lif(v_reset=0.0, **changes):
    """Return a LIF of three equal neurons for dt = 1e-3 s."""
    values = {"tau": 4e-3, "r": 4.0, "v_leak": 0.0, "v_threshold": 0.537} | changes
    return alike(nir.LIF, 3, v_reset=v_reset, **values)


def recurrent(weight, node=None):
    """Return input -> lif -> output, of any node, with lif -> w_rec -> lif, as one flat graph."""
    size = len(weight)
    nodes = {**ends([size]), "lif": node or lif(size), "w_rec": nir.Linear(weight=np.asarray(weight, float))}
    return graph_of(nodes, [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")])


def changed(node, **fields):
    """Return a node whose fields are set after nir's own checks."""
    node = copy.copy(node)
    for field, value in fields.items():
        setattr(node, field, value)
    return node
