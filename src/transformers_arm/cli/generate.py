"""`transformers-arm generate`: draws a picture of a prompt."""

import argparse
from pathlib import Path

from .shared import add_sampling, check_output, load_pipeline, sampling

HELP = "draw a picture of a prompt"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_sampling(command)
    command.add_argument("prompt", help='e.g. "a red circle left of a blue square"')
    command.add_argument("--output", type=Path, default=Path("generated.png"), help="file (default: %(default)s)")
    command.add_argument("--count", type=int, default=1, help="pictures to draw (default: %(default)s)")
    command.set_defaults(from_hub=True)


def run(arguments: argparse.Namespace) -> None:
    output = check_output(arguments.output)
    draw = load_pipeline("text-to-image", arguments)
    pictures = draw(arguments.prompt, num_images_per_prompt=arguments.count, **sampling(arguments))
    pictures = pictures if arguments.count > 1 else [pictures]
    for number, picture in enumerate(pictures, 1):
        file = output if len(pictures) == 1 else output.with_stem(f"{output.stem}-{number}")
        picture.save(file)
        print(file)
