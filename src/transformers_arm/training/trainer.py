"""The Trainer all recipes share, and what the settings of their recipes make of it.

Knows nothing about what is trained, nor how it is saved (`saving`); what an ARM's loss wants is in `routed_loss`, what
is logged in `logs`.
"""

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch.utils.data import SequentialSampler
from transformers import GenerationConfig, Trainer, TrainingArguments

from .logs import RunLogsMixin
from .preemption import STATUS, PreemptionCallback
from .process import ProcessMixin
from .routed_loss import RoutedLossMixin
from .saving import AtomicCheckpointMixin, newest_checkpoint
from .sharding import ShardingMixin

logger = logging.getLogger(__name__)

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


class FrozenPartsMixin:
    """For a `Trainer`: checkpoints of a model that is `frozen_from_backbones` hold only what learns, and say in their
    config where the rest is, so that they load by themselves. Going on from one takes the rest from the model at hand,
    which the recipe has made of its backbones. What is saved after training is whole.
    """

    def train(self, *args, **kwargs):
        model = self.model
        if not getattr(model, "frozen_from_backbones", False):
            return super().train(*args, **kwargs)
        before = model._keys_to_ignore_on_save
        model._keys_to_ignore_on_save = model.frozen_names()
        model.config.backbones = model.backbones_from(Path(self.args.output_dir) / "checkpoint")
        try:
            return super().train(*args, **kwargs)
        finally:
            model._keys_to_ignore_on_save, model.config.backbones = before, None


class ArmTrainer(
    ProcessMixin, AtomicCheckpointMixin, ShardingMixin, FrozenPartsMixin, RunLogsMixin, RoutedLossMixin, Trainer
):
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
    """Trains from the newest complete checkpoint in `output_dir`, or from the start where there is none.

    Raises:
        SystemExit: (on all processes, with the status of SIGTERM) it was asked to end, and has saved a checkpoint.
    """
    preemption = PreemptionCallback()
    trainer.add_callback(preemption)
    try:
        trainer.train(resume_from_checkpoint=newest_checkpoint(trainer.args.output_dir))
    finally:
        preemption.let_go()
    if preemption.stopped:
        step = trainer.state.global_step
        logger.warning("Ended by SIGTERM with a checkpoint of step %d; the same command goes on from it.", step)
        raise SystemExit(STATUS)


def set_generation(generation_config: GenerationConfig, section: dict) -> None:
    """Puts a recipe's `generation` section into what is saved with the model.

    Raises:
        ValueError: a setting that `generate` does not know.
    """
    if unknown := set(section) - set(vars(generation_config)) - {"image_generation", "image_editing"}:
        raise ValueError(f"The recipe's generation section names {', '.join(unknown)}, which generate does not know.")
    for name, value in section.items():
        setattr(generation_config, name, value)


@dataclass
class ArmTrainingArguments(TrainingArguments):
    """`TrainingArguments`, and what `RunLogsMixin` is to know of the hardware."""

    peak_tflops: float | None = field(
        default=None,
        metadata={"help": "TFLOP/s that a GPU could do, for model_flops_share in the log; known GPUs' unless stated."},
    )


def training_arguments(section: dict, **defaults) -> ArmTrainingArguments:
    """`ArmTrainingArguments` from a recipe's section; what the section says wins over `defaults`."""
    values = {"report_to": "tensorboard", "remove_unused_columns": False, **defaults, **section}
    settle(values)
    return ArmTrainingArguments(**values)


def adamw(model, arguments: TrainingArguments, *, fast=()) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; those in `fast` (logit scale and bias) learn ten times as quickly."""
    fast = list(fast)
    ids = {id(parameter) for parameter in fast}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    groups = [{"params": rest}] + ([{"params": fast, "lr": 10 * arguments.learning_rate}] if fast else [])
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return torch.optim.AdamW(groups, arguments.learning_rate, betas=betas, weight_decay=arguments.weight_decay)
