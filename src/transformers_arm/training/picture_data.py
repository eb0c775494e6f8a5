"""Captioned pictures as stages learn from them: a world's, or pairs of a user's own sources; what is held out of them,
and what is looked at on the way.

The one rule for SigLIP, tokenizer, detokenizer and renderer. Knows nothing about what they make of pictures.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import Field
from torch import nn
from torch.utils.data import Dataset

from ..data.collators import ImageTextCollator
from ..data.image_text import ImageTextMixture
from ..data.validation import samples_of_sets
from ..data.world import World
from ..image_processing_arm import ArmImageProcessor
from .callbacks import ReconstructionCallback
from .recipe import Section, either, section
from .resumable_data import MixtureTrainer
from .sections import PicturesOfWorld, Training, Validation, sources_of
from .trainer import ArmTrainer, ArmTrainingArguments, adamw
from .validation import held_out, sets_of_rows, sets_of_world
from .world_data import world_pictures

OF_TRAINING = ("image_processor", "collator", "seed", "held_out")  # which the rest of the recipe says
Pairs = sources_of("Pairs", ImageTextMixture.from_recipe, without=(*OF_TRAINING, "sources"))
Reconstructions = section("Reconstructions", ReconstructionCallback, without=("trainer", "source"))
ImageSettings = section(
    "ImageSettings",
    size=(dict[str, int], Field(None, description="`height` and `width` in px, or the area that bounds a picture.")),
    keep_aspect_ratio=(bool, Field(False, description="Whether pictures keep their proportions, within that area.")),
)


class PicturesRecipe(Section):
    """A stage that learns from captioned pictures."""

    data: either(world=PicturesOfWorld, sources=Pairs) = Field(description="Captioned pictures, streamed or drawn.")
    validation: Validation | None = Field(None, description="The loss of held-out pictures on the way.")
    evaluation: Reconstructions | None = Field(
        None, description="Reconstructions on the way, of a world's pictures or of those that validation holds out."
    )
    training: Training

    @property
    def drawn(self) -> bool:
        """Whether a world draws the pictures."""
        return isinstance(self.data, PicturesOfWorld)

    def problems(self):
        if self.evaluation is not None and self.validation is None and not self.drawn:
            yield "evaluation", "it looks at held-out pictures of the sources; add validation, which holds them out."
        if self.validation is not None:
            yield from self.validation.problems_beside(self.data, self.training)


class RenderingRecipe(PicturesRecipe):
    """A stage that learns to render a tokenizer that is there, which says how pictures are sized."""

    image_processor: ImageSettings = Field(ImageSettings(), description="Replace those of the tokenizer.")

    def problems(self):
        if "image_processor" in self.model_fields_set and self.drawn:
            yield "image_processor", "the data are a world's, which says how large its pictures are; leave it out."
        yield from super().problems()

    def sizing(self, folder: str) -> ArmImageProcessor | None:
        """What sizes own pictures as the tokenizer in a folder wants them; None where a world draws them.

        Raises:
            ValueError: the folder has none.
        """
        if self.drawn:
            return None
        try:
            return ArmImageProcessor.from_pretrained(folder, **self.image_processor.plain())
        except OSError as error:
            raise ValueError(
                f"{folder} has no image processor, which says how your pictures are sized. Copy "
                "preprocessor_config.json from the tokenizer's vq_model into it."
            ) from error


class PictureData(NamedTuple):
    """What is trained on, what is held out by source, and what a `ReconstructionCallback` looks at."""

    training: Dataset | ImageTextMixture
    held_out: dict[str, Dataset] | None
    looked_at: World | Iterator[Mapping]


def picture_data(
    recipe: PicturesRecipe,
    arguments: ArmTrainingArguments,
    image_processor: ArmImageProcessor | None,
    collator: ImageTextCollator,
) -> PictureData:
    """The pictures of a recipe.

    Args:
        image_processor: sizes own pictures; a world's have their size.
        collator: makes ids of own captions.
    """
    validation = recipe.validation
    if recipe.drawn:
        sets = sets_of_world(validation, recipe.data, arguments)
        return PictureData(world_pictures(recipe.data, arguments), sets, recipe.data.of)
    settings = {"seed": arguments.seed, "held_out": held_out(validation), **recipe.data.plain()}
    data = ImageTextMixture.from_recipe(image_processor, collator, **settings)
    sets = sets_of_rows(validation, data)
    return PictureData(data, sets, samples_of_sets(sets or {}))


def new_trainer(
    recipe: PicturesRecipe,
    model: nn.Module,
    arguments: ArmTrainingArguments,
    image_processor: ArmImageProcessor | None,
    collator: ImageTextCollator,
    *,
    fast: list[nn.Parameter] | tuple = (),
) -> tuple[ArmTrainer, World | Iterator[Mapping]]:
    """The trainer of a model on a recipe's pictures, and what is looked at on the way.

    Args:
        image_processor, collator: as `picture_data`; checkpoints hold the former.
        fast: as `adamw`.
    """
    data = picture_data(recipe, arguments, image_processor, collator)
    options = {"train_dataset": data.training, "eval_dataset": data.held_out, "processing_class": image_processor}
    options["optimizers"] = (adamw(model, arguments, fast=fast), None)
    if recipe.drawn:
        return ArmTrainer(model, arguments, data_collator=collator, **options), data.looked_at
    return MixtureTrainer(model, arguments, **options), data.looked_at
