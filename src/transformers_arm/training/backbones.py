"""Trains backbones on a world or on data of one's own and saves them as ordinary transformers checkpoints.

1. `siglip`: a SiglipModel (patch 16) by SigLIP's sigmoid loss and a dense pixel objective, which stands for the
   dense objectives of SigLIP2: without one its patch features keep the caption and nothing else.
2. `qwen2`: a Qwen2ForCausalLM on words alone: a world's documents, or the words of rows of one's own, such as the
   captions of pictures.

Each has its tokenizer: a byte-level BPE in Qwen2's format, with Qwen2.5's special tokens. Later stages load the
folders exactly as they would load google/siglip2-so400m-patch16-512 and Qwen/Qwen2.5-7B.
"""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from tokenizers import AddedToken, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
    set_seed,
)

from ..configuration_arm import MAX_GRID_SIDE
from ..data.collators import ImageTextCollator, TextCollator, to_pixel_values
from ..data.mixture import Mixture
from ..data.words import WordMixture, sampled_words
from ..image_processing_arm import ArmImageProcessor
from ..modeling_arm_vq import encoded_by_size
from ..pipeline_arm import batched
from .callbacks import RECONSTRUCTED_PIXELS, ReconstructionCallback
from .picture_data import ImageSettings, PicturesRecipe, new_trainer
from .pushing import raise_failed_pushes
from .recipe import Section, either, section
from .resumable_data import MixtureTrainer
from .saving import save_folder
from .sections import DocumentsOfWorld, Training, Validation, sources_of
from .trainer import ArmTrainer, train, training_arguments
from .validation import held_out, sets_of_rows, sets_of_world, when
from .world_data import world_documents

logger = logging.getLogger(__name__)

Words = sources_of("Words", WordMixture.from_recipe, without=("tokenizer", "seed", "held_out", "sources"))

# Qwen2.5's added tokens in their order; the first fourteen are special.
SPECIAL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
ADDED_TOKENS = [
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
]


