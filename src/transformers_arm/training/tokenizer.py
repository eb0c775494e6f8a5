"""Trains ARM's visual tokenizer (paper section 3.1) from a SigLIP and a Qwen2 checkpoint.

Writes `output_dir`: the trained `ArmVQForPreTraining` in `pretraining/`, and `ArmVQModel` with its image processor in
`vq_model/`. Interrupted, the same command goes on from the newest complete checkpoint, streamed data included; what is
frozen is read from the backbones again.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from transformers import AutoTokenizer, PreTrainedConfig, set_seed

from ..configuration_arm import ArmVQConfig
from ..data.collators import ImageTextCollator
from ..data.image_text import ImageTextMixture
from ..data.validation import pictures_of_sets
from ..data.world import World
from ..image_processing_arm import ArmImageProcessor
from ..modeling_arm_vq_pretraining import ArmVQForPreTraining
from .callbacks import ReconstructionCallback
from .pushing import raise_failed_pushes
from .recipe import Section, arguments_of, either, section
from .resumable_data import MixtureTrainer
from .saving import save_folder
from .sections import PicturesOfWorld, Training, Validation, sources_of
from .trainer import ArmTrainer, ArmTrainingArguments, adamw, train, training_arguments
from .validation import held_out, sets_of_rows, sets_of_world, when
from .world_data import world_pictures

OF_TRAINING = ("image_processor", "collator", "seed", "held_out")  # which the rest of the recipe says
TOWERS = ("vision_config", "text_config", "captioner_config")  # which come with the backbones
Reconstructions = section("Reconstructions", ReconstructionCallback, without=("trainer", "source"))
ModelSettings = section("TokenizerSettings", ArmVQConfig, without=(*arguments_of(PreTrainedConfig), *TOWERS))
Pairs = sources_of("Pairs", ImageTextMixture.from_recipe, without=(*OF_TRAINING, "sources"))
ImageSettings = section(
    "ImageSettings",
    size=(dict[str, int], Field(None, description="`height` and `width` in px, or the area that bounds a picture.")),
    keep_aspect_ratio=(bool, Field(False, description="Whether pictures keep their proportions, within that area.")),
)


class TokenizerRecipe(Section):
    """The visual tokenizer, with the four losses of the paper."""

    output_dir: str = Field(description="Folder to write.")
    start_from: str | None = Field(None, description="`pretraining/` of a phase before, whose weights go on learning.")
    backbones: section("TokenizerBackbones", ArmVQForPreTraining.from_backbones, without=("dtype",))
    model: ModelSettings = Field(ModelSettings(), description="Replace the defaults, or what `start_from` has.")
    image_processor: ImageSettings = Field(ImageSettings(), description="Replace those of the vision backbone.")
    data: either(world=PicturesOfWorld, sources=Pairs) = Field(description="Captioned pictures, streamed or drawn.")
    validation: Validation | None = Field(None, description="The loss of held-out pictures on the way.")
    evaluation: Reconstructions | None = Field(
        None, description="Reconstructions on the way, of a world's pictures or of those that validation holds out."
    )
    training: Training

    def problems(self):
        if self.evaluation is not None and self.validation is None and not isinstance(self.data, PicturesOfWorld):
            yield "evaluation", "it looks at held-out pictures of the sources; add validation, which holds them out."
        if self.validation is not None:
            yield from self.validation.problems_beside(self.data, self.training)


def caption_collator(recipe: TokenizerRecipe, config: ArmVQConfig) -> ImageTextCollator:
    """What makes ids of captions, for the losses that have a weight."""
    backbones, tokenizers = recipe.backbones, {}
    if config.sigmoid_loss_weight:
        tokenizers["siglip_tokenizer"] = AutoTokenizer.from_pretrained(backbones.text or backbones.vision)
        tokenizers["max_length"] = config.text_config.max_position_embeddings
    if config.caption_loss_weight:
        tokenizers["caption_tokenizer"] = AutoTokenizer.from_pretrained(backbones.captioner)
    return ImageTextCollator(**tokenizers)


def new_trainer(
    recipe: TokenizerRecipe,
    model: ArmVQForPreTraining,
    arguments: ArmTrainingArguments,
    image_processor: ArmImageProcessor,
    collator: ImageTextCollator,
) -> tuple[ArmTrainer, World | Iterator[np.ndarray]]:
    """The trainer of a recipe's model on its data, and the pictures that are looked at on the way."""
    fast = [model.logit_scale, model.logit_bias] if model.config.sigmoid_loss_weight else []
    optimizers, validation = (adamw(model, arguments, fast=fast), None), recipe.validation
    if isinstance(recipe.data, PicturesOfWorld):
        data, sets = world_pictures(recipe.data, arguments), sets_of_world(validation, recipe.data, arguments)
        options = {"eval_dataset": sets, "data_collator": collator, "optimizers": optimizers}
        return ArmTrainer(model, arguments, train_dataset=data, **options), recipe.data.of
    settings = {"seed": arguments.seed, "held_out": held_out(validation), **recipe.data.plain()}
    data = ImageTextMixture.from_recipe(image_processor, collator, **settings)
    sets = sets_of_rows(validation, data)
    trainer = MixtureTrainer(model, arguments, train_dataset=data, eval_dataset=sets, optimizers=optimizers)
    return trainer, pictures_of_sets(sets or {})


def train_tokenizer(recipe: TokenizerRecipe) -> None:
    """Trains as a recipe says, from the newest checkpoint in `output_dir` if there is one."""
    output = Path(recipe.output_dir)
    arguments = training_arguments(recipe.training.plain(), output_dir=str(output), **when(recipe.validation))
    set_seed(arguments.seed)
    if recipe.start_from is not None:  # a further phase: another model section on the weights of the one before
        model = ArmVQForPreTraining.from_pretrained(recipe.start_from, dtype=torch.float32, **recipe.model.plain())
    else:
        model = ArmVQForPreTraining.from_backbones(**recipe.backbones.plain(), **recipe.model.plain())
    image_processor = ArmImageProcessor.from_pretrained(recipe.backbones.vision, **recipe.image_processor.plain())
    collator = caption_collator(recipe, model.config)
    trainer, looked_at = new_trainer(recipe, model, arguments, image_processor, collator)
    if recipe.evaluation is not None and model.config.pixel_loss_weight:  # that loss teaches what renders the pictures
        trainer.add_callback(ReconstructionCallback(trainer, looked_at, **recipe.evaluation.plain()))
    if arguments.process_index:
        set_seed(arguments.seed + arguments.process_index)  # or all would draw the same noise for their pictures
    train(trainer)
    save_folder(trainer, output / "pretraining", {"": (model,)})
    config = ArmVQConfig(**{**model.config.to_dict(), "text_config": None, "captioner_config": None})
    model.vq_model.config = config
    save_folder(trainer, output / "vq_model", {"": (model.vq_model, image_processor)})
    raise_failed_pushes(trainer)
