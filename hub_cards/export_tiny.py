"""Gathers what the trainers wrote into the folder that ships: fp16 weights, results, pictures and the card.

python hub_cards/export_tiny.py [--runs runs/arm-tiny] [--checkpoint checkpoints/arm-tiny] [--remark "..."]
python hub_cards/export_tiny.py --card-only
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
import yaml
from safetensors.torch import load_file, save_file

from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.results import EVALUATION_SEED, minutes_trained, write_result
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.hub.card_writing import WORLD, write_card
from transformers_arm.worlds.shapes.demo import draw_edits, draw_prompts, draw_world
from transformers_arm.worlds.shapes.evaluation import OTHER_CANVASES, all_scores
from transformers_arm.worlds.shapes.figure_names import FIGURE_NAMES
from transformers_arm.worlds.shapes.second_reader import both_readers

SCORES, TRAINING = "results/arm_tiny.json", "results/training.json"
RECIPES = Path(__file__).parents[1] / "src" / "transformers_arm" / "recipes"
MAX_BYTES = 18 * 2**20
TWO_PROCESSES = "torchrun --nproc_per_node 2"


class Stage(NamedTuple):
    """A trained stage: trainer and recipe, what the trainer wrote, where it ran, and where the result ships.

    `target` is None for a phase that only the next one starts from. `launcher` is what the card says it ran with, and
    `recipes` the folder of its recipe.
    """

    trainer: str
    recipe: str
    source: str
    run: str
    target: str | None
    section: str | None = None
    launcher: str = "python"
    recipes: str = "arm_tiny"

    def find(self, runs: Path, checkpoint: Path) -> Path | None:
        """The folder of the stage's result: what was trained, else what ships already; None if nothing ships.

        Raises:
            FileNotFoundError: there is neither.
        """
        shipped = checkpoint / self.target if self.target not in (None, ".") else None
        for folder in (runs / self.source, shipped):
            if folder is not None and folder.is_dir():
                return folder
        if self.target is None:
            return None
        raise FileNotFoundError(f"{runs / self.source} is missing; run trainers/{self.trainer}.py first.")

    def training_log(self, runs: Path, logged: Sequence[dict] = ()) -> dict:
        """Name, command, seed, steps and minutes of the training.

        A stage that was not trained under `runs` keeps what was `logged` of it.

        Raises:
            FileNotFoundError: there is no log of the training, old or new.
        """
        stage = self.run.removesuffix("/run").replace("/run/", "/")
        command = f"{self.launcher} trainers/{self.trainer}.py --config {self.recipes}/{self.recipe}"
        states = list((runs / self.run).glob("checkpoint-*/trainer_state.json"))
        if not states:
            for log in logged:
                if (log["stage"], log["command"]) == (stage, command):
                    return log
            raise FileNotFoundError(f"{runs / self.run} holds no checkpoint to read the training's log from.")
        training = yaml.safe_load((RECIPES / self.recipes / f"{self.recipe}.yaml").read_text())
        training = training[self.section] if self.section else training
        steps = max(json.loads(state.read_text())["global_step"] for state in states)
        log = {"stage": stage, "command": command, "seed": training["training"]["seed"], "steps": steps}
        return log | {"minutes": minutes_trained(runs / self.run)}


STAGES = (
    Stage("backbones", "backbones", "backbones/siglip", "backbones/run/siglip", "backbones/siglip", "siglip"),
    Stage("backbones", "backbones", "backbones/qwen2", "backbones/run/qwen2", "backbones/qwen2", "qwen2"),
    Stage("tokenizer", "tokenizer", "tokenizer/vq_model", "tokenizer", None),
    Stage("tokenizer", "tokenizer_detail", "tokenizer_detail/vq_model", "tokenizer_detail", None),
    Stage("tokenizer", "tokenizer_context", "tokenizer_context/vq_model", "tokenizer_context", "vq_model"),
    Stage("detokenizer", "detokenizer", "detokenizer/detokenizer", "detokenizer", "detokenizer"),
    Stage("pretrain", "pretrain", "pretrain/model", "pretrain", None, launcher=TWO_PROCESSES),
    Stage("pretrain", "continual", "continual/model", "continual", None, launcher=TWO_PROCESSES),
    Stage("sft", "sft", "sft/model", "sft", ".", launcher=TWO_PROCESSES),
)
# What the scores have to reach, and what they should; those of `zero_shot` follow from the frozen SigLIP's.
MUST = {
    "generation": 0.95,
    "generation_color_attr": 0.9,
    "generation_full_shuffled_three": 0.85,
    "generation_full_reversed_three": 0.85,
    "generation_composition": 0.3,
    "editing_exact": 0.93,
    "understanding": 0.95,
    "understanding_color_three": 0.9,
    "understanding_location_three": 0.9,
    "understanding_relation": 0.9,
    "large_generation": 0.8,
    "large_editing_exact": 0.75,
    "large_understanding": 0.85,
    "read_back": 0.95,
    "psnr": 30,
}
AIM = {
    "generation": 0.99,
    "generation_color_attr": 0.99,
    "generation_full_shuffled_three": 0.97,
    "generation_full_reversed_three": 0.97,
    "generation_composition": 0.8,
    "editing_exact": 0.98,
    "understanding": 0.99,
    "understanding_color_three": 0.99,
    "understanding_location_three": 0.99,
    "understanding_relation": 0.99,
    "large_generation": 0.95,
    "large_editing_exact": 0.95,
    "large_understanding": 0.95,
    "read_back": 0.995,
    "hard_read_back": 0.85,
    "psnr": 40,
}


def to_half(file: Path) -> None:
    """Rewrites a safetensors file with its fp32 tensors in fp16. Raises where a value does not fit fp16."""
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32:
            if not tensor.half().isfinite().all():
                raise ValueError(f"{name} in {file.name} holds {tensor.abs().max():.3g}, beyond fp16's 65504.")
            tensors[name] = tensor.half()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def training_logs(stages: Sequence[Stage], runs: Path, checkpoint: Path) -> list[dict]:
    """`Stage.training_log` of each; what was not trained under `runs` is as `checkpoint` tells of it.

    Raises:
        FileNotFoundError: a stage, or its log, is missing.
    """
    for stage in stages:  # before any log is read: who lacks a stage is told to train it
        stage.find(runs, checkpoint)
    training = checkpoint / TRAINING
    logged = json.loads(training.read_text())["stages"] if training.is_file() else []
    return [stage.training_log(runs, logged) for stage in stages]


def gather(stages: Sequence[Stage], runs: Path, checkpoint: Path, aside: Path, *, max_bytes: int) -> int:
    """Copies what ships of the stages to `aside`, with its weights in fp16, and gives its size in bytes.

    A stage that was not trained under `runs` is taken from `checkpoint` as it is.

    Raises:
        FileNotFoundError: a stage is missing.
        ValueError: it is larger than `max_bytes`.
    """
    for stage in stages:
        folder = stage.find(runs, checkpoint)
        if stage.target is not None:
            shutil.copytree(folder, aside / stage.target, ignore=shutil.ignore_patterns("run"), dirs_exist_ok=True)
    for file in aside.rglob("*.safetensors"):
        to_half(file)
    size = sum(file.stat().st_size for file in aside.rglob("*") if file.is_file())
    if size > max_bytes:
        raise ValueError(f"The folder has {size / 1e6:.1f} MB; it must stay below {max_bytes / 1e6:.0f} MB.")
    return size


def draw_pictures(folder: Path) -> None:
    """Writes what the folder's model makes of held-out prompts and edits into `pictures`."""
    (folder / "pictures").mkdir(exist_ok=True)
    arm = Arm.from_pretrained(folder)
    draw_prompts(arm).save(folder / "pictures" / "prompts.png")
    draw_edits(arm).save(folder / "pictures" / "edits.png")


