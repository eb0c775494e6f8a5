"""Prints what reinforcement learning did: scores before and after, as two readers see them, with their spread.

    python benchmarks/quality/grpo.py --before checkpoints/arm-tiny \
        --after runs/arm-tiny/grpo_text_to_image-1/model runs/arm-tiny/grpo_text_to_image-2/model ... [--output FILE]
    python benchmarks/quality/grpo.py --world emoji --before runs/arm-emoji/sft/model \
        --after runs/arm-emoji/grpo_text_to_image/model --output benchmarks/results/arm_emoji_rl_text_to_image.json

Each folder after is one training; with several, they should differ in their seed alone. All are scored on the same
held-out items, with `--seeds` seeds of the items and of the sampling, as their generation config samples and, of drawn
shapes, without guidance. The second reader is a classifier trained on drawn scenes, or on original emoji, which no
reward has looked at. Of emoji these are held-out tones and genders of people and hands, the rows `composed` of
`arm_emoji.py`. Prints a table, and JSON into `--output`.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.worlds.emoji.evaluation import COMPOSED, rows_of_splits
from transformers_arm.worlds.emoji.judge import Judges
from transformers_arm.worlds.emoji.judge import load_or_train as load_or_train_judge
from transformers_arm.worlds.emoji.rows import flat
from transformers_arm.worlds.emoji.scores import read_originals
from transformers_arm.worlds.shapes.evaluation import UNGUIDED, editing, generation, understanding
from transformers_arm.worlds.shapes.prompts import GENERATION_TASKS
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.second_reader import load_or_train

TASKS = (*GENERATION_TASKS, "full")
Scorer = Callable[..., dict[str, float]]


def shapes_scores(arm: Arm, readers: dict, *, count: int, seed: int) -> dict[str, float]:
    """Every score of one seed, in 0..1."""
    settings = {"count": count, "seed": seed}
    scores = {}
    for prefix, sampling in (("", {}), ("unguided ", UNGUIDED)):
        drawn = generation(arm, tasks=TASKS, readers=readers, **settings, **sampling)
        edited = editing(arm, readers=readers, **settings, **sampling)
        for reader in readers:
            scores[f"{prefix}{reader}generation"] = drawn[f"{reader}overall"]
            scores[f"{prefix}{reader}full captions"] = drawn[f"{reader}full"]
            scores[f"{prefix}{reader}full captions, weakest cell"] = drawn[f"{reader}full_weakest"]
            scores[f"{prefix}{reader}exact edits"] = edited[f"{reader}exact"]
            scores[f"{prefix}{reader}exact edits, weakest cell"] = edited[f"{reader}weakest"]
        if not sampling:
            scores |= {f"generation: {task}": drawn[task] for task in GENERATION_TASKS}
    answered = understanding(arm, **settings)
    return scores | {"understanding": answered["overall"], "understanding, weakest cell": answered["weakest"]}


def shapes_scorer() -> Scorer:
    classifier = load_or_train()
    return partial(
        shapes_scores, readers={"": read_scene, "second reader: ": lambda image: classifier.read([image])[0]}
    )


def emoji_scores(arm: Arm, judges: Judges, *, count: int, seed: int) -> dict[str, float]:
    """Every score of one seed, in 0..1, of held-out tones and genders together."""
    rows = rows_of_splits(arm, judges, splits=COMPOSED, parts=["people"], told=(), count=count, seed=seed)
    found = [
        flat(row.name, {name: value.mean for name, value in row.means.items()}, row.main)
        for row in rows
        if "_composed" in row.name
    ]
    return {name: score for each in found for name, score in each.items()}


def emoji_scorer() -> Scorer:
    originals = read_originals()
    return partial(emoji_scores, judges=Judges(originals, load_or_train_judge(originals=originals)))


SCORERS = {"shapes": shapes_scorer, "emoji": emoji_scorer}


def spread(values: list[float]) -> float | None:
    """Standard deviation; None of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def shown(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} +- {deviation:.3f}"


def mean_over(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.mean(row[name] for row in rows) for name in rows[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="ARM folder that the training started from")
    parser.add_argument("--after", type=Path, nargs="+", required=True, help="ARM folders, one a training")
    parser.add_argument("--world", choices=SCORERS, default="shapes", help="whose items (default: %(default)s)")
    parser.add_argument("--items", type=int, default=500, help="held-out items a score and seed")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of items and sampling")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED, help="the first of them")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    score = SCORERS[arguments.world]()
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    found = {}
    for folder in (arguments.before, *arguments.after):
        arm = Arm.from_pretrained(folder)
        found[str(folder)] = [score(arm, count=arguments.items, seed=seed) for seed in seeds]
    before = found[str(arguments.before)]
    after = [mean_over(found[str(folder)]) for folder in arguments.after]
    table = {}
    for name in before[0]:
        old, new = [row[name] for row in before], [row[name] for row in after]
        last = found[str(arguments.after[-1])]
        table[name] = {
            "before": statistics.mean(old),
            "before_spread": spread(old),
            "after": statistics.mean(new),
            "after_spread": spread(new) if len(new) > 1 else spread([row[name] for row in last]),
            "gain": statistics.mean(new) - statistics.mean(old),
        }
    over = f"{len(after)} trainings" if len(after) > 1 else "seeds of items"
    print(f"| {arguments.items} held-out items | before, +- over seeds of items | after, +- over {over} | gain |")
    print("|---|---|---|---|")
    for name, row in table.items():
        old, new = (shown(row[which], row[f"{which}_spread"]) for which in ("before", "after"))
        print(f"| {name} | {old} | {new} | {row['gain']:+.3f} |")
    if arguments.output:
        compared = {"before": arguments.before, "after": arguments.after, "items": arguments.items}
        write_result(arguments.output, **compared, seeds=list(seeds), table=table, all=found)
