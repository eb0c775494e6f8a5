"""Training of `ArmForCausalLM` on conversations, shared by pre-training and supervised fine-tuning."""

from pathlib import Path

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..data.conversations import ConversationCollator
from ..modeling_arm import ArmForCausalLM
from .trainer import ArmTrainer, train


def train_on_conversations(
    model: ArmForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
    conversations: Dataset,
    callbacks: list = (),
) -> None:
    """Trains on a dataset of conversations, from the newest checkpoint in `output_dir` if there is one.

    Writes the model and its tokenizer to `<output_dir>/model`.
    """
    trainer = ArmTrainer(
        model,
        arguments,
        train_dataset=conversations,
        data_collator=ConversationCollator(tokenizer, model.vq_model, model.config),
        callbacks=list(callbacks),
    )
    train(trainer)
    if trainer.is_world_process_zero():
        folder = Path(arguments.output_dir) / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