def write_scores(folder: Path, scores: dict[str, float], **measured) -> None:
    """Writes a folder's scores and their bounds as a result file; `measured` says how they came about."""
    siglip = scores["siglip_zero_shot"]
    bounds = {"must": MUST | {"zero_shot": siglip - 0.05}, "aim": AIM | {"zero_shot": siglip}}
    write_result(folder / SCORES, command="python benchmarks/quality/arm_tiny.py", **measured, scores=scores, **bounds)


def write_tiny_card(folder: Path, repo: str = "checkpoints/arm-tiny") -> None:
    """Writes the card anew from the result files and pictures that lie in `folder`; measures nothing.

    `repo` is what the card loads. Beside it come texts to try.
    """
    shutil.copyfile(Path(__file__).parent / "examples-shapes.json", folder / "examples.json")
    write_card(
        folder,
        "model",
        repo=repo,
        license="apache-2.0",
        from_scratch=True,
        results=[folder / SCORES],
        dataset=WORLD,
        training=folder / TRAINING,
        names=FIGURE_NAMES,
        text=Path(__file__).parent / "arm-tiny.md",
    )


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which replaces `folder` when the block ends; if it raises, `folder` stays as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)  # mkdtemp keeps others out
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    replaced = aside.with_name(aside.name + "-replaced")
    if folder.exists():
        folder.rename(replaced)
    aside.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def export_tiny(
    runs: Path,
    checkpoint: Path,
    *,
    count: int = 500,
    readers: Mapping[str, Callable] | None = None,
    remark: str = "",
    **options,
) -> None:
    """Builds `checkpoint` from the stages under `runs`, scores it on `count` held-out scenes and writes its card.

    A stage that was not trained under `runs` is taken from `checkpoint` as it is. The folder is built aside and
    replaces the old one only when it is whole. `readers` of its pictures are both if not others are given; `options`
    are those of `write_tiny_card`.

    Raises:
        FileNotFoundError: a stage is missing.
        ValueError: the folder would be larger than 18 MiB.
    """
    stages = training_logs(STAGES, runs, checkpoint)
    with replacing(checkpoint) as aside:
        size = gather(STAGES, runs, checkpoint, aside, max_bytes=MAX_BYTES)
        readers = both_readers() if readers is None else readers
        scores = all_scores(aside, count=count, readers=readers, canvases=OTHER_CANVASES)  # known or not
        write_scores(aside, scores, seed=EVALUATION_SEED, items=count)
        write_result(aside / TRAINING, stages=stages, remark=remark)
        draw_pictures(aside)
        draw_world(Tokenizer.from_pretrained(aside))[0].save(aside / "pictures" / "world.png")
        write_tiny_card(aside, **options)
    print(f"{checkpoint}: {size / 1e6:.1f} MB")
    print(json.dumps(scores, indent=2))


