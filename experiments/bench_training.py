"""Benchmarks of a training step, against other libraries, and of the product with sparse events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lsc_snn.events import EventBatch
from lsc_snn.experiments.bench_peers import PEERS, Ours, Sizes, Weights, draw_weights, make_peer, matrices
from lsc_snn.experiments.bench_radius import random_events
from lsc_snn.experiments.bench_table import Row, Table, interleaved, joined, ratio

NOT_INSTALLED = "not installed: pip install 'lsc-snn[bench]'"
EVENTS, DENSE, PRODUCTS = "lsc_snn, events", "lsc_snn, dense", "matrix products alone"


def training_step(network: nn.Module, inputs: Tensor | EventBatch) -> Tensor:
    """Run forward and backward of the summed output; return the output."""
    network.zero_grad(set_to_none=True)
    output: Tensor = network(inputs)
    output.sum().backward()
    return output


def products(weights: Weights, inputs: Tensor) -> None:
    """Do only the matrix products of a training step: inputs, one recurrent product a step, and the gradients."""
    signal = inputs
    outputs, gradients = [], []
    for weight, recurrent in weights:
        current = functional.linear(signal, weight)
        outputs.append((signal, current))
        for step in current.unbind(0):
            step @ recurrent.T
        signal = current
    for (signal, current), (weight, recurrent) in zip(reversed(outputs), reversed(weights), strict=True):
        for step in current.unbind(0):
            step @ recurrent
        flat, below = current.flatten(0, 1), signal.flatten(0, 1)
        gradients += [flat.T @ flat, flat.T @ below]
        if signal is not inputs:
            flat @ weight


def step_table(sizes: Sizes, *, rounds: int = 7, warm_ups: int = 2) -> Table:
    """Return one row a contender, ours first. A peer that is not installed has a row that says how to install it."""
    weights = draw_weights(sizes)
    events = random_events(sizes.num_steps, sizes.batch, sizes.num_inputs, sizes.density)
    dense = events.to_dense()
    made = {EVENTS: Ours(weights), DENSE: Ours(weights), **{name: make_peer(name, weights) for name in PEERS}}
    networks = {name: network for name, network in made.items() if network is not None}
    contenders: dict[str, Callable[[], object]] = {}
    for name, network in networks.items():
        fed = events if name == EVENTS else dense
        contenders[name] = partial(training_step, network, fed)
    contenders[PRODUCTS] = partial(products, weights, dense)
    seconds = interleaved(contenders, rounds=rounds, warm_ups=warm_ups)
    rows = []
    for name in (*made, PRODUCTS):
        if name not in seconds:
            rows.append({"network": name, "note": NOT_INSTALLED})
            continue
        row: Row = {
            "network": name,
            "ms": 1e3 * seconds[name],
            "against events": ratio(seconds[name], seconds[EVENTS]),
            "against dense": ratio(seconds[name], seconds[DENSE]),
        }
        if name in networks:
            row |= _facts(networks[name], events if name == EVENTS else dense)
        rows.append(row)
    columns = ("network", "ms", "against events", "against dense", "firing rate", "weights", "other parameters", "note")
    return Table(
        "training_step",
        "Training step: forward and backward",
        columns,
        tuple(rows),
        f"{sizes.num_layers} x {sizes.num_units} recurrent LIF, {sizes.num_steps} steps, batch {sizes.batch}, "
        f"{sizes.num_inputs} channels, {100 * sizes.density:g} % dense; backward of the summed output; {rounds} "
        "rounds by turns. Events: ours fed an EventBatch; all others get the dense tensor. Weights: entries of the "
        "matrices, the same in all; other parameters: learned time constants and thresholds. Goal: each peer at least "
        "2 times slower.",
    )


def _facts(network: nn.Module, inputs: Tensor | EventBatch) -> Row:
    with torch.no_grad():
        output: Tensor = network(inputs)
    learned = sum(p.numel() for p in network.parameters() if p.requires_grad)
    weights = sum(rows * columns for rows, columns in matrices(network))
    return {"firing rate": joined([float(output.mean())]), "weights": weights, "other parameters": learned - weights}


def product_table(sizes: Sizes, *, rounds: int = 7, warm_ups: int = 2) -> Table:
    """Return the input product of events against the dense one: forward, and forward with the weight's gradient.

    A new batch is made for every training step, so that nothing that it keeps from an earlier product counts.
    """
    events = random_events(sizes.num_steps, sizes.batch, sizes.num_inputs, sizes.density)
    dense = events.to_dense()
    weight = draw_weights(sizes)[0][0].requires_grad_()
    upstream = torch.ones(sizes.num_steps, sizes.batch, sizes.num_units)

    def fresh() -> EventBatch:
        fields = (events.times, events.samples, events.units, events.counts, events.lengths)
        return EventBatch(*fields, events.num_steps, events.num_units, validate=False)

    def forward(inputs: EventBatch | Tensor) -> Tensor:
        return inputs.project(weight) if isinstance(inputs, EventBatch) else functional.linear(inputs, weight)

    def without_graph(inputs: EventBatch | Tensor) -> None:
        with torch.no_grad():
            forward(inputs)

    def with_gradient(inputs: EventBatch | Tensor) -> None:
        torch.autograd.grad(forward(inputs), weight, upstream)

    rows = []
    for name, run in (("forward", without_graph), ("forward and weight gradient", with_gradient)):
        seconds = interleaved(
            {"events": lambda run=run: run(fresh()), "dense": lambda run=run: run(dense)},
            rounds=rounds,
            warm_ups=warm_ups,
        )
        rows.append(
            {
                "product": name,
                "events ms": 1e3 * seconds["events"],
                "dense ms": 1e3 * seconds["dense"],
                "dense / events": ratio(seconds["dense"], seconds["events"]),
            }
        )
    return Table(
        "event_product",
        "Input product: events against dense",
        tuple(rows[0]),
        tuple(rows),
        f"{sizes.num_steps} steps, batch {sizes.batch}, {sizes.num_inputs} channels, {sizes.num_units} units, "
        f"{100 * sizes.density:g} % dense. What an EventBatch keeps for its next product is made anew each time.",
    )
