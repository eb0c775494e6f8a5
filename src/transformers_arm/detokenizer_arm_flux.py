"""FLUX.1 renders `z_q`: the renderer of the paper's figures."""

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.modular_pipelines.z_image.before_denoise import calculate_shift  # as FLUX has it, without its encoders
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from .connector_arm import Conditions
from .detokenizer_arm_latent import ArmLatentDetokenizer, as_grid, as_sequence, places

REFERENCE = 1  # first position of what is looked at, as FLUX.1 Kontext has it


class ArmFluxDetokenizer(ArmLatentDetokenizer):
    """Renders `z_q`, or codes when `vq_model` is attached, by FLUX.1's transformer in its VAE's latents.

    Tokens take the slot of the text, at the places of their patches, and their mean that of the text as a whole.
    """

    parts = {"transformer": FluxTransformer2DModel, "vae": AutoencoderKL}
    base_pipelines = ("FluxPipeline",)

    @classmethod
    def connector_sizes(cls, transformer_config) -> dict:
        return {
            "token_size": transformer_config.joint_attention_dim,
            "pooled_size": transformer_config.pooled_projection_dim,
        }

    def shift(self, sample: torch.Tensor, steps: int) -> float:
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        settings = [self.scheduler.config[name] for name in names]
        return calculate_shift(sample.shape[-2] * sample.shape[-1], *settings)

    def predict(self, sample: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        grid = tuple(sample.shape[-2:])
        return as_grid(
            self.transformer(
                hidden_states=as_sequence(sample),
                encoder_hidden_states=conditions.tokens,
                pooled_projections=conditions.pooled,
                timestep=sigma,
                guidance=self.embedded_guidance(sigma),
                img_ids=pad(places(grid, grid, sample.device), (1, 0)),
                txt_ids=pad(places(conditions.grid, grid, sample.device), (1, 0), value=REFERENCE),
                return_dict=False,
            )[0],
            grid,
        )

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        latents, config = self.vae.encode(pictures.to(self.vae.dtype)).latent_dist.mode(), self.vae.config
        return pixel_unshuffle((latents - config.shift_factor) * config.scaling_factor, 2)

    def decode_latents(self, sample: torch.Tensor) -> torch.Tensor:
        latents, config = pixel_shuffle(sample, 2), self.vae.config
        latents = latents / config.scaling_factor + config.shift_factor
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]
