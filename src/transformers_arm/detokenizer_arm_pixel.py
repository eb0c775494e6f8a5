"""The pixel detokenizer: a diffusers pipeline that renders `z_q` by rectified flow in pixel space.

Knows nothing about how `z_q` was made, except that a tokenizer may be attached to turn codes into it.
"""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor

from .detokenizer_arm import ArmDetokenizer
from .pixel_transformer_arm import MIN_SIGMA, ArmPixelTransformer


class ArmPixelDetokenizer(ArmDetokenizer):
    """Renders `z_q`, or codes when `vq_model` is attached, into pictures of the grid's own size.

    Args:
        transformer: the pixel-space diffusion transformer.
        scheduler: Euler steps over sigma = 1 - t.
        default_steps, default_guidance_scale: what a call without these arguments uses; saved with the pipeline.
    """

    own_parts = {"transformer": ArmPixelTransformer}
    model_cpu_offload_seq = "transformer"

    def __init__(
        self,
        transformer: ArmPixelTransformer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        default_steps: int = 28,
        default_guidance_scale: float = 1.5,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.register_to_config(default_steps=default_steps, default_guidance_scale=default_guidance_scale)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @property
    def condition_size(self) -> int:
        return self.transformer.config.condition_size

    @property
    def pixels_per_token(self) -> int:
        return self.transformer.config.patch_size

    def check_size(self, height: int, width: int, grid: tuple[int, int]) -> None:
        own = (grid[0] * self.pixels_per_token, grid[1] * self.pixels_per_token)
        if (height, width) != own:
            raise ValueError(
                f"This detokenizer renders a grid of {grid[0]}x{grid[1]} tokens at {own[0]}x{own[1]} px alone, not at "
                f"{height}x{width}; leave height and width out, and resize the picture."
            )

    def sample_shape(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        return batch, 3, height, width

    def conditions(self, z_q: torch.Tensor, drop: torch.BoolTensor | None, sample_shape: tuple[int, ...]):
        return z_q, drop

    def velocity(self, sample: torch.Tensor, sigma: torch.Tensor, conditions) -> torch.Tensor:
        z_q, drop = conditions
        velocity = self.transformer(sample, sigma, z_q, drop_condition=drop)
        # Where the transformer holds its division.
        return velocity * (sigma.clamp(min=MIN_SIGMA) / sigma)[:, None, None, None]

    def decode(self, sample: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return sample
