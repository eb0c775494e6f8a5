"""Trains short runs of one of arm-tiny's recipes with one change each, and prints what each change earns.

    python benchmarks/quality/changes.py tokenizer [NAME ...] [--jobs 2] [--output FILE] [--all name=value ...]
    python benchmarks/quality/changes.py binding ["as it is" "no descriptions" ...] ...

`tokenizer`: do patches have codes of their own, and do pictures of all sizes come back? `binding`: is a question
matched to the object that it names? Without names all changes of a study are tried, "as it is" among them; `--all`
replaces fields in every run. A run that has finished is not repeated, one that was interrupted goes on. Prints a
table, and JSON into `--output`.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trials import Trial, shown, train_all

from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.processing_arm import ArmProcessor
from transformers_arm.worlds.shapes.evaluation import reconstruction, understanding
from transformers_arm.worlds.shapes.pictures import Canvas

ARM_TINY = "checkpoints/arm-tiny"  # trials run in the repository's root
AS_IT_IS = "as it is"
FOUR_SIZES = (
    "[{height: 48, width: 48, weight: 0.4}, {height: 48, width: 96, weight: 0.15}, "
    "{height: 96, width: 48, weight: 0.15}, {height: 96, width: 96, weight: 0.2}, "
    "{height: 64, width: 64, max_jitter: 2, weight: 0.1}]"
)


def tokenizer_scores(folder: Path, *, count: int, seed: int) -> dict[str, float]:
    """At 48x48 and at 96x96, rendered by the pixel transformer that was trained beside."""
    tokenizer = Tokenizer.from_training(folder, steps=4)
    sizes = {"": Canvas(), "large_": Canvas(96, 96)}
    found = {prefix: reconstruction(tokenizer, canvas, count=count, seed=seed) for prefix, canvas in sizes.items()}
    names = ("code_noise", "code_perplexity", "psnr", "read_back")
    return {prefix + name: scores[name] for prefix, scores in found.items() for name in names}


def binding_scores(folder: Path, *, count: int, seed: int) -> dict[str, float]:
    """Exact answers to questions that name one of one, two or three objects."""
    model = ArmForCausalLM.from_pretrained(folder / "model", dtype="float32").eval()
    arm = Arm(model, ArmProcessor.from_pretrained(folder / "model"), None)  # it draws nothing
    kinds = ("color", "shape", "location", "existence", "relation")
    scores = understanding(arm, count=count * len(kinds), seed=seed, kinds=kinds)
    cells = [f"{kind}_{number}" for kind in kinds for number in ("one", "two", "three")]
    return {"understanding": scores["overall"]} | {cell: scores[cell] for cell in cells if cell in scores}


class Study(NamedTuple):
    """Runs of one stage's recipe: the fields that all replace, those that each change replaces, and their scores."""

    stage: str
    recipe: str
    made: str
    fields: Sequence[str]
    changes: Mapping[str, Sequence[str]]
    scores: Callable[..., dict[str, float]]


STUDIES = {
    "tokenizer": Study(
        "tokenizer",
        "arm_tiny/tokenizer",
        "vq_model",
        (
            f"backbones.vision={ARM_TINY}/backbones/siglip",
            f"backbones.captioner={ARM_TINY}/backbones/qwen2",
            "training.max_steps=600",
            "training.warmup_steps=100",
            "evaluation=null",
            "model.context_loss_weight=4",
            f"data.arguments.canvases={FOUR_SIZES}",
        ),
        {
            AS_IT_IS: (),
            "no penalty on context": ("model.context_loss_weight=0",),
            "a fourth of the penalty": ("model.context_loss_weight=1",),
            "12 bits": (f"model.fsq_levels={[2] * 12}",),
            "no feature loss": ("model.feature_loss_weight=0",),
            "no caption and sigmoid loss": ("model.caption_loss_weight=0", "model.sigmoid_loss_weight=0"),
            "iFSQ": ("model.fsq_activation=ifsq",),
            "only 48x48": ("data.arguments.canvases=[{height: 48, width: 48}]",),
        },
        tokenizer_scores,
    ),
    "binding": Study(
        "pretrain",
        "arm_tiny/pretrain",
        "model",
        (
            f"backbones.text={ARM_TINY}/backbones/qwen2",
            f"backbones.vq={ARM_TINY}/vq_model",
            "data.arguments.mixture={image_to_text: 1.0}",
            "data.arguments.curriculum=[0, 0]",
            "data.arguments.canvases=[{height: 48, width: 48}]",
            "training.max_steps=3000",
            "evaluation=null",
        ),
        {
            AS_IT_IS: (),
            "eight questions a picture": ("data.arguments.questions=8",),
            "no descriptions": ("data.arguments.described=0",),
            "the question first": ("data.arguments.question_first=1",),
            "plain names": ("data.arguments.other_names=0",),
            "learning rate 3e-3": ("training.learning_rate=3e-3",),
            "learning rate 6e-4": ("training.learning_rate=6e-4",),
            "the learning rate decays": ("training.lr_scheduler_type=linear",),
            "one object, then two, then three": ("data.arguments.curriculum=[16000, 32000]",),
            "with words": ("data.arguments.mixture={image_to_text: 0.7, text: 0.3}",),
        },
        binding_scores,
    ),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("names", nargs="*", help="changes to try (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the trainings")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time")
    parser.add_argument("--items", type=int, default=500, help="held-out items a score")
    parser.add_argument("--runs", type=Path, default=Path("runs/changes"), help="where the trainings go")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--all", nargs="*", default=[], metavar="name=value", help="fields to replace in all runs")
    arguments = parser.parse_args()

    study = STUDIES[arguments.study]
    if unknown := set(arguments.names) - set(study.changes):
        sys.exit(f"changes.py: there is no change {', '.join(sorted(unknown))}; take {', '.join(study.changes)}.")
    runs, trials = arguments.runs.absolute() / arguments.study, {}
    for name in arguments.names or study.changes:
        for seed in arguments.seeds:
            given = [*study.fields, f"training.seed={seed}", *arguments.all, *study.changes[name]]
            fields = list({field.partition("=")[0]: field for field in given}.values())  # a change comes last
            folder = runs / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
            trials[name, seed] = Trial(study.stage, study.recipe, folder, fields, study.made)
    try:
        train_all(trials, arguments.jobs)
    except ValueError as error:
        sys.exit(f"changes.py: {error}")
    found = {}
    for (name, seed), trial in trials.items():
        scores = study.scores(trial.folder, count=arguments.items, seed=EVALUATION_SEED)
        found.setdefault(name, []).append({"seed": seed, **scores})

    columns = [column for column in next(iter(found.values()))[0] if column != "seed"]
    print(f"| {arguments.study} | {' | '.join(column.replace('_', ' ') for column in columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, rows in found.items():
        print(f"| {name} | {' | '.join(shown([row[column] for row in rows]) for column in columns)} |")
    if arguments.output:
        changes = {name: list(study.changes[name]) for name in found}
        write_result(arguments.output, items=arguments.items, recipe=study.recipe, changes=changes, scores=found)
