"""The Trainer all recipes share: checkpoints that are never half-written, and the recipe files that configure it.

Knows nothing about what is trained; what an ARM's loss wants is in `routed_loss`.
"""

import atexit
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch.utils.data import SequentialSampler
from transformers import GenerationConfig, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from .routed_loss import RoutedLossMixin

_STAGING = ".saving"  # inside output_dir, so that the final rename stays on one file system


class AtomicCheckpointMixin:
    """For a `Trainer`: checkpoints are written aside and renamed, so that none is ever half-written."""

    def _get_output_dir(self, trial):
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, _STAGING) if getattr(self, "_saving", False) else run_dir

    def _save_checkpoint(self, model, trial):
        run_dir = Path(self._get_output_dir(trial))
        if self.is_world_process_zero():
            shutil.rmtree(run_dir / _STAGING, ignore_errors=True)  # what an interrupted save left behind
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # what a full disk raises, by who writes
            free = shutil.disk_usage(run_dir).free / 1e9
            shutil.rmtree(run_dir / _STAGING, ignore_errors=True)
            raise OSError(
                f"The checkpoint of step {self.state.global_step} could not be written to {run_dir}, where {free:.3f} "
                f"GB are free: {error}. Earlier checkpoints are whole: make room, and the same command goes on from "
                "the newest."
            ) from error
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        best = self.state.best_model_checkpoint
        if best is not None:
            self.state.best_model_checkpoint = str(run_dir / Path(best).name)  # where it will be, not where it is now
        if self.is_world_process_zero():
            (written,) = (run_dir / _STAGING).iterdir()
            if best is not None:
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            final = run_dir / written.name
            shutil.rmtree(final, ignore_errors=True)  # the same step saved by an earlier run
            written.rename(final)
            rotate_checkpoints(str(run_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()


CARD = """---
library_name: transformers
pipeline_tag: any-to-any
tags: [{tags}]
---

# {name}

An ARM (arXiv 2606.11188){origin}, trained by `{trainer}` of transformers-arm. Nothing has been measured of it here.

```python
import transformers_arm
from transformers import AutoModelForMultimodalLM, AutoProcessor

folder = "..."  # this one; a PEFT adapter is loaded onto the model it was trained from
model, processor = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
```
"""


class CardMixin:
    """For a TRL trainer: a card that says what the model is and how it loads; TRL's own shows how to chat with it."""

    def create_model_card(self, model_name: str | None = None, dataset_name=None, tags: str | list[str] | None = None):
        if not self.is_world_process_zero():
            return
        given = [tags] if isinstance(tags, str) else list(tags or [])
        path = self.model.config._name_or_path
        card = CARD.format(
            tags=", ".join(dict.fromkeys([*self._tag_names, *given])),
            name=model_name or Path(self.args.output_dir).name,
            origin=f", started from `{Path(path).name if os.path.isdir(path) else path}`" if path else "",
            trainer=type(self).__name__,
        )
        file = Path(self.args.output_dir) / "README.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(card)


class LossPartsMixin:
    """For a `Trainer`: a model output may carry `losses`, a dict of scalar tensors; the mean of each since the last
    log, over the outputs that held it, is logged beside `loss` under `loss_<name>`.
    """

    def __init__(self, *args, **kwargs):
        self._loss_sums, self._loss_counts = {}, {}
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training and outputs.get("losses"):
            for name, value in outputs["losses"].items():
                self._loss_sums[name] = self._loss_sums.get(name, 0.0) + value.detach()
                self._loss_counts[name] = self._loss_counts.get(name, 0) + 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            means = {name: float(total) / self._loss_counts[name] for name, total in self._loss_sums.items()}
            logs |= {f"loss_{name}": round(mean, 5) for name, mean in means.items()}
            self._loss_sums, self._loss_counts = {}, {}
        super().log(logs, *args, **kwargs)


class FrozenPartsMixin:
    """For a `Trainer`: checkpoints of a model that is `frozen_from_backbones` hold only what learns. Going on from one
    takes the rest from the model at hand, which the recipe has made of its backbones. What is saved after training is
    whole.
    """

    def train(self, *args, **kwargs):
        if not getattr(self.model, "frozen_from_backbones", False):
            return super().train(*args, **kwargs)
        named = self.model.named_parameters(remove_duplicate=False)  # tied ones under each of their names
        before = self.model._keys_to_ignore_on_save
        self.model._keys_to_ignore_on_save = {name for name, parameter in named if not parameter.requires_grad}
        try:
            return super().train(*args, **kwargs)
        finally:
            self.model._keys_to_ignore_on_save = before


class ArmTrainer(AtomicCheckpointMixin, FrozenPartsMixin, LossPartsMixin, RoutedLossMixin, Trainer):
    """`transformers.Trainer` with these mixins. Samples are taken in order: the datasets here are shuffled by
    construction.
    """

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)


@contextmanager
def set_aside(arguments: TrainingArguments, **values):
    """Has other values in the arguments meanwhile, of settings that a trainer's parent is not to act upon."""
    before = {name: getattr(arguments, name) for name in values}
    vars(arguments).update(values)
    try:
        yield
    finally:
        vars(arguments).update(before)


def no_bf16_on_cpu(arguments: TrainingArguments) -> None:
    """Turns off bf16, TRL's default, where nobody asked for it and there is only a CPU, much slower with it."""
    if arguments.bf16 is None and not torch.accelerator.is_available():
        arguments.bf16 = False


def settle(values: dict) -> None:
    """Settles those values of training arguments that would do the same with a warning: `gradient_checkpointing`, as
    TRL and recipes call it, goes by the name that newer transformers have for it, and without an accelerator there is
    nothing to pin memory for.
    """
    known = {field.name for field in fields(TrainingArguments)}
    for what in ("checkpointing", "checkpointing_kwargs"):
        old, new = f"gradient_{what}", f"activation_{what}"
        if new in known and values.get(new) is None and values.get(old) is not None:
            values[new] = values[old]
    if not torch.accelerator.is_available():
        values["dataloader_pin_memory"] = False


@contextmanager
def without_checkpointing(model: torch.nn.Module, kwargs: dict | None):
    """Has a model keep its activations meanwhile; `kwargs` are those of its gradient checkpointing."""
    if not model.is_gradient_checkpointing:
        yield
        return
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_disable")()
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_enable")(kwargs)


def train(trainer: Trainer) -> None:
    """Trains from the newest complete checkpoint in `output_dir`, or from the start where there is none."""
    output_dir = trainer.args.output_dir
    # Left to the end of the process, gloo's threads may abort it after all is done and saved.
    atexit.register(PartialState().destroy_process_group)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None)


