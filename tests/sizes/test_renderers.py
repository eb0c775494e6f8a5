"""Published renderers have the sizes that their makers state."""

import pytest
import torch

from transformers_arm.sizes.renderers import PUBLISHED, published_parts

# Billions of the transformer; parameters of the VAE.
STATED = {
    "black-forest-labs/FLUX.2-klein-base-4B": (3.88, 84_046_115),
    "black-forest-labs/FLUX.1-dev": (11.9, 83_819_683),
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": (1.6, 312_250_275),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_renderer_has_its_size(name):
    with torch.device("meta"):
        parts = published_parts(name)
    sizes = {part: sum(each.numel() for each in module.parameters()) for part, module in parts.items()}
    billions, vae = STATED[name]
    assert sizes["transformer"] / 1e9 == pytest.approx(billions, rel=0.01) and sizes["vae"] == vae
    assert sizes["connector"] < 0.01 * sizes["transformer"]
    assert not any(each.requires_grad for each in parts["vae"].parameters())
