"""Oracles that share no code with the library: neurons in plain Python, dense Jacobians, radii by eigenvalues."""

import math

import numpy as np
import torch
from torch import Tensor

from cases import normal, seeded
from lsc_snn.layers import ALIF, LIF, LSNN, SpikingLayer
from lsc_snn.neurons import NeuronState
from lsc_snn.surrogate import Gaussian

KINDS = {"LIF": LIF, "ALIF": ALIF, "LSNN": LSNN}
NUM_INPUTS, NUM_UNITS = 5, 6


def make_layer(kind: str, **options) -> tuple[SpikingLayer, dict[str, np.ndarray]]:
    """Return a small float64 layer with other values in every neuron, and these values as they were asked for."""
    units = torch.arange(NUM_UNITS, dtype=torch.float64)
    values = {"tau": 2.0 + units, "threshold": 0.3 + 0.05 * units}
    if kind != "LIF":
        values |= {"tau_adaptation": 4.0 + 2 * units, "beta": 0.4 * torch.cos(units)}
    options = {"bias": True, "surrogate": Gaussian(0.5), "generator": seeded(1), "dtype": torch.float64} | options
    layer = KINDS[kind](NUM_INPUTS, NUM_UNITS, **values, **options)
    with torch.no_grad():
        layer.bias.copy_(0.1 * normal(NUM_UNITS, seed=2))
    if kind == "LSNN":
        values["beta"] = values["beta"] * (units >= NUM_UNITS - layer.num_adaptive)
    return layer, {name: value.numpy() for name, value in values.items()}


def drive(steps: int = 9, batch: int = 3, seed: int = 3) -> Tensor:
    """Return an input sequence for ``make_layer`` that makes every unit spike at times."""
    return normal(steps, batch, NUM_INPUTS, seed=seed)


def some_state(layer: SpikingLayer, batch: int = 3) -> NeuronState:
    """Return a state that is not at rest, with units above and below the threshold, in all stages of the refractory."""
    v, a = normal(batch, NUM_UNITS, seed=4), normal(batch, NUM_UNITS, seed=5).abs()
    counter = torch.arange(batch * NUM_UNITS).reshape(batch, NUM_UNITS) % (layer.refractory + 2)
    return NeuronState(v, None if layer.rho is None else a, counter.double() if layer.refractory else None)


def run_by_hand(
    layer: SpikingLayer, values: dict[str, np.ndarray], inputs: Tensor, state: NeuronState | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return spikes, potentials and adaptations (T, B, N) by the published equations, one unit and step at a time.

    A unit that spiked at step s stays silent until after step s + period; a state says nothing about earlier spikes.
    """
    x, weight, bias = (tensor.detach().tolist() for tensor in (inputs, layer.weight, layer.bias))
    recurrent = None if layer.recurrent_raw is None else layer.recurrent_raw.detach().numpy().copy()
    if recurrent is not None and layer.zero_diagonal:
        np.fill_diagonal(recurrent, 0)
    steps, batch, _ = inputs.shape
    z_all, v_all, a_all = (np.zeros((steps, batch, NUM_UNITS)) for _ in range(3))
    zero = np.zeros(NUM_UNITS)
    rho, beta = (np.exp(-1 / values["tau_adaptation"]), values["beta"]) if "beta" in values else (zero, zero)
    alpha, threshold = np.exp(-1 / values["tau"]), values["threshold"]
    for b in range(batch):
        v = list(zero) if state is None else state.v[b].tolist()
        a = list(zero) if state is None or state.a is None else state.a[b].tolist()
        z = [float(v[i] > threshold[i] + beta[i] * a[i]) for i in range(NUM_UNITS)]
        last_spike = [-math.inf] * NUM_UNITS
        for t in range(steps):
            v, a, z_before, v_before, a_before = list(zero), list(zero), z, v, a
            z = list(zero)
            for i in range(NUM_UNITS):
                v[i] = bias[i] + sum(w * value for w, value in zip(weight[i], x[t][b], strict=True))
                if recurrent is not None:
                    v[i] += sum(recurrent[i][j] * z_before[j] for j in range(NUM_UNITS))
                if layer.reset == "hard":
                    v[i] += 0.0 if z_before[i] else alpha[i] * v_before[i]
                else:
                    v[i] += alpha[i] * v_before[i]
                if layer.reset == "soft" and z_before[i]:
                    v[i] -= threshold[i] + beta[i] * a_before[i]
                a[i] = rho[i] * a_before[i] + (1 - rho[i]) * z_before[i]
                if v[i] > threshold[i] + beta[i] * a[i] and t - last_spike[i] > layer.refractory:
                    z[i], last_spike[i] = 1.0, t
            z_all[t, b], v_all[t, b], a_all[t, b] = z, v, a
    return z_all, v_all, a_all


def run_by_steps(layer: SpikingLayer, inputs: Tensor, state: NeuronState) -> tuple[Tensor, list[NeuronState]]:
    """Return spikes (T, B, N) and the states before every step and after the last, by looping over the pure step."""
    spikes, states = [], [state]
    for x in inputs:
        z, state = layer.step(x, state)
        spikes.append(z)
        states.append(state)
    return torch.stack(spikes), states


def time_jacobian(layer: SpikingLayer, x: Tensor, state: NeuronState) -> Tensor:
    """Return d(v', a') / d(v, a) of one step for one sample, x (1, num_inputs), as a dense matrix."""
    width = state.v.shape[1]

    def memory_after(flat: Tensor) -> Tensor:
        v, a = flat[None, :width], None if state.a is None else flat[None, width:]
        _, after = layer.step(x, NeuronState(v, a, state.refractory))
        return torch.cat([tensor[0] for tensor in after[:2] if tensor is not None])

    flat = torch.cat([tensor[0] for tensor in state[:2] if tensor is not None])
    return torch.autograd.functional.jacobian(memory_after, flat)


def depth_jacobian(layer: SpikingLayer, x: Tensor, state: NeuronState, between=lambda y: y) -> Tensor:
    """Return dz' / dy of one step for one sample, where the layer's input is ``between(y)`` and y is (1, below)."""
    return torch.autograd.functional.jacobian(lambda y: layer.step(between(y), state)[0][0], x)[:, 0]


def row(state: NeuronState, sample: int) -> NeuronState:
    """Return the state of one sample, its batch axis kept."""
    return NeuronState(*(None if tensor is None else tensor[sample : sample + 1].detach() for tensor in state))


def radii(matrices: Tensor) -> Tensor:
    """Return the spectral radius of each matrix (K, n, n), by all eigenvalues in float64."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # LAPACK loses a factor of ten on small matrices when its threads compete
    try:
        return torch.linalg.eigvals(matrices.detach().double().cpu()).abs().amax(-1)
    finally:
        torch.set_num_threads(threads)
