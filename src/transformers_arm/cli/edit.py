"""`transformers-arm edit`: edits a picture as instructions say."""

import argparse
import os

from .drawing import KEPT as KEPT
from .drawing import add_drawing, draw
from .shared import open_picture

HELP = "edit a picture as instructions say"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", type=os.path.expanduser, help="image file or address")
    add_drawing(command, "instruction", '"make the red circle blue"', "edited.png")
    help_of_mask = "image file of the same size, white where the picture may change"
    command.add_argument("--mask", type=os.path.expanduser, help=help_of_mask)
    command.add_argument("--image-guidance-scale", type=float, help="of the source (default: the folder's)")


def run(arguments: argparse.Namespace) -> None:
    """Edits; raises as `draw`, and as `open_picture` for the picture and the mask."""
    picture = open_picture(arguments.image)
    mask = None if arguments.mask is None else open_picture(arguments.mask)
    draw(
        arguments,
        "image-editing",
        lambda instructions: ([picture] * len(instructions), instructions, mask),
        image=arguments.image,
    )
