"""Short trainings of a tiny tokenizer."""

import pytest
import torch
from short_trainings import MODEL
from transformers import AutoTokenizer

from transformers_arm import ArmVQForPreTraining
from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.training.trainer import ArmTrainer, adamw, train, training_arguments
from transformers_arm.worlds.shapes.pictures import ShapesDataset


@pytest.fixture(scope="session")
def new_trainer(tiny_backbones):
    """Makes trainers of a tiny tokenizer on the embedded world, as a new process would; first weights are random."""
    tokenizers = [AutoTokenizer.from_pretrained(tiny_backbones[name]) for name in ("vision", "captioner")]

    def make(output_dir, *, seed=0, callbacks=(), eval_dataset=None, **arguments):
        torch.manual_seed(seed)
        model = ArmVQForPreTraining.from_backbones(**tiny_backbones, **MODEL)
        settings = {
            **{"max_steps": 6, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4},
            **{"learning_rate": 1e-3, "warmup_steps": 2, "lr_scheduler_type": "cosine", "seed": seed},
            **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "adam_beta2": 0.95},
        }
        arguments = training_arguments(settings | arguments, output_dir=str(output_dir))
        return ArmTrainer(
            model,
            arguments,
            train_dataset=ShapesDataset(24, batch_size=4, seed=0, canvases=[{}, {"height": 32, "width": 64}]),
            eval_dataset=eval_dataset,
            data_collator=ImageTextCollator(tokenizers[0], 32, tokenizers[1]),
            optimizers=(adamw(model, arguments, fast=[model.logit_scale, model.logit_bias]), None),
            callbacks=list(callbacks),
        )

    return make


@pytest.fixture(scope="session")
def uninterrupted(new_trainer, tmp_path_factory):
    trainer = new_trainer(tmp_path_factory.mktemp("uninterrupted"))
    train(trainer)
    return trainer
