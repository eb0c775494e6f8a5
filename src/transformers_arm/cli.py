"""The command line: `transformers-arm demo`."""

import argparse
import sys
from pathlib import Path

CHECKPOINT = Path("checkpoints/arm-tiny")


def demo(arguments: argparse.Namespace) -> None:
    from .demo import run_demo

    run_demo(arguments.checkpoint, arguments.output, arguments.images, count=arguments.scenes)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="transformers-arm", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="arm-tiny folder (default: %(default)s)")
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("demo", help="pictures to tokens and back, and the scores on held-out scenes")
    command.add_argument("--images", nargs="+", default=[], help="image files of yours to pass through the tokenizer")
    command.add_argument("--output", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    command.add_argument("--scenes", type=int, default=500, help="held-out scenes to score (default: %(default)s)")
    command.set_defaults(run=demo)

    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"transformers-arm: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
