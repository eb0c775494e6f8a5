"""Gathers arm-emoji into the folder that ships: fp16 weights, its renderer, scores, pictures and the card.

python hub_cards/export_emoji.py [--runs RUNS] [--checkpoint FOLDER] [--hardware "..."] [--remark "..."]
python hub_cards/export_emoji.py --until pretrain
python hub_cards/export_emoji.py --rl grpo_text_to_image grpo_editing --results benchmarks/results/arm_emoji_rl.json
python hub_cards/export_emoji.py --card-only

Its tokenizer lies within the model.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from export_tiny import TWO_PROCESSES, Stage, gather, replacing, run_command, training_logs
from PIL import Image

from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.hub.card_writing import WORLD, row_of, write_card
from transformers_arm.worlds.emoji.demo import draw_answers, draw_edits, draw_prompts, draw_world
from transformers_arm.worlds.emoji.evaluation import score_rows
from transformers_arm.worlds.emoji.figure_names import FIGURE_NAMES
from transformers_arm.worlds.emoji.judge import JUDGE_FILE, load_or_train
from transformers_arm.worlds.emoji.rows import as_result
from transformers_arm.worlds.emoji.scores import read_originals

SCORES, TRAINING = "results/arm_emoji.json", "results/training.json"
MAX_BYTES = 15_000_000
COLORS = 128  # of a picture on a card, which has to stay small
MODEL_STAGES = ("pretrain", "sft")
MUST = {
    "generation_train": 0.6,
    "generation_tone": 0.3,
    "generation_tone_concept": 0.7,
    "generation_tone_tone": 0.7,
    "editing_composed": 0.35,
    "editing_composed_attribute": 0.7,
    "understanding_composed_what": 0.6,
    "understanding_composed_style": 0.95,
    "understanding_composed_tone": 0.85,
    "understanding_composed_gender": 0.9,
}
AIM = {
    "generation_train": 0.9,
    "generation_tone": 0.7,
    "generation_tone_concept": 0.95,
    "generation_tone_tone": 0.95,
    "editing_composed": 0.75,
    "editing_composed_attribute": 0.95,
    "understanding_composed_what": 0.95,
    "understanding_composed_style": 0.95,
    "understanding_composed_tone": 0.95,
    "understanding_composed_gender": 0.95,
}


def stages_of(until: str = MODEL_STAGES[-1], rl: Sequence[str] = ()) -> tuple[Stage, ...]:
    """All stages up to one of `MODEL_STAGES`, and then those of reinforcement learning by their recipes; the renderer
    ships, and the model of the last one.
    """
    trained = MODEL_STAGES[: MODEL_STAGES.index(until) + 1]
    stages = [
        Stage("backbones", "backbones", "backbones/siglip", "backbones/run/siglip", None, "siglip"),
        *(Stage("tokenizer", each, f"{each}/vq_model", each, None) for each in ("tokenizer", "tokenizer_context")),
        Stage("detokenizer", "detokenizer", "detokenizer/detokenizer", "detokenizer", "detokenizer"),
        Stage("backbones", "backbones", "backbones/qwen2", "backbones/run/qwen2", None, "qwen2"),
        *(Stage(each, each, f"{each}/model", each, None, launcher=TWO_PROCESSES) for each in trained),
        *(Stage("grpo", each, f"{each}/model", each, None) for each in rl),
    ]
    *others, last = (stage._replace(recipes="arm_emoji") for stage in stages)
    return (*others, last._replace(target="."))


def on_card(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores that have a bound or a weakest part, with what stands in their rows; the result file has all."""
    shown = {name for name in scores if name in MUST or name in AIM or f"{name}_weakest" in scores}
    return {name: value for name, value in scores.items() if row_of(name, scores) in shown}


def save_picture(picture: Image.Image, file: Path) -> None:
    """As PNG of few colors; makes its folder."""
    file.parent.mkdir(exist_ok=True)
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)


def draw_pictures(folder: Path) -> None:
    """Writes what the folder's model makes of held-out captions, edits and questions into `pictures`."""
    arm = Arm.from_pretrained(folder)
    pages = {"prompts": draw_prompts(arm), "edits": draw_edits(arm), "answers": draw_answers(arm)}
    pages["world"], _ = draw_world(arm.tokenizer)
    for name, page in pages.items():
        save_picture(page, folder / "pictures" / f"{name}.png")


def write_emoji_card(folder: Path, repo: str = "checkpoints/arm-emoji") -> None:
    """Writes the card anew from the result files and pictures that lie in `folder`; measures nothing. Beside it come
    texts to try.
    """
    shutil.copyfile(Path(__file__).parent / "examples-emoji.json", folder / "examples.json")
    own = {folder / SCORES, folder / TRAINING}
    others = sorted({*(folder / "results").glob("*.json")} - own)
    write_card(
        folder,
        "model",
        repo=repo,
        license="cc-by-4.0",
        from_scratch=True,
        results=[f"{folder / SCORES}:scores/card", *others],
        dataset=WORLD,
        training=folder / TRAINING,
        names=FIGURE_NAMES,
        text=Path(__file__).parent / "arm-emoji.md",
    )


def export_emoji(
    runs: Path,
    checkpoint: Path,
    *,
    until: str = MODEL_STAGES[-1],
    rl: Sequence[str] = (),
    results: Sequence[Path] = (),
    hardware: str = "",
    judge: Path = JUDGE_FILE,
    count: int = 500,
    remark: str = "",
    **options,
) -> None:
    """Builds `checkpoint` from the stages under `runs`, scores it on at most `count` emojis a row, writes its card.

    The folder is built aside and replaces the old one only when it is whole. `options` are those of
    `write_emoji_card`.

    Args:
        until: the last stage before reinforcement learning.
        rl: recipes of reinforcement learning, in order, the last of which ships.
        results: further files for the card, such as a comparison with what was before.
        hardware: what it was trained on, if not on this machine.
        judge: where the second judge's weights are kept; it is trained if they are not there.

    Raises:
        FileNotFoundError: a stage is missing, or the world's pictures are.
        ValueError: the folder would be larger than 15 MB.
    """
    stages, originals = stages_of(until, rl), read_originals()
    logs = training_logs(stages, runs, checkpoint)
    with replacing(checkpoint) as aside:
        size = gather(stages, runs, checkpoint, aside, max_bytes=MAX_BYTES)
        second = load_or_train(judge, originals=originals)
        scores = as_result(list(score_rows(aside, count=count, originals=originals, judge=second)))
        scores = {"card": on_card(scores["figures"]), **scores}
        write_result(aside / SCORES, seed=EVALUATION_SEED, items=count, scores=scores, must=MUST, aim=AIM)
        write_result(aside / TRAINING, stages=logs, remark=remark, **({"hardware": hardware} if hardware else {}))
        for file in results:
            shutil.copyfile(file, aside / "results" / file.name)
        draw_pictures(aside)
        write_emoji_card(aside, **options)
    print(f"{checkpoint}: {size / 1e6:.1f} MB")
    print(json.dumps(scores["card"], indent=2))


if __name__ == "__main__":
    run_command(
        __doc__,
        "runs/arm-emoji",
        "checkpoints/arm-emoji",
        export_emoji,
        write_emoji_card,
        {
            "until": {"choices": MODEL_STAGES, "default": MODEL_STAGES[-1], "help": "the last stage (default: sft)"},
            "rl": {"nargs": "*", "default": [], "help": "recipes of reinforcement learning; the last one ships"},
            "results": {"nargs": "*", "default": [], "type": Path, "help": "further result files for the card"},
            "hardware": {"default": "", "help": "what it was trained on (default: this machine)"},
        },
    )
