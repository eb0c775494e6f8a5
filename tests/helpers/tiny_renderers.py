"""Renderers of each family at tiny size, of diffusers' own classes, and folders in published layouts."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    SanaTransformer2DModel,
)

from transformers_arm import ArmConnector, ArmFlux2Detokenizer, ArmFluxDetokenizer, ArmSanaDetokenizer

KL = {
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}

FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
}


def flux2_parts() -> dict:
    return {
        "transformer": Flux2Transformer2DModel(
            **FLUX,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        "vae": AutoencoderKLFlux2(**KL),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


def flux_parts(guidance_embeds: bool = False) -> dict:
    return {
        "transformer": FluxTransformer2DModel(
            **FLUX,
            pooled_projection_dim=20,
            axes_dims_rope=(4, 6, 6),
            guidance_embeds=guidance_embeds,
        ),
        "vae": AutoencoderKL(
            **KL, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


def sana_parts() -> dict:
    return {
        "transformer": SanaTransformer2DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=24,
            sample_size=2,
        ),
        "vae": AutoencoderDC(
            latent_channels=8,
            attention_head_dim=4,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_block_out_channels=(4, 4, 8, 8, 8, 8),
            decoder_block_out_channels=(4, 4, 8, 8, 8, 8),
            encoder_layers_per_block=(1, 1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1, 1),
            encoder_qkv_multiscales=((), (), (), (), (), ()),
            decoder_qkv_multiscales=((), (), (), (), (), ()),
            scaling_factor=0.41407,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


FAMILIES = {
    "flux2": (ArmFlux2Detokenizer, flux2_parts, "Flux2KleinPipeline"),
    "flux": (ArmFluxDetokenizer, flux_parts, "FluxPipeline"),
    "flux, distilled": (ArmFluxDetokenizer, lambda: flux_parts(guidance_embeds=True), "FluxPipeline"),
    "sana": (ArmSanaDetokenizer, sana_parts, "SanaPipeline"),
}


def new_renderer(family: str, condition_size: int = 12, **settings):
    """A renderer with random weights, its connector's nulls too; FLUX.2's also adds `z_q` to the latents."""
    torch.manual_seed(0)
    made, parts, _ = FAMILIES[family]
    parts = parts()
    sizes = made.connector_sizes(parts["transformer"].config)
    if family == "flux2":
        sizes["latent_size"] = parts["transformer"].config.in_channels
    connector = ArmConnector(condition_size=condition_size, **sizes)
    with torch.no_grad():
        for name, parameter in connector.named_parameters():
            if "null" in name or "latents" in name:
                parameter.normal_()
        if family == "flux2":
            parts["vae"].bn.running_mean.normal_()
            parts["vae"].bn.running_var.uniform_(0.5, 2)
    for part in (connector, parts["transformer"], parts["vae"]):
        part.eval()
    renderer = made(connector=connector, **parts, **settings)
    renderer.set_progress_bar_config(disable=True)
    return renderer


def write_base(family: str, folder: Path, max_shard_size: str = "10GB") -> dict:
    """Writes a pipeline in the published layout; its text encoder and tokenizer are rubbish that nobody may read."""
    torch.manual_seed(1)
    _, parts, published = FAMILIES[family]
    parts = parts()
    index = {"_class_name": published, "_diffusers_version": "0.37.0"}
    for name, part in parts.items():
        options = {} if name == "scheduler" else {"max_shard_size": max_shard_size}
        part.save_pretrained(folder / name, **options)
        index[name] = ["diffusers", type(part).__name__]
    for name, library in (("text_encoder", "Qwen3ForCausalLM"), ("tokenizer", "Qwen2TokenizerFast")):
        (folder / name).mkdir()
        for file in ("config.json", "model.safetensors"):
            (folder / name / file).write_text("rubbish")
        index[name] = ["transformers", library]
    (folder / "model_index.json").write_text(json.dumps(index))
    return parts
