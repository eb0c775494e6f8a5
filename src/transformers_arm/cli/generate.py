"""`transformers-arm generate`: draws pictures of prompts."""

import argparse

from .drawing import KEPT as KEPT
from .drawing import add_drawing, draw

HELP = "draw pictures of prompts"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_drawing(command, "prompt", '"a red circle left of a blue square"', "generated.png")


def run(arguments: argparse.Namespace) -> None:
    draw(arguments, "text-to-image", lambda prompts: (prompts,))
