"""Weights that processes share: what FSDP2 shards of a model and what it leaves, and how a sharded model is looked at.

The rule: **a part that keeps fp32 stays whole** on every process, as do all buffers. FSDP2 would cast ARM's frozen
tokenizer to what the rest computes in, and its codes with it, and gather in every step what never learns; collators
call it whenever they like. Knows nothing about what is trained.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from accelerate.utils import FullyShardedDataParallelPlugin, broadcast, is_peft_model
from accelerate.utils.constants import FSDP_MODEL_NAME
from safetensors import safe_open
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainingArguments

FSDP2 = "trainers/accelerate/fsdp2.yaml"
SHARDS = f"{FSDP_MODEL_NAME}_0"  # transformers' name for a checkpoint's weights
FORWARD_HOOKS = ("_forward_pre_hooks", "_forward_hooks")  # of a module
MARKS = ("generate", "_is_fsdp_managed_module")  # by which transformers has all processes generate at once


def sharded_by(arguments: TrainingArguments) -> str | None:
    """What will shard a training's weights, "FSDP2", "FSDP1" or "ZeRO-3", or None: known before anything is loaded."""
    deepspeed = getattr(arguments, "deepspeed_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        return "ZeRO-3"
    of_arguments = getattr(arguments, "fsdp_plugin_args", None)
    if of_arguments is None and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    return f"FSDP{FullyShardedDataParallelPlugin(**of_arguments or {}).fsdp_version}"


def check_whole(arguments: TrainingArguments, what: str) -> None:
    """Refuses a training whose weights will be sharded.

    Args:
        what: cannot work with them, and why, as the beginning of a sentence.

    Raises:
        ValueError: anything shards the weights.
    """
    if (sharded := sharded_by(arguments)) is not None:
        raise ValueError(
            f"{what}, but {sharded} shards them. Launch it with torchrun, or with a configuration of accelerate that "
            "does not; where memory is short, take DeepSpeed's ZeRO-2, which shards gradients and optimizer, or LoRA."
        )


def check_can_be_looked_at(trainer: Trainer) -> None:
    """Refuses to look at weights that only FSDP2's way back to whole ones is known of; raises ValueError."""
    sharded = sharded_by(trainer.args)
    if sharded not in (None, "FSDP2"):
        raise ValueError(
            f"Looks into a training (samples, evaluation) need weights that are whole or that FSDP2 shards, but "
            f"{sharded} does. Take FSDP2 ({FSDP2}), or leave these sections out."
        )


def forget_gathered(model: nn.Module) -> None:
    """Leaves a model its shards, which FSDP2 gathers when they are next computed with: after a forward pass without a
    backward one it goes on with what was gathered, whatever the shards become.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[nn.Module]:
    """Gathers a model's weights on every process, if FSDP2 shards them; all enter, and each leaves without waiting.

    FSDP2 steps aside meanwhile: each process may call the model and its parts as it likes, as often as it likes, or
    not at all, and no other waits for it. That takes the memory of all weights, in the precision they are computed in.

    Yields:
        The model, without adapters' wrapping.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    hooks = [(module, name, getattr(module, name)) for module in sharded for name in FORWARD_HOOKS]
    marks = [(module, name) for module in model.modules() for name in MARKS if name in vars(module)]
    marked = [(module, name, vars(module).pop(name)) for module, name in marks]
    try:
        for module in sharded:
            module.unshard()
        for module, name, each in hooks:
            setattr(module, name, OrderedDict((key, hook) for key, hook in each.items() if not is_fsdp_s(hook)))
        yield model.get_base_model() if hasattr(model, "get_base_model") else model
    finally:
        for module, name, each in hooks:
            setattr(module, name, each)
        for module, name, each in marked:
            setattr(module, name, each)
        forget_gathered(model)


def is_fsdp_s(hook: Callable) -> bool:
    return getattr(hook, "__module__", "").startswith("torch.distributed.fsdp")


@contextmanager
def left_whole(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Has accelerate shard a model meanwhile without the parts that stay whole, which are process 0's thereafter.

    accelerate takes all that a model saves for shards, and meets tensors that are none. With
    `fsdp_cpu_ram_efficient_loading` process 0 alone has read the weights.
    """
    parts = [
        (parent, name, part)
        for parent in model.modules()
        for name, part in parent.named_children()
        if getattr(part, "keeps_fp32", False)
    ]
    for parent, name, _ in parts:
        setattr(parent, name, None)
    saved = [
        (module, name)
        for module in model.modules()
        for name, _ in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    ]
    for module, name in saved:  # accelerate knows how to carry those that are not saved
        module.register_buffer(name, getattr(module, name), persistent=False)
    try:
        yield
    finally:
        for parent, name, part in parts:
            setattr(parent, name, part.to(device))
        for module, name in saved:
            module.register_buffer(name, getattr(module, name))
    for tensor in (*(each for _, _, part in parts for each in part.parameters()), *model.buffers()):
        tensor.data.copy_(broadcast(tensor.data.to(device, copy=True)))


def whole_state_dict(trainer: Trainer) -> dict[str, torch.Tensor] | None:
    """All weights of a trainer's model, on process 0, and nothing on others; None where the model has them whole.

    Of ZeRO-3 they are in the precision that is computed in; those of parts that keep fp32 as they were before.
    """
    if not (trainer.is_fsdp_enabled or sharded_by(trainer.args)):
        return None
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    for name, table in (getattr(trainer.model, "all_tied_weights_keys", None) or {}).items():
        if name in state_dict and table in state_dict:
            state_dict[name] = state_dict[table]  # one tensor again, which is saved once
    return state_dict and state_dict | getattr(trainer, "kept_fp32", {})


def take_whole(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> None:
    """Puts whole weights in the place of shards and takes FSDP's activation checkpointing off, under which PEFT knows
    no name, for good: what has sharded the model would not know it any more.
    """
    for place, module in model.named_modules():
        for leaf, _ in [*module.named_parameters(recurse=False)]:
            name = f"{place}.{leaf}".replace("_checkpoint_wrapped_module.", "")
            setattr(module, leaf, nn.Parameter(state_dict[name], requires_grad=False))
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, CheckpointWrapper):
                setattr(module, name, child._checkpoint_wrapped_module)


def trained_shards(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """This process's shards of all weights that are trained, as a checkpoint holds them."""
    return {"model": get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True))}


