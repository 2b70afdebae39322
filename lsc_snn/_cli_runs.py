"""``lsc-snn demo``, ``train`` and ``bench``: networks trained, untreated against stabilised, and how fast it all is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from lsc_snn._cli_inputs import (
    NetworkFlags,
    describe,
    load_splits,
    numbers_of,
    set_threads,
    target_of,
)
from lsc_snn._cli_options import (
    OUTPUT,
    Beta,
    BinMs,
    Data,
    FeedForward,
    Json,
    Neuron,
    Tau,
    Threads,
    Threshold,
    Units,
)
from lsc_snn._cli_output import CompareProgress, print_json, progress_bar, status, tell
from lsc_snn._cli_tables import comparison_table, rows_table

TRAINING = "Training"


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where report.html, report.png and the runs go.")] = Path(
        "runs/demo"
    ),
    force: Annotated[
        bool, typer.Option("--force", help="Remove an earlier demo in the folder first, and run it anew.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a five-layer spiking network as it comes and stabilised, in a few minutes and without a download.

    A recurrent ALIF network learns scikit-learn's handwritten digits, given as spikes: untreated, stabilised to radii
    of 1, and to radii of 1/2. The report shows the radii before and after, the gradient over time and depth, the loss,
    and the test accuracy.

    A demo that was interrupted goes on where it stopped; one that is finished is only reported again. `--force` starts
    anew.

    For example:

        lsc-snn demo

        lsc-snn demo --out runs/demo --threads 2
    """
    from lsc_snn.experiments.demo import run_demo
    from lsc_snn.experiments.report import HEADINGS, headline, result_rows

    set_threads(threads)
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(arm: str, done: int, total: int) -> None:
            if arm not in tasks:
                tasks[arm] = bar.add_task(f"training {arm}", total=total)
            bar.update(tasks[arm], completed=done)

        result = run_demo(out, overwrite=force, on_progress=show)
    if as_json:
        print_json({"folder": str(out), **result.to_dict()})
        return
    tell(
        rows_table(HEADINGS, result_rows(result), headline(result)),
        f"{result.seconds:.0f} s in all; wrote {out / 'report.html'}, {out / 'report.png'} and {out / 'results.json'}",
    )


def train(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the runs and the comparison go.", show_default=False)
    ],
    data: Data = "digits",
    bin_ms: BinMs = None,
    depths: Annotated[
        str, typer.Option(help="Numbers of spiking layers, with commas.", rich_help_panel=TRAINING)
    ] = "2,5",
    targets: Annotated[
        str,
        typer.Option(
            help="Arms to compare, with commas: none (untreated), one, half, balanced, or A:B.",
            rich_help_panel=TRAINING,
        ),
    ] = "none,one,half",
    seeds: Annotated[int, typer.Option(help="Runs of each arm, with seeds 0, 1, ...", rich_help_panel=TRAINING)] = 3,
    learning_rates: Annotated[
        str,
        typer.Option(
            help="Rates to choose from, with commas; each arm takes the best on validation at the first seed.",
            rich_help_panel=TRAINING,
        ),
    ] = "0.001,0.003",
    epochs: Annotated[int, typer.Option(help="Most passes over the training samples.", rich_help_panel=TRAINING)] = 50,
    patience: Annotated[
        int, typer.Option(help="Epochs without better validation after which a run stops.", rich_help_panel=TRAINING)
    ] = 10,
    batch_size: Annotated[int, typer.Option(help="Samples of each step.", rich_help_panel=TRAINING)] = 64,
    dropout: Annotated[
        float, typer.Option(help="Probability that a spike between layers is dropped.", rich_help_panel=TRAINING)
    ] = 0.0,
    readout: Annotated[
        str,
        typer.Option(
            metavar="mean|last|max", help="How the output's time steps become a score.", rich_help_panel=TRAINING
        ),
    ] = "mean",
    neuron: Neuron = "ALIF",
    units: Units = 128,
    tau: Tau = None,
    threshold: Threshold = None,
    beta: Beta = None,
    feed_forward: FeedForward = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the runs that the folder holds.", rich_help_panel=OUTPUT)
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train networks of several depths, untreated and stabilised, and compare their test accuracies.

    Every arm is tuned alike: its learning rate is the best on validation, its epoch too, and the test samples are
    looked at once. Validation holds out speakers where the data names them (a fifth, at least one), else a part of each
    class. The folder receives each run with its checkpoints, and comparison.json, .csv and .md.

    Killed at any moment, it goes on with `--resume` to the same results.

    For example:

        lsc-snn train --data recordings/ --out runs/speech --depths 2,5 --seeds 3

        lsc-snn train --data digits --out runs/digits --depths 5 --targets none,half --epochs 10
    """
    from lsc_snn.experiments.compare import compare
    from lsc_snn.experiments.config import TrainConfig

    set_threads(threads)
    flags = NetworkFlags(neuron, 1, units, tau, threshold, beta, feed_forward)
    chosen = [target_of(target) for target in targets.split(",")]
    layers, rates = numbers_of("--depths", depths, int), numbers_of("--learning-rates", learning_rates, float)
    if seeds < 1:
        raise ValueError(f"--seeds: expected at least 1, got {seeds}; it is how many runs each arm gets")
    with status("reading data"):
        splits = load_splits(data, bin_ms)
    base = TrainConfig(
        flags.config(splits.train.num_units, splits.train.num_classes, dropout=dropout),
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        readout=readout,
    )
    with progress_bar() as bar:
        comparison = compare(
            base,
            splits,
            out,
            targets=chosen,
            depths=layers,
            seeds=range(seeds),
            learning_rates=rates,
            resume=resume,
            on_event=CompareProgress(bar),
        )
    if as_json:
        print_json({"data": data, "base": base.to_dict(), **comparison.to_dict()})
    else:
        tell(comparison_table(comparison.cells, f"{describe(base.network, layers)} on {data}"), f"wrote {out}")


def bench(
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time this library: the estimators, the two procedures, and a training step against snnTorch, Norse and sinabs.

    Medians and ratios, all of one run on this machine. Needs the extra: `pip install "lsc-snn[bench]"`.

    For example:

        lsc-snn bench --threads 2
    """
    from lsc_snn.experiments import bench as benchmarks

    set_threads(threads)
    benchmarks.main(["--json"] if as_json else [])
