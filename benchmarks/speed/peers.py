"""Models that draw token by token, at one backbone with random weights: an ARM, transformers' Janus and its Emu3.

Each draws by its own `generate`, with guidance over two branches, from prompts [B, T].
"""

import math

import torch
from heads import small_depth
from measuring import device
from transformers import (
    Emu3Config,
    Emu3ForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    StaticCache,
)

from transformers_arm.configuration_arm import ArmConfig
from transformers_arm.modeling_arm import ArmForCausalLM

# arm-tiny's big sister that a CPU measures in seconds.
SMALL = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "visual_token_offset": 32_000,
    "shape_token_offset": 31_000,
    "vision_start_token_id": 30_990,
    "vision_end_token_id": 30_991,
    "image_token_id": 30_992,
    "max_position_embeddings": 4096,
}
SIZES = ("small", "arm-7b")
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
BACKBONE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
BACKBONE += ("max_position_embeddings",)
BEGIN, OPEN = 1, 5  # Janus keeps these two in the branch without a prompt


def config_of(size: str, *, layers: int | None = None, hidden: int | None = None, codes: int | None = None):
    """An `ArmConfig` of a size, with a vision tower that takes no part; None keeps what the size has."""
    changed = {"num_hidden_layers": layers, "hidden_size": hidden}
    changed = {name: value for name, value in changed.items() if value is not None}
    if size == "arm-7b":
        layers = changed.pop("num_hidden_layers", 28)
        return small_depth(layers, **changed, **({} if codes is None else visual_rows(152_064, codes)))
    return ArmConfig(**{**SMALL, **visual_rows(SMALL["visual_token_offset"], codes or 16_384), **changed})


def visual_rows(offset: int, codes: int) -> dict:
    bits = int(math.log2(codes))
    if 2**bits != codes:
        raise ValueError(f"{codes} codes are no power of two, which a binary codebook has; take {2**bits}.")
    tokenizer = {"vision_config": TOWER | {"image_size": 128, "patch_size": 16}, "num_projection_layers": 1}
    return {"vq_config": {**tokenizer, "fsq_levels": [2] * bits}, "vocab_size": offset + codes}


def backbone_of(config: ArmConfig, **fields) -> dict:
    return {name: getattr(config, name) for name in BACKBONE} | fields


def arm(config: ArmConfig) -> ArmForCausalLM:
    return ArmForCausalLM(config)


def janus(config: ArmConfig, count: int) -> JanusForConditionalGeneration:
    """A Janus over this ARM's backbone, of pictures of `count` tokens."""
    hidden = config.hidden_size
    vq_config = {"embed_dim": 8, "num_embeddings": config.vq_config.codebook_size, "projection_dim": hidden}
    vq_config |= {"image_token_embed_dim": hidden, "base_channels": 32, "channel_multiplier": [1, 1]}
    vq_config |= {"latent_channels": 32, "num_patches": 8, "num_res_blocks": 1}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 128, "patch_size": 16}
    text = backbone_of(config, model_type="llama", vocab_size=config.visual_token_offset)
    model = JanusForConditionalGeneration(
        JanusConfig(
            text_config=text,
            vision_config=vision | {"projection_dim": hidden, "num_image_tokens": count},
            vq_config=vq_config,
        )
    )
    model.generation_config.generation_kwargs = {"boi_token_id": OPEN}
    model.generation_config.bos_token_id, model.generation_config.pad_token_id = BEGIN, 0
    return model


def emu3(config: ArmConfig) -> Emu3ForConditionalGeneration:
    """An Emu3 over this ARM's backbone and vocabulary. Nothing ends its text, and no callback narrows its rows, which
    would take time on the host.
    """
    vq_config = {"codebook_size": 16, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}
    vq_config |= {"hidden_size": 32, "attn_resolutions": []}
    text = backbone_of(config, vocab_size=config.vocab_size, pad_token_id=0, bos_token_id=BEGIN, eos_token_id=2)
    names = {"<image>": 6, "<|extra_200|>": 7}
    model = Emu3ForConditionalGeneration(Emu3Config(text_config=text, vq_config=vq_config, vocabulary_map=names))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def prompts(config: ArmConfig, batch: int, length: int) -> tuple[torch.LongTensor, torch.LongTensor, torch.Tensor]:
    """Random ids [B, T] with the ends that Janus knows, those of the branch without a prompt, and a mask for both."""
    ids = torch.randint(10, 1000, (batch, length), device=device())
    ids[:, 0], ids[:, -1] = BEGIN, OPEN
    return ids, torch.full_like(ids, 3), torch.ones_like(ids)


def draw_arm(model, ids, nothing, mask, grid, **sampling) -> torch.LongTensor:
    branches = {"negative_prompt_ids": nothing, "negative_prompt_attention_mask": mask}
    drawn = model.generate(
        input_ids=ids, attention_mask=mask, generation_mode="image", image_grid=grid, **branches, **sampling
    )
    return drawn[:, ids.shape[1] + 3 : -1]


def draw_janus(model, ids, nothing, mask, grid, **sampling) -> torch.LongTensor:
    count = grid[0] * grid[1]
    # What it would make itself; transformers 5.17 cannot.
    cache = StaticCache(config=model.config.text_config, max_cache_len=ids.shape[1] + count)
    sampling |= {"do_sample": True, "max_new_tokens": count, "past_key_values": cache, "disable_compile": True}
    return model.generate(inputs=ids, attention_mask=mask, generation_mode="image", **sampling)


def draw_emu3(model, ids, nothing, mask, grid, **sampling) -> torch.LongTensor:
    sampling |= {"do_sample": True, "max_new_tokens": grid[0] * grid[1], "disable_compile": True}
    branch = {"negative_prompt_ids": nothing, "negative_prompt_attention_mask": mask}
    return model.generate(inputs=ids, attention_mask=mask, **branch, **sampling)[:, ids.shape[1] :]
