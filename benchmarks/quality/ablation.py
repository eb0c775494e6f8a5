"""Trains arm-tiny's tokenizer with and without two of its losses, and prints what each earns beside the paper's table.

    python benchmarks/quality/ablation.py [--seeds 1 2 3] [--jobs 2] [--output FILE] [training.max_steps=2000 ...]

Runs `trainers/tokenizer.py` with `arm_tiny/ablation` for each set of losses and seed, in `--jobs`
processes of one thread; `name=value` replaces a field of the recipe in all of them. A run of the same fields that has
finished is not repeated, one that was interrupted goes on. All are scored on the same held-out scenes; pictures are
rendered by the pixel transformer that each was trained with. Prints a table, and JSON into `--output`.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.worlds.shapes.evaluation import reconstruction, zero_shot

ROOT = Path(__file__).parents[2]
TRAINER, RECIPE = ROOT / "trainers" / "tokenizer.py", "arm_tiny/ablation"
SIGLIP = ROOT / "checkpoints" / "arm-tiny" / "backbones" / "siglip"
# The losses that are left out, and the paper's zero-shot (%, ImageNet), PSNR (dB) and codebook usage (%).
LOSSES = {
    "caption + pixel": (("sigmoid", "feature"), (0.2, 15.2, 69.4)),
    "+ sigmoid": (("feature",), (79.4, 9.3, 70.5)),
    "+ feature": (("sigmoid",), (58.1, 17.1, 71.0)),
    "all four": ((), (80.2, 19.6, 75.6)),
}
SCORES = {"zero_shot": "zero-shot", "psnr": "PSNR", "read_back": "read-back", "codebook_usage": "usage"}


def prepare(losses: str, seed: int, runs: Path, overrides: list[str]) -> tuple[Path, list[str]]:
    """The folder of a run, and the recipe's fields that it replaces, which are noted there.

    Raises:
        ValueError: the folder holds a run with other fields.
    """
    left_out, _ = LOSSES[losses]
    folder = runs / f"{losses.strip('+ ').replace(' ', '_').replace('_+_', '_')}-{seed}"
    fields = [f"training.seed={seed}", *overrides, *(f"model.{loss}_loss_weight=0" for loss in left_out)]
    note = folder / "fields.json"
    if note.is_file() and (found := json.loads(note.read_text())) != fields:
        raise ValueError(f"{folder} holds a run with {' '.join(found)}; name another folder with --runs.")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(fields))
    return folder, fields


def train(folder: Path, fields: list[str]) -> None:
    """Trains into a folder unless that was done; its log is in `training.log`.

    Raises:
        RuntimeError: the training failed.
    """
    if (folder / "vq_model").is_dir():
        return
    command = [sys.executable, str(TRAINER), "--config", RECIPE, f"output_dir={folder}", *fields]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / "training.log", "w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"The training in {folder} failed; see {folder / 'training.log'}.")


def scores_of(folder: Path, *, count: int, seed: int) -> dict[str, float]:
    """Zero-shot, PSNR, read-back and codebook usage of a run, on held-out scenes."""
    tokenizer = Tokenizer.from_training(folder, steps=4)
    drawn = reconstruction(tokenizer, count=count, seed=seed)
    found = {"zero_shot": zero_shot(tokenizer, SIGLIP, count=count, seed=seed)["z_q"], **drawn}
    return {name: found[name] for name in SCORES}


def shown(values: list[float]) -> str:
    return f"{mean(values):.3f} +- {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


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
    try:
        prepared = {run: prepare(*run, arguments.runs.absolute(), arguments.overrides) for run in runs}
    except ValueError as error:
        sys.exit(f"ablation.py: {error}")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(train, *zip(*prepared.values(), strict=True)))
    found = {losses: [] for losses in LOSSES}
    for (losses, seed), (folder, _) in prepared.items():
        scores = scores_of(folder, count=arguments.items, seed=EVALUATION_SEED)
        found[losses].append({"seed": seed, **scores})

    print(f"| {len(arguments.seeds)} seeds, +- standard deviation | {' | '.join(SCORES.values())} | in the paper |")
    print("|---" * (len(SCORES) + 2) + "|")
    for losses, (_, paper) in LOSSES.items():
        values = [shown([row[name] for row in found[losses]]) for name in SCORES]
        print(f"| {losses} | {' | '.join(values)} | zero-shot {paper[0]}%, PSNR {paper[1]}, usage {paper[2]}% |")
    if arguments.output:
        paper = {losses: figures for losses, (_, figures) in LOSSES.items()}
        write_result(arguments.output, items=arguments.items, scores=found, paper=paper)
