"""Runs in processes of their own, which are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[0]),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
"""Of programs that import the small task."""

PROGRAM = """
import json, sys, torch
import run_cases
from lsc_snn.experiments.config import TrainConfig
from lsc_snn.experiments.train import train
torch.set_num_threads(1)
config = TrainConfig.from_dict(json.loads(sys.argv[1]))
train(config, getattr(run_cases, sys.argv[3])(), sys.argv[2], resume=True, on_epoch=lambda row: print(row.epoch))
"""


def program_of(config, folder, splits="make_splits"):
    """Return the command of a run in a folder, which it resumes."""
    return ["-c", PROGRAM, json.dumps(config.to_dict()), str(folder), splits]


def killed(config, folder, splits, seconds):
    """Start a run, send SIGKILL ``seconds`` after its folder has something new; return whether it was still running."""
    before = state_of(folder)
    process = subprocess.Popen([sys.executable, *program_of(config, folder, splits)], env=ENVIRONMENT)
    try:
        while process.poll() is None and state_of(folder) == before:
            time.sleep(0.002)
        time.sleep(seconds)
    finally:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def state_of(folder):
    """Return when each file of a folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} if folder.exists() else {}
