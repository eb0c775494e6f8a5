"""A processor, the model that its ids belong to, and the collator that training uses."""

import pytest

from transformers_arm.data.conversations import ConversationCollator
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.processing_arm import ArmProcessor


@pytest.fixture(scope="module")
def processor(tiny_arm_backbones):
    return ArmProcessor.from_backbones(**tiny_arm_backbones)


@pytest.fixture(scope="module")
def model(tiny_arm_backbones):
    return ArmForCausalLM.from_backbones(**tiny_arm_backbones).eval()


@pytest.fixture(scope="module")
def collator(processor, model):
    return ConversationCollator(processor.tokenizer, model.vq_model, model.config)
