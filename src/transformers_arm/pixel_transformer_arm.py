"""A diffusion transformer in pixel space, conditioned on `z_q`: the paper's light DiT (section 3.1, L_pix).

It predicts the clean picture and returns the velocity that follows from it; patches and tokens share one grid, so
`z_q` is added patch by patch. Sign and scale are those of diffusers' flow matching: sigma = 1 - t, x_sigma =
(1 - sigma) * data + sigma * noise, and the velocity is noise - data.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.normalization import AdaLayerNormSingle
from torch import nn

from .loading_arm import SafetensorsOnlyMixin
from .modeling_arm_vq import grid_positions

MIN_SIGMA = 0.05  # the velocity divides by sigma; below this the division is held


class ArmPixelTransformer(SafetensorsOnlyMixin, ModelMixin, ConfigMixin):
    """x_sigma, sigma, `z_q` -> velocity.

    Args:
        condition_size: channels of `z_q`.
        hidden_size, num_layers, num_attention_heads: the transformer.
        patch_size: pixels a side of the square that one token of `z_q` covers.
    """

    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        condition_size: int = 1152,
        hidden_size: int = 768,
        num_layers: int = 24,
        num_attention_heads: int = 12,
        patch_size: int = 16,
    ):
        super().__init__()
        patch_dim = 3 * patch_size**2
        self.patch_projection = nn.Linear(patch_dim, hidden_size)
        self.condition_norm = nn.LayerNorm(condition_size)
        self.condition_projection = nn.Linear(condition_size, hidden_size)
        self.null_condition = nn.Parameter(torch.zeros(hidden_size))
        self.time_embedding = AdaLayerNormSingle(hidden_size)
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(
                hidden_size,
                num_attention_heads,
                hidden_size // num_attention_heads,
                norm_type="ada_norm_single",
                activation_fn="gelu-approximate",
                attention_bias=True,
                norm_elementwise_affine=False,
                norm_eps=1e-6,
            )
            for _ in range(num_layers)
        )
        self.output_norm = nn.LayerNorm(hidden_size)
        self.output_projection = nn.Linear(hidden_size, patch_dim)

    def null(self, batch: int, height: int, width: int) -> torch.Tensor:
        """The learned condition that stands for no picture: [B, height * width, hidden_size]."""
        return self.null_condition.expand(batch, height * width, -1)

    def forward(
        self,
        sample: torch.Tensor,
        sigma: torch.Tensor,
        z_q: torch.Tensor,
        drop_condition: torch.BoolTensor | None = None,
    ) -> torch.Tensor:
        """One velocity prediction.

        Args:
            sample: noisy pictures [B, 3, h * patch_size, w * patch_size], data in -1..1.
            sigma: noise levels [B] in 0..1 (1 is pure noise).
            z_q: [B, h, w, condition_size].
            drop_condition: [B], True where `z_q` is replaced by the learned null condition.

        Returns:
            noise - data, in the shape and dtype of `sample`: of one in fp32, weights in bfloat16 leave the division by
            sigma in fp32.

        Raises:
            ValueError: `sample` and `z_q` disagree on the grid.
        """
        patch, (batch, height, width, _) = self.config.patch_size, z_q.shape
        if sample.shape != (batch, 3, height * patch, width * patch):
            raise ValueError(
                f"Pictures {list(sample.shape)} do not fit z_q: {batch} grids of {height}x{width}, {patch} px a patch."
            )
        condition = self.condition_projection(self.condition_norm(z_q.flatten(1, 2)))
        if drop_condition is not None:
            condition = torch.where(drop_condition[:, None, None], self.null(batch, height, width), condition)
        patches = nn.functional.unfold(sample.to(self.dtype), patch, stride=patch).transpose(1, 2)
        positions = grid_positions(height, width, self.config.hidden_size, sample.device, self.dtype)
        # The share of the picture in the sample: at pure noise there is nothing to see, and z_q alone speaks.
        visible = (1 - sigma).to(self.dtype)[:, None, None]
        hidden_states = visible * self.patch_projection(patches) + condition + positions
        timestep, _ = self.time_embedding(1000 * sigma, batch_size=batch, hidden_dtype=self.dtype)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # By place, for `checkpoint`: no mask, nothing to attend to but itself.
                hidden_states = self._gradient_checkpointing_func(block, hidden_states, None, None, None, timestep)
            else:
                hidden_states = block(hidden_states, timestep=timestep)
        # The long skip lets detail pass from z_q to the picture beside the blocks.
        clean = self.output_projection(self.output_norm(hidden_states + condition)).transpose(1, 2)
        clean = nn.functional.fold(clean.to(sample.dtype), sample.shape[-2:], patch, stride=patch)
        return (sample - clean) / sigma.clamp(min=MIN_SIGMA)[:, None, None, None]


def flow_matching_errors(
    transformer: ArmPixelTransformer,
    pictures: torch.Tensor,
    z_q: torch.Tensor,
    *,
    regression_share: float = 0.0,
    condition_dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.BoolTensor]:
    """The squared error of the velocity at sigma ~ U[0, 1], averaged over pixels, of each picture [B]; and which were
    taken at sigma = 1, pure noise.

    Args:
        pictures: [B, 3, H, W] in -1..1.
        z_q: [B, h, w, C].
        regression_share: share of the samples taken at sigma = 1.
        condition_dropout: share of the samples trained without `z_q`; a renderer needs some for guidance.
    """
    batch = len(pictures)
    sigma = torch.rand(batch, device=pictures.device)
    at_noise = torch.rand_like(sigma) < regression_share
    sigma = torch.where(at_noise, torch.ones_like(sigma), sigma)
    drop = torch.rand_like(sigma) < condition_dropout
    noise = torch.randn_like(pictures)
    weight = sigma[:, None, None, None]
    velocity = transformer((1 - weight) * pictures + weight * noise, sigma, z_q, drop_condition=drop)
    target = noise - pictures
    # Below MIN_SIGMA the division is held, so the target is held alike: the error stays that of the clean picture.
    held = (weight / weight.clamp(min=MIN_SIGMA)) * target
    return (velocity - held).square().mean((1, 2, 3)), at_noise


def flow_matching_loss(*arguments, **settings) -> torch.Tensor:
    """L_pix: the mean (a scalar) of `flow_matching_errors`, which has the same arguments."""
    return flow_matching_errors(*arguments, **settings)[0].mean()


def by_noise(
    errors: torch.Tensor, at_noise: torch.BoolTensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """`flow_matching_errors` told apart, for logs: means `pixel_at_noise`, where there is nothing to see and the loss
    is regression on `z_q`, and `pixel_below_noise`; and how many pictures each is of. Both may be of none.
    """
    errors, means, counts = errors.detach(), {}, {}
    for name, chosen in (("pixel_at_noise", at_noise), ("pixel_below_noise", ~at_noise)):
        counts[name] = chosen.sum()
        means[name] = (errors * chosen).sum() / counts[name].clamp(min=1)
    return means, counts
