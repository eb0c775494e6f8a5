"""`transformers-arm parameters`: how many parameters each part has."""

import argparse

HELP = "parameters of the tokenizer in training, of arm-7b and of renderers, by part, and the renderers' memory"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """It has none."""


def run(arguments: argparse.Namespace) -> None:
    from ..sizes.parameters import paper_tables

    print(paper_tables())
