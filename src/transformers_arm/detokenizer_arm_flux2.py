"""FLUX.2 renders `z_q`: one place of its latents is one token of 16 px."""

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from diffusers.modular_pipelines.flux2.before_denoise import compute_empirical_mu
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from .connector_arm import Conditions
from .detokenizer_arm_latent import ArmLatentDetokenizer, as_grid, as_sequence, places

REFERENCE_TIME = 10  # where FLUX.2 puts the first picture that it is shown, on the axis of time


class ArmFlux2Detokenizer(ArmLatentDetokenizer):
    """Renders `z_q`, or codes when `vq_model` is attached, by FLUX.2's transformer in its VAE's latents.

    Tokens take the slot of the text, at the places of their patches. A connector with `latent_size` adds them to the
    latents there as well, which was measured to bring nothing (docs/renderers.md).
    """

    parts = {"transformer": Flux2Transformer2DModel, "vae": AutoencoderKLFlux2}
    base_pipelines = ("Flux2KleinPipeline", "Flux2Pipeline")

    @classmethod
    def connector_sizes(cls, transformer_config) -> dict:
        return {"token_size": transformer_config.joint_attention_dim}

    def shift(self, sample: torch.Tensor, steps: int) -> float:
        return compute_empirical_mu(sample.shape[-2] * sample.shape[-1], steps)

    def predict(self, sample: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        grid = tuple(sample.shape[-2:])
        return as_grid(
            self.transformer(
                hidden_states=as_sequence(sample),
                encoder_hidden_states=conditions.tokens,
                timestep=sigma,
                guidance=self.embedded_guidance(sigma),
                img_ids=self._ids(grid, grid, 0, sample),
                txt_ids=self._ids(conditions.grid, grid, REFERENCE_TIME, sample),
                return_dict=False,
            )[0],
            grid,
        )

    def _ids(self, grid: tuple[int, int], of: tuple[int, int], time: int, sample: torch.Tensor) -> torch.Tensor:
        """Positions [B, h * w, 4]: time, row, column, and what of a text would be its order."""
        ids = torch.nn.functional.pad(places(grid, of, sample.device), (1, 1))
        ids[:, 0] = time
        return ids.expand(len(sample), -1, -1)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        latents = pixel_unshuffle(self.vae.encode(pictures.to(self.vae.dtype)).latent_dist.mode(), 2)
        mean, std = self._scale(latents)
        return (latents - mean) / std

    def decode_latents(self, sample: torch.Tensor) -> torch.Tensor:
        mean, std = self._scale(sample)
        latents = pixel_shuffle(sample * std + mean, 2)
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]

    def _scale(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of latents [1, channels, 1, 1], where those are: the VAE may be offloaded."""
        norm = self.vae.bn
        std = (norm.running_var + self.vae.config.batch_norm_eps).sqrt()
        return tuple(each.to(latents).view(1, -1, 1, 1) for each in (norm.running_mean, std))
