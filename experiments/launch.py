"""The processes and the device that a run computes on, by Lightning Fabric: what ``torchrun`` says, or one alone."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import distributed

T = TypeVar("T")


class EventPrecision(MixedPrecision):
    """Mixed precision that leaves events as they are: the first matrix product casts what it needs."""

    def convert_input(self, data: Any) -> Any:
        """Return the input."""
        return data


def launched_fabric(precision: str = "32-true") -> Fabric:
    """Return Fabric for one process on one device, or for all that ``torchrun`` started, launched.

    Raises ValueError for "16-mixed" without a GPU: some kernels of torch know no float16 on the CPU.
    """
    if precision == "16-mixed" and not torch.cuda.is_available():
        raise ValueError("precision: expected a GPU for '16-mixed', got none; choose bf16-mixed or 32-true")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", processes)) // processes
    # Not "auto", which would take Apple's GPU: it has no float64.
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    plugins: list[Any] = [] if precision == "32-true" else [EventPrecision(precision, accelerator)]  # type: ignore[arg-type]
    fabric = Fabric(accelerator=accelerator, devices=processes, num_nodes=nodes, plugins=plugins)
    first = not _in_group()
    fabric.launch()
    if first and _in_group():
        # Fabric does so for NCCL alone; a gloo group that is left to the interpreter may abort the process.
        atexit.register(_leave_group)
    return fabric


def on_main(fabric: Fabric, function: Callable[[], T]) -> T:
    """Call a function in the main process; every process returns its value or raises its error."""
    outcome: tuple[T | None, Exception | None] = None, None
    if fabric.is_global_zero:
        try:
            outcome = function(), None
        except Exception as error:
            outcome = None, error
    value, failure = fabric.broadcast(outcome)
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


def _in_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _leave_group() -> None:
    if _in_group():
        distributed.destroy_process_group()
