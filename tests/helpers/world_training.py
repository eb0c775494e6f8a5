"""A step of a stage on a world's data, by the command line of its trainer, and what its log says."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

TRAINERS = Path(__file__).parents[2] / "trainers"
ONE_STEP = {
    **{"seed": 0, "use_cpu": True, "max_steps": 1, "logging_steps": 1, "save_steps": 1, "report_to": "none"},
    **{"disable_tqdm": True, "learning_rate": 1e-3},
}


def run(trainer: str, recipe: dict, folder: Path) -> list[dict]:
    """Runs a trainer's command line; gives its log."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": str(folder / "run")}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [trainer, "--config", str(folder / "recipe.yaml")])
        runpy.run_path(str(TRAINERS / trainer), run_name="__main__")
    state = folder / "run" / "checkpoint-1" / "trainer_state.json"
    return json.loads(state.read_text())["log_history"]


def logged(log: list[dict], name: str) -> float:
    (value,) = (entry[name] for entry in log if name in entry)
    return value
