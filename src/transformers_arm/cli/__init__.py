"""The `transformers-arm` command: a file a subcommand, each with `HELP`, `add_arguments` and `run`, and with `KEPT`
where something remains of what was interrupted.

What `run` needs is imported there, so that help comes at once.
"""

import argparse
from importlib import import_module, metadata
from pathlib import Path

from . import (
    app,
    ask,
    card,
    chat,
    demo,
    edit,
    env,
    generate,
    init,
    memory,
    parameters,
    push,
    serve,
    tokenize,
    train,
)
from .env import PACKAGE
from .shared import CHECKPOINT, Once, check_checkpoint
from .shell import STATUSES, Shell

COMMANDS = (generate, edit, ask, chat, serve, app, tokenize, train, demo, memory, parameters, env, init, card, push)


class Version(argparse.Action):
    """Prints the installed version."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(f"{parser.prog} {metadata.version(PACKAGE)}")
        parser.exit()


def new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PACKAGE, description="Draw, edit, ask; train, measure, publish.", epilog=STATUSES
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version, and leave")
    help_of_checkpoint = (
        f"ARM folder; generate, edit, ask and chat also take ORG/NAME on the Hub (default: {CHECKPOINT})"
    )
    options = {"dest": "before", "metavar": "CHECKPOINT", "type": Path, "action": Once}
    parser.add_argument("--checkpoint", **options, help=help_of_checkpoint)
    commands = parser.add_subparsers(required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[-1]
        command = commands.add_parser(name, help=module.HELP)
        command.set_defaults(run=module.run, command=name, kept=getattr(module, "KEPT", None))
        module.add_arguments(command)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command, and returns its exit status; argparse leaves by itself after help and wrong usage."""
    with Shell(PACKAGE) as shell:
        parser = new_parser()
        arguments = parser.parse_args(argv)
        check_checkpoint(parser, arguments)
        import_module("..registering", __package__).register()  # now that there is something to run
        shell.begin(arguments.kept)
        arguments.run(arguments)
    return shell.status
