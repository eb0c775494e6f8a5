"""Gathers a trained RL model into the folder that ships, with its results, pictures and card.

python benchmarks/quality/grpo.py --before checkpoints/arm-tiny --after RUN/model --output benchmarks/results/grpo.json
python hub_cards/export_tiny_rl.py --run grpo_text_to_image=RUN --results benchmarks/results/grpo.json [--remark "..."]
python hub_cards/export_tiny_rl.py --card-only
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from export_tiny import Stage, draw_pictures, replacing, to_half

from transformers_arm.evaluation.results import publishable, write_result
from transformers_arm.hub.card_writing import WORLD, write_card
from transformers_arm.worlds.shapes.figure_names import FIGURE_NAMES

RESULTS, TRAINING = "results/arm_tiny_rl.json", "results/training.json"


def write_tiny_rl_card(folder: Path, repo: str = "checkpoints/arm-tiny-rl", base_models: Sequence[str] = ()) -> None:
    """Writes the card anew from the result files and pictures that lie in `folder`; measures nothing.

    `repo` is what the card loads; `base_models` is arm-tiny's id on the Hub, if it has one. Beside it come texts to
    try.
    """
    shutil.copyfile(Path(__file__).parent / "examples-shapes.json", folder / "examples.json")
    write_card(
        folder,
        "rl",
        repo=repo,
        license="apache-2.0",
        base_models=base_models,
        from_scratch=not base_models,
        results=[folder / RESULTS],
        dataset=WORLD,
        training=folder / TRAINING,
        names=FIGURE_NAMES,
        text=Path(__file__).parent / "arm-tiny-rl.md",
    )


def export_tiny_rl(
    runs: dict[str, Path], results_file: Path, checkpoint: Path, *, remark: str = "", **options
) -> None:
    """Writes `checkpoint` from the last of `runs` (recipe -> folder); built aside, it replaces the old one when whole.

    `options` are those of `write_tiny_rl_card`.

    Raises:
        ValueError: the results are of other folders, or of more than the one that ships.
    """
    model = list(runs.values())[-1] / "model"
    after = json.loads(results_file.read_text())["after"]
    if after != [publishable(model)]:
        raise ValueError(
            f"{results_file} is about {', '.join(after)}, not about {model} alone; score that one with "
            "benchmarks/quality/grpo.py --after."
        )
    stages = [Stage("grpo", recipe, "model", run.name, None).training_log(run.parent) for recipe, run in runs.items()]
    with replacing(checkpoint) as aside:
        shutil.copytree(model, aside, dirs_exist_ok=True)
        for file in aside.rglob("*.safetensors"):
            to_half(file)
        write_result(aside / TRAINING, stages=stages, remark=remark)
        shutil.copyfile(results_file, aside / RESULTS)
        draw_pictures(aside)
        write_tiny_rl_card(aside, **options)
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    print(f"{checkpoint}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run",
        nargs="+",
        metavar="RECIPE=FOLDER",
        help="stages in order, as in grpo_text_to_image=runs/arm-tiny/grpo_text_to_image; the last one ships",
    )
    parser.add_argument("--results", type=Path, help="what the benchmark wrote of the last stage")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny-rl"), help="folder to write")
    parser.add_argument("--repo", default="checkpoints/arm-tiny-rl", help="what the card loads: a folder, or its id")
    parser.add_argument("--base-model", nargs="+", default=[], help="arm-tiny's id on the Hub, if it has one")
    parser.add_argument("--remark", default="", help="what the card should say of this training beside its recipes")
    parser.add_argument("--card-only", action="store_true", help="write the card anew, from the folder's own results")
    arguments = parser.parse_args()
    options = {"repo": arguments.repo, "base_models": arguments.base_model}
    if arguments.card_only:
        write_tiny_rl_card(arguments.checkpoint, **options)
    elif arguments.run and arguments.results:
        runs = {recipe: Path(folder) for recipe, folder in (each.split("=", 1) for each in arguments.run)}
        export_tiny_rl(runs, arguments.results, arguments.checkpoint, remark=arguments.remark, **options)
    else:
        parser.error("give --run and --results, or --card-only")
