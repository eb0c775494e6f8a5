"""The models that ship: whatever lies in `checkpoints/`, so that what is added there is tested as it is."""

import json
from pathlib import Path

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
KINDS = {each.parent: json.loads(each.read_text())["model_type"] for each in sorted(CHECKPOINTS.glob("*/config.json"))}
SHIPPED = list(KINDS)
SHIPPED_ARMS = [folder for folder, kind in KINDS.items() if kind == "arm"]


def name_of(folder: Path) -> str:
    """For the ids of tests."""
    return folder.name
