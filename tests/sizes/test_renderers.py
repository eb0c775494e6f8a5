"""Published renderers have the sizes that their makers state."""

import pytest
import torch

from transformers_arm.sizes.renderers import PUBLISHED, published_parts, weight_bytes, weights_table

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


def test_bytes_of_weights_are_those_of_the_tensors():
    linear, norm = torch.nn.Linear(128, 32), torch.nn.LayerNorm(8)  # 4,096 weights and 32 biases; 16
    parts = {"transformer": torch.nn.Sequential(linear, norm), "connector": torch.nn.Linear(4, 4), "vae": norm}
    other = 32 + 16 + 20 + 16
    assert weight_bytes(torch.nn.ModuleDict(parts)) == {
        "fp32": 4 * (4096 + other),
        "bf16": 2 * (4096 + other),
        "bf16, model offload": 2 * (4096 + 32 + 16),
        "int8": 4096 + 2 * 32 + 2 * other,
        "nf4": 2048 + 4 * 64 + 2 * other,
    }


def test_the_table_has_a_row_a_renderer_and_offload_leaves_the_transformer():
    rows = {
        cells[1]: [float(each) for each in cells[2:-1]] for cells in map(cells_of, weights_table().splitlines()[2:])
    }
    assert list(rows) == list(PUBLISHED)
    for name, (fp32, bf16, offload, int8, nf4) in rows.items():
        assert offload == pytest.approx(2e9 * STATED[name][0] / 2**30, rel=0.01)
        assert fp32 == pytest.approx(2 * bf16, abs=0.02) and nf4 < int8 < offload < bf16


def cells_of(line: str) -> list[str]:
    return [each.strip() for each in line.split("|")]
