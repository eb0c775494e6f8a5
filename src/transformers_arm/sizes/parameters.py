"""How many parameters each part of ARM has, trained and frozen, at the paper's sizes. Nothing is allocated.

Knows nothing about what training takes; `memory` does.
"""

import torch
from torch import nn

from ..modeling_arm import ArmForCausalLM
from ..modeling_arm_vq_pretraining import ArmVQForPreTraining
from .presets import arm_7b_config, arm_vq_pretraining_config
from .renderers import PUBLISHED, published_parts, weights_table

# What the names of a part's parameters begin with.
TOKENIZER_PARTS = {
    "SigLIP2 vision tower": ("vq_model.vision_model.",),
    "blocks before the quantizer": ("vq_model.feature_norm.", "vq_model.down_"),
    "blocks after the quantizer": ("vq_model.up_",),
    "SigLIP2 text tower": ("text_model.",),
    "SigLIP2 pooling head": ("pooling_head.",),
    "temperature and bias": ("logit_",),
    "captioner": ("captioner.",),
    "connector into the captioner": ("caption_connector.",),
    "pixel transformer": ("pixel_transformer.",),
}
ARM_PARTS = {
    "embedding": ("model.embed_tokens.",),
    "decoder": ("model.layers.", "model.norm."),
    "head": ("lm_head.",),
    "visual tokenizer": ("model.vq_model.",),
}
RENDERER_PARTS = {"transformer": ("transformer.",), "connector": ("connector.",), "VAE": ("vae.",)}


def count_parameters(model: nn.Module, parts: dict[str, tuple[str, ...]]) -> dict[str, tuple[int, int]]:
    """(trained, frozen) parameters of each part; shared ones count once.

    Args:
        parts: beginnings of parameter names by part; the parts must hold all parameters.

    Raises:
        ValueError: a parameter belongs to no part.
    """
    counts = {part: [0, 0] for part in parts}
    for name, parameter in model.named_parameters():
        part = next((part for part, beginnings in parts.items() if name.startswith(beginnings)), None)
        if part is None:
            raise ValueError(f"{name} belongs to none of the parts {', '.join(parts)}; add its beginning to one.")
        counts[part][not parameter.requires_grad] += parameter.numel()
    return {part: (trained, frozen) for part, (trained, frozen) in counts.items()}


def parameter_table(model: nn.Module, parts: dict[str, tuple[str, ...]]) -> str:
    """`count_parameters` and their sums, in Markdown."""
    counts = count_parameters(model, parts)
    counts["all"] = tuple(map(sum, zip(*counts.values(), strict=True)))
    rows = [f"| {part} | {trained:,} | {frozen:,} |" for part, (trained, frozen) in counts.items()]
    return "\n".join(["| part | trained | frozen |", "|---|---|---|", *rows])


def paper_tables() -> str:
    """Tables of the tokenizer in training, of arm-7b and of published renderers, with their memory, in Markdown."""
    with torch.device("meta"):
        models = {
            "tokenizer in training": (ArmVQForPreTraining(arm_vq_pretraining_config()), TOKENIZER_PARTS),
            "arm-7b": (ArmForCausalLM(arm_7b_config()), ARM_PARTS),
            **{f"a renderer of {name}": (published_parts(name), RENDERER_PARTS) for name in PUBLISHED},
        }
    tables = [f"{name}\n\n{parameter_table(*model)}" for name, model in models.items()]
    return "\n\n".join([*tables, weights_table()])
