"""ARMs of few codes, and a state of randomness that each test starts from."""

import copy

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM


@pytest.fixture(scope="module")
def backbones(few_codes_backbones):
    return few_codes_backbones


@pytest.fixture(scope="module")
def shared(few_codes_arm):
    """An untrained ARM with 16 codes. Treat it as read-only."""
    return few_codes_arm


@pytest.fixture
def model(shared):
    """An ARM to be changed."""
    return copy.deepcopy(shared)


@pytest.fixture(scope="module")
def qwen2(shared):
    """The Qwen2 of the text rows."""
    config, state = shared.config, shared.state_dict()
    text = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    qwen2 = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=config.visual_token_offset, **{name: getattr(config, name) for name in text})
    )
    state = {name: tensor for name, tensor in state.items() if "vq_model" not in name}
    rows = ("model.embed_tokens.weight", "lm_head.weight")
    qwen2.load_state_dict(state | {name: state[name][: config.visual_token_offset] for name in rows})
    return qwen2.eval()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
