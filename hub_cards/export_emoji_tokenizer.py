"""Gathers arm-emoji's tokenizer into the folder that ships: fp16 weights, renderer and SigLIP, scores and the card.

python hub_cards/export_emoji_tokenizer.py [--runs RUNS] [--checkpoint FOLDER] [--remark "..."]
python hub_cards/export_emoji_tokenizer.py --card-only
"""

import json
from pathlib import Path

from export_tiny import Stage, gather, replacing, run_command, training_logs
from PIL import Image

from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.evaluation.sheets import picture_sheet
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.hub.card_writing import WORLD, write_card
from transformers_arm.worlds.emoji.evaluation import flat
from transformers_arm.worlds.emoji.figure_names import FIGURE_NAMES
from transformers_arm.worlds.emoji.scores import read_originals
from transformers_arm.worlds.emoji.splits import HELD_OUT
from transformers_arm.worlds.emoji.tokenizer_scores import (
    as_json,
    rebuilt,
    sample_of_each_split,
    tokenizer_scores,
    weakest,
)

SCORES, TRAINING = "results/emoji_tokenizer.json", "results/training.json"
MAX_BYTES = 15_000_000
SHOWN = 12  # pictures of a split on the sheet
COLORS = 128  # of a picture on a card, which has to stay small
STAGES = tuple(
    Stage(*stage, recipes="arm_emoji")
    for stage in (
        ("backbones", "backbones", "backbones/siglip", "backbones/run/siglip", "siglip", "siglip"),
        ("tokenizer", "tokenizer", "tokenizer/vq_model", "tokenizer", "."),
        ("detokenizer", "detokenizer", "detokenizer/detokenizer", "detokenizer", "detokenizer"),
    )
)
MUST = {"ceiling_unseen": 0.85, "ceiling_unseen_psnr": 20}
AIM = {"ceiling_unseen": 0.97, "ceiling_unseen_psnr": 24}


def draw_reconstructions(tokenizer: Tokenizer) -> Image.Image:
    """Held-out emojis, split by split, each row above what comes back of it."""
    drawn = sample_of_each_split(read_originals().drawn, SHOWN, seed=EVALUATION_SEED)
    returned = rebuilt(tokenizer, drawn, seed=EVALUATION_SEED)
    pictures = [[Image.fromarray(each) for each in images] for images in ([each.image for each in drawn], returned)]
    rows = [row[start : start + SHOWN] for start in range(0, len(drawn), SHOWN) for row in pictures]
    return picture_sheet(rows)


def save_picture(picture: Image.Image, file: Path) -> None:
    """As PNG of few colors; makes its folder."""
    file.parent.mkdir(exist_ok=True)
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)


def write_tokenizer_card(folder: Path, repo: str = "checkpoints/arm-emoji-tokenizer") -> None:
    """Writes the card anew from the result files and pictures that lie in `folder`; measures nothing."""
    write_card(
        folder,
        "tokenizer",
        repo=repo,
        license="cc-by-4.0",
        from_scratch=True,
        results=[f"{folder / SCORES}:scores/figures"],
        dataset=WORLD,
        training=folder / TRAINING,
        pictures=[folder / "pictures" / "reconstructions.png"],
        names=FIGURE_NAMES,
        text=Path(__file__).parent / "arm-emoji-tokenizer.md",
    )


def export_tokenizer(runs: Path, checkpoint: Path, *, count: int = 500, remark: str = "", **options) -> None:
    """Builds `checkpoint` from the stages under `runs`, scores it on at most `count` emojis a split, writes its card.

    A stage that was not trained under `runs` is taken from `checkpoint` as it is. The folder is built aside and
    replaces the old one only when it is whole.

    Raises:
        FileNotFoundError: a stage is missing, or the world's pictures are.
        ValueError: the folder would be larger than 15 MB.
    """
    originals = read_originals()
    logs = training_logs(STAGES, runs, checkpoint)
    with replacing(checkpoint) as aside:
        size = gather(STAGES, runs, checkpoint, aside, max_bytes=MAX_BYTES)
        tokenizer = Tokenizer.from_parts(aside, aside / "detokenizer")
        cells, codes = tokenizer_scores(tokenizer, originals, count=count, seed=EVALUATION_SEED)
        of_splits = [flat(f"ceiling_{split}", cells[split], "right") for split in HELD_OUT]
        figures = {name: value for each in (*of_splits, flat("tokenizer", codes, "")) for name, value in each.items()}
        low, mean = weakest(cells)
        scores = {"figures": figures, "cells": as_json(cells), "weakest": low, "mean": mean}
        write_result(aside / SCORES, seed=EVALUATION_SEED, items=count, scores=scores, must=MUST, aim=AIM)
        write_result(aside / TRAINING, stages=logs, remark=remark)
        save_picture(draw_reconstructions(tokenizer), aside / "pictures" / "reconstructions.png")
        write_tokenizer_card(aside, **options)
    print(f"{checkpoint}: {size / 1e6:.1f} MB")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    run_command(__doc__, "runs/arm-emoji", "checkpoints/arm-emoji-tokenizer", export_tokenizer, write_tokenizer_card)
