"""Prints scores of a trained ARM where it runs, beside those published, which were taken on a CPU.

    python benchmarks/gpu/scores.py [--model checkpoints/arm-tiny] [--items 120] [--output FILE]

The folder's own sampling, the published seed. Few items tell little: a score may be off by four standard errors of the
difference; exits with 1 where one is off by more.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.results import EVALUATION_SEED, by_chance, write_result
from transformers_arm.worlds.shapes import evaluation

ROOT = Path(__file__).parents[2]


def scores_of(arm: Arm, items: int) -> dict[str, float]:
    """By the names under which they are published; "generation" is a mean over GenEval's six tasks."""
    settings = {"count": items, "seed": EVALUATION_SEED}
    drawn = evaluation.generation(arm, **settings)
    return {
        "generation": drawn["overall"],
        "generation_full": drawn["full"],
        "editing_exact": evaluation.editing(arm, **settings)["exact"],
        "understanding": evaluation.understanding(arm, **settings)["overall"],
    }


def beside(found: dict[str, float], published: dict[str, float], items: int, of_published: int) -> dict[str, dict]:
    """Each score with the published one and how far apart they may lie."""
    table = {}
    for name, score in found.items():
        allowed = by_chance((score + published[name]) / 2, items, of_published)
        row = {"here": score, "published": published[name], "allowed": allowed}
        table[name] = row | {"agrees": abs(score - published[name]) <= row["allowed"]}
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "arm-tiny"), help="ARM folder, with its results")
    parser.add_argument("--items", type=int, default=120, help="held-out items a score")
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    published = json.loads((Path(arguments.model) / "results" / "arm_tiny.json").read_text())
    arm = Arm.from_pretrained(arguments.model)
    arm.model.to("cuda" if torch.cuda.is_available() else "cpu")
    scores = scores_of(arm, arguments.items)
    table = beside(scores, published["scores"], arguments.items, published["items"])
    print(f"| {arguments.items} items | {arm.model.device} | {published['items']} items, published | may differ |")
    print("|---|---|---|---|")
    for name, row in table.items():
        print(f"| {name} | {row['here']:.3f} | {row['published']:.3f} | {row['allowed']:.3f} |")
    if arguments.output:
        write_result(arguments.output, **vars(arguments), torch=torch.__version__, scores=table)
    if not all(row["agrees"] for row in table.values()):
        sys.exit("Some scores are further from the published ones than chance takes them.")