def run_command(
    about: str,
    runs: str,
    checkpoint: str,
    export: Callable,
    write_card: Callable,
    options: Mapping[str, dict] = MappingProxyType({}),
) -> None:
    """The command of a script: `export` of what trainers wrote to a folder, or `write_card` alone.

    Args:
        about: the script's docstring.
        runs, checkpoint: both folders, unless the command names others.
        options: further ones of `export`, by name, each as argparse takes it.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path(runs), help="what the trainers wrote")
    parser.add_argument("--checkpoint", type=Path, default=Path(checkpoint), help="folder to write")
    parser.add_argument("--remark", default="", help="what the card should say of this training beside its recipes")
    parser.add_argument("--repo", default=checkpoint, help="what the card loads: a folder, or its id")
    parser.add_argument("--card-only", action="store_true", help="write the card anew, from the folder's own results")
    for name, option in options.items():
        parser.add_argument(f"--{name}", **option)
    arguments = parser.parse_args()
    if arguments.card_only:
        write_card(arguments.checkpoint, arguments.repo)
    else:
        given = {name: getattr(arguments, name) for name in ("remark", "repo", *options)}
        export(arguments.runs, arguments.checkpoint, **given)


if __name__ == "__main__":
    run_command(__doc__, "runs/arm-tiny", "checkpoints/arm-tiny", export_tiny, write_tiny_card)
