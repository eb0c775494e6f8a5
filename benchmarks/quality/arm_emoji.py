"""Prints what an ARM of emoji draws, edits and answers: the figures of its card, and the weakest cell beside each.

    python benchmarks/quality/arm_emoji.py --checkpoint runs/arm-emoji/sft/model [--output FILE]

A row a split, of at most `--items` items: people and hands; objects, apart, behind `objects_`; and held-out tones and
genders in one, `composed`. Shares are what the nearest original says, and behind a slash what the second judge says,
which learns from originals here and now if it is not there (`benchmarks/quality/emoji_judge.py`). `generation_ceiling`
and `editing_ceiling` are what the tokenizer alone gives back of the same pictures. Main scores have 95 % bootstrap
intervals over concepts. `--output` gets JSON: all figures, and all cells. Before it: make emoji-data
"""

import argparse
import sys
from pathlib import Path

from tqdm.auto import tqdm

from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.worlds.emoji.evaluation import score_rows
from transformers_arm.worlds.emoji.judge import JUDGE_FILE, load_or_train
from transformers_arm.worlds.emoji.rows import as_result, table
from transformers_arm.worlds.emoji.scores import read_originals

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-emoji"))
    parser.add_argument("--items", type=int, default=500, help="items a row, at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--judge", type=Path, default=JUDGE_FILE, help="where the second judge's weights are kept")
    parser.add_argument("--no-judge", action="store_true", help="leave the second judge out")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    try:
        originals = read_originals()
        judge = None if options.no_judge else load_or_train(options.judge, originals=originals)
        rows = score_rows(options.checkpoint, count=options.items, seed=options.seed, originals=originals, judge=judge)
        rows = list(tqdm(rows, desc="rows", leave=False))
    except (ValueError, OSError) as error:
        sys.exit(f"arm_emoji.py: {error}")
    for task in ("generation", "editing", "understanding"):
        if of_task := [row for row in rows if row.name.startswith(task)]:
            print(f"{table(of_task)}\n")
    if options.output:
        told = {"checkpoint": options.checkpoint, "items": options.items, "seed": options.seed}
        write_result(options.output, **told, scores=as_result(rows))
