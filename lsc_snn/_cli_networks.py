"""``lsc-snn measure`` and ``lsc-snn stabilize``: one network, its radii, and what to do about them."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lsc_snn._cli_inputs import (
    NetworkFlags,
    check_checkpoint,
    check_figure,
    describe,
    first_batch,
    load_splits,
    network_of,
    set_threads,
    target_of,
)
from lsc_snn._cli_options import (
    OUTPUT,
    BatchSize,
    Beta,
    BinMs,
    Data,
    FeedForward,
    FigureFile,
    Json,
    Layers,
    Pool,
    Reset,
    Run,
    Seed,
    Tau,
    Threads,
    Threshold,
    Units,
)
from lsc_snn._cli_output import print_json, status, sweeps, tell, write_figure, written
from lsc_snn._cli_tables import report_table, stabilize_table
from lsc_snn._cli_training import Neuron
from lsc_snn.events import EventBatch
from lsc_snn.measure import gradient_profile, measure
from lsc_snn.network import Network
from lsc_snn.stabilize import stabilize


def measure_command(
    data: Data = "digits",
    bin_ms: BinMs = None,
    pool: Pool = None,
    run: Run = None,
    neuron: Neuron = "ALIF",
    layers: Layers = 5,
    units: Units = 128,
    tau: Tau = None,
    threshold: Threshold = None,
    beta: Beta = None,
    feed_forward: FeedForward = False,
    reset: Reset = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    method: Annotated[
        str, typer.Option(metavar="power|exact", help="Matrix-free estimate, or dense eigenvalues (slow).")
    ] = "power",
    num_times: Annotated[int, typer.Option(help="Time steps of each sample to measure at.")] = 8,
    figure: FigureFile = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the spectral radius of every transition of a network, through time and through depth.

    A radius of 1/2 in both directions keeps the sum over all gradient paths bounded; 1 lets it explode with depth;
    0 is a dead layer through which no gradient passes. The table has one line for each layer.

    For example:

        lsc-snn measure --layers 5 --units 128 --figure radii.png

        lsc-snn measure --data recordings/ --neuron LSNN --json

        lsc-snn measure --run runs/digits/depth-5/half/rate-0.001/seed-0
    """
    set_threads(threads)
    check_figure(figure)
    flags = NetworkFlags(neuron, layers, units, tau, threshold, beta, feed_forward, reset)
    with status("reading data"):
        dataset = load_splits(data, bin_ms, pool).train
        network = network_of(flags, run, dataset, seed)
        batch = first_batch(dataset, batch_size, seed)
    start = time.perf_counter()
    with status("measuring"):
        report = measure(network, batch, method=method, num_times=num_times)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        if figure is not None:
            from lsc_snn.plots import measure_figure

            write_figure(figure, measure_figure(report, gradient_profile(network, batch)))
    facts = facts_of(network, data, batch, run, seed)
    if as_json:
        print_json({**facts, "method": method, "radii": report.to_dict(), "seconds": seconds})
    else:
        tell(report_table(report, f"{describe(network.config)} on {data}"), written(figure))


def stabilize_command(
    target: Annotated[
        str,
        typer.Option(
            metavar="one|half|balanced|A:B",
            help="Radii to reach: 1; 1/2; T/(T+L) in time and L/(T+L) in depth; or A in time and B in depth.",
        ),
    ] = "half",
    procedure: Annotated[
        str,
        typer.Option(
            metavar="fast|gradient|paper", help="Ours, in seconds; descent; or the published one, far slower."
        ),
    ] = "fast",
    tolerance: Annotated[float, typer.Option(help="Largest |radius - target| that is accepted.")] = 0.05,
    max_sweeps: Annotated[int, typer.Option(help="Most sweeps over the layers.")] = 50,
    data: Data = "digits",
    bin_ms: BinMs = None,
    pool: Pool = None,
    run: Run = None,
    neuron: Neuron = "ALIF",
    layers: Layers = 5,
    units: Units = 128,
    tau: Tau = None,
    threshold: Threshold = None,
    beta: Beta = None,
    feed_forward: FeedForward = False,
    reset: Reset = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.safetensors",
            help="Save the stabilised network, and what it is in FILE.json; `--run FILE.safetensors` takes it up.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --out if it exists.", rich_help_panel=OUTPUT)] = False,
    figure: FigureFile = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Bring every radius of a network to a target before training, and keep its firing rates in a healthy band.

    Exit code 1, and the reasons, if a radius or a rate could not be brought where it should be; the best network found
    is saved all the same.

    For example:

        lsc-snn stabilize --layers 5 --units 128 --target half --out stable.safetensors

        lsc-snn stabilize --data recordings/ --target 0.9:0.1 --tolerance 0.02 --figure radii.png
    """
    set_threads(threads)
    check_figure(figure)
    if out is not None:
        check_checkpoint(out, force=force)
    wanted = target_of(target)
    if wanted is None:
        raise ValueError("--target: expected one, half, balanced or A:B, got none; use lsc-snn measure")
    flags = NetworkFlags(neuron, layers, units, tau, threshold, beta, feed_forward, reset)
    with status("reading data"):
        dataset = load_splits(data, bin_ms, pool).train
        network = network_of(flags, run, dataset, seed)
        batch = first_batch(dataset, batch_size, seed)
    with sweeps(batch, max_sweeps) as batches:
        result = stabilize(
            network, batches, target=wanted, procedure=procedure, tolerance=tolerance, max_sweeps=max_sweeps
        )
    if out is not None:
        from lsc_snn.experiments.checkpoint import Checkpoint, snapshot, write_checkpoint
        from lsc_snn.experiments.config import TrainConfig

        config = TrainConfig(network.config, target=wanted, seed=seed)
        info = {"stabilize": {key: value for key, value in result.to_dict().items() if key != "history"}}
        write_checkpoint(out, Checkpoint(config, 0, info, snapshot(network.state_dict()), {}))
    if figure is not None:
        from lsc_snn.plots import radii_figure

        shown = radii_figure(result.before, result.after, target=result.target, tolerance=tolerance)
        write_figure(figure, shown)
    if as_json:
        facts = facts_of(network, data, batch, run, seed)
        print_json({**facts, "stabilize": result.to_dict(), "out": None if out is None else str(out)})
    else:
        outcome = "converged" if result.converged else "did not converge"
        title = f"{describe(network.config)} on {data}, target {target}"
        tell(
            stabilize_table(result, title, tolerance),
            f"{outcome} in {result.sweeps} sweeps, {result.seconds:.1f} s",
            *result.reasons,
            written(out),
            written(figure),
        )
    if not result.converged:
        raise typer.Exit(1)


def facts_of(network: Network, data: str, batch: EventBatch, run: Path | None, seed: int) -> dict[str, Any]:
    """Return what the numbers of a command are of, ready for JSON."""
    return {
        "network": dataclasses.asdict(network.config),
        "run": None if run is None else str(run),
        "data": data,
        "batch": {"steps": batch.num_steps, "samples": batch.batch_size, "units": batch.num_units},
        "seed": seed,
    }
