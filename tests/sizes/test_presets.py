"""Presets have the shapes of the published checkpoints that they stand for."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from transformers_arm import ArmForCausalLM, ArmVQForPreTraining
from transformers_arm.sizes.presets import arm_7b_config, arm_vq_pretraining_config


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


def test_the_tokenizer_trains_with_siglip2_so400m_and_qwen2_5_0_5b_and_the_paper_s_weights():
    config = arm_vq_pretraining_config()
    assert config.vision_config.to_dict() == arm_7b_config().vq_config.vision_config.to_dict()
    with torch.device("meta"):
        model = ArmVQForPreTraining(config)
    # Those of the public checkpoints.
    assert model.captioner.num_parameters() == 494_032_768
    towers = (model.vq_model.vision_model, model.pooling_head, model.text_model)
    counts = [sum(parameter.numel() for parameter in tower.parameters()) for tower in towers]
    assert counts[:2] == [413_534_448, 428_772_800 - 413_534_448]
    assert sum(counts) + 2 == 1_136_555_698  # with temperature and bias
    assert len(model.pixel_transformer.blocks) == 24
    assert config.pixel_hidden_size == 3 * config.patch_size**2 == 64 * config.pixel_num_heads


def test_a_preset_is_new_on_each_call():
    arm_7b_config().num_hidden_layers = 1
    arm_vq_pretraining_config().captioner_config.num_hidden_layers = 1
    assert arm_7b_config().num_hidden_layers == 28
    assert arm_vq_pretraining_config().captioner_config.num_hidden_layers == 24
