"""The flags that several commands of ``lsc-snn`` take, each with its unit and default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATA = "Data and network"
OUTPUT = "Output"

Data = Annotated[
    str,
    typer.Option(
        metavar="NAME|FOLDER",
        help="A data set that `lsc-snn data list` names (digits are embedded), or a folder with train.h5 and test.h5 "
        "in the layout of the Spiking Heidelberg Digits.",
        rich_help_panel=DATA,
    ),
]
BinMs = Annotated[
    float | None,
    typer.Option(help="Length of a time step in milliseconds, for recordings. [default: 4]", rich_help_panel=DATA),
]
Pool = Annotated[
    int | None,
    typer.Option(
        help="Neighbouring channels that become one, for recordings: 5 makes 140 of 700. [default: 1]",
        rich_help_panel=DATA,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of the datasets. [default: LSC_SNN_DATA, else lsc_snn/data in the user's cache folder]",
        rich_help_panel=DATA,
    ),
]
Download = Annotated[
    bool,
    typer.Option("--download", help="Fetch the files first where they are missing.", rich_help_panel=DATA),
]
Run = Annotated[
    Path | None,
    typer.Option(
        help="Take the network of this run of `lsc-snn train` (a run's folder, or a .safetensors file of `stabilize`) "
        "instead of a new one.",
        rich_help_panel=DATA,
    ),
]
Layers = Annotated[int, typer.Option(help="Number of layers.", rich_help_panel=DATA)]
Units = Annotated[int, typer.Option(help="Units of each layer.", rich_help_panel=DATA)]
Tau = Annotated[float | None, typer.Option(help="Membrane time constant in steps. [default: 10]", rich_help_panel=DATA)]
Threshold = Annotated[
    float | None,
    typer.Option(help="Firing threshold in units of the membrane potential. [default: 1]", rich_help_panel=DATA),
]
Beta = Annotated[
    float | None,
    typer.Option(
        help="Adaptation strength in units of the membrane potential; ALIF and LSNN only. [default: 1.8]",
        rich_help_panel=DATA,
    ),
]
Reset = Annotated[
    str | None,
    typer.Option(
        metavar="soft|hard|none",
        help="What a spike does to the potential: subtract the threshold, set it to zero, or nothing; spiking layers "
        "only. [default: soft]",
        rich_help_panel=DATA,
    ),
]
FeedForward = Annotated[
    bool, typer.Option("--feed-forward", help="Layers without recurrent weights.", rich_help_panel=DATA)
]
Seed = Annotated[int, typer.Option(help="Fixes the initial weights and the batch.", rich_help_panel=DATA)]
BatchSize = Annotated[int, typer.Option(help="Training samples to measure on.", rich_help_panel=DATA)]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads for torch. [default: as torch decides]", rich_help_panel=OUTPUT)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.", rich_help_panel=OUTPUT)
]
FigureFile = Annotated[
    Path | None,
    typer.Option("--figure", metavar="FILE.png", help="Draw a picture; it may replace a file.", rich_help_panel=OUTPUT),
]
