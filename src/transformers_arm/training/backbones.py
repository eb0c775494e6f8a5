"""Trains the backbones of a world and saves them as ordinary transformers checkpoints.

1. `siglip`: a SiglipModel (patch 16) by SigLIP's sigmoid loss and a dense pixel objective, which stands for the
   dense objectives of SigLIP2: without one its patch features keep the caption and nothing else.
2. `qwen2`: a Qwen2ForCausalLM on the world's documents, of words alone.

Each has its tokenizer: a byte-level BPE in Qwen2's format, with Qwen2.5's special tokens. Later stages load the
folders exactly as they would load google/siglip2-so400m-patch16-512 and Qwen/Qwen2.5-7B.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

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

from ..data.collators import ImageTextCollator, TextCollator
from ..image_processing_arm import ArmImageProcessor
from .pushing import raise_failed_pushes
from .recipe import Section, section
from .saving import save_folder
from .sections import DocumentsOfWorld, PicturesOfWorld, Training
from .trainer import ArmTrainer, adamw, train, training_arguments
from .world_data import samples_per_step, world_pictures

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

    def forward(self, input_ids=None, pixel_values=None, **kwargs):
        outputs = super().forward(
            input_ids=input_ids, pixel_values=pixel_values, return_loss=True, interpolate_pos_encoding=True
        )
        patch_size = self.config.vision_config.patch_size
        patches = nn.functional.unfold(pixel_values, patch_size, stride=patch_size).transpose(1, 2)
        pixel_loss = (self.pixel_head(outputs.vision_model_output.last_hidden_state) - patches).square().mean()
        losses = {"sigmoid": outputs.loss, "pixel": pixel_loss}
        return {"loss": outputs.loss + self.pixel_weight * pixel_loss, "losses": losses}


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


class SiglipRecipe(Section):
    """The vision and the text tower."""

    tokenizer_documents: int = Field(description="Captions that the tokenizer learns its merges from.")
    tokenizer_vocab_size: int = Field(description="Tokens before the special ones.")
    pixel_weight: float = Field(description="Of the dense pixel objective.")
    data: PicturesOfWorld
    model: section(
        "SiglipTowers",
        vision_config=(section("SiglipVision", SiglipVisionConfig), Field(description="The vision tower.")),
        text_config=(section("SiglipText", SiglipTextConfig), Field(description="The text tower.")),
    )
    training: Training


class Qwen2Recipe(Section):
    """The language model of words alone."""

    tokenizer_documents: int = Field(description="Documents that the tokenizer learns its merges from.")
    tokenizer_vocab_size: int = Field(description="Tokens before the special ones.")
    data: DocumentsOfWorld
    model: section("Qwen2", Qwen2Config, rope_theta=(float, Field(10000.0, description="Base of the rotary angles.")))
    training: Training


class BackbonesRecipe(Section):
    """Backbones of a world: a SigLIP and a Qwen2, each in its folder of `output_dir`."""

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


def train_siglip(recipe: SiglipRecipe, output: Path) -> None:
    captions = recipe.data.of.pictures(recipe.tokenizer_documents, seed=recipe.training.seed)
    tokenizer = new_tokenizer((sample["caption"] for sample in captions), recipe.tokenizer_vocab_size)
    config = SiglipConfig(**recipe.model.plain())
    vision, text = config.vision_config, config.text_config
    text.vocab_size = len(tokenizer)
    text.pad_token_id = text.eos_token_id = text.bos_token_id = tokenizer.pad_token_id
    arguments = training_arguments(recipe.training.plain(), output_dir=str(run_dir(output)))
    set_seed(arguments.seed)
    model = DenseSiglip(config, pixel_weight=recipe.pixel_weight)
    trainer = ArmTrainer(
        model,
        arguments,
        train_dataset=world_pictures(recipe.data, arguments),
        data_collator=ImageTextCollator(tokenizer, text.max_position_embeddings),
        optimizers=(adamw(model, arguments, fast=[model.logit_scale, model.logit_bias]), None),
    )
    train(trainer)
    plain = SiglipModel(config)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("pixel_head.")})
    size = {"height": vision.image_size, "width": vision.image_size}
    image_processor = ArmImageProcessor(patch_size=vision.patch_size, size=size)
    save_folder(trainer, output, {"": (plain, tokenizer, image_processor)})
    raise_failed_pushes(trainer)


def train_qwen2(recipe: Qwen2Recipe, output: Path) -> None:
    world, own = recipe.data.of, recipe.data.arguments
    documents = world.documents(recipe.tokenizer_documents, seed=recipe.training.seed, **own)
    samples = (documents[index] for index in range(len(documents)))
    texts = (f"{sample['prompt']} {sample['answer']}" for sample in samples)
    tokenizer = new_tokenizer(texts, recipe.tokenizer_vocab_size)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    config = Qwen2Config(**recipe.model.plain(), bos_token_id=end, eos_token_id=end, pad_token_id=end)
    if config.vocab_size < len(tokenizer):
        raise ValueError(f"vocab_size {config.vocab_size} is below the tokenizer's {len(tokenizer)} tokens; raise it.")
    arguments = training_arguments(recipe.training.plain(), output_dir=str(run_dir(output)))
    set_seed(arguments.seed)
    data = world.documents(arguments.max_steps * samples_per_step(arguments), seed=arguments.seed, **own)
    trainer = ArmTrainer(
        Qwen2ForCausalLM(config), arguments, train_dataset=data, data_collator=TextCollator(tokenizer)
    )
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
