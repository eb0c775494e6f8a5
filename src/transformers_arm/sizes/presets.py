"""Configurations of known sizes, without weights. Knows nothing about checkpoints, tokenizers or training."""

from ..configuration_arm import ArmConfig, ArmVQConfig


def arm_7b_config() -> ArmConfig:
    """arm-7b's configuration (paper section 3.2): 8,085,378,560 parameters beside the tokenizer's.

    `ArmConfig`'s own defaults are its shapes; the other fields are those of Qwen/Qwen2.5-7B's config.json. The
    tokenizer's vision tower is google/siglip2-so400m-patch16-512 (paper section 3.1), `ArmVQConfig`'s default.
    """
    return ArmConfig(
        max_position_embeddings=131_072,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=False,
        bos_token_id=151_643,
        eos_token_id=151_643,
        dtype="bfloat16",
    )


def arm_vq_pretraining_config() -> ArmVQConfig:
    """The tokenizer in training (paper section 3.1): `ArmVQConfig`'s defaults with the frozen parts of the losses.

    The text tower is google/siglip2-so400m-patch16-512's, the captioner Qwen/Qwen2.5-0.5B; fields are those of their
    config.json.
    """
    return ArmVQConfig(
        text_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "vocab_size": 256_000,
            "max_position_embeddings": 64,
            "projection_size": 1152,
        },
        captioner_config={
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151_936,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": True,
            "bos_token_id": 151_643,
            "eos_token_id": 151_643,
        },
    )
