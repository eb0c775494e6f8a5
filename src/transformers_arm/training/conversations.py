"""Pre-training, continual training and fine-tuning of `ArmForCausalLM` on conversations (paper section 3.2).

A recipe starts from `backbones`, a Qwen2 checkpoint and a visual tokenizer, or goes on from a model's folder,
`start_from`: continual training, fine-tuning, or what `transformers-arm init` assembled. Interrupted, the same command
goes on from the newest complete checkpoint.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from pydantic import Field
from transformers import Trainer, set_seed

from ..attention_arm import FLEX_DEVICES
from ..data.conversations import ConversationCollator
from ..data.packing import PackedMixture
from ..data.world import find_world
from ..modeling_arm import ArmForCausalLM
from ..processing_arm import ArmProcessor
from ..renderers_arm import DETOKENIZER_FOLDER, detokenizer_class
from ..sizes.adapters import lora_config, quantization, without_adapters
from .callbacks import SamplesCallback, WorldScoresCallback, load_rows
from .parts import detokenizer_of, processor_of
from .recipe import Section, either, section
from .resumable_data import MixtureTrainer
from .saving import save_model
from .sections import (
    GenerationSettings,
    Lora,
    Quantization,
    Samples,
    TasksOfWorld,
    Training,
    Validation,
    WorldScores,
    sources_of,
)
from .trainer import ArmTrainer, set_generation, train, training_arguments
from .validation import held_out, sets_of_rows, sets_of_world, when
from .world_data import world_tasks

OF_TRAINING = ("processor", "config", "seed", "held_out")  # which the rest of the recipe says
Packed = sources_of("Packed", PackedMixture.from_recipe, without=(*OF_TRAINING, "sources"))


class RenderedScores(WorldScores):
    """Scores on the way, of what a detokenizer renders."""

    detokenizer: str = Field(description="Folder of the renderer.")


class ConversationsRecipe(Section):
    """The language model, on text, questions, pictures, edits and stories."""

    output_dir: str = Field(description="Folder to write; the model goes to its `model`.")
    start_from: str | None = Field(None, description="Folder or Hub id of the model that goes on learning.")
    backbones: section("ArmBackbones", ArmProcessor.from_backbones) | None = Field(
        None, description="Or what it is made of."
    )
    dtype: str = Field("float32", description="Of the weights.")
    attn_implementation: str | dict[str, Any] | None = Field(
        None,
        description="As `from_pretrained` has it: one name for the whole model, or one by part. Unless stated, the "
        "language model takes flex_attention for a packed mixture on a GPU, and sdpa elsewhere; flash_attention_2 "
        "comes with the extra `flash`.",
    )
    quantization: Quantization | None = Field(None, description="4-bit weights under adapters; {} takes the defaults.")
    lora: Lora | None = Field(
        None, description="Only adapters are trained, saved to `model/adapter` and merged beside it."
    )
    data: either(sources=Packed, world=TasksOfWorld) = Field(description="A packed mixture, or a world's tasks.")
    generation: GenerationSettings = Field(GenerationSettings(), description="Saved with the model.")
    validation: Validation | None = Field(None, description="The loss of held-out rows of each source on the way.")
    detokenizer: str | None = Field(
        None,
        description="Folder of the renderer that draws samples and is saved with the model, in place of start_from's.",
    )
    evaluation: RenderedScores | None = Field(None, description="A world's scores on the way.")
    samples: Samples | None = Field(None, description="What the model makes of requests of your own on the way.")
    training: Training

    def problems(self):
        if (self.start_from is None) == (self.backbones is None):
            yield "start_from", "state either start_from, a model, or backbones, what a new one is made of."
        if self.quantization is not None and (self.start_from is None or self.lora is None):
            yield "quantization", "it is for a model that is there (start_from) and for adapters (lora); add both."
        if self.evaluation is not None and not (self.evaluation.world or isinstance(self.data, TasksOfWorld)):
            yield "evaluation.world", "the data are of no world; name the one whose items are scored."
        if self.validation is not None:
            yield from self.validation.problems_beside(self.data, self.training)


def attention_of(recipe: ConversationsRecipe, device: torch.device) -> str | dict | None:
    """The attention that a recipe trains with on a device; None is transformers' own choice, sdpa."""
    if recipe.attn_implementation is None and isinstance(recipe.data, Packed) and device.type in FLEX_DEVICES:
        return "flex_attention"
    return recipe.attn_implementation


