"""Gathers a trained RL model into the folder that ships, with a card that its benchmark's results fill.

python benchmarks/quality/grpo.py --before checkpoints/arm-tiny --after RUN/model --output benchmarks/results/grpo.json
python hub_cards/export_tiny_rl.py --run grpo_text_to_image=RUN --results benchmarks/results/grpo.json [--remark "..."]
"""

import argparse
import json
import shutil
from pathlib import Path
from statistics import mean, stdev

from export_tiny import Stage, replacing, to_half
from huggingface_hub import ModelCard, ModelCardData

CARD_TEMPLATE = Path(__file__).with_name("arm-tiny-rl.md")


def table_of(before: list[dict[str, float]], after: list[dict[str, float]]) -> str:
    """Scores by seed before and after -> a table of means, spreads and gains."""
    lines = ["| | arm-tiny | arm-tiny-rl | gain |", "|---|---|---|---|"]
    for name in before[0]:
        old, new = ([row[name] for row in rows] for rows in (before, after))
        shown = [f"{mean(values):.3f}" + (f" +- {stdev(values):.3f}" if values[1:] else "") for values in (old, new)]
        lines.append(f"| {name} | {' | '.join(shown)} | {mean(new) - mean(old):+.3f} |")
    return "\n".join(lines)


def export_tiny_rl(runs: dict[str, Path], results_file: Path, checkpoint: Path, remark: str = "") -> None:
    """Writes `checkpoint` from the last of `runs` (recipe -> folder); built aside, it replaces the old one when whole.

    Raises:
        ValueError: the results are of other folders.
    """
    last = list(runs.values())[-1]
    results = json.loads(results_file.read_text())
    scores = results["all"]
    if str(last / "model") not in scores:
        raise ValueError(f"{results_file} is about {', '.join(scores)}, not about {last / 'model'}; score that one.")
    stages = [
        Stage("grpo", recipe, "model", run.name, None).training_log(run.parent, "") for recipe, run in runs.items()
    ]
    with replacing(checkpoint) as aside:
        shutil.copytree(last / "model", aside, dirs_exist_ok=True)
        for file in aside.rglob("*.safetensors"):
            to_half(file)
        settings = json.loads((aside / "generation_config.json").read_text())
        sections = [settings[name] for name in ("image_generation", "image_editing") if name in settings]
        sampling = [", ".join(f"{name} {value}" for name, value in section.items()) for section in sections]
        card = ModelCard.from_template(
            ModelCardData(
                license="apache-2.0", library_name="transformers", pipeline_tag="any-to-any", tags=["arm", "grpo"]
            ),
            template_path=str(CARD_TEMPLATE),
            table=table_of(scores[results["before"]], scores[str(last / "model")]),
            stages="\n".join(stages),
            sampling="; edits with ".join(sampling),
            items=results["items"],
            seeds=f"means and spread over the seeds {', '.join(map(str, results['seeds']))} of items and sampling",
            hardware=results["hardware"],
            date=results["date"],
            command=results["command"],
            remark=remark,
        )
        card.save(aside / "README.md")
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    print(f"{checkpoint}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run",
        nargs="+",
        required=True,
        metavar="RECIPE=FOLDER",
        help="stages in order, as in grpo_text_to_image=runs/arm-tiny/grpo_text_to_image; the last one ships",
    )
    parser.add_argument("--results", type=Path, required=True, help="what the benchmark wrote of the last stage")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny-rl"), help="folder to write")
    parser.add_argument("--remark", default="", help="what the card should say of this training beside its recipes")
    arguments = parser.parse_args()
    runs = dict(each.split("=", 1) for each in arguments.run)
    export_tiny_rl(
        {recipe: Path(folder) for recipe, folder in runs.items()},
        arguments.results,
        arguments.checkpoint,
        arguments.remark,
    )
