"""``python -m lsc_snn.experiments.fixed_point``: a trained spiking network in integers, against bits of a weight."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsc_snn import _checks, datasets
from lsc_snn._figure import to_png
from lsc_snn._fixed_point_figure import fixed_point_figure
from lsc_snn.events import EventBatch
from lsc_snn.experiments.batches import evaluation_batches, first_batch
from lsc_snn.experiments.checkpoint import load_network, snapshot
from lsc_snn.experiments.config import TrainConfig, read_config
from lsc_snn.experiments.data import Part, Splits, SplitsLike, check_splits, sizes_of
from lsc_snn.experiments.files import make_folder, write_bytes, write_json
from lsc_snn.experiments.fitting import Fitting
from lsc_snn.experiments.launch import launched_fabric
from lsc_snn.experiments.loop import evaluate, recorded_spikes
from lsc_snn.experiments.losses import class_scores
from lsc_snn.experiments.optimisers import score_of
from lsc_snn.experiments.train import train
from lsc_snn.fixed_point import (
    PLATFORMS,
    NumberFormat,
    Scale,
    dequantised,
    exceeded_limits,
    quantise,
    rounded,
    run_xylosim,
    scales_of,
    simulate,
    simulate_core,
    to_xylo,
)
from lsc_snn.fixed_point.formats import DECAYS
from lsc_snn.fixed_point.quantise import IntegerNetwork
from lsc_snn.fixed_point.report import AWARE, FLOAT, POST, TUNED, Agreement, Row, to_markdown
from lsc_snn.fixed_point.xylo import FORMAT, XyloCore, simulator
from lsc_snn.measure import measure
from lsc_snn.network import Network, NetworkConfig

BITS = (2, 3, 4, 5, 6, 8, 12, 16)
_FINE = NumberFormat(weight_bits=28, potential_bits=32, decay="multiply", decay_bits=30)


def sweep(
    network: Network,
    config: TrainConfig,
    splits: SplitsLike,
    *,
    bits: Sequence[int] = BITS,
    number_format: NumberFormat | None = None,
    aware_epochs: int = 0,
) -> list[Row]:
    """Return what fixed point makes of a trained network: a row for float, and one or two for each number of bits.

    ``config`` is the run that trained it: its readout, batch size, seed and learning rate count. Scales are found on
    one training batch, ``number_format`` fixes all but the bits of a weight, and with ``aware_epochs`` the network is
    also fine-tuned for as many epochs under the rounding, the best of them on validation kept; a second row without
    bits is then the float network, fine-tuned as long. Spikes are always compared with the float network as it was.

    Raises ValueError for a network that does not spike, and for data that do not fit it.
    """
    check_splits(splits, network.config)
    base = NumberFormat() if number_format is None else number_format
    batch = first_batch(splits.train, config)
    rows = [_float_row(network, config, splits.test, batch)]
    if aware_epochs:
        scales = scales_of(network, batch, _FINE)
        tuned = fine_tune(network, config, splits, _FINE, scales, epochs=aware_epochs)
        rows.append(replace(_row(TUNED, tuned, network, _FINE, scales, config, splits.test, batch), bits=None))
    for count in bits:
        chosen = replace(base, weight_bits=count)
        scales = scales_of(network, batch, chosen)
        rows.append(_row(POST, network, network, chosen, scales, config, splits.test, batch))
        if aware_epochs:
            tuned = fine_tune(network, config, splits, chosen, scales, epochs=aware_epochs)
            rows.append(_row(AWARE, tuned, network, chosen, scales, config, splits.test, batch))
    return rows


def fine_tune(
    network: Network,
    config: TrainConfig,
    splits: SplitsLike,
    number_format: NumberFormat,
    scales: Sequence[Scale],
    *,
    epochs: int,
    learning_rate: float | None = None,
) -> Network:
    """Return a copy of a network, trained for some more epochs while it computes with rounded weights and decays.

    The epoch with the best validation result under the rounding is kept; 0 is the network as it was. The copy's own
    parameters are unrounded: pass it to ``quantise`` with the same format and scales. The learning rate is a tenth of
    the run's by default: the optimiser starts anew.
    """
    tuned = Network(network.config, seed=config.seed)
    tuned.load_state_dict(network.state_dict())
    fabric, rate = launched_fabric("32-true"), config.learning_rate / 10 if learning_rate is None else learning_rate
    with rounded(tuned, number_format, scales):
        fitting = Fitting(fabric, tuned, replace(config, precision="32-true"))
        got = evaluate(fabric, tuned, splits.validation, config)
        best, kept = score_of(got.accuracy, got.loss, config), snapshot(tuned.state_dict())
        for epoch in range(1, epochs + 1):
            fitting.epoch(splits.train, config.epochs + epoch, rate)
            got = evaluate(fabric, tuned, splits.validation, config)
            score = score_of(got.accuracy, got.loss, config)
            if score > best:
                best, kept = score, snapshot(tuned.state_dict())
        tuned.load_state_dict(kept)
    return tuned.eval()


def _float_row(network: Network, config: TrainConfig, test: Part, batch: EventBatch) -> Row:
    hits = total = 0
    with torch.no_grad():
        for events, labels, _ in evaluation_batches(test, config, 0, 1):
            scores = class_scores(network(events), events.mask(), config.readout)
            hits, total = hits + int((scores.argmax(1) == labels).sum()), total + len(labels)
    time, depth = _radii(network, batch, config)
    return Row(FLOAT, None, hits / total, (1.0,) * len(network.layers), time, depth)


def _row(
    method: str,
    network: Network,
    original: Network,
    number_format: NumberFormat,
    scales: Sequence[Scale],
    config: TrainConfig,
    test: Part,
    batch: EventBatch,
) -> Row:
    integers = quantise(network, number_format, scales)
    agreement, hits, total = Agreement(), 0, 0
    clipped = torch.zeros(len(integers.layers), dtype=torch.float64)
    with torch.no_grad(), recorded_spikes(original) as spikes:
        for events, labels, _ in evaluation_batches(test, config, 0, 1):
            spikes.clear()
            original(events)
            run = simulate(integers, events)
            agreement.add(spikes, run.spikes, events.mask())
            predicted = _classes(run.potentials, integers, events, config)
            hits, total = hits + int((predicted == labels).sum()), total + len(labels)
            clipped += torch.tensor(run.saturated, dtype=torch.float64) * len(labels)
    time, depth = _radii(dequantised(network, integers), batch, config)
    return Row(
        method,
        number_format.weight_bits,
        hits / total,
        agreement.values(),
        time,
        depth,
        tuple((clipped / total).tolist()),
    )


def _classes(potentials: Tensor, integers: IntegerNetwork, events: EventBatch, config: TrainConfig) -> Tensor:
    values = potentials.double() * integers.readout.scale.potential
    scores: Tensor = class_scores(values, events.mask(), config.readout)
    return scores.argmax(1)


def _radii(network: Network, batch: EventBatch, config: TrainConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    report = measure(network, batch, generator=torch.Generator().manual_seed(config.seed))
    return tuple(report.time.tolist()), tuple(report.depth.tolist())


def on_xylo(
    network: Network, config: TrainConfig, splits: SplitsLike, *, samples: int = 100, with_xylosim: bool = False
) -> dict[str, Any]:
    """Return how a network fares on a Xylo core: accuracy over the first test samples, float, in integers, on the core.

    With ``with_xylosim`` they also run in xylosim, and "xylosim_equal" is the share of the core's spike counts that
    are those of xylosim. Raises ValueError for what the core has no rule for, ImportError without xylosim.
    """
    batch = first_batch(splits.train, config)
    integers = quantise(network, FORMAT, scales_of(network, batch, FORMAT))
    core: XyloCore = to_xylo(integers)
    some = splits.test.subset(range(min(samples, len(splits.test))))
    hits = {"float": 0, "integers": 0, "core": 0}
    equal = count = 0
    with torch.no_grad():
        for events, labels, _ in evaluation_batches(some, config, 0, 1):
            run = simulate_core(core, events)
            scores = class_scores(network(events), events.mask(), config.readout)
            found = {
                "float": scores.argmax(1),
                "integers": _classes(simulate(integers, events).potentials, integers, events, config),
                "core": _classes(run.potentials, integers, events, config),
            }
            for name, classes in found.items():
                hits[name] += int((classes == labels).sum())
            if with_xylosim:
                theirs = run_xylosim(core, events)
                equal, count = equal + int((theirs.spikes == run.spikes).sum()), count + run.spikes.numel()
    result: dict[str, Any] = {f"accuracy_{name}": value / len(some) for name, value in hits.items()}
    return {**result, "samples": len(some), "xylosim_equal": equal / count if count else None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lsc_snn.experiments.fixed_point", description=__doc__)
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="where table and figure go")
    parser.add_argument(
        "--run", metavar="FOLDER", type=Path,
        help="a finished training run; without it a recurrent LIF network is trained first, in OUT/run",
    )  # fmt: skip
    parser.add_argument(
        "--data", default="digits", help="digits, or a folder with train.h5 and test.h5 of SHD's layout"
    )
    parser.add_argument("--bin-ms", type=float, default=8.0, help="time step of a folder's data (default 8)")
    parser.add_argument("--bits", default=",".join(map(str, BITS)), help="bits of a weight, separated by commas")
    parser.add_argument("--potential-bits", type=int, default=16)
    parser.add_argument("--decay", choices=DECAYS, default="shift")
    parser.add_argument("--per-channel", action="store_true", help="a weight scale for every unit")
    parser.add_argument("--power-of-two", action="store_true", help="weight scales that are powers of two")
    parser.add_argument("--aware", type=int, default=0, metavar="EPOCHS", help="also fine-tune under the rounding")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the network that is trained first")
    parser.add_argument("--units", type=int, default=64, help="units of a layer of that network")
    parser.add_argument("--learning-rate", type=float, default=0.005, help="its learning rate")
    parser.add_argument("--platform", choices=sorted(PLATFORMS), help="name the limits of a chip that are exceeded")
    parser.add_argument("--xylo", action="store_true", help="run the network on a Xylo core too")
    parser.add_argument("--xylosim", action="store_true", help="and compare that with xylosim, spike for spike")
    return parser


def _trained(options: argparse.Namespace, splits: SplitsLike) -> tuple[Network, TrainConfig]:
    folder = options.run
    if folder is None:
        folder = options.out / "run"
        units, classes = sizes_of(splits.train)
        config = TrainConfig(
            NetworkConfig(units, classes, num_units=options.units, neuron="LIF"),
            target="half", epochs=options.epochs, patience=options.epochs, learning_rate=options.learning_rate,
        )  # fmt: skip
        train(config, splits, folder, resume=True)
    return load_network(folder), read_config(folder / "config.json")


def _splits(options: argparse.Namespace) -> SplitsLike:
    if options.data == "digits":
        digits: SplitsLike = datasets.load_digits()
        return digits
    fitted, test = datasets.load_folder(options.data, bin_ms=options.bin_ms)
    return Splits(*datasets.hold_out(fitted), test)


def main(argv: list[str] | None = None) -> int:
    """Run the sweep of the command line and write fixed_point.json, .md and .png; return 0, or 2 for bad input."""
    options = _parser().parse_args(argv)
    try:
        _run(options)
    except (ValueError, TypeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    try:
        bits = [int(text) for text in options.bits.split(",")]
    except ValueError:
        raise ValueError(f"bits: expected integers separated by commas, got {options.bits!r}") from None
    chosen = [
        NumberFormat(
            count, options.potential_bits, options.decay, per_channel=options.per_channel,
            power_of_two=options.power_of_two,
        )
        for count in bits
    ]  # fmt: skip
    _checks.check_count("aware", options.aware, minimum=0)
    if options.xylosim:
        simulator()  # ImportError now, not after the work
    make_folder(options.out)
    splits = _splits(options)
    network, config = _trained(options, splits)
    rows = sweep(network, config, splits, bits=bits, number_format=chosen[0], aware_epochs=options.aware)
    found: dict[str, Any] = {"config": config.to_dict(), "rows": [row.to_dict() for row in rows]}
    print(to_markdown(rows))
    if options.platform is not None:
        batch = first_batch(splits.train, config)
        integers = quantise(network, FORMAT, scales_of(network, batch, FORMAT))
        limits = [str(limit) for limit in exceeded_limits(integers, options.platform)]
        found["limits"] = {options.platform: limits}
        print(f"\n{options.platform}: " + ("; ".join(limits) or "fits"))
    if options.xylo or options.xylosim:
        found["xylo"] = on_xylo(network, config, splits, with_xylosim=options.xylosim)
        print("\nXylo: " + ", ".join(f"{name} {value}" for name, value in found["xylo"].items()))
    write_json(options.out / "fixed_point.json", found)
    write_bytes(options.out / "fixed_point.md", (to_markdown(rows) + "\n").encode())
    title = (
        f"{config.network.num_layers} layers of {config.network.num_units} {config.network.neuron} units in integers"
    )
    write_bytes(options.out / "fixed_point.png", to_png(fixed_point_figure(rows, title)))


if __name__ == "__main__":
    sys.exit(main())