class DenseSiglip(SiglipModel):
    """SiglipModel with a linear head that predicts each patch's pixels from its feature."""

    def __init__(self, config: SiglipConfig, pixel_weight: float):
        super().__init__(config)
        vision = config.vision_config
        self.pixel_head = nn.Linear(vision.hidden_size, 3 * vision.patch_size**2)
        self.pixel_weight = pixel_weight
        self.post_init()
        nn.init.constant_(self.logit_scale, math.log(10.0))  # SigLIP's own start (section 3 of its paper)
        nn.init.constant_(self.logit_bias, -10.0)

    def forward(self, input_ids=None, pixel_values=None, num_items_in_batch=None, **kwargs):
        """The loss of pictures [B, 3, H, W] in -1..1 with their captions' ids [B, T].

        Args:
            num_items_in_batch: pictures of the whole step, as of `ArmVQForPreTraining`.
        """
        outputs = super().forward(
            input_ids=input_ids, pixel_values=pixel_values, return_loss=True, interpolate_pos_encoding=True
        )
        patch_size = self.config.vision_config.patch_size
        patches = nn.functional.unfold(pixel_values, patch_size, stride=patch_size).transpose(1, 2)
        pixel_loss = (self.pixel_head(outputs.vision_model_output.last_hidden_state) - patches).square().mean()
        loss, pictures = outputs.loss + self.pixel_weight * pixel_loss, len(pixel_values)
        if num_items_in_batch is not None:
            loss = loss * (pictures / num_items_in_batch)
        losses = {"sigmoid": outputs.loss, "pixel": pixel_loss}
        return {"loss": loss, "losses": losses, "loss_counts": dict.fromkeys(["all", *losses], pictures)}

    def seen(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [B, 3, H, W] -> what the pixel head makes of them, alike, and embeddings [B, C] of length 1."""
        outputs = self.vision_model(pixel_values, interpolate_pos_encoding=True)
        patches, patch_size = self.pixel_head(outputs.last_hidden_state), self.config.vision_config.patch_size
        pixels = nn.functional.fold(patches.transpose(1, 2), pixel_values.shape[2:], patch_size, stride=patch_size)
        return pixels, nn.functional.normalize(outputs.pooler_output, dim=-1)


class SiglipCallback(ReconstructionCallback):
    """Of a `DenseSiglip`: what its pixel head makes of pictures, and retrieval by its embeddings: `image_to_text`, the
    share of pictures whose nearest caption is their own, and `text_to_image`, the share of captions whose nearest
    picture is one of theirs.

    Args:
        collator: makes ids of captions.
        settings: as `ReconstructionCallback`; nothing is rendered in steps.
    """

    def __init__(self, trainer, source, collator: ImageTextCollator, **settings):
        super().__init__(trainer, source, **settings)
        self.collator = collator

    def reconstructed(self, model):
        captions = [sample["caption"] for sample in self.samples]
        different = list(dict.fromkeys(captions))
        input_ids = self.collator.ids(different)["input_ids"].to(model.device)
        texts = nn.functional.normalize(model.text_model(input_ids=input_ids).pooler_output, dim=-1)

        def see(alike):
            for images in batched(alike, max(1, RECONSTRUCTED_PIXELS // alike[0][..., 0].size)):
                pixels, embeddings = model.seen(to_pixel_values(images).to(model.device))
                pictures = ArmImageProcessor().postprocess(pixels.float())
                yield from zip(map(np.asarray, pictures), embeddings, strict=True)

        pictures, embeddings = zip(*encoded_by_size(self.images, see), strict=True)
        similarities = torch.stack(embeddings) @ texts.t()
        own = torch.tensor([different.index(caption) for caption in captions], device=model.device)
        texts_found = own[similarities.argmax(0)] == torch.arange(len(different), device=model.device)
        scores = {"image_to_text": (similarities.argmax(1) == own), "text_to_image": texts_found}
        return list(pictures), {name: right.float().mean().item() for name, right in scores.items()}


def new_tokenizer(documents: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """A tokenizer in Qwen2's format (byte-level BPE, Qwen2.5's special tokens) with merges learnt from `documents`."""
    bare = Qwen2Tokenizer()._tokenizer  # Qwen2's own normalizer and pre-tokenizer
    bare.model = models.BPE()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet))
    model = json.loads(bare.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ADDED_TOKENS])
    return tokenizer


class TokenizerSettings(Section):
    """The byte-level BPE that a backbone gets."""

    tokenizer_documents: int = Field(ge=1, description="Captions or documents, at most, that it learns merges from.")
    tokenizer_vocab_size: int = Field(
        ge=256, description="Tokens before the special ones, at most: few texts have fewer merges. 256 are the bytes."
    )


class SiglipRecipe(TokenizerSettings, PicturesRecipe):
    """The vision and the text tower."""

    pixel_weight: float = Field(description="Of the dense pixel objective.")
    image_processor: ImageSettings = Field(ImageSettings(), description="Replace the size that the vision tower has.")
    evaluation: section("SiglipLooks", ReconstructionCallback, without=("trainer", "source", "steps")) | None = Field(
        None, description="Retrieval, and the pixel head's pictures, of a world or of those that validation holds out."
    )
    model: section(
        "SiglipTowers",
        vision_config=(section("SiglipVision", SiglipVisionConfig), Field(description="The vision tower.")),
        text_config=(section("SiglipText", SiglipTextConfig), Field(description="The text tower.")),
    )


class Qwen2Recipe(TokenizerSettings):
    """The language model of words alone."""

    data: either(world=DocumentsOfWorld, sources=Words) = Field(
        description="A world's documents, or the words of rows of your own, such as captions."
    )
    validation: Validation | None = Field(None, description="The loss of held-out documents on the way.")
    model: section("Qwen2", Qwen2Config, rope_theta=(float, Field(10000.0, description="Base of the rotary angles.")))
    training: Training

    def problems(self):
        if self.validation is not None:
            yield from self.validation.problems_beside(self.data, self.training)


class BackbonesRecipe(Section):
    """Backbones: a SigLIP and a Qwen2, each in its folder of `output_dir`."""

    output_dir: str = Field(description="Folder to write.")
    stages: list[Literal["siglip", "qwen2"]] = Field(["siglip", "qwen2"], description="Which are trained, in order.")
    siglip: SiglipRecipe | None = None
    qwen2: Qwen2Recipe | None = None

    def problems(self):
        for stage in self.stages:
            if getattr(self, stage) is None:
                yield stage, f"it is missing, but stages names it; state it, or leave {stage} out of stages."


def run_dir(output: Path) -> Path:
    """Where a stage keeps its checkpoints: not within what it ends in, which appears whole."""
    return output.parent / "run" / output.name


def own_words(data: Section, validation: Validation | None, count: int, seed: int) -> list[str]:
    """The words of rows of a recipe's sources, none of them held out; see `sampled_words`."""
    settings = {"seed": seed, "streams": 1, "complete": True, "held_out": held_out(validation)}
    return list(sampled_words(Mixture.from_recipe(data.plain()["sources"], **settings), count))


def siglip_tokenizer(recipe: SiglipRecipe) -> Qwen2Tokenizer:
    """A tokenizer with merges learnt from a recipe's captions, in lower case, as SigLIP reads them.

    Warns of captions that the text tower will see cut.
    """
    count, seed = recipe.tokenizer_documents, recipe.training.seed
    if recipe.drawn:
        captions = [sample["caption"] for sample in recipe.data.of.pictures(count, seed=seed)]
    else:
        captions = own_words(recipe.data, recipe.validation, count, seed)
    captions = [caption.lower() for caption in captions]
    tokenizer = new_tokenizer(captions, recipe.tokenizer_vocab_size)
    longest = recipe.model.text_config.max_position_embeddings
    lengths = [len(ids) for ids in tokenizer(captions).input_ids] if captions else [0]
    if max(lengths) > longest:
        logger.warning(
            "%d of %d captions are longer than the text tower's %d tokens, up to %d, and are cut. Raise "
            "siglip.model.text_config.max_position_embeddings, or siglip.tokenizer_vocab_size.",
            sum(length > longest for length in lengths),
            len(captions),
            longest,
            max(lengths),
        )
    return tokenizer


