"""`transformers-arm serve`: an OpenAI-compatible server of pictures and answers."""

import argparse
import os

from ..extras import require
from .shared import add_served, bind, load_pipeline, name_of

HELP = "answer OpenAI's image and chat requests over HTTP"
API_KEY = "TRANSFORMERS_ARM_API_KEY"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_served(command, port=8000)
    command.add_argument("--name", help="of the model, in requests (default: the folder's name, or ORG/NAME)")
    help_of_key = f"that requests must have; may be given again (default: {API_KEY} of the environment, or none)"
    command.add_argument("--api-key", action="append", metavar="KEY", help=help_of_key)
    command.add_argument("--max-batch", type=int, default=8, help="pictures drawn together (default: %(default)s)")
    command.add_argument("--queue", type=int, default=64, help="requests that may wait (default: %(default)s)")
    help_of_urls = "open pictures at public http(s) addresses that requests name (default: data URLs alone)"
    command.add_argument("--image-urls", action="store_true", help=help_of_urls)
    command.add_argument("--max-body", type=int, metavar="BYTES", default=2**25, help="(default: %(default)s)")
    help_of_pixels = "of all pictures of a request (default: %(default)s)"
    command.add_argument("--max-pixels", type=int, metavar="PIXELS", default=2**25, help=help_of_pixels)
    help_of_seconds = "that a request may take, waiting included (default: %(default)s)"
    command.add_argument("--timeout", type=float, metavar="SECONDS", default=600.0, help=help_of_seconds)


def run(arguments: argparse.Namespace) -> None:
    """Serves until the process is interrupted.

    Raises:
        MissingExtra: the extra `serve` is not installed.
        ValueError, OSError: bounds below 1, a key that is none, an address where nobody can listen, or no model.
    """
    require("transformers-arm serve", "serve")
    for name in ("max_batch", "queue", "max_body", "max_pixels", "timeout"):
        if not (value := getattr(arguments, name)) >= 1:  # nor NaN
            raise ValueError(f"--{name.replace('_', '-')} {value} must be 1 or more.")
    keys = arguments.api_key or [key for key in [os.environ.get(API_KEY)] if key]
    if not all(key.isascii() and key.isprintable() and key.strip() == key != "" for key in keys):
        raise ValueError("An API key is printable ASCII, without spaces around it, and not empty.")
    from ..serving.app import serve
    from ..serving.arm_engine import ArmEngine
    from ..serving.limits import Limits

    bound, name = bind(arguments), arguments.name or name_of(arguments.checkpoint)
    draw = load_pipeline("text-to-image", arguments)
    engine = ArmEngine(draw, name=name, queue=arguments.queue, max_batch=arguments.max_batch)
    limits = Limits(
        api_keys=tuple(keys),
        image_urls=arguments.image_urls,
        max_body=arguments.max_body,
        max_pixels=arguments.max_pixels,
        max_requests=max(Limits.max_requests, 2 * arguments.queue),
        seconds=arguments.timeout,
    )
    serve(engine, limits, bound, lambda url: print(f"{name} answers at {url}/v1", flush=True))
