"""Draw the picture of the README: ``python -m lsc_snn.experiments.figures``, into docs/ of the current folder."""

from __future__ import annotations

from pathlib import Path

from lsc_snn.experiments.files import write_bytes
from lsc_snn.plots import path_count_figure, to_png


def main(folder: str = "docs") -> None:
    """Write path_counts.png; the folder must exist."""
    write_bytes(Path(folder) / "path_counts.png", to_png(path_count_figure()))


if __name__ == "__main__":
    main()
