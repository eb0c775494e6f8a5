"""Results of benchmarks as JSON files: what was measured, by which command, when and on what.

Knows nothing about what is measured.
"""

import json
import os
import platform
import re
import shlex
import sys
from datetime import date
from pathlib import Path

import torch

from ..whole_files import write_whole

EVALUATION_SEED = 20261123  # of the held-out items that published figures are of
ABSOLUTE = re.compile(r"(?<![\w.:/~])/[^\s'\"=:,;|()<>]+")  # no part of an address, a relative path or a fraction


def hardware() -> str:
    """What a figure was measured on, for results and cards: the GPU, or else the CPU's cores and torch."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"


def minutes_trained(run: str | Path) -> int:
    """Wall-clock minutes of a training, all calls of its trainer together, by its logs in a folder; 0 without any."""
    # Each call left one event file, whose name holds the second it began in.
    events = Path(run).rglob("events.out.tfevents.*")
    return round(sum(file.stat().st_mtime - int(file.name.split(".")[3]) for file in events) / 60)


def by_chance(share: float, items: int, of_items: int) -> float:
    """How far two scores about a share in 0..1, of so many items each, may lie apart: four standard errors."""
    share = min(max(share, 1 / items), 1 - 1 / items)  # a score of 1 has an error, too
    return 4 * (share * (1 - share) * (1 / items + 1 / of_items)) ** 0.5


def publishable(value):
    """The same without where things lie on this machine: paths are told from the working directory, which is the
    repository for what is published, and those outside it by their last two names, so that trainings stay apart.

    Args:
        value: whatever JSON holds, or a path; strings, such as the end of a log, may have paths within.
    """
    if isinstance(value, dict):
        names = [publishable(key) for key in value]
        names = names if len({*names}) == len(names) else list(value)  # nothing is lost where two would be one
        return dict(zip(names, map(publishable, value.values()), strict=True))
    if isinstance(value, list | tuple):
        return [publishable(each) for each in value]
    if isinstance(value, Path):
        return shortened(value) if value.is_absolute() else str(value)
    return ABSOLUTE.sub(lambda found: shortened(Path(found[0])), value) if isinstance(value, str) else value


def shortened(path: Path) -> str:
    """An absolute path as it is published; unchanged where the machine has no such top folder, as of a word /think."""
    if not Path(*path.parts[:2]).exists():
        return str(path)
    for each in (path, path.resolve()):
        if each.is_relative_to(Path.cwd()):
            return str(each.relative_to(Path.cwd()))
    below = path.relative_to(Path.home() if path.is_relative_to(Path.home()) else path.anchor)
    return str(Path(*below.parts[-2:]))


def write_result(file: str | Path, /, **fields) -> None:
    """Writes a benchmark's result as JSON: the command that ran, date, hardware, and `fields`, all `publishable`."""
    command = shlex.join(publishable(Path(each) if Path(each).is_absolute() else each) for each in sys.argv)
    result = {"command": f"python {command}", "date": date.today().isoformat(), "hardware": hardware(), **fields}
    result = publishable(result)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(result, indent=2, default=str) + "\n")
