"""``lsc-snn demo``, ``train`` and ``speed``: networks trained, untreated against stabilised, and how fast it all is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskID

from lsc_snn import _cli_training as flags
from lsc_snn._cli_inputs import (
    NetworkFlags,
    check_bins,
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
    Download,
    FeedForward,
    Json,
    Pool,
    Reset,
    Root,
    Tau,
    Threads,
    Threshold,
    Units,
)
from lsc_snn._cli_output import CompareProgress, print_json, progress_bar, status, tell
from lsc_snn._cli_tables import comparison_table, rows_table

if TYPE_CHECKING:
    from lsc_snn.experiments.data import Splits


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
    pool: Pool = None,
    root: Root = None,
    download: Download = False,
    neuron: flags.Neuron = "ALIF",
    units: Units = 128,
    tau: Tau = None,
    threshold: Threshold = None,
    beta: Beta = None,
    feed_forward: FeedForward = False,
    reset: Reset = None,
    readout_tau: flags.ReadoutTau = None,
    depths: flags.Depths = "2,5",
    targets: flags.Targets = "none,one,half",
    seeds: flags.Seeds = 3,
    learning_rates: flags.LearningRates = "0.001,0.003",
    epochs: flags.Epochs = 50,
    patience: flags.Patience = 10,
    batch_size: flags.TrainBatchSize = 64,
    readout: flags.Readout = "mean",
    keep: flags.Keep = "best",
    refit: flags.Refit = False,
    track_test: flags.TrackTest = False,
    optimizer: flags.Optimizer = "adamw",
    lookahead: flags.WithLookahead = False,
    weight_decay: flags.WeightDecay = 1e-4,
    schedule: flags.Schedule = "none",
    plateau_epochs: flags.PlateauEpochs = 5,
    plateau_factor: flags.PlateauFactor = 0.5,
    gradient_clip: flags.GradientClip = None,
    precision: flags.Precision = "32-true",
    bptt_steps: flags.BpttSteps = None,
    dropout: flags.Dropout = 0.0,
    rate_band: flags.RateBand = None,
    rate_strength: flags.RateStrength = 1.0,
    blend: flags.Blend = 0.0,
    time_scale: flags.TimeScale = 0.0,
    time_shift: flags.TimeShift = 0,
    channel_shift: flags.ChannelShift = 0,
    channel_jitter: flags.ChannelJitter = 0.0,
    event_dropout: flags.EventDropout = 0.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the runs that the folder holds.", rich_help_panel=OUTPUT)
    ] = False,
    tensorboard: flags.TensorBoard = False,
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

        lsc-snn train --data recordings/ --out runs/gru --neuron GRU --targets none,orthogonal,half --refit

        lsc-snn train --data ptb --out runs/ptb --neuron LSTM --bptt-steps 35 --batch-size 32
    """
    from lsc_snn.experiments.compare import compare
    from lsc_snn.experiments.config import TrainConfig
    from lsc_snn.experiments.data import sizes_of

    set_threads(threads)
    network = NetworkFlags(neuron, 1, units, tau, threshold, beta, feed_forward, reset)
    chosen = [arm_of(target) for target in targets.split(",")]
    layers, rates = numbers_of("--depths", depths, int), numbers_of("--learning-rates", learning_rates, float)
    if seeds < 1:
        raise ValueError(f"--seeds: expected at least 1, got {seeds}; it is how many runs each arm gets")
    tau_of_readout, band = flags.readout_tau_of(readout_tau, neuron), flags.rate_band_of(rate_band)
    augment = flags.augmentation_of(blend, time_scale, time_shift, channel_shift, channel_jitter, event_dropout)
    with status("reading data"):
        splits = parts_of(data, bin_ms, pool, root, download)
    base = TrainConfig(
        network.config(*sizes_of(splits.train), dropout=dropout, readout_tau=tau_of_readout),
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        readout=readout,
        keep=keep,
        refit=refit,
        track_test=track_test,
        optimizer=optimizer,
        lookahead=lookahead,
        weight_decay=weight_decay,
        schedule=schedule,
        plateau_epochs=plateau_epochs,
        plateau_factor=plateau_factor,
        gradient_clip=gradient_clip,
        precision=precision,
        bptt_steps=bptt_steps,
        rate_band=band,
        rate_strength=rate_strength,
        augment=augment,
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
            tensorboard=tensorboard,
        )
    if as_json:
        print_json({"data": data, "base": base.to_dict(), **comparison.to_dict()})
    else:
        tell(comparison_table(comparison.cells, f"{describe(base.network, layers)} on {data}"), f"wrote {out}")


def parts_of(data: str, bin_ms: float | None, pool: int | None, root: Path | None, download: bool) -> Splits:
    """Return the parts of data by its name, text included, or of a folder; raises as ``load_splits`` does."""
    from lsc_snn import datasets
    from lsc_snn.experiments.data import Splits

    if data in datasets.names() and datasets.card(data).text:
        check_bins(data, bin_ms, pool)
        text = datasets.load(data, root, download=download)
        return Splits(text.train, text.validation, text.test)
    return load_splits(data, bin_ms, pool, root=root, download=download)


def arm_of(text: str) -> str | tuple[float, float] | None:
    """Return the arm that a word of --targets names: an initialisation, or what ``target_of`` makes of it."""
    from lsc_snn.experiments.config import INITIALISATIONS

    word = text.strip()
    return word if word in INITIALISATIONS else target_of(word)


def bench(
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time this library: the estimators, the two procedures, and a training step against snnTorch, Norse and sinabs.

    Medians and ratios, all of one run on this machine. Needs the extra: `pip install "lsc-snn[bench]"`.

    For example:

        lsc-snn speed --threads 2
    """
    from lsc_snn.experiments import bench as benchmarks

    set_threads(threads)
    benchmarks.main(["--json"] if as_json else [])
