"""TensorBoard event files of a run, beside its metrics.csv."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lsc_snn.experiments.records import SCALARS, EpochMetrics


class TensorBoardLog:
    """Writes the metrics of each epoch to event files in ``folder``, in place of those of an earlier session.

    Raises ImportError, naming the extra, without the package tensorboard.
    """

    def __init__(self, folder: Path, history: Iterable[EpochMetrics] = ()) -> None:
        writer = summary_writer()
        for file in folder.glob("events.out.tfevents.*"):
            file.unlink()
        self._writer = writer(str(folder))
        for row in history:
            self.add(row)

    def add(self, row: EpochMetrics) -> None:
        """Write one epoch."""
        for name, value in scalars_of(row).items():
            self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def summary_writer() -> Any:
    """Return torch's SummaryWriter; ImportError, naming the extra, where it does not find tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        remedy = 'install it with: pip install "lsc-snn[tensorboard]"'
        raise ImportError(f"TensorBoard logs need the package tensorboard; {remedy}") from error
    return SummaryWriter


def scalars_of(row: EpochMetrics) -> dict[str, float]:
    """Return the numbers of an epoch by name; those of a layer as in ``gradient_max/layers.0``."""
    values = {name: getattr(row, name) for name in SCALARS}
    for field in ("gradient_mean", "gradient_max", "rates"):
        # The readout, the last layer, has no rate.
        values |= {f"{field}/{name}": value for name, value in zip(row.layers, getattr(row, field), strict=False)}
    return {name: value for name, value in values.items() if value is not None}