def load_model(
    recipe: ConversationsRecipe, attention: str | dict | None = None
) -> tuple[ArmForCausalLM | PeftModel, ArmProcessor]:
    """What a recipe trains, with an `attn_implementation`, and what turns requests into its tokens."""
    if recipe.start_from is not None:
        options = {} if attention is None else {"attn_implementation": attention}
        if recipe.quantization is not None:
            options["quantization_config"] = quantization(**recipe.quantization.plain())
        model = ArmForCausalLM.from_pretrained(recipe.start_from, dtype=recipe.dtype, **options)
        processor = processor_of(model)
    else:
        model = ArmForCausalLM.from_backbones(**recipe.backbones.plain(), dtype=recipe.dtype)
        processor = ArmProcessor.from_backbones(**recipe.backbones.plain())
        if attention is not None:
            model.set_attn_implementation(attention)
    set_generation(model.generation_config, recipe.generation.plain())
    if recipe.lora is not None:
        model = get_peft_model(model, lora_config(model, **recipe.lora.plain()))
    return model, processor


def new_trainer(recipe: ConversationsRecipe) -> tuple[Trainer, ArmProcessor]:
    """The trainer of a recipe's model on its data, and the model's processor."""
    validation = recipe.validation
    arguments = training_arguments(recipe.training.plain(), output_dir=recipe.output_dir, **when(validation))
    set_seed(arguments.seed)  # of new rows and adapters
    model, processor = load_model(recipe, attention_of(recipe, arguments.device))
    arm = without_adapters(model)
    if isinstance(recipe.data, TasksOfWorld):
        data, sets = world_tasks(recipe.data, arguments), sets_of_world(validation, recipe.data, arguments)
        collator = ConversationCollator(processor.tokenizer, arm.vq_model, arm.config)
        trainer = ArmTrainer(model, arguments, train_dataset=data, eval_dataset=sets, data_collator=collator)
        return trainer, processor
    compiles = arm.config._attn_implementation == "flex_attention" or arguments.torch_compile
    settings = {"seed": arguments.seed, "held_out": held_out(validation), "fill_rows": compiles}
    settings |= {name: value for name, value in recipe.data.plain().items() if value is not None}
    settings.setdefault("padded", arguments.device.type == "cpu" and not (compiles or settings["fill_rows"]))
    data = PackedMixture.from_recipe(processor, arm.config, **settings)
    sets = sets_of_rows(validation, data)
    return MixtureTrainer(model, arguments, train_dataset=data, eval_dataset=sets), processor


def add_samples(trainer: Trainer, processor: ArmProcessor, samples: Samples, detokenizer=None) -> None:
    """Has a trainer show what its model makes of a recipe's `samples`, rendered by their detokenizer, or this one."""
    if samples.detokenizer is not None:
        detokenizer = detokenizer_class(samples.detokenizer).from_pretrained(samples.detokenizer)
    settings = samples.plain("rows", "detokenizer")
    rows = load_rows(samples.plain()["rows"])
    trainer.add_callback(SamplesCallback(trainer, processor, rows, detokenizer=detokenizer, **settings))


def train_on_conversations(recipe: ConversationsRecipe) -> None:
    """Trains as a recipe says, from the newest checkpoint in `output_dir` if there is one.

    Writes the model, its processor and its detokenizer, that of the recipe or of `start_from`, if there is one, to
    `<output_dir>/model`; of a LoRA training the adapter to `model/adapter`, and the model with the adapter merged
    beside it, unless its weights are quantized.
    """
    given = recipe.detokenizer and detokenizer_class(recipe.detokenizer).from_pretrained(recipe.detokenizer)
    trainer, processor = new_trainer(recipe)
    renderer = given
    if given is None and recipe.start_from is not None and trainer.is_world_process_zero():
        renderer = detokenizer_of(trainer.model, required=False)  # now: later its repo may be out of reach
    if recipe.evaluation is not None:
        evaluation = recipe.evaluation
        detokenizer = detokenizer_class(evaluation.detokenizer).from_pretrained(evaluation.detokenizer)
        world = find_world(evaluation.world or recipe.data.world)
        settings = evaluation.plain("world", "detokenizer")
        trainer.add_callback(WorldScoresCallback(trainer, world, processor, detokenizer, **settings))
    if recipe.samples is not None:
        add_samples(trainer, processor, recipe.samples, given)
    train(trainer)
    parts = {} if renderer is None else {DETOKENIZER_FOLDER: (renderer,)}
    save_model(trainer, Path(recipe.output_dir) / "model", processor, **parts)
