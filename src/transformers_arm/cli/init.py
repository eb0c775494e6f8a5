"""`transformers-arm init`: builds an untrained ARM of public checkpoints."""

import argparse
from pathlib import Path

from .shared import DTYPES

HELP = "build an untrained ARM from a Qwen2.5 checkpoint and a visual tokenizer; says what to download"
KEPT = "the folder is not there unless it was named, and the same command starts anew"
DESCRIPTION = """\
Build a ready-to-train ARM folder from a Qwen2.5 checkpoint and a visual tokenizer: weights, configuration,
tokenizer, processor, chat template and generation settings. Text rows are the checkpoint's, bit for bit; rows of shape
and image tokens are drawn anew. The memory it takes is one shard of 2 GB and Python's own.

arm-7b needs 18.6 GB of disk for what it writes, and to be downloaded:

  hf download Qwen/Qwen2.5-7B                         15.2 GB  the language model (--text)

and, for a visual tokenizer (--vq), which trainers/tokenizer.py trains:

  hf download google/siglip2-so400m-patch16-512        4.6 GB  its frozen vision tower, and text tower
  hf download Qwen/Qwen2.5-0.5B                        1.0 GB  the captioner it trains with

There are no public weights of such a tokenizer. To try it out, any Qwen2.5 goes with checkpoints/arm-tiny/vq_model:
leave arm-7b out."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = DESCRIPTION
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("preset", nargs="?", choices=["arm-7b"], help="refuse parts of other sizes than this model's")
    command.add_argument("--text", required=True, help="Qwen2.5 checkpoint: folder or Hub id")
    command.add_argument("--vq", required=True, help="visual tokenizer, an ArmVQModel: folder or Hub id")
    command.add_argument("--output", type=Path, required=True, help="folder to write, which must not be there yet")
    command.add_argument("--detokenizer", help="folder of a detokenizer to copy into it")
    command.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: the checkpoint's)")
    command.add_argument("--seed", type=int, default=0, help="of the new rows (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    from ..sizes.assembly import assemble

    names = ("text", "vq", "detokenizer", "preset", "dtype", "seed")
    print(assemble(arguments.output, **{name: getattr(arguments, name) for name in names}))
