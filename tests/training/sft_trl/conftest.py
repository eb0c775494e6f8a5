"""ARM-tiny, its processor and trainers of it."""

import pytest

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.training.sft_trl import ArmSFTConfig, ArmSFTTrainer


@pytest.fixture
def new_model(arm_folder):
    return lambda: ArmForCausalLM.from_pretrained(arm_folder)


@pytest.fixture(scope="module")
def processor(arm_folder):
    return ArmProcessor.from_pretrained(arm_folder)


@pytest.fixture
def new_trainer(new_model, processor, tmp_path):
    def make(dataset, *, model=None, output_dir=tmp_path, config=None, **kwargs):
        config = {
            **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"},
            **{"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4, "save_strategy": "no"},
            **(config or {}),
        }
        model = new_model() if model is None else model
        arguments = ArmSFTConfig(str(output_dir), **config)
        return ArmSFTTrainer(model, arguments, train_dataset=dataset, processing_class=processor, **kwargs)

    return make
