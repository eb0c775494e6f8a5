"""`transformers-arm tokenize`: turns a dataset of pictures into one of codes."""

import argparse
from pathlib import Path

from .shared import CHECKPOINT, add_checkpoint

HELP = "turn a dataset of pictures into one of codes, to train from"
KEPT = "what is written stays, and the same command goes on"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("dataset", help="folder, Hub id, or parquet or tar files; its columns: docs/data.md")
    command.add_argument("--output", type=Path, required=True, help="folder to write, or to go on with")
    help_of_checkpoint = f"folder of an ARM or of a tokenizer (default: {CHECKPOINT})"
    add_checkpoint(command, "--vq", help=help_of_checkpoint, kinds=("arm", "arm_vq"))
    command.add_argument("--config", help="which configuration of a Hub dataset")
    command.add_argument("--split", default="train", help="(default: %(default)s)")
    command.add_argument(
        "--rename",
        nargs="+",
        metavar="THEIRS=OURS",
        help="columns, e.g. jpg=image json.caption=prompt (default: for tars, jpg, png, webp=image txt=prompt)",
    )
    command.add_argument("--task", help="of rows that state none: text_to_image, editing, image_to_text or text")
    command.add_argument(
        "--local-files",
        action="store_true",
        help="open pictures of this machine that rows of parquet files and tars name (default: addresses alone)",
    )
    command.add_argument("--workers", type=int, help="processes (default: one a core, at most 8)")
    command.add_argument("--rows-per-file", type=int, default=5000, help="input rows (default: %(default)s)")
    command.add_argument("--batch-size", type=int, default=32, help="pictures at once (default: %(default)s)")
    command.add_argument("--max-skipped", type=float, default=0.1, help="share of rows (default: %(default)s)")
    command.add_argument("--device", help="(default: cuda where there is one, else cpu)")
    command.add_argument("--dtype", default="float32", help="of the tokenizer: as in training (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    from ..data.pretokenize import pretokenize, summary

    renamed = [pair.partition("=") for pair in arguments.rename or ()]
    if wrong := [name for name, _, column in renamed if not column]:
        raise ValueError(f"--rename {' '.join(wrong)} must say their name and ours, as in --rename jpg=image.")
    report = pretokenize(
        arguments.dataset,
        arguments.output,
        arguments.checkpoint,
        config=arguments.config,
        split=arguments.split,
        rename={name: column for name, _, column in renamed} or None,
        task=arguments.task,
        local_files=arguments.local_files,
        workers=arguments.workers,
        rows_per_file=arguments.rows_per_file,
        batch_size=arguments.batch_size,
        max_skipped=arguments.max_skipped,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    print(summary(report))
    print(arguments.output)
