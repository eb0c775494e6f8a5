"""ARMs of few codes, and a state of randomness that each test starts from."""

import copy

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from transformers_arm.configuration_arm import ArmVQConfig
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.modeling_arm_vq import ArmVQModel

pytest.register_assert_rewrite("generation_requests")


@pytest.fixture(scope="module")
def backbones(tiny_arm_backbones, tmp_path_factory):
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    folder = tmp_path_factory.mktemp("vq")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = ArmVQConfig(
            vision_config=vision | {"image_size": 48, "patch_size": 16}, num_projection_layers=1, fsq_levels=[2] * 4
        )
        vq = ArmVQModel(config).train()
        for _ in range(3):  # its batch norm has to see pictures, or codes hardly differ
            vq(torch.rand(4, 3, 48, 48) * 2 - 1)
    vq.save_pretrained(folder)
    return tiny_arm_backbones | {"vq": str(folder)}


@pytest.fixture(scope="module")
def shared(backbones):
    """An untrained ARM with 16 codes. Treat it as read-only."""
    torch.manual_seed(0)
    return ArmForCausalLM.from_backbones(**backbones).eval()


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
