"""`transformers-arm edit`: edits a picture as an instruction says."""

import argparse
from pathlib import Path

from ..whole_files import whole_file
from .shared import (
    add_model,
    add_previews,
    add_sampling,
    check_output,
    check_picture,
    load_pipeline,
    previews,
    sampling,
)

HELP = "edit a picture as an instruction says"
KEPT = "a picture that was named is whole"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_sampling(command)
    command.add_argument("image", help="image file or address")
    command.add_argument("instruction", help='e.g. "make the red circle blue"')
    command.add_argument("--mask", help="image file of the same size, white where the picture may change")
    command.add_argument("--output", type=Path, default=Path("edited.png"), help="file (default: %(default)s)")
    command.add_argument("--image-guidance-scale", type=float, help="of the source (default: the folder's)")
    add_previews(command)
    add_model(command)


def run(arguments: argparse.Namespace) -> None:
    output = check_output(arguments.output)
    for name in filter(None, (arguments.image, arguments.mask)):
        check_picture(name)
    given = {**sampling(arguments), **previews(arguments, [output])}
    pipe = load_pipeline("image-editing", arguments)
    edited = pipe(arguments.image, arguments.instruction, arguments.mask, **given)
    with whole_file(output) as aside:
        edited.save(aside)
    print(output)
