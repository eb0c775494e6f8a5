"""`transformers-arm edit`: edits a picture as an instruction says."""

import argparse
from pathlib import Path

from .shared import add_sampling, check_output, load_pipeline, sampling

HELP = "edit a picture as an instruction says"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_sampling(command)
    command.add_argument("image", help="image file or address")
    command.add_argument("instruction", help='e.g. "make the red circle blue"')
    command.add_argument("--mask", help="image file of the same size, white where the picture may change")
    command.add_argument("--output", type=Path, default=Path("edited.png"), help="file (default: %(default)s)")
    command.add_argument("--image-guidance-scale", type=float, help="of the source (default: the folder's)")
    command.set_defaults(from_hub=True)


def run(arguments: argparse.Namespace) -> None:
    output = check_output(arguments.output)
    given = sampling(arguments)
    if arguments.image_guidance_scale is not None:
        given["image_guidance_scale"] = arguments.image_guidance_scale
    pipe = load_pipeline("image-editing", arguments)
    pipe(arguments.image, arguments.instruction, arguments.mask, **given).save(output)
    print(output)
