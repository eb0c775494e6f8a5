"""How `z_q` enters a diffusion transformer that was made for texts: in the slot of the text's condition (paper section
3.2; the linear form is ours), and where asked also added to the latents, place by place.

Knows nothing about any transformer but the widths of its inputs.
"""

from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from .loading_arm import SafetensorsOnlyMixin
from .modeling_arm_vq import grid_positions


class Conditions(NamedTuple):
    """What a transformer takes beside the sample.

    Args:
        tokens: [B, h * w, token_size], in place of a text's.
        pooled: [B, pooled_size], in place of a text's as a whole; None if there is none.
        added: [B, latent_size, H, W], on top of the latents; None if nothing is.
        grid: h, w.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor | None
    added: torch.Tensor | None
    grid: tuple[int, int]

    def to(self, dtype: torch.dtype) -> "Conditions":
        """The same in the dtype of a transformer, which need not be the connector's."""
        tensors = (each if each is None else each.to(dtype) for each in self[:3])
        return Conditions(*tensors, self.grid)


class ArmConnector(SafetensorsOnlyMixin, ModelMixin, ConfigMixin):
    """`z_q` -> `Conditions`.

    Args:
        condition_size: channels of `z_q`.
        token_size: width of the transformer's slot for a text's tokens.
        pooled_size: width of its slot for a text as a whole; 0 for none.
        latent_size: channels of the latents that `z_q` is added to, by a layer that begins at zero; 0 adds nothing.
        positions: whether tokens carry their places, for a transformer that gives a text's none of two dimensions.
    """

    @register_to_config
    def __init__(
        self,
        condition_size: int = 1152,
        token_size: int = 4096,
        pooled_size: int = 0,
        latent_size: int = 0,
        positions: bool = False,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(condition_size)
        self.tokens = nn.Linear(condition_size, token_size)
        self.null_token = nn.Parameter(torch.zeros(token_size))
        self.pooled, self.latents = None, None
        if pooled_size:
            self.pooled = nn.Linear(condition_size, pooled_size)
            self.null_pooled = nn.Parameter(torch.zeros(pooled_size))
        if latent_size:
            self.latents = nn.Linear(condition_size, latent_size)
            nn.init.zeros_(self.latents.weight)
            nn.init.zeros_(self.latents.bias)

    def forward(
        self, z_q: torch.Tensor, drop: torch.BoolTensor | None = None, latent_grid: tuple[int, int] | None = None
    ) -> Conditions:
        """`z_q` [B, h, w, condition_size] -> what stands for it.

        Args:
            drop: [B], True where a learned null stands in place of `z_q`.
            latent_grid: H, W of the latents; None for h, w.
        """
        batch, height, width, _ = z_q.shape
        drop = torch.zeros(batch, dtype=torch.bool, device=z_q.device) if drop is None else drop
        states = self.norm(z_q.to(self.norm.weight.dtype))
        tokens = torch.where(drop[:, None, None], self.null_token, self.tokens(states.flatten(1, 2)))
        if self.config.positions:
            tokens = tokens + grid_positions(height, width, self.config.token_size, z_q.device, tokens.dtype)
        pooled, added = None, None
        if self.pooled is not None:
            pooled = torch.where(drop[:, None], self.null_pooled, self.pooled(states.mean((1, 2))))
        if self.latents is not None:
            added = self.latents(states).masked_fill(drop[:, None, None, None], 0).permute(0, 3, 1, 2)
            if latent_grid not in (None, (height, width)):
                added = nn.functional.interpolate(added, latent_grid, mode="bilinear")
        return Conditions(tokens, pooled, added, (height, width))
