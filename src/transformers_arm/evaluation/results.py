"""Results of benchmarks as JSON files: what was measured, by which command, when and on what.

Knows nothing about what is measured.
"""

import json
import os
import platform
import shlex
import sys
from datetime import date
from pathlib import Path

import torch

from ..whole_files import write_whole

EVALUATION_SEED = 20261123  # of the held-out items that published figures are of


def hardware() -> str:
    """What a figure was measured on, for results and cards: the GPU, or else the CPU's cores and torch."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"


def write_result(file: str | Path, /, **fields) -> None:
    """Writes a benchmark's result as JSON: the command that ran, date, hardware, and `fields`."""
    command = f"python {shlex.join(sys.argv)}"
    result = {"command": command, "date": date.today().isoformat(), "hardware": hardware(), **fields}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(result, indent=2, default=str) + "\n")
