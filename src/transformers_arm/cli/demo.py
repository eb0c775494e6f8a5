"""`transformers-arm demo`: what a world's model makes of held-out items, page by page, and its scores.

Knows nothing about the world.
"""

import argparse
import json
import time
from itertools import chain
from pathlib import Path

from ..whole_files import whole_file, write_whole
from .shared import CHECKPOINT, add_checkpoint, check_picture

HELP = "pictures, edits, answers, and the scores on held-out items"
KEPT = "what was named is whole, and so is scores.json, with what was scored so far"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_checkpoint(command, help=f"ARM folder (default: {CHECKPOINT})")
    command.add_argument("--world", default="shapes", help="whose items, by name (default: %(default)s)")
    command.add_argument("--images", nargs="+", default=[], help="image files of yours to pass through the tokenizer")
    command.add_argument("--output", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    command.add_argument("--items", type=int, default=200, help="held-out items to score a row (default: %(default)s)")


def own_sheet(checkpoint: Path, files: list[str]):
    """The page of a user's pictures, at the area the tokenizer was trained at, proportions kept; None without any."""
    import numpy as np

    from ..data.world import Sheet
    from ..evaluation.sheets import token_sheet
    from ..evaluation.tokenizer import Tokenizer

    if not files:
        return None
    tokenizer = Tokenizer.from_pretrained(checkpoint)
    prepared = tokenizer.image_processor(list(files), keep_aspect_ratio=True)["pixel_values"]
    names = [f"{number}. {Path(file).name}" for number, file in enumerate(files, 1)]
    images = [np.asarray(tokenizer.image_processor.postprocess([pixels])[0]) for pixels in prepared]
    what = "yours, reconstructions, token grids"
    return Sheet("yours", what, *token_sheet(tokenizer, dict(zip(names, images, strict=True))))


def run(arguments: argparse.Namespace) -> None:
    """Writes pages, token grids and scores into the output folder as they come, and prints what it wrote; where the
    world cannot score for want of something, what that is.

    Raises:
        ValueError, OSError, MissingExtra: an image file that is missing or none, no items to score, or nothing to
            score them with; nothing is written then.
    """
    from ..data.world import find_world
    from ..evaluation.results import EVALUATION_SEED
    from ..extras import require

    checkpoint, output, count = arguments.checkpoint, arguments.output, arguments.items
    if count < 1:
        raise ValueError(f"{count} items cannot be scored; score at least 1 a row.")
    require("The demo's scores", "metrics", "skimage")
    for file in arguments.images:
        check_picture(file)
    started = time.perf_counter()
    world, yours = find_world(arguments.world), own_sheet(checkpoint, arguments.images)
    for sheet in chain(filter(None, [yours]), world.sheets(checkpoint, seed=EVALUATION_SEED)):
        output.mkdir(parents=True, exist_ok=True)
        with whole_file(output / f"{sheet.name}.png") as aside:
            sheet.picture.save(aside)
        beside = ""
        if sheet.text:
            write_whole(output / f"{sheet.name}-tokens.txt", sheet.text)
            beside = f" ({output / sheet.name}-tokens.txt)"
        print(f"{output / sheet.name}.png: {sheet.what}{beside}", flush=True)
    if missing := world.missing():
        print(f"\nNo scores: {missing}")
    else:
        score(world, checkpoint, output, count)
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")


def score(world, checkpoint: Path, output: Path, count: int) -> None:
    """Prints a world's scores as they come, and keeps them in the output folder."""
    from ..evaluation.results import EVALUATION_SEED

    print(f"\nOn {count} held-out items a row:", flush=True)
    scores = {}
    for some in world.scores_as_they_come(checkpoint, count=count, seed=EVALUATION_SEED):
        scores |= some
        write_whole(output / "scores.json", json.dumps(scores, indent=2) + "\n")
        print("\n".join(f"  {name:<28} {value:8.3f}" for name, value in some.items()), flush=True)
