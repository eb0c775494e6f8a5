"""`transformers-arm train STAGE`: trains a stage by a recipe; trainers/*.py are it for torchrun and accelerate."""

import argparse
import sys
from importlib import import_module

from ..extras import require
from .shared import Once
from .shell import Shell

HELP = "train a stage by a recipe: backbones, tokenizer, detokenizer, renderer, pretrain, sft or grpo"
KEPT = "the newest checkpoint in its output_dir stays, and the same command goes on from it"
STAGES = ("backbones", "tokenizer", "detokenizer", "renderer", "pretrain", "sft", "grpo")


def stages():
    """What knows the stages; it takes a while to import, and needs an extra."""
    require("Training", "train")
    return import_module("..training.stages", __package__)


class StageHelp(argparse.Action):
    """Prints what a stage's recipe may have."""

    def __call__(self, parser, namespace, values, option_string=None):
        described = stages().stage_help(parser.get_default("stage"))
        parser.print_usage()
        print()
        print(described)
        parser.exit()


def add_recipe(command: argparse.ArgumentParser, stage: str) -> None:
    """The arguments of a stage."""
    command.add_argument("-h", "--help", action=StageHelp, nargs=0, help="every field of its recipe, and leave")
    command.add_argument("--config", required=True, action=Once, metavar="NAME_OR_FILE", help="e.g. arm_tiny/pretrain")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    command.set_defaults(stage=stage)


def add_arguments(command: argparse.ArgumentParser) -> None:
    of_stages = command.add_subparsers(required=True, metavar="STAGE")
    for stage in STAGES:
        add_recipe(of_stages.add_parser(stage, add_help=False), stage)


def run(arguments: argparse.Namespace) -> None:
    stages().train_stage(arguments.stage, arguments.config, arguments.overrides)


def launch(stage: str) -> None:
    """The command line of a launcher in trainers/, whose stage is known."""
    parser = argparse.ArgumentParser(add_help=False)
    add_recipe(parser, stage)
    with Shell(parser.prog) as shell:
        arguments = parser.parse_args()
        shell.begin(KEPT)
        run(arguments)
    if shell.status:
        sys.exit(shell.status)
