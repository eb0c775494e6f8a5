"""`transformers-arm generate`: draws a picture of a prompt."""

import argparse
from pathlib import Path

from ..whole_files import whole_file
from .shared import add_model, add_previews, add_sampling, check_output, load_pipeline, previews, sampling

HELP = "draw a picture of a prompt"
KEPT = "pictures that were named are whole"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_sampling(command)
    command.add_argument("prompt", help='e.g. "a red circle left of a blue square"')
    command.add_argument("--output", type=Path, default=Path("generated.png"), help="file (default: %(default)s)")
    help_of_count = "pictures to draw, numbered, with seeds that follow each other (default: %(default)s)"
    command.add_argument("--count", type=int, default=1, help=help_of_count)
    command.add_argument("--batch-size", type=int, default=1, help="pictures drawn together (default: %(default)s)")
    add_previews(command)
    add_model(command)


def run(arguments: argparse.Namespace) -> None:
    """Draws, and saves each picture as it comes.

    Raises:
        ValueError, OSError: no pictures to draw, nowhere to write them, or no model; nothing is written then.
    """
    output, count = check_output(arguments.output), arguments.count
    if count < 1:
        raise ValueError(f"--count {count} is no number of pictures; draw 1 or more.")
    from ..prompts_arm import checked_batch_size

    prompts, options = iter([arguments.prompt] * count), sampling(arguments, pictures=count)
    files = [output if count == 1 else output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]
    options |= previews(arguments, files)
    options["batch_size"] = checked_batch_size(arguments.batch_size)
    draw = load_pipeline("text-to-image", arguments)
    for file, picture in zip(files, draw(prompts, **options), strict=True):
        with whole_file(file) as aside:
            picture.save(aside)
        print(file, flush=True)
