"""Prints how well the second judge reads emoji of people and hands. Trains it if it is not there: 4 minutes, one core.

    python benchmarks/quality/emoji_judge.py [--output FILE]
    python benchmarks/quality/emoji_judge.py --of train --judge runs/emoji/judge_of_train.safetensors

Of each split: originals as they are, and moved and worn as it has not seen them; the share whose concept, tone, gender
and style are all `right`, and each by itself, with 95 % bootstrap intervals over concepts. A judge that learns `--of`
the split train alone tells whether it reads tones and genders, or remembers pictures. Before it: make emoji-data
"""

import argparse
import random
import sys
import time
from pathlib import Path

import torch

from transformers_arm.data.collators import to_pixel_values
from transformers_arm.evaluation.intervals import mean_intervals
from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.worlds.emoji.judge import JUDGE, JUDGE_FILE, SEED, SHIFT, STEPS, ZOOM, Judges, load_or_train
from transformers_arm.worlds.emoji.scores import SCORED, read_originals
from transformers_arm.worlds.emoji.splits import SPLITS
from transformers_arm.worlds.emoji.tokenizer_scores import IN_ORDER, as_json
from transformers_arm.worlds.emoji.traits import is_people
from transformers_arm.worlds.emoji.variations import moved
from transformers_arm.worlds.worn import worn

COLUMNS = ("right", *SCORED)


def spoilt(images, seed: int) -> list:
    """Pictures moved and worn, uint8."""
    rng, generator = random.Random(f"{seed}/judge"), torch.Generator().manual_seed(seed)
    pixels = to_pixel_values([moved(image, rng, zoom=ZOOM, shift=SHIFT) for image in images])
    return list(((worn(pixels, generator) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path, default=JUDGE_FILE, help="where its weights are kept")
    parser.add_argument("--of", nargs="+", default=SPLITS, choices=SPLITS, help="splits it learns from (default: all)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of its training (default: %(default)s)")
    parser.add_argument("--judge-seed", type=int, default=SEED)
    parser.add_argument("--items", type=int, default=500, help="pictures a split, at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    try:
        originals = read_originals()
    except (ValueError, OSError) as error:
        sys.exit(f"emoji_judge.py: {error}")
    start = time.perf_counter()
    judge = load_or_train(
        options.judge, originals=originals, of=options.of, steps=options.steps, seed=options.judge_seed
    )
    seconds, rows = time.perf_counter() - start, {}
    print(f"| people and hands | pictures | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
    for split in IN_ORDER:
        people = [each for each in originals.drawn if each.split == split and is_people(each)]
        if not people:
            continue
        wanted = random.Random(f"{options.seed}/{split}").sample(people, min(options.items, len(people)))
        images = [each.image for each in wanted]
        for name, shown in ((split, images), (f"{split}, moved and worn", spoilt(images, options.seed))):
            scores = Judges(originals, judge).picture_scores(shown, wanted)
            found = mean_intervals(scores, [each.emoji.concept for each in wanted])
            rows[name] = {column: found[JUDGE + column] for column in COLUMNS if JUDGE + column in found}
            told = [str(rows[name][column]) if column in rows[name] else "" for column in COLUMNS]
            print(f"| {name} | {len(wanted)} | {' | '.join(told)} |", flush=True)
    print(f"\nLoaded or trained in {seconds:.0f} s.")
    if options.output:
        told = {"items": options.items, "seed": options.seed, "judge_seed": options.judge_seed, "of": options.of}
        write_result(options.output, **told, steps=options.steps, seconds=round(seconds, 1), scores=as_json(rows))
