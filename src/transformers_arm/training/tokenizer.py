"""Trains ARM's visual tokenizer (paper section 3.1) from a SigLIP and a Qwen2 checkpoint.

Writes `output_dir`: the trained `ArmVQForPreTraining` in `pretraining/`, and `ArmVQModel` with its image processor in
`vq_model/`. Interrupted, the same command goes on from the newest complete checkpoint, streamed data included; what is
frozen is read from the backbones again.
"""

from pathlib import Path

import torch
from pydantic import Field
from transformers import AutoTokenizer, PreTrainedConfig, set_seed

from ..configuration_arm import ArmVQConfig
from ..data.collators import ImageTextCollator
from ..image_processing_arm import ArmImageProcessor
from ..modeling_arm_vq_pretraining import ArmVQForPreTraining
from .callbacks import ReconstructionCallback
from .picture_data import ImageSettings, PicturesRecipe, new_trainer
from .pushing import raise_failed_pushes
from .recipe import arguments_of, section
from .saving import save_folder
from .trainer import train, training_arguments
from .validation import when

TOWERS = ("vision_config", "text_config", "captioner_config", "backbones")  # which come with the backbones
ModelSettings = section("TokenizerSettings", ArmVQConfig, without=(*arguments_of(PreTrainedConfig), *TOWERS))
TokenizerBackbones = section("TokenizerBackbones", ArmVQForPreTraining.from_backbones, without=("dtype",))


class TokenizerRecipe(PicturesRecipe):
    """The visual tokenizer, with the four losses of the paper."""

    output_dir: str = Field(description="Folder to write.")
    start_from: str | None = Field(
        None, description="`pretraining/` of a phase before, or a checkpoint of it, whose weights go on learning."
    )
    backbones: TokenizerBackbones
    model: ModelSettings = Field(ModelSettings(), description="Replace the defaults, or what `start_from` has.")
    image_processor: ImageSettings = Field(ImageSettings(), description="Replace those of the vision backbone.")


def caption_collator(recipe: TokenizerRecipe, config: ArmVQConfig) -> ImageTextCollator:
    """What makes ids of captions, for the losses that have a weight."""
    backbones, tokenizers = recipe.backbones, {}
    if config.sigmoid_loss_weight:
        tokenizers["siglip_tokenizer"] = AutoTokenizer.from_pretrained(backbones.text or backbones.vision)
        tokenizers["max_length"] = config.text_config.max_position_embeddings
    if config.caption_loss_weight:
        tokenizers["caption_tokenizer"] = AutoTokenizer.from_pretrained(backbones.captioner)
    return ImageTextCollator(**tokenizers)


def train_tokenizer(recipe: TokenizerRecipe) -> None:
    """Trains as a recipe says, from the newest checkpoint in `output_dir` if there is one."""
    output = Path(recipe.output_dir)
    arguments = training_arguments(recipe.training.plain(), output_dir=str(output), **when(recipe.validation))
    set_seed(arguments.seed)
    if recipe.start_from is not None:  # a further phase: another model section on the weights of the one before
        settings = {"backbones": recipe.backbones.plain(), **recipe.model.plain()}
        model = ArmVQForPreTraining.from_pretrained(recipe.start_from, dtype=torch.float32, **settings)
    else:
        model = ArmVQForPreTraining.from_backbones(**recipe.backbones.plain(), **recipe.model.plain())
    image_processor = ArmImageProcessor.from_pretrained(recipe.backbones.vision, **recipe.image_processor.plain())
    collator = caption_collator(recipe, model.config)
    fast = [model.logit_scale, model.logit_bias] if model.config.sigmoid_loss_weight else []
    trainer, looked_at = new_trainer(recipe, model, arguments, image_processor, collator, fast=fast)
    if recipe.evaluation is not None and model.config.pixel_loss_weight:  # that loss teaches what renders the pictures
        trainer.add_callback(ReconstructionCallback(trainer, looked_at, **recipe.evaluation.plain()))
    if arguments.process_index:
        set_seed(arguments.seed + arguments.process_index)  # or all would draw the same noise for their pictures
    train(trainer)
    save_folder(trainer, output / "pretraining", {"": (model, image_processor)})
    config = ArmVQConfig(**{**model.config.to_dict(), "text_config": None, "captioner_config": None})
    model.vq_model.config = config
    save_folder(trainer, output / "vq_model", {"": (model.vq_model, image_processor)})
    raise_failed_pushes(trainer)
