"""Presets have the shapes of the published checkpoints that they stand for."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from transformers_arm import ArmForCausalLM
from transformers_arm.presets import arm_7b_config


def test_arm_7b_is_qwen2_5_7b_with_65536_visual_rows_and_the_so400m_tokenizer():
    config = arm_7b_config()
    with torch.device("meta"):
        model = ArmForCausalLM(config)
        # Its public config.json.
        shapes = {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28}
        heads = {"num_attention_heads": 28, "num_key_value_heads": 4}
        qwen2 = Qwen2ForCausalLM(Qwen2Config(vocab_size=152_064, tie_word_embeddings=False, **shapes, **heads))
    tokenizer = sum(parameter.numel() for parameter in model.vq_model.parameters())
    language = sum(parameter.numel() for parameter in model.parameters()) - tokenizer
    assert language == 8_085_378_560
    assert language - sum(parameter.numel() for parameter in qwen2.parameters()) == 2 * 65_536 * 3584
    assert sum(parameter.numel() for parameter in model.vq_model.vision_model.parameters()) == 413_534_448
    assert config.vq_config.codebook_size == 65_536 and config.rope_parameters["rope_theta"] == 1e6


def test_a_preset_is_new_on_each_call():
    arm_7b_config().num_hidden_layers = 1
    assert arm_7b_config().num_hidden_layers == 28
