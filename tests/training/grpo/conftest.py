"""Short runs of GRPO."""

import pytest
import torch
from grpo_requests import MIXED, TINY, brightness, dataset_of

from transformers_arm import ArmForCausalLM
from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer


@pytest.fixture
def train(arm_folder, tmp_path):
    """Trains a fresh untrained ARM and returns the trainer: train(reward, rows=..., model=..., **arguments)."""

    def run(reward=brightness, rows=MIXED, *, model=None, dataset=None, peft_config=None, resume=None, **arguments):
        model = model or ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
        args = ArmGRPOConfig(**{"output_dir": str(tmp_path / "run"), **TINY, **arguments})
        trainer = ArmGRPOTrainer(model, reward, args, dataset or dataset_of(rows), peft_config=peft_config)
        if args.max_steps:
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run