def load_shards(model: nn.Module, folder: Path) -> None:
    """Loads `trained_shards` from a folder; raises CheckpointException, on all processes, where it lacks any."""
    shards = trained_shards(model)
    dcp.load(shards, storage_reader=dcp.FileSystemReader(folder))
    set_model_state_dict(model, shards["model"], options=StateDictOptions(strict=False))


def fp32_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """What the parts that keep fp32 had in the folder that a model was read from, where it has them in 16 bits now:
    ZeRO-3 reads all in the precision that is computed in. By the names that the model saves it under.

    Raises:
        ValueError: there is no such folder.
    """
    parts = {name: part for name, part in model.named_modules() if getattr(part, "keeps_fp32", False)}
    if all(each.dtype == torch.float32 for part in parts.values() for each in part.parameters()):
        return {}
    names = {f"{name}.{key}" for name, part in parts.items() for key in part.state_dict()}
    named = {in_file(name): name for name in names}
    folder, found = Path(model.config._name_or_path), {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            own = [key for key in tensors.keys() if in_file(key) in named]  # noqa: SIM118  it is no dict
            found |= {named[in_file(key)]: tensors.get_tensor(key) for key in own}
    if found.keys() != names:
        raise ValueError(
            f"ZeRO-3 has {', '.join(parts)} in 16 bits, and {folder} is no folder that it can be saved from in fp32. "
            "Start from a model's folder on this disk, or take FSDP2."
        )
    return found


def in_file(name: str) -> str:
    """A weight's name without what PEFT, and some versions of transformers within SigLIP, put into it."""
    return name.removeprefix("base_model.model.").replace(".vision_model.vision_model.", ".vision_model.")


class ShardingMixin:
    """For a `Trainer`: what FSDP2 shards of its model is all but what `left_whole` leaves. With mixed precision
    gradients are added up over processes in fp32, and pictures that come in and losses that go out stay in fp32, all
    of which accelerate would have in 16 bits. ZeRO-3 shards all, and casts it; `kept_fp32` is what is saved of parts
    that keep fp32.
    """

    kept_fp32: dict[str, torch.Tensor] = {}

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if self.accelerator.is_fsdp2:
            policy = self.accelerator.state.fsdp_plugin.mixed_precision_policy
            if policy is not None:
                policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None, cast_forward_inputs=False)
                self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
        if sharded_by(self.args) in ("FSDP2", "ZeRO-3"):
            self.accelerator.prepare = partial(self._prepare_sharded, self.accelerator.prepare)

    @property
    def _shares_adapter(self) -> bool:
        """Whether a checkpoint's shards are of an adapter. accelerate has PEFT name them, which knows none of a model
        with FSDP's activation checkpointing: nothing would be saved, nor missed.
        """
        return self.accelerator.is_fsdp2 and is_peft_model(self.model)

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self._shares_adapter:
            dcp.save(trained_shards(self.model), storage_writer=dcp.FileSystemWriter(Path(output_dir) / SHARDS))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self._shares_adapter:
            load_shards(self.model, Path(resume_from_checkpoint) / SHARDS)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _prepare_sharded(self, prepare: Callable, *args, **kwargs):
        """`Accelerator.prepare`, of a model that is not sharded yet as said above."""
        models = [each for each in args if isinstance(each, nn.Module) and not isinstance(each, FSDPModule)]
        if any(hasattr(module, "trainable_tokens_delta") for model in models for module in model.modules()):
            raise ValueError(
                "PEFT puts rows that are trained alone (visual_rows, trainable_token_indices) into their table, "
                f"which {sharded_by(self.args)} shards. Leave them out, or launch with torchrun."
            )
        if models and self.is_deepspeed_enabled:
            self.kept_fp32 = fp32_weights(models[0]) if self.args.should_save else {}
        elif models:
            with left_whole(models[0], self.accelerator.device):
                return prepare(*args, **kwargs)
        return prepare(*args, **kwargs)
