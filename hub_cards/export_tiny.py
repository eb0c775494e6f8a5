"""Gathers what the trainers wrote into the folder that ships: fp16 weights that load in fp32, scores, and the card.

python hub_cards/export_tiny.py [--runs runs/arm-tiny] [--checkpoint checkpoints/arm-tiny] [--remark "..."]
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import load_file, save_file

from transformers_arm.evaluation import EVALUATION_SEED, hardware, tiny_scores
from transformers_arm.evaluation_multimodal import Arm, multimodal_scores
from transformers_arm.shapes.edits import EDIT_KINDS
from transformers_arm.shapes.prompts import GENERATION_TASKS
from transformers_arm.shapes.questions import NEGATIVES, QUESTION_KINDS

CARD_TEMPLATE = Path(__file__).with_name("arm-tiny.md")
RECIPES = Path(__file__).parents[1] / "trainers" / "arm_tiny"
MAX_BYTES = 30_000_000
TWO_PROCESSES = "torchrun --nproc_per_node 2"


class Stage(NamedTuple):
    """A trained stage: trainer and recipe, what the trainer wrote, where it ran, and where the result ships.

    `target` is None for a phase that only the next one starts from. `launcher` is what the card says it ran with.
    """

    trainer: str
    recipe: str
    source: str
    run: str
    target: str | None
    section: str | None = None
    launcher: str = "python"

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

    def training_log(self, runs: Path, card: str) -> str:
        """A row of the card's table: command, seed, steps and minutes of the training.

        A stage that was not trained under `runs` keeps its row of the present card.

        Raises:
            FileNotFoundError: there is no log of the training, and no row.
        """
        stage = self.run.removesuffix("/run")
        command = f"{self.launcher} trainers/{self.trainer}.py --config trainers/arm_tiny/{self.recipe}.yaml"
        states = list((runs / self.run).glob("checkpoint-*/trainer_state.json"))
        if not states:
            for row in card.splitlines():
                if row.startswith(f"| {stage} | `{command}` |"):
                    return row
            raise FileNotFoundError(f"{runs / self.run} holds no checkpoint to read the training's log from.")
        training = yaml.safe_load((RECIPES / f"{self.recipe}.yaml").read_text())
        training = training[self.section] if self.section else training
        steps = max(json.loads(state.read_text())["global_step"] for state in states)
        # Each call of the trainer left one event file, whose name holds the second it began in.
        events = (runs / self.run).rglob("events.out.tfevents.*")
        seconds = sum(file.stat().st_mtime - int(file.name.split(".")[3]) for file in events)
        return f"| {stage} | `{command}` | {training['training']['seed']} | {steps} | {seconds / 60:.0f} |"


STAGES = (
    Stage("backbones", "backbones", "backbones/siglip", "backbones/siglip/run", "backbones/siglip", "siglip"),
    Stage("backbones", "backbones", "backbones/qwen2", "backbones/qwen2/run", "backbones/qwen2", "qwen2"),
    Stage("tokenizer", "tokenizer", "tokenizer/vq_model", "tokenizer", None),
    Stage("tokenizer", "tokenizer_detail", "tokenizer_detail/vq_model", "tokenizer_detail", "vq_model"),
    Stage("detokenizer", "detokenizer", "detokenizer/detokenizer", "detokenizer", "detokenizer"),
    Stage("pretrain", "pretrain", "pretrain/model", "pretrain", None, launcher=TWO_PROCESSES),
    Stage("pretrain", "continual", "continual/model", "continual", None, launcher=TWO_PROCESSES),
    Stage("sft", "sft", "sft/model", "sft", ".", launcher=TWO_PROCESSES),
)
MULTIMODAL = {
    "understanding": ("understanding, mean over question kinds", "0.85", "0.97"),
    "understanding_question_first": ("understanding, the question before its picture", "report", ""),
    **{f"understanding_{kind}": (f"understanding: {kind}", "", "") for kind in QUESTION_KINDS},
    **{
        f"understanding_{negatives}_{name}": (f"existence, {negatives} negatives: {name.replace('_', ' ')}", "", "")
        for negatives in NEGATIVES
        for name in ("accuracy", "f1", "yes_share")
    },
    "generation": ("generation, mean of the six tasks", "0.60", "0.90"),
    **{f"generation_{task}": (f"generation: {task}", "", "") for task in GENERATION_TASKS},
    "generation_full": ("generation, full captions of test scenes", "0.45", "0.85"),
    "generation_composition": ("generation, unseen pairs (composition)", "report", "0.50"),
    "editing_exact": ("editing, exact target scene", "0.50", "0.80"),
    **{f"editing_{kind}": (f"editing: {kind}, exact", "", "") for kind in EDIT_KINDS},
    "editing_sc": ("editing, SC (instruction done, the rest kept), of 10", "", ""),
    "editing_pq": ("editing, PQ (quality), of 10", "", ""),
    "editing_o": ("editing, O = sqrt(SC * PQ), of 10", "", ""),
    "unguided_generation": ("without guidance: the six tasks", "report", ""),
    "unguided_generation_full": ("without guidance: full captions", "report", ""),
    "unguided_generation_composition": ("without guidance: composition", "report", ""),
    "unguided_editing_exact": ("without guidance: editing, exact", "report", ""),
    "hard_understanding": ("hard variant: understanding", "report", ""),
    "hard_generation": ("hard variant: the six tasks", "report", ""),
    "hard_generation_full": ("hard variant: full captions", "report", ""),
    "hard_generation_composition": ("hard variant: composition", "report", ""),
    "hard_editing_exact": ("hard variant: editing, exact", "report", ""),
}
TOKENIZER = {
    "read_back": ("reconstructions read back, everything right", "0.95", "0.995"),
    "hard_read_back": ("the same, hard variant (64x64, jitter)", "report", "0.85"),
    "psnr": ("PSNR, dB", "30", "40"),
    "hard_psnr": ("PSNR, hard variant, dB", "report", ""),
    "zero_shot": ("zero-shot of z_q, 1 of 100 captions", "frozen SigLIP - 0.05", "frozen SigLIP"),
    "siglip_zero_shot": ("zero-shot of the frozen SigLIP", "", ""),
    "text_question": ("backbones/qwen2: questions about scenes told in words", "", ""),
    "text_edit": ("backbones/qwen2: edits of scenes told in words", "", ""),
    "text_paraphrase": ("backbones/qwen2: captions put in order", "", ""),
    "codebook_usage": ("codebook usage", "report", ""),
    "code_perplexity": ("code perplexity", "report", ""),
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


def _rows(wanted: dict[str, tuple[str, str, str]], scores: dict[str, float]) -> str:
    return "\n".join(f"| {what} | {scores[name]:.3f} | {must} | {aim} |" for name, (what, must, aim) in wanted.items())


def write_card(folder: Path, stages: str, sampling: dict, scores: dict[str, float], count: int, remark: str) -> None:
    """Fills the card's template with scores, training logs, seeds, hardware, date and a remark on this training."""
    data = ModelCardData(license="apache-2.0", library_name="transformers", pipeline_tag="any-to-any", tags=["arm"])
    card = ModelCard.from_template(
        data,
        template_path=str(CARD_TEMPLATE),
        multimodal_rows=_rows(MULTIMODAL, scores),
        tokenizer_rows=_rows(TOKENIZER, scores),
        sampling=", ".join(f"{name} {value}" for name, value in sampling.items()),
        stages=stages,
        remark=remark,
        count=count,
        seed=EVALUATION_SEED,
        date=date.today().isoformat(),
        hardware=hardware(),
    )
    card.save(folder / "README.md")


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


