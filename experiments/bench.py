"""``make bench``: how fast and how exact this library is, in medians and ratios of one run on one machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator

import torch

from lsc_snn.experiments import bench_loader, bench_radius, bench_stabilize, bench_training
from lsc_snn.experiments.bench_loader import FULL, Recordings, Training
from lsc_snn.experiments.bench_peers import Sizes
from lsc_snn.experiments.bench_stabilize import Large, Small
from lsc_snn.experiments.bench_table import Table, machine

QUICK_SIZES = Sizes(num_steps=5, batch=2, num_inputs=20, num_units=8, density=0.2)
SMALL = (Small(32, 1000), Small(64, 400))
QUICK_SMALL = (Small(num_units=6, num_inputs=10, num_steps=8, batch=2, max_sweeps=3),)
QUICK_RECORDINGS = Recordings(num_samples=8, num_spikes=40, seconds=0.1, batch=4, peer_samples=8)
QUICK_TRAINING = Training(QUICK_RECORDINGS, num_units=8)
QUICK_LARGE = Large(num_layers=2, num_units=8, num_inputs=20, num_steps=10, batch=2)


def sections(data: str | None, *, quick: bool, full: bool = False) -> dict[str, Callable[[], Table]]:
    """Return the benchmarks by the name of their table; ``quick`` ones are tiny and say nothing about speed.

    ``full`` loads a file of the full size of SHD.
    """
    sizes, rounds = (QUICK_SIZES, 2) if quick else (Sizes(), 9)
    small, large = (QUICK_SMALL, QUICK_LARGE) if quick else (SMALL, Large())
    cases = bench_radius.QUICK_CASES if quick else bench_radius.CASES
    neurons, targets = (("ALIF",), ("half",)) if quick else (("ALIF", "LIF", "LSNN"), ("one", "half", "balanced"))
    recordings, training = (QUICK_RECORDINGS, QUICK_TRAINING) if quick else (Recordings(), Training())
    threads = torch.get_num_threads()
    return {
        "radius": lambda: bench_radius.radius_table(cases, rounds=rounds),
        "training_step": lambda: bench_training.step_table(sizes, rounds=rounds),
        "event_product": lambda: bench_training.product_table(sizes, rounds=rounds),
        "procedures": lambda: bench_stabilize.procedures_table(small),
        "stabilize": lambda: bench_stabilize.large_table(
            large, data, neurons=neurons, targets=targets, threads=threads
        ),
        "loader": lambda: bench_loader.loader_table(FULL if full else recordings, threads=threads),
        "epoch": lambda: bench_loader.epoch_table(training),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks and print their tables; return 0.

    ``argv`` are the command-line arguments, those of the process if None. Raises what reading ``--data`` raises.
    """
    parser = argparse.ArgumentParser(prog="python -m lsc_snn.experiments.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--full", action="store_true", help="load a file of the full size of SHD, which takes minutes")
    parser.add_argument(
        "--data", metavar="FOLDER", help="recordings to stabilise on, train.h5 and test.h5 of the SHD layout"
    )
    parser.add_argument("--threads", type=int, help="threads of torch; by default its own choice")
    parser.add_argument(
        "--only", metavar="NAMES", help=f"some of {','.join(sections(None, quick=True))}, separated by commas"
    )
    options = parser.parse_args(argv)
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads: expected at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    chosen = sections(options.data, quick=options.quick, full=options.full)
    if options.only is not None:
        names = options.only.split(",")
        unknown = [name for name in names if name not in chosen]
        if unknown:
            parser.error(f"--only: expected some of {', '.join(chosen)}, got {unknown[0]!r}")
        chosen = {name: chosen[name] for name in names}
    about = machine()
    if options.json:
        tables = [table.to_dict() for table in _run(chosen)]
        print(json.dumps({"machine": about, "tables": tables}, indent=2, allow_nan=False))
        return 0
    print(", ".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    for table in _run(chosen):
        print(f"\n{table}", flush=True)
    return 0


def _run(chosen: dict[str, Callable[[], Table]]) -> Iterator[Table]:
    for name, benchmark in chosen.items():
        print(f"bench: {name} ...", file=sys.stderr, flush=True)
        yield benchmark()


if __name__ == "__main__":
    sys.exit(main())
