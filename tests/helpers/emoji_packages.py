"""Packages of emoji, cut down to 31 pictures of the fluent style and their names in two languages; MIT-licensed."""

import json
import shutil
from pathlib import Path

PACKAGES = Path(__file__).parents[1] / "worlds" / "emoji" / "packages"
FLUENT = "iconify-json-fluent-emoji-flat-1.2.6"
NAMES = "emojibase-data-17.0.0"


def own_packages(folder: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(PACKAGES, folder / "packages")


def entries(language: str = "en") -> list[dict]:
    return json.loads((PACKAGES / NAMES / language / "data.json").read_text(encoding="utf-8"))


def change(file: Path, **changes: dict) -> None:
    """Updates mappings of a JSON file by name; None deletes a key."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for name, entries in changes.items():
        content[name] = {key: value for key, value in {**content[name], **entries}.items() if value is not None}
    file.write_text(json.dumps(content), encoding="utf-8")