def train_siglip(recipe: SiglipRecipe, output: Path) -> None:
    tokenizer = siglip_tokenizer(recipe)
    towers, end = recipe.model.plain(), tokenizer.pad_token_id
    of_tokenizer = {"vocab_size": len(tokenizer), "pad_token_id": end, "eos_token_id": end, "bos_token_id": end}
    config = SiglipConfig(**{**towers, "text_config": {**towers["text_config"], **of_tokenizer}})
    vision, text, validation = config.vision_config, config.text_config, recipe.validation
    arguments = training_arguments(recipe.training.plain(), output_dir=str(run_dir(output)), **when(validation))
    set_seed(arguments.seed)
    model = DenseSiglip(config, pixel_weight=recipe.pixel_weight)
    sizes = {"size": {"height": vision.image_size, "width": vision.image_size}, **recipe.image_processor.plain()}
    image_processor = ArmImageProcessor(patch_size=vision.patch_size, **sizes)
    collator = ImageTextCollator(tokenizer, text.max_position_embeddings)
    fast = [model.logit_scale, model.logit_bias]
    trainer, looked_at = new_trainer(recipe, model, arguments, image_processor, collator, fast=fast)
    if recipe.evaluation is not None:
        trainer.add_callback(SiglipCallback(trainer, looked_at, collator, **recipe.evaluation.plain()))
    train(trainer)
    plain = SiglipModel(config)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("pixel_head.")})
    save_folder(trainer, output, {"": (plain, tokenizer, image_processor)})
    raise_failed_pushes(trainer)


def qwen2_tokenizer(recipe: Qwen2Recipe) -> Qwen2Tokenizer:
    """A tokenizer with merges learnt from a recipe's documents."""
    count, seed = recipe.tokenizer_documents, recipe.training.seed
    if isinstance(recipe.data, DocumentsOfWorld):
        documents = recipe.data.of.documents(count, seed=seed, **recipe.data.arguments)
        samples = (documents[index] for index in range(len(documents)))
        texts = (f"{sample['prompt']} {sample['answer']}" for sample in samples)
    else:
        texts = own_words(recipe.data, recipe.validation, count, seed)
    return new_tokenizer(texts, recipe.tokenizer_vocab_size)


def qwen2_config(recipe: Qwen2Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2Config:
    """A language model's configuration, with rows left for ARM's shape tokens after the tokenizer's last id.

    Raises:
        ValueError: `vocab_size` leaves too few.
    """
    needed = len(tokenizer) + 2 * MAX_GRID_SIDE
    fields = {"vocab_size": needed, **recipe.model.plain()}
    if fields["vocab_size"] < needed:
        raise ValueError(
            f"qwen2.model.vocab_size {fields['vocab_size']} leaves {fields['vocab_size'] - len(tokenizer)} rows after "
            f"the tokenizer's {len(tokenizer)} tokens, but ARM's shape tokens need {2 * MAX_GRID_SIDE}. State "
            f"{needed} or more, or leave it out."
        )
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return Qwen2Config(**fields, bos_token_id=end, eos_token_id=end, pad_token_id=end)


def train_qwen2(recipe: Qwen2Recipe, output: Path) -> None:
    tokenizer, validation = qwen2_tokenizer(recipe), recipe.validation
    config = qwen2_config(recipe, tokenizer)
    arguments = training_arguments(recipe.training.plain(), output_dir=str(run_dir(output)), **when(validation))
    set_seed(arguments.seed)
    model, options = Qwen2ForCausalLM(config), {"processing_class": tokenizer}
    if isinstance(recipe.data, DocumentsOfWorld):
        data, sets = world_documents(recipe.data, arguments), sets_of_world(validation, recipe.data, arguments)
        options |= {"train_dataset": data, "eval_dataset": sets, "data_collator": TextCollator(tokenizer)}
        trainer = ArmTrainer(model, arguments, **options)
    else:
        settings = {"seed": arguments.seed, "held_out": held_out(validation), **recipe.data.plain()}
        data = WordMixture.from_recipe(tokenizer, **settings)
        options["eval_dataset"] = sets_of_rows(validation, data)
        trainer = MixtureTrainer(model, arguments, train_dataset=data, **options)
    train(trainer)
    save_folder(trainer, output, {"": (trainer.model, tokenizer)})
    raise_failed_pushes(trainer)


def train_backbones(recipe: BackbonesRecipe) -> None:
    """Trains the stages of a recipe, each into its folder of `output_dir`, from its newest checkpoint in `run`.

    Raises:
        OSError: a folder could not be written, or has not arrived at the Hub.
    """
    trainers = {"siglip": train_siglip, "qwen2": train_qwen2}
    for stage in recipe.stages:
        trainers[stage](getattr(recipe, stage), Path(recipe.output_dir) / stage)
