"""Worn pictures are like what they were, no two alike, and the same for a seed."""

import torch

from transformers_arm.worlds.worn import worn


def test_pictures_are_worn_by_chance_and_stay_in_their_range():
    pictures = torch.ones(8, 3, 16, 16)
    pictures[:, :, 4:12, 4:12] = -1.0
    first, again, other = (worn(pictures, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= -1 and first.max() <= 1
    assert (first - pictures).abs().mean() < 0.3 and len({each.sum().item() for each in first}) == 8
