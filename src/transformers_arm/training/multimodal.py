"""Training of `ArmForCausalLM` on conversations, shared by pre-training and supervised fine-tuning."""

from pathlib import Path

from peft import PeftModel, get_peft_model
from transformers import set_seed

from ..data.conversations import ConversationCollator
from ..data.packing import PackedMixture
from ..data.world import find_world
from ..detokenizer_arm_pixel import ArmPixelDetokenizer
from ..modeling_arm import ArmForCausalLM
from ..pipeline_arm import DETOKENIZER_FOLDER, load_detokenizer
from ..processing_arm import ArmProcessor
from ..sizes.adapters import lora_config, quantization
from .callbacks import SamplesCallback, WorldScoresCallback, load_rows
from .resumable_data import MixtureTrainer
from .trainer import ArmTrainer, save_model, set_generation, train, training_arguments
from .world_data import world_tasks


def load_model(recipe: dict) -> tuple[ArmForCausalLM | PeftModel, ArmProcessor]:
    """What a recipe trains, and what turns requests into its tokens.

    Args:
        recipe: `start_from`, a model's folder or Hub id, or else `backbones`, arguments of `from_backbones`;
            optionally `dtype` of the weights (float32 unless it says otherwise), `attn_implementation`,
            `quantization`, keywords of that function, and `lora`, keywords of `lora_config`.

    Raises:
        ValueError: quantized weights without adapters, which nothing could train.
    """
    dtype = recipe.get("dtype", "float32")
    if "quantization" in recipe and not {"start_from", "lora"} <= set(recipe):
        raise ValueError("quantization is for a model that is there (start_from) and for adapters (lora); add both.")
    if "start_from" in recipe:
        start = recipe["start_from"]
        options = {name: recipe[name] for name in ("attn_implementation",) if name in recipe}
        if "quantization" in recipe:
            options["quantization_config"] = quantization(**(recipe["quantization"] or {}))
        model = ArmForCausalLM.from_pretrained(start, dtype=dtype, **options)
        processor = ArmProcessor.from_pretrained(start)
    else:
        model = ArmForCausalLM.from_backbones(**recipe["backbones"], dtype=dtype)
        processor = ArmProcessor.from_backbones(**recipe["backbones"])
    set_generation(model.generation_config, recipe.get("generation", {}))
    if "lora" in recipe:
        model = get_peft_model(model, lora_config(model, **(recipe["lora"] or {})))
    return model, processor


def train_on_conversations(recipe: dict) -> None:
    """Trains as a recipe says, from the newest checkpoint in `output_dir` if there is one.

    Writes the model, its processor and the detokenizer of `start_from`, if that holds one, to `<output_dir>/model`; of
    a LoRA training the adapter to `model/adapter`, and the model with the adapter merged beside it, unless its weights
    are quantized.

    Args:
        recipe: what `load_model` takes; `output_dir`; `data`, either fields of `PackedMixture.from_recipe` (it has
            `sources`), or `world` and `arguments` of its `tasks`; `training`, fields of `TrainingArguments`;
            `generation` (optional), fields of the generation config that is saved with the model; `evaluation`
            (optional), a detokenizer's folder and fields of `WorldScoresCallback`, whose `world` is that of the data
            unless it says otherwise; `samples` (optional), `rows`, what `load_rows` takes, a detokenizer's folder
            (without it nothing is drawn) and fields of `SamplesCallback`.
    """
    arguments = training_arguments(recipe["training"], output_dir=recipe["output_dir"])
    set_seed(arguments.seed)  # of new rows and adapters
    model, processor = load_model(recipe)
    arm = model.get_base_model() if isinstance(model, PeftModel) else model
    if "sources" in recipe["data"]:
        data = PackedMixture.from_recipe(processor, arm.config, seed=arguments.seed, **recipe["data"])
        trainer = MixtureTrainer(model, arguments, train_dataset=data)
    else:
        data = world_tasks(recipe["data"], arguments)
        collator = ConversationCollator(processor.tokenizer, arm.vq_model, arm.config)
        trainer = ArmTrainer(model, arguments, train_dataset=data, data_collator=collator)
    if "evaluation" in recipe:
        evaluation = dict(recipe["evaluation"])
        detokenizer = ArmPixelDetokenizer.from_pretrained(evaluation.pop("detokenizer"))
        world = find_world(evaluation.pop("world", recipe["data"].get("world")))
        trainer.add_callback(WorldScoresCallback(trainer, world, processor, detokenizer, **evaluation))
    if "samples" in recipe:
        samples = dict(recipe["samples"])
        rows = load_rows(samples.pop("rows"))
        if "detokenizer" in samples:
            samples["detokenizer"] = ArmPixelDetokenizer.from_pretrained(samples["detokenizer"])
        trainer.add_callback(SamplesCallback(trainer, processor, rows, **samples))
    train(trainer)
    start, renderer = recipe.get("start_from"), {}
    if start is not None and (Path(start) / DETOKENIZER_FOLDER).is_dir():
        renderer[DETOKENIZER_FOLDER] = (load_detokenizer(start),)
    save_model(trainer, Path(arguments.output_dir) / "model", processor, **renderer)
