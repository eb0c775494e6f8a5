"""`transformers-arm app`: a page to draw, edit, ask and tell stories with a model, in a browser."""

import argparse

from ..extras import require
from .shared import add_served, bind, load_pipeline, name_of

HELP = "show a page to draw, edit, ask and tell stories in a browser"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_served(command, port=7860)


def run(arguments: argparse.Namespace) -> None:
    """Serves the page until the process is interrupted.

    Raises:
        MissingExtra: the extra `app` is not installed.
        ValueError, OSError: an address where nobody can listen, no model, or examples that are none.
    """
    require("transformers-arm app", "app")
    bound = bind(arguments)
    from ..serving.arm_engine import ArmEngine
    from ..serving.page.blocks import serve_page
    from ..serving.page.examples import examples_of

    name = name_of(arguments.checkpoint)
    draw = load_pipeline("text-to-image", arguments)
    examples = examples_of(arguments.checkpoint.as_posix(), arguments.revision)
    engine = ArmEngine(draw, name=name, examples=examples)
    serve_page(engine, bound, lambda url: print(f"{name} is at {url}", flush=True))
