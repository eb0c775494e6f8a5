"""Configurations of known sizes, without weights. Knows nothing about checkpoints, tokenizers or training."""

from .configuration_arm import ArmConfig


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
