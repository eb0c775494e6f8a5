"""Training of `ArmForCausalLM` on conversations, shared by pre-training and supervised fine-tuning."""

from pathlib import Path

from ..data.conversations import ConversationCollator
from ..data.world_tasks import WorldTasks
from ..detokenizer_arm_pixel import ArmPixelDetokenizer
from ..modeling_arm import ArmForCausalLM
from ..processing_arm import ArmProcessor
from .callbacks import TaskScoresCallback
from .trainer import ArmTrainer, save_folder, train, training_arguments


def train_on_conversations(model: ArmForCausalLM, processor: ArmProcessor, recipe: dict) -> None:
    """Trains as a recipe says, from the newest checkpoint in `output_dir` if there is one.

    Writes the model and its processor to `<output_dir>/model`.

    Args:
        model, processor: what to train, and what turns requests into its tokens.
        recipe: `output_dir`; `data`, fields of `WorldTasks`; `evaluation`, a detokenizer's folder and fields of
            `TaskScoresCallback`; `training`, fields of `TrainingArguments`; `generation`, fields of the generation
            config that is saved with the model.
    """
    generation = recipe.get("generation", {})
    if unknown := set(generation) - set(vars(model.generation_config)) - {"image_generation"}:
        raise ValueError(f"The recipe's generation section names {', '.join(unknown)}, which generate does not know.")
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    arguments = training_arguments(recipe["training"], output_dir=recipe["output_dir"])
    evaluation = dict(recipe["evaluation"])
    detokenizer = ArmPixelDetokenizer.from_pretrained(evaluation.pop("detokenizer"))
    trainer = ArmTrainer(
        model,
        arguments,
        train_dataset=WorldTasks.for_training(arguments, **recipe["data"]),
        data_collator=ConversationCollator(processor.tokenizer, model.vq_model, model.config),
        callbacks=[TaskScoresCallback(processor, detokenizer, **evaluation)],
    )
    train(trainer)
    if trainer.is_world_process_zero():
        save_folder(Path(arguments.output_dir) / "model", {"": (model, processor)})
