"""`transformers-arm demo`: what a world's model makes of held-out items, page by page, and its scores.

Knows nothing about the world.
"""

import argparse
import json
import time
from pathlib import Path

HELP = "pictures, edits, answers, a story, and the scores on held-out items"


def add_arguments(command: argparse.ArgumentParser) -> None:
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
    """Writes pages, token grids and scores into the output folder, and prints what it wrote.

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
    started = time.perf_counter()
    world, yours = find_world(arguments.world), own_sheet(checkpoint, arguments.images)
    output.mkdir(parents=True, exist_ok=True)
    for sheet in filter(None, (yours, *world.sheets(checkpoint, seed=EVALUATION_SEED))):
        sheet.picture.save(output / f"{sheet.name}.png")
        beside = ""
        if sheet.text:
            (output / f"{sheet.name}-tokens.txt").write_text(sheet.text)
            beside = f" ({output / sheet.name}-tokens.txt)"
        print(f"{output / sheet.name}.png: {sheet.what}{beside}")
    scores = world.scores(checkpoint, count=count, seed=EVALUATION_SEED)
    (output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(f"\nOn {count} held-out items a row:")
    for name, value in scores.items():
        print(f"  {name:<28} {value:8.3f}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")
