"""NIR graphs for the tests, made alike by releases of nir that check shapes at construction and those that do not."""

import copy
import inspect
from itertools import pairwise

import nir
import numpy as np

UNCHECKED = {"type_check": False} if "type_check" in inspect.signature(nir.NIRGraph).parameters else {}


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


def lif(size=2, tau=2.0, threshold=1.0, v_reset=0.0):
    """Return a LIF of equal neurons whose input is not scaled at dt = 1."""
    ones = np.ones(size)
    reset = None if v_reset is None else ones * v_reset
    return spiking(nir.LIF, tau=ones * tau, r=ones * tau, v_leak=ones * 0, v_threshold=ones * threshold, v_reset=reset)


def recurrent(weight, node=None):
    """Return input -> lif -> output with lif -> w_rec -> lif, as one flat graph."""
    size = len(weight)
    nodes = {**ends([size]), "lif": node or lif(size), "w_rec": nir.Linear(weight=np.asarray(weight, float))}
    return graph_of(nodes, [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")])


def changed(node, **fields):
    """Return a node whose fields are set after nir's own checks."""
    node = copy.copy(node)
    for field, value in fields.items():
        setattr(node, field, value)
    return node