def save_folder(folder: Path, parts: dict[str, tuple]) -> None:
    """Saves models, processors, ... by their `save_pretrained` into a folder that appears only when it is whole.

    Args:
        folder: replaced if it is there.
        parts: what belongs into each subfolder, by its name; "" is the folder itself.
    """
    aside = folder.with_name(f".{folder.name}.saving")
    shutil.rmtree(aside, ignore_errors=True)
    for name, objects in parts.items():
        for each in objects:
            each.save_pretrained(aside / name)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


@dataclass
class Gathered:
    """A model that saves with weights gathered from all processes, or, of a PEFT model, with its adapter merged."""

    model: torch.nn.Module
    state_dict: dict[str, torch.Tensor] | None = None

    def save_pretrained(self, folder: Path) -> None:
        model = self.model.merge_and_unload() if hasattr(self.model, "merge_and_unload") else self.model
        model.save_pretrained(folder, state_dict=self.state_dict)


def save_model(trainer: Trainer, folder: Path, processor, **others: tuple) -> None:
    """Saves what a trainer trained, and its processor; to be called by all processes.

    Of a PEFT model the adapter goes to `folder`/adapter, and the model with the adapter merged, unless its weights are
    quantized, beside it.

    Args:
        folder: see `save_folder`.
        others: further objects, by subfolder.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(model, "peft_config"):
        state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # of all shards, under FSDP and ZeRO-3
        parts = {"": (Gathered(model, state_dict), processor)}
    elif model.get_base_model().config.to_dict().get("quantization_config"):
        parts = {"adapter": (model,), "": (processor,)}
    else:
        parts = {"adapter": (model,), "": (Gathered(model), processor)}
    if trainer.is_world_process_zero():
        save_folder(folder, {**others, **parts})


def set_generation(generation_config: GenerationConfig, section: dict) -> None:
    """Puts a recipe's `generation` section into what is saved with the model.

    Raises:
        ValueError: a setting that `generate` does not know.
    """
    if unknown := set(section) - set(vars(generation_config)) - {"image_generation", "image_editing"}:
        raise ValueError(f"The recipe's generation section names {', '.join(unknown)}, which generate does not know.")
    for name, value in section.items():
        setattr(generation_config, name, value)


def training_arguments(section: dict, **defaults) -> TrainingArguments:
    """`TrainingArguments` from a recipe's section; what the section says wins over `defaults`."""
    values = {"report_to": "tensorboard", "remove_unused_columns": False, **defaults, **section}
    settle(values)
    return TrainingArguments(**values)


def adamw(model, arguments: TrainingArguments, *, fast=()) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; those in `fast` (logit scale and bias) learn ten times as quickly."""
    fast = list(fast)
    ids = {id(parameter) for parameter in fast}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    groups = [{"params": rest}] + ([{"params": fast, "lr": 10 * arguments.learning_rate}] if fast else [])
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return torch.optim.AdamW(groups, arguments.learning_rate, betas=betas, weight_decay=arguments.weight_decay)
