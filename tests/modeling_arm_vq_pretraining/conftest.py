"""A tokenizer in training with all its losses, and a batch for it."""

import pytest
from transformers import AutoTokenizer
from vq_pretraining import new_model

from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.worlds.shapes.pictures import Canvas, ShapesDataset


@pytest.fixture(scope="module")
def model(tiny_backbones):
    """Shared: tests that change it make their own."""
    return new_model(tiny_backbones)


@pytest.fixture(scope="module")
def batch(tiny_backbones):
    """Four pictures of 48x64 with captions of different lengths."""
    data = ShapesDataset(4, batch_size=4, seed=0, canvases=[Canvas(48, 64)])
    tokenizers = [AutoTokenizer.from_pretrained(tiny_backbones[name]) for name in ("vision", "captioner")]
    batch = ImageTextCollator(tokenizers[0], 32, tokenizers[1])([data[index] for index in range(4)])
    assert (batch["caption_ids"] == -100).any()
    return batch
