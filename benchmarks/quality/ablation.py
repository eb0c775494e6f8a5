"""Trains arm-tiny's tokenizer with and without two of its losses, and prints what each earns beside the paper's table.

    python benchmarks/quality/ablation.py [--seeds 1 2 3] [--jobs 2] [--output FILE] [training.max_steps=2000 ...]

Runs `trainers/tokenizer.py` with `arm_tiny/ablation` for each set of losses and seed, in `--jobs`
processes of one thread; `name=value` replaces a field of the recipe in all of them. A run of the same fields that has
finished is not repeated, one that was interrupted goes on. All are scored on the same held-out scenes; pictures are
rendered by the pixel transformer that each was trained with. Prints a table, and JSON into `--output`.
"""

import argparse
import os
import sys
from pathlib import Path

from trials import ROOT, Trial, shown, train_all

from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.worlds.shapes.evaluation import reconstruction, zero_shot

SIGLIP = ROOT / "checkpoints" / "arm-tiny" / "backbones" / "siglip"
# The losses that are left out, and the paper's zero-shot (%, ImageNet), PSNR (dB) and codebook usage (%).
LOSSES = {
    "caption + pixel": (("sigmoid", "feature"), (0.2, 15.2, 69.4)),
    "+ sigmoid": (("feature",), (79.4, 9.3, 70.5)),
    "+ feature": (("sigmoid",), (58.1, 17.1, 71.0)),
    "all four": ((), (80.2, 19.6, 75.6)),
}
SCORES = {"zero_shot": "zero-shot", "psnr": "PSNR", "read_back": "read-back", "codebook_usage": "usage"}


def trial(losses: str, seed: int, runs: Path, overrides: list[str]) -> Trial:
    """A run with these losses."""
    left_out, _ = LOSSES[losses]
    folder = runs / f"{losses.strip('+ ').replace(' ', '_').replace('_+_', '_')}-{seed}"
    fields = [f"training.seed={seed}", *overrides, *(f"model.{loss}_loss_weight=0" for loss in left_out)]
    return Trial("tokenizer", "arm_tiny/ablation", folder, fields, "vq_model")


def scores_of(folder: Path, *, count: int, seed: int) -> dict[str, float]:
    """Zero-shot, PSNR, read-back and codebook usage of a run, on held-out scenes."""
    tokenizer = Tokenizer.from_training(folder, steps=4)
    drawn = reconstruction(tokenizer, count=count, seed=seed)
    found = {"zero_shot": zero_shot(tokenizer, SIGLIP, count=count, seed=seed)["z_q"], **drawn}
    return {name: found[name] for name in SCORES}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the trainings")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time")
    parser.add_argument("--items", type=int, default=500, help="held-out scenes a score")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="where the trainings go")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="fields of the recipe to replace")
    arguments = parser.parse_args()

    runs = [(losses, seed) for seed in arguments.seeds for losses in LOSSES]
    trials = {run: trial(*run, arguments.runs.absolute(), arguments.overrides) for run in runs}
    try:
        train_all(trials, arguments.jobs)
    except ValueError as error:
        sys.exit(f"ablation.py: {error}")
    found = {losses: [] for losses in LOSSES}
    for (losses, seed), run in trials.items():
        scores = scores_of(run.folder, count=arguments.items, seed=EVALUATION_SEED)
        found[losses].append({"seed": seed, **scores})

    print(f"| {len(arguments.seeds)} seeds, +- standard deviation | {' | '.join(SCORES.values())} | in the paper |")
    print("|---" * (len(SCORES) + 2) + "|")
    for losses, (_, paper) in LOSSES.items():
        values = [shown([row[name] for row in found[losses]]) for name in SCORES]
        print(f"| {losses} | {' | '.join(values)} | zero-shot {paper[0]}%, PSNR {paper[1]}, usage {paper[2]}% |")
    if arguments.output:
        paper = {losses: figures for losses, (_, figures) in LOSSES.items()}
        write_result(arguments.output, items=arguments.items, scores=found, paper=paper)
