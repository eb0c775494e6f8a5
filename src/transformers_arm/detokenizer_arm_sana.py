"""Sana renders `z_q`: linear attention, and a VAE that shrinks 32 times, two tokens a side."""

import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel

from .connector_arm import Conditions
from .detokenizer_arm_latent import ArmLatentDetokenizer


class ArmSanaDetokenizer(ArmLatentDetokenizer):
    """Renders `z_q`, or codes when `vq_model` is attached, by Sana's transformer in its VAE's latents.

    Tokens are attended to in place of the text's, and carry their places. Pictures are rendered at the next multiple
    of 32 px and resized.
    """

    parts = {"transformer": SanaTransformer2DModel, "vae": AutoencoderDC}
    base_pipelines = ("SanaPipeline",)

    @classmethod
    def connector_sizes(cls, transformer_config) -> dict:
        return {"token_size": transformer_config.caption_channels, "positions": True}

    @property
    def pixels_per_place(self) -> int:
        return self.vae.spatial_compression_ratio

    def predict(self, sample: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return self.transformer(
            hidden_states=sample,
            encoder_hidden_states=conditions.tokens,
            timestep=sigma * self.scheduler.config.num_train_timesteps * self.transformer.config.timestep_scale,
            guidance=self.embedded_guidance(sigma),
            return_dict=False,
        )[0][:, : sample.shape[1]]  # some predict a variance beside

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pictures.to(self.vae.dtype)).latent * self.vae.config.scaling_factor

    def decode_latents(self, sample: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(sample.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
