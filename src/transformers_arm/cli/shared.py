"""What several commands share: the model they run, how it samples, where they write."""

import argparse
from pathlib import Path

CHECKPOINT = Path("checkpoints/arm-tiny")


def sampling(arguments: argparse.Namespace) -> dict:
    """Arguments of the drawing pipelines: those given on the command line, and a generator of the seed."""
    import torch

    names = ("guidance_scale", "temperature", "height", "width")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return {**given, "generator": torch.Generator().manual_seed(arguments.seed)}


def add_sampling(command: argparse.ArgumentParser) -> None:
    """The options that `sampling` reads."""
    command.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    command.add_argument("--guidance-scale", type=float, help="of the text; 1 turns it off (default: the folder's)")
    command.add_argument("--temperature", type=float, help="of the sampling (default: the folder's)")
    for side in ("--height", "--width"):
        command.add_argument(side, type=int, help="size to draw at, in px (default: the folder's)")


def load_pipeline(task: str, arguments: argparse.Namespace):
    from transformers import pipeline

    return pipeline(task, model=arguments.checkpoint.as_posix(), dtype="float32")


def is_repo_id(checkpoint: Path) -> bool:
    """Whether it can only be meant as ORG/NAME on the Hub: the default is not, nor what lies in a folder of here."""
    from huggingface_hub.utils import validate_repo_id

    if checkpoint == CHECKPOINT or len(checkpoint.parts) != 2 or checkpoint.parent.exists():
        return False
    validate_repo_id(checkpoint.as_posix())
    return True


def check_output(file: Path) -> Path:
    """The file to write, known to be writable before anything is drawn."""
    if not file.parent.is_dir():
        raise ValueError(f"There is no folder {file.parent} to write {file.name} into; make it first.")
    if file.is_dir():
        raise ValueError(f"{file} is a folder; name a file.")
    if file.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{file} must end in .png, .jpg or .webp.")
    return file
