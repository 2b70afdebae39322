"""The flags of ``lsc-snn train``: what is compared, how it is trained, and how its samples are changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lsc_snn._cli_options import DATA, OUTPUT

if TYPE_CHECKING:
    from lsc_snn.datasets.augment import Augmentation

TRAINING = "Training"
OPTIMISER = "Optimiser"
REGULARISATION = "Regularisation"
AUGMENTATION = "Augmentation of training samples"

Neuron = Annotated[
    str,
    typer.Option(
        metavar="LIF|ALIF|LSNN|GRU|LSTM|RNN|LRU|S5",
        help="Kind of layer: spiking, of torch.nn, or a state-space block.",
        rich_help_panel=DATA,
    ),
]
ReadoutTau = Annotated[
    str | None,
    typer.Option(
        metavar="STEPS|none",
        help="Time constant of the leaky readout; none for a linear one. [default: 10 for spiking layers, else none]",
        rich_help_panel=DATA,
    ),
]
Depths = Annotated[str, typer.Option(help="Numbers of recurrent layers, with commas.", rich_help_panel=TRAINING)]
Targets = Annotated[
    str,
    typer.Option(
        help="Arms to compare, with commas: none (untreated), one, half, balanced, or A:B; or an initialisation: "
        "orthogonal, glorot, he, lsuv, fluctuation.",
        rich_help_panel=TRAINING,
    ),
]
Seeds = Annotated[int, typer.Option(help="Runs of each arm, with seeds 0, 1, ...", rich_help_panel=TRAINING)]
LearningRates = Annotated[
    str,
    typer.Option(
        help="Rates to choose from, with commas; each arm takes the best on validation at the first seed.",
        rich_help_panel=TRAINING,
    ),
]
Epochs = Annotated[int, typer.Option(help="Most passes over the training samples.", rich_help_panel=TRAINING)]
Patience = Annotated[
    int, typer.Option(help="Epochs without better validation after which a run stops.", rich_help_panel=TRAINING)
]
TrainBatchSize = Annotated[int, typer.Option(help="Samples of each step.", rich_help_panel=TRAINING)]
Readout = Annotated[
    str,
    typer.Option(
        metavar="mean|last|max|sum", help="How the output's time steps become a score.", rich_help_panel=TRAINING
    ),
]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit",
        help="Once the epoch is chosen, train anew on train and validation together, and test that network.",
        rich_help_panel=TRAINING,
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        metavar="best|last",
        help="Epoch to test: the best on validation; or the last, where a schedule is to be run to its end.",
        rich_help_panel=TRAINING,
    ),
]
TrackTest = Annotated[
    bool,
    typer.Option(
        "--track-test",
        help="Also record best_on_test, the best epoch by test accuracy. Nothing is chosen by it.",
        rich_help_panel=TRAINING,
    ),
]
Optimizer = Annotated[str, typer.Option(metavar="adamw|adabelief", help="Optimiser.", rich_help_panel=OPTIMISER)]
WithLookahead = Annotated[
    bool, typer.Option("--lookahead", help="Wrap it in Lookahead (6 steps, 1/2).", rich_help_panel=OPTIMISER)
]
WeightDecay = Annotated[float, typer.Option(help="Decoupled decay of weight matrices.", rich_help_panel=OPTIMISER)]
Schedule = Annotated[
    str,
    typer.Option(
        metavar="none|cosine|plateau",
        help="Learning rate: constant; half a cosine to zero over --epochs; or lowered where validation rests.",
        rich_help_panel=OPTIMISER,
    ),
]
PlateauEpochs = Annotated[
    int, typer.Option(help="Epochs without better validation before plateau lowers it.", rich_help_panel=OPTIMISER)
]
PlateauFactor = Annotated[float, typer.Option(help="What plateau multiplies it by.", rich_help_panel=OPTIMISER)]
GradientClip = Annotated[
    float | None,
    typer.Option(
        help="Largest norm of the gradient. [default: none, since clipping hides what stabilising mends]",
        rich_help_panel=OPTIMISER,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="32-true|bf16-mixed|16-mixed",
        help="Type of matrix products; 16-mixed on a GPU only.",
        rich_help_panel=OPTIMISER,
    ),
]
BpttSteps = Annotated[
    int | None,
    typer.Option(help="Steps of truncated back-propagation, for text.", rich_help_panel=OPTIMISER),
]
Dropout = Annotated[
    float, typer.Option(help="Probability that an output between layers is dropped.", rich_help_panel=REGULARISATION)
]
RateBand = Annotated[
    str | None,
    typer.Option(
        metavar="LOW:HIGH",
        help="Penalise firing rates outside of it, in spikes per unit and step. [default: no penalty]",
        rich_help_panel=REGULARISATION,
    ),
]
RateStrength = Annotated[float, typer.Option(help="Weight of that penalty.", rich_help_panel=REGULARISATION)]
Blend = Annotated[
    float, typer.Option(help="Probability of blending a sample with one of its class.", rich_help_panel=AUGMENTATION)
]
TimeScale = Annotated[
    float, typer.Option(help="Stretch time by up to 1 + this, or its inverse.", rich_help_panel=AUGMENTATION)
]
TimeShift = Annotated[int, typer.Option(help="Largest shift in time, in steps.", rich_help_panel=AUGMENTATION)]
ChannelShift = Annotated[int, typer.Option(help="Largest shift of channels.", rich_help_panel=AUGMENTATION)]
ChannelJitter = Annotated[
    float, typer.Option(help="Deviation of each event's channel, in channels.", rich_help_panel=AUGMENTATION)
]
EventDropout = Annotated[
    float, typer.Option(help="Probability that an event is left out.", rich_help_panel=AUGMENTATION)
]
TensorBoard = Annotated[
    bool,
    typer.Option("--tensorboard", help="Also write TensorBoard event files into each run.", rich_help_panel=OUTPUT),
]


def readout_tau_of(text: str | None, neuron: str) -> float | None:
    """Return the time constant that --readout-tau names, or the default for a kind of layer; ValueError for neither.

    >>> readout_tau_of(None, "alif"), readout_tau_of(None, "GRU"), readout_tau_of("none", "LIF")
    (10.0, None, None)
    """
    from lsc_snn.network import SPIKING

    if text is None:
        return 10.0 if neuron.upper() in SPIKING else None
    if text.strip() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--readout-tau: expected steps or none, got {text!r}; pass for example 10") from None


def rate_band_of(text: str | None) -> tuple[float, float] | None:
    """Return the two rates of --rate-band LOW:HIGH; ValueError for anything else.

    >>> rate_band_of("0.01:0.2")
    (0.01, 0.2)
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise ValueError(f"--rate-band: expected LOW:HIGH, got {text!r}; pass for example 0.01:0.2") from None
    return low, high


def augmentation_of(
    blend: float, time_scale: float, time_shift: int, channel_shift: int, channel_jitter: float, dropout: float
) -> Augmentation | None:
    """Return the augmentation that the flags ask for, None where all are off; raises as ``Augmentation`` does."""
    from lsc_snn.datasets.augment import Augmentation

    augmentation: Augmentation = Augmentation(
        blend=blend,
        time_scale=time_scale,
        time_shift=time_shift,
        channel_shift=channel_shift,
        channel_jitter=channel_jitter,
        dropout=dropout,
    )
    return augmentation or None