def export_tiny(runs: Path, checkpoint: Path, *, count: int = 500, remark: str = "") -> None:
    """Builds `checkpoint` from the stages under `runs`, scores it on `count` held-out scenes and writes its card.

    A stage that was not trained under `runs` is taken from `checkpoint` as it is. The folder is built aside and
    replaces the old one only when it is whole.

    Raises:
        FileNotFoundError: a stage is missing.
        ValueError: the folder would be larger than 30 MB.
    """
    folders = {stage: stage.find(runs, checkpoint) for stage in STAGES}
    card = checkpoint / "README.md"
    card = card.read_text() if card.is_file() else ""
    stages = "\n".join(stage.training_log(runs, card) for stage in STAGES)
    with replacing(checkpoint) as aside:
        for stage, folder in folders.items():
            if stage.target is not None:
                left_out = shutil.ignore_patterns("run")
                shutil.copytree(folder, aside / stage.target, ignore=left_out, dirs_exist_ok=True)
        for file in aside.rglob("*.safetensors"):
            to_half(file)
        size = sum(file.stat().st_size for file in aside.rglob("*") if file.is_file())
        if size > MAX_BYTES:
            raise ValueError(f"The folder has {size / 1e6:.1f} MB; it must stay below {MAX_BYTES / 1e6:.0f} MB.")
        sampling = json.loads((aside / "generation_config.json").read_text())["image_generation"]
        scores = {**multimodal_scores(Arm.from_pretrained(aside), count=count), **tiny_scores(aside, count=count)}
        (aside / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
        write_card(aside, stages, sampling, scores, count, remark)
    print(f"{checkpoint}: {size / 1e6:.1f} MB")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/arm-tiny"), help="what the trainers wrote")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny"), help="folder to write")
    parser.add_argument("--remark", default="", help="what the card should say of this training beside its recipes")
    arguments = parser.parse_args()
    export_tiny(arguments.runs, arguments.checkpoint, remark=arguments.remark)
