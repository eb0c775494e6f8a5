"""The `transformers-arm` command: a file a subcommand, each with `HELP`, `add_arguments` and `run`."""

import argparse
import sys
from importlib import import_module, metadata
from pathlib import Path

from ..extras import MissingExtra
from . import ask, card, demo, edit, env, generate, init, memory, parameters, push, tokenize, train
from .env import PACKAGE
from .shared import CHECKPOINT, is_repo_id

COMMANDS = (generate, edit, ask, tokenize, train, demo, memory, parameters, env, init, card, push)


class Version(argparse.Action):
    """Prints the installed version."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(f"{parser.prog} {metadata.version(PACKAGE)}")
        parser.exit()


def new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PACKAGE, description="Draw, edit, ask; train, measure, publish.")
    help_of_checkpoint = "ARM folder; generate, edit and ask also take ORG/NAME on the Hub (default: %(default)s)"
    parser.add_argument("--version", action=Version, nargs=0, help="print the version, and leave")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help=help_of_checkpoint)
    commands = parser.add_subparsers(required=True)
    for module in COMMANDS:
        command = commands.add_parser(module.__name__.rpartition(".")[-1], help=module.HELP)
        command.set_defaults(run=module.run)
        module.add_arguments(command)
    return parser


def main(argv: list[str] | None = None) -> int:
    try:
        arguments = new_parser().parse_args(argv)
        checkpoint = arguments.checkpoint
        if checkpoint and not (checkpoint / "config.json").is_file():
            if not ("from_hub" in arguments and is_repo_id(checkpoint)):
                raise ValueError(f"{checkpoint} holds no config.json; name an ARM folder with --checkpoint.")
        import_module("..registering", __package__).register()  # now that there is something to run
        arguments.run(arguments)
    except (ValueError, TypeError, OSError, MissingExtra) as error:
        print(f"transformers-arm: {error}", file=sys.stderr)
        return 1
    return 0
