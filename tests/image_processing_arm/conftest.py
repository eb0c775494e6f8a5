"""A processor of small pictures, and a picture for it."""

import numpy as np
import PIL.Image
import pytest

from transformers_arm.image_processing_arm import ArmImageProcessor


@pytest.fixture
def processor():
    return ArmImageProcessor(size={"height": 48, "width": 48})


@pytest.fixture
def drawing():
    """A 48x48 picture with flat colours, a gradient and no symmetry."""
    pixels = np.zeros((48, 48, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(48)[:, None] * 5
    pixels[..., 1] = np.arange(48)[None, :] * 5
    pixels[4:12, 30:44] = (255, 0, 128)
    return PIL.Image.fromarray(pixels)
