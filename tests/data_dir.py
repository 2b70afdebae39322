"""Where recorded data for the tests lies; it is no part of the product, and tests that need it skip without it."""

import os
from pathlib import Path

import pytest


def data_dir(name: str) -> Path:
    """Return folder ``name`` of the data directory, LSC_SNN_DATA or one beside the repository; skip if absent."""
    beside = Path(__file__).resolve().parents[2].joinpath("shared", "data")
    folder = Path(os.environ.get("LSC_SNN_DATA", beside)) / name
    if not folder.is_dir():
        pytest.skip(f"no test data {name}: set LSC_SNN_DATA to the folder that holds it")
    return folder
