"""Model cards: what a network file is of, as JSON beside it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from lsc_snn.experiments.checkpoint import read_checkpoint
from lsc_snn.experiments.files import read_json
from lsc_snn.experiments.records import plain_dict, read_result
from lsc_snn.network import Network

FORMAT = "lsc_snn model card 1"


def card_path(file: Path) -> Path:
    """Return where the card of a file is.

    >>> card_path(Path("network.nir")).name
    'network.nir.card.json'
    """
    return file.with_name(f"{file.name}.card.json")


def model_card(
    run: str | Path, network: Network, *, data: str | None = None, licence: str | None = None
) -> dict[str, Any]:
    """Return the card of a network of a run's folder or a checkpoint file, ready for JSON.

    "radii" has those "before" anything was done and "after" stabilising or initialising, as far as the run recorded
    them, each as ``RadiusReport.to_dict``; "data" the sizes and checksums of what it was trained on; "metrics" loss,
    accuracy and firing rates on validation and test samples. What is not known is None. ``data`` is the name of the
    data and ``licence`` that of the weights, as their owner states them.

    Raises ValueError for a broken file of the run.
    """
    run = Path(run)
    info: dict[str, Any] = {}
    metrics = identity = training = after = None
    if run.is_dir() and (run / "results.json").is_file():
        result = read_result(run)
        values = result.to_dict()
        names = ("status", "epochs", "best_epoch", "initial", "validation", "test", "known", "unseen", "best_on_test")
        metrics = {name: values[name] for name in names}
        identity, training, after = values["data"], values["config"], values["radii"]
    elif run.is_file():
        checkpoint = read_checkpoint(run)
        info, training = checkpoint.info, checkpoint.config.to_dict()
    beside = run / "stabilize.json"
    stabilised = read_json(beside) if beside.is_file() else info.get("stabilize", {})
    before = stabilised.get("before")
    if before is None and training is not None and training["target"] is None and training["initialisation"] is None:
        before, after = after, None  # nothing was done: what was measured before training is all there is
    return plain_dict(
        {
            "format": FORMAT,
            "network": {
                **dataclasses.asdict(network.config),
                "parameters": sum(parameter.numel() for parameter in network.parameters()),
            },
            "radii": {"before": before, "after": after or stabilised.get("after"), "target": stabilised.get("target")},
            "data": {"name": data, "parts": identity},
            "metrics": metrics,
            "training": training,
            "code": {
                "name": "lsc-snn",
                "version": importlib.metadata.version("lsc-snn"),
                "licence": "MIT",
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "licence": licence,
        }
    )


def read_card(file: Path) -> dict[str, Any] | None:
    """Return the card beside a file, or None; ValueError for one that is broken or of another format."""
    path = card_path(file)
    if not path.is_file():
        return None
    card: Any = read_json(path)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a model card of format {FORMAT!r}, got another file; remove it")
    return card
