"""Draw the pictures of the documentation: ``python -m lsc_snn.experiments.figures``, into docs/ of the current folder.

The path counts take a second; the initialisations about ten minutes on one core, and their numbers are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from lsc_snn._initialisations_figure import initialisations_figure
from lsc_snn.experiments import initialisations
from lsc_snn.experiments.files import write_bytes
from lsc_snn.plots import path_count_figure, to_png

_LABELS = {"Glorot": "Glorot, tanh at 0", "He": "He, ReLU", "orthogonal": "orthogonal, linear"}


def initialisations_png() -> bytes:
    """Measure the initialisations of ``lsc_snn.experiments.initialisations``, print the numbers, and draw them."""
    radii, theory, widths = {}, {}, initialisations.WIDTHS
    for name, label in _LABELS.items():
        # All orthogonal matrices are alike, and the widest take long to draw.
        curve = initialisations.radius_against_width(name, widths, num_seeds=2 if name == "orthogonal" else 8)
        radii[label] = curve
        values = ", ".join(f"{n:g}: {m:.4f} ± {s:.4f}" for n, m, s in zip(*curve[:3], strict=True))
        print(f"{label}, radius by width: {values}", flush=True)
        expected = initialisations.expected_radii(name, widths)
        if expected is not None:
            theory[label] = expected
            fit = initialisations.convergence_rate(curve)
            print(f"  |radius - 1| ~ width^({fit.slope:.2f} ± {fit.error:.2f})", flush=True)
    profiles = {}
    for activation in initialisations.ACTIVATIONS:
        profiles[activation] = initialisations.deep_profiles(activation)
        for arm, (radius, gradient) in profiles[activation].items():
            print(
                f"{activation}, {arm}: radii {radius.mean.min():.3f} to {radius.mean.max():.3f}, "
                f"log10 of first by last gradient {gradient.mean[0]:.2f} ± {gradient.std[0]:.2f}",
                flush=True,
            )
    return to_png(initialisations_figure(radii, theory, profiles))


FIGURES: dict[str, Callable[[], bytes]] = {
    "path_counts": lambda: to_png(path_count_figure()),
    "initialisations": initialisations_png,
}
"""What makes each PNG file, by its name."""


def main(argv: list[str] | None = None) -> int:
    """Write a PNG file for each figure, and return 0; ``argv`` are the arguments, those of the process if None."""
    parser = argparse.ArgumentParser(prog="python -m lsc_snn.experiments.figures", description=__doc__)
    parser.add_argument("--folder", default="docs", help="where the files go; it must exist")
    parser.add_argument("--only", choices=FIGURES, help="one figure instead of all")
    parser.add_argument("--threads", type=int, help="threads of torch; by default its own choice")
    options = parser.parse_args(argv)
    folder = Path(options.folder)
    if not folder.is_dir():
        parser.error(f"--folder: expected a folder, got {options.folder!r}; make it first")
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads: expected at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    for name, draw in FIGURES.items():
        if options.only in (None, name):
            write_bytes(folder / f"{name}.png", draw())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
