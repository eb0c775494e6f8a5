"""The values that a picture stands for, and the picture that values stand for."""

import numpy as np
import PIL.Image
import torch


def expected_values(image: PIL.Image.Image) -> torch.Tensor:
    """The float32 nearest to x / 127.5 - 1, [1, 3, H, W]."""
    values = np.asarray(image.convert("RGB"), dtype=np.float64) / 127.5 - 1
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]


def pixels_of(processor, image, **kwargs) -> np.ndarray:
    """What the model would see, as uint8 [H, W, 3]."""
    return np.asarray(processor.postprocess(processor(image, **kwargs).pixel_values)[0])
