"""Short trainings by a recipe, each with some of its fields replaced: prepared, trained in turn, and not repeated.

Knows nothing about what is tried and how it is scored.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Trial(NamedTuple):
    """A run of `trainers/<stage>.py` with a recipe, of which `fields` (`name=value`) replace some; `made` is what it
    leaves in its folder.
    """

    stage: str
    recipe: str
    folder: Path
    fields: Sequence[str]
    made: str

    def prepare(self) -> None:
        """Notes the fields in the folder.

        Raises:
            ValueError: the folder holds a run with other fields.
        """
        note = self.folder / "fields.json"
        if note.is_file() and (found := json.loads(note.read_text())) != list(self.fields):
            raise ValueError(f"{self.folder} holds a run with {' '.join(found)}; name another folder with --runs.")
        self.folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(list(self.fields)))

    def train(self) -> None:
        """Trains unless that was done, in a process of one thread; its log is in `training.log`.

        Raises:
            RuntimeError: the training failed.
        """
        if (self.folder / self.made).is_dir():
            return
        trainer = ROOT / "trainers" / f"{self.stage}.py"
        command = [sys.executable, str(trainer), "--config", self.recipe, f"output_dir={self.folder}", *self.fields]
        with open(self.folder / "training.log", "w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"The training in {self.folder} failed; see {self.folder / 'training.log'}.")


def train_all(trials: Mapping[object, Trial], jobs: int) -> None:
    """Prepares all, and then trains `jobs` at a time. Raises as `Trial` does."""
    for trial in trials.values():
        trial.prepare()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(Trial.train, trials.values()))


def shown(values: Sequence[float]) -> str:
    """The mean over seeds, and of several their standard deviation."""
    return f"{mean(values):.3f} +- {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
