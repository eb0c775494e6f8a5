"""The model and the processor that packed rows are for."""

import pytest
import torch

from transformers_arm import ArmForCausalLM, ArmProcessor


@pytest.fixture(scope="module")
def arm(tiny_arm_backbones):
    """An untrained ARM, 32 wide, and its processor; float32 and sdpa."""
    torch.manual_seed(0)
    model = ArmForCausalLM.from_backbones(**tiny_arm_backbones, attn_implementation="sdpa").eval()
    return model, ArmProcessor.from_backbones(**tiny_arm_backbones)
