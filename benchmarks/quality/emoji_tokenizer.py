"""Prints what a tokenizer keeps of emoji: those it gives back, found again among all, and what their codes share.

    python benchmarks/quality/emoji_tokenizer.py --tokenizer my_tokenizer --detokenizer my_detokenizer
    python benchmarks/quality/emoji_tokenizer.py --pretraining runs/arm-emoji/tokenizer/pretraining --output FILE

`--pretraining` takes what a training writes at its end, or a checkpoint on the way; its own pixel transformer renders
the pictures, in one step where it regresses. For each split, and for people and objects apart: PSNR, and the share of
pictures whose nearest original is the right one, is of the right concept, tone, gender, style; with 95 % bootstrap
intervals over concepts. `--output` gets JSON. Before it: make emoji-data
"""

import argparse
import sys
from pathlib import Path

from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.worlds.emoji.pictures import read_pictures
from transformers_arm.worlds.emoji.scores import SCORED, Originals
from transformers_arm.worlds.emoji.tokenizer_scores import Cells, as_json, tokenizer_scores, weakest

COLUMNS = ("psnr", "right", *SCORED)


def load(options: argparse.Namespace) -> Tokenizer:
    """The tokenizer that the options name.

    Raises:
        ValueError, OSError: there is none.
    """
    if not options.pretraining:
        return Tokenizer.from_parts(options.tokenizer, options.detokenizer)
    return Tokenizer.from_training(options.pretraining, steps=options.steps)


def table(cells: Cells) -> str:
    lines = [f"| | pictures | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 2)]
    for cell, scores in cells.items():
        found = [str(scores[name]) if name in scores else "" for name in COLUMNS]
        lines.append(f"| {cell} | {scores['psnr'].items} | {' | '.join(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tokenizer", help="folder or Hub id of an ArmVQModel; with --detokenizer")
    which.add_argument("--pretraining", help="folder of a training, its `pretraining/`, or a checkpoint")
    parser.add_argument("--detokenizer", help="folder or Hub id of what renders for --tokenizer")
    parser.add_argument("--steps", type=int, default=1, help="Euler steps with --pretraining (default: %(default)s)")
    parser.add_argument("--data", help="folder of the pictures (default: runs/emoji/data, or $ARM_EMOJI_DATA)")
    parser.add_argument("--count", type=int, default=500, help="pictures a split, at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if options.tokenizer and not options.detokenizer:
        parser.error("--tokenizer needs --detokenizer, which renders what it keeps.")

    try:
        tokenizer, originals = load(options), Originals(read_pictures(options.data))
    except (ValueError, OSError) as error:
        sys.exit(f"emoji_tokenizer.py: {error}")
    cells, codes = tokenizer_scores(tokenizer, originals, count=options.count, seed=options.seed)
    low, mean = weakest(cells)
    print(f"{table(cells)}\n\nright, mean of the cells: {mean:.3g}; weakest: {low}, {cells[low]['right']}\n")
    for name, value in codes.items():
        print(f"{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    if options.output:
        scores = {"cells": as_json(cells), "mean": mean, "weakest": low, "codes": as_json(codes)}
        write_result(options.output, seed=options.seed, items=options.count, scores=scores)
