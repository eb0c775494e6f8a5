"""Prints every score of a world after each stage of a training, and the minutes that each stage took.

    python benchmarks/quality/stages.py pretrain=runs/arm-tiny/pretrain/model continual=runs/arm-tiny/continual/model \
        sft=runs/arm-tiny/sft/model --detokenizer runs/arm-tiny/detokenizer/detokenizer [--output FILE]
    python benchmarks/quality/stages.py --world emoji pretrain=runs/arm-emoji/pretrain/model \
        sft=runs/arm-emoji/sft/model --detokenizer runs/arm-emoji/detokenizer/detokenizer [--output FILE]

All stages meet the same held-out items and sample as the last one's generation config says, so that only the weights
differ. Of emoji these are people and hands, in all splits. Minutes are those of the logs beside each model. Prints a
table, and JSON into `--output`.
"""

import argparse
from pathlib import Path

import torch

from transformers_arm.detokenizer_arm_pixel import ArmPixelDetokenizer
from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.results import EVALUATION_SEED, minutes_trained, write_result
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.processing_arm import ArmProcessor
from transformers_arm.worlds.emoji.evaluation import rows_of_splits
from transformers_arm.worlds.emoji.judge import Judges
from transformers_arm.worlds.emoji.scores import read_originals
from transformers_arm.worlds.emoji.tokenizer_scores import IN_ORDER
from transformers_arm.worlds.shapes.evaluation import multimodal_scores, text_scores


def of_shapes(arm: Arm, folder: Path, **settings: int) -> dict[str, float]:
    return multimodal_scores(arm, **settings) | text_scores(folder, **settings)


def of_emoji(arm: Arm, folder: Path, **settings: int) -> dict[str, float]:
    rows = rows_of_splits(arm, Judges(read_originals()), splits=IN_ORDER, parts=["people"], told=(), **settings)
    return {f"{row.name}_{name}": value.mean for row in rows for name, value in row.means.items()}


SCORES = {"shapes": of_shapes, "emoji": of_emoji}


def stage(argument: str) -> tuple[str, Path]:
    """`name=folder` of the command line.

    Raises:
        argparse.ArgumentTypeError: it is not of this form, or there is no model.
    """
    name, _, folder = argument.partition("=")
    if not (name and folder and (Path(folder) / "config.json").is_file()):
        raise argparse.ArgumentTypeError(f"{argument!r} is no NAME=FOLDER of a model; e.g. sft=runs/sft/model.")
    return name, Path(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", type=stage, nargs="+", help="NAME=FOLDER, in the order of training")
    parser.add_argument("--world", choices=SCORES, default="shapes", help="whose items (default: %(default)s)")
    parser.add_argument("--detokenizer", type=Path, required=True, help="renders the pictures of all stages")
    parser.add_argument("--items", type=int, default=500, help="held-out items a row")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    detokenizer = ArmPixelDetokenizer.from_pretrained(arguments.detokenizer)
    detokenizer.set_progress_bar_config(disable=True)
    settings = {"count": arguments.items, "seed": arguments.seed}
    folders, scores = dict(arguments.stages), {}
    sampling = ArmForCausalLM.from_pretrained(arguments.stages[-1][1]).generation_config
    for name, folder in folders.items():
        model = ArmForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        model.generation_config = sampling
        arm = Arm(model, ArmProcessor.from_pretrained(folder), detokenizer)
        scores[name] = SCORES[arguments.world](arm, folder, **settings)

    minutes = {name: minutes_trained(folder.parent) for name, folder in folders.items()}
    print(f"| {arguments.items} held-out items a row | {' | '.join(folders)} |")
    print("|---" * (len(folders) + 1) + "|")
    print(f"| minutes | {' | '.join(map(str, minutes.values()))} |")
    for score in scores[name]:
        print(f"| {score.replace('_', ' ')} | {' | '.join(f'{scores[name][score]:.3f}' for name in folders)} |")
    if arguments.output:
        write_result(arguments.output, **settings, sampling=sampling.image_generation, minutes=minutes, scores=scores)
