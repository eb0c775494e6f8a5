"""How much work a training step on a batch is: its tokens, and the floating-point operations that the model needs.

As PaLM counts them (arXiv 2204.02311, appendix B): twice the weights for each token and pass, and attention, to what a
token can see; what gradient checkpointing computes again does not count. Frozen weights have no gradients, and nothing
goes back through what lies before all that learns. Norms, embeddings and connectors are left out, and so are adapters,
the encoding of pictures in the language model and that by a VAE. Knows no trainer.
"""

import re
from collections.abc import Mapping
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import nn

from ..modeling_arm import ArmForCausalLM
from ..modeling_arm_vq_pretraining import ArmVQForPreTraining
from ..pixel_transformer_arm import ArmPixelTransformer
from ..sizes.adapters import without_adapters

FORWARD, THROUGH, LEARNING = 1, 2, 3  # passes: there; and back to what lies before; and to the weights as well
# Dense bfloat16 products in TFLOP/s, of the vendors' data sheets; the first name that is found counts.
PEAK_TFLOPS = {
    **{"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0},
    **{"L40S": 362.0, "L4": 121.0, "MI300X": 1307.0},
}


class Work(NamedTuple):
    """Tokens, and floating-point operations."""

    tokens: float
    flops: float


def peak_flops(device: torch.device, stated: float | None = None) -> float | None:
    """Operations a second that a device could do: `stated` TFLOP/s, or those of a GPU that is known by its name.

    Raises:
        ValueError: what is stated is not above 0.
    """
    if stated is not None and not stated > 0:
        raise ValueError(f"peak_tflops is {stated}; it must be above 0. Leave it out where it is not known.")
    if stated is not None:
        return stated * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if "MIG" in name:  # a slice of one
        return None
    known = (peak for each, peak in PEAK_TFLOPS.items() if re.search(rf"(?<!\w){each}(?!\w)", name))
    peak = next(known, None)
    return None if peak is None else peak * 1e12


def products(weights: float, tokens: float, seen: float, layers: int, width: int) -> float:
    """Operations of a forward pass of `tokens` through weights, and of attention to what all of them see together."""
    return 2 * weights * tokens + 4 * layers * width * seen


def weights_of(module: nn.Module) -> int:
    """How many weights tokens are multiplied with."""
    layers = (each for each in module.modules() if not isinstance(each, nn.Embedding))
    shapes = (getattr(each, "ds_shape", each.shape) for layer in layers for each in layer.parameters(recurse=False))
    return sum(shape.numel() for shape in shapes if len(shape) > 1)  # ds_shape: DeepSpeed's, of what it shards


def pixel_transformer_flops(transformer: ArmPixelTransformer, pictures: int, patches: int) -> float:
    """Of a training step on so many pictures of so many patches."""
    config, tokens = transformer.config, pictures * patches
    weights = weights_of(transformer) - weights_of(transformer.time_embedding)  # which a picture goes through once
    return LEARNING * products(weights, tokens, tokens * patches, config.num_layers, config.hidden_size)


def encoder_flops(vq_model: nn.Module, pictures: int, patches: int, passes: int) -> float:
    """Of the visual tokenizer: its vision tower is frozen, and its own blocks take `passes`."""
    config, tower, tokens = vq_model.config, vq_model.vision_model, pictures * patches
    of_tower, seen = weights_of(tower), tokens * patches
    vision = config.vision_config
    frozen = products(of_tower, tokens, seen, vision.num_hidden_layers, vision.hidden_size)
    blocks = 2 * config.num_projection_layers
    return frozen + passes * products(weights_of(vq_model) - of_tower, tokens, seen, blocks, config.hidden_size)


def decoder_flops(vq_model: nn.Module, pictures: int, patches: int) -> float:
    """Of the visual tokenizer, from codes to `z_q`, without gradients."""
    weights, tokens, config = weights_of(vq_model.up_blocks), pictures * patches, vq_model.config
    return products(weights, tokens, tokens * patches, config.num_projection_layers, config.hidden_size)


def grid_of(pixel_values: torch.Tensor, patch_size: int) -> tuple[int, int]:
    """Pictures [B, 3, H, W] -> how many there are, and how many patches each has."""
    pictures, _, height, width = pixel_values.shape
    return pictures, (height // patch_size) * (width // patch_size)


@singledispatch
def _work(model: nn.Module, inputs: Mapping) -> Work | None:
    """Of a model, without adapters; modules register theirs."""


def work_of(model: nn.Module, inputs: Mapping) -> Work | None:
    """A training step of a model on a batch; None where that is not known."""
    return _work(without_adapters(model), inputs)


register_work = _work.register


@register_work
def _(model: ArmForCausalLM, inputs: Mapping) -> Work | None:
    config, ids, mask, labels = model.config, *map(inputs.get, ("input_ids", "attention_mask", "labels"))
    if ids is None:  # embeddings do not tell what can follow
        return None
    lengths = mask.sum(-1) if mask is not None else ids.new_full(ids.shape[:1], ids.shape[1])
    tokens = int(lengths.sum())
    if inputs.get("position_ids") is not None and mask is None:  # documents of packed rows do not see each other
        positions, sources = inputs["position_ids"], inputs.get("sources")
        if sources is not None:  # of padding that fills a row it is -1
            positions = positions[sources >= 0]
            tokens = len(positions)
        seen = int((positions + 1).sum())
    else:
        seen = int((lengths * (lengths + 1)).sum()) // 2
    size = config.hidden_size // config.num_attention_heads
    queries = config.num_attention_heads * size
    attention = 2 * config.hidden_size * (queries + config.num_key_value_heads * size)
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    flops = products(config.num_hidden_layers * layer, tokens, seen, config.num_hidden_layers, queries)
    if labels is not None:  # what is before each is multiplied by the head's rows that can follow
        labels = labels[:, 1:]
        images = int(((labels >= config.visual_token_offset) | (labels == config.image_token_id)).sum())
        words = int((labels >= 0).sum()) - images
        rows = images * (config.vocab_size - config.visual_token_offset) + words * config.visual_token_offset
        flops += products(config.hidden_size, rows, 0, 0, 0)
    learns = next(model.model.layers.parameters()).requires_grad
    return Work(tokens, (LEARNING if learns else THROUGH) * flops)


@register_work
def _(model: ArmVQForPreTraining, inputs: Mapping) -> Work:
    config, (pictures, patches) = model.config, grid_of(inputs["pixel_values"], model.config.patch_size)
    flops = encoder_flops(model.vq_model, pictures, patches, LEARNING)
    if config.context_loss_weight:
        to_codes = encoder_flops(model.vq_model, pictures, patches, LEARNING)
        flops += to_codes - LEARNING * decoder_flops(model.vq_model, pictures, patches)
    if config.pixel_loss_weight:
        flops += pixel_transformer_flops(model.pixel_transformer, pictures, patches)
    if config.sigmoid_loss_weight and inputs.get("input_ids") is not None:
        tower, length, text = model.text_model, inputs["input_ids"].shape[1], config.text_config
        seen = pictures * length**2
        flops += products(weights_of(tower), pictures * length, seen, text.num_hidden_layers, text.hidden_size)
    if config.caption_loss_weight and inputs.get("caption_ids") is not None:
        captioner, length = config.captioner_config, inputs["caption_ids"].shape[1]
        read, row = max(1, round(config.caption_share * pictures)), patches + length
        size, seen = captioner.hidden_size, read * row * (row + 1) // 2
        weights = weights_of(model.captioner.model)
        there = products(weights, read * row, seen, captioner.num_hidden_layers, size)
        flops += THROUGH * (there + products(size * captioner.vocab_size, read * length, 0, 0, 0))
    return Work(pictures * patches, flops)
