"""Pictures as a decoder might return them, so that who learns from originals alone reads those of a model too.

Knows nothing about what they show.
"""

import torch
from torch import nn


def worn(pixel_values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures [B, 3, H, W] in -1..1, blurred, noisy, off in contrast and brightness, each as chance has it."""

    def strength(low: float, high: float) -> torch.Tensor:
        return torch.rand(len(pixel_values), 1, 1, 1, generator=generator) * (high - low) + low

    blurred = nn.functional.avg_pool2d(nn.functional.pad(pixel_values, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    spoilt = pixel_values.lerp(blurred, strength(0, 0.6)) * strength(0.9, 1.1) + strength(-0.1, 0.1)
    return (spoilt + torch.randn(spoilt.shape, generator=generator) * strength(0, 0.16)).clamp(-1, 1)
