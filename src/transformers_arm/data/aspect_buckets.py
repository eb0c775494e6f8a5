"""Aspect buckets: a few grids of about as many patches each, so that pictures of any shape fill rows of one size.

A picture goes into the bucket nearest to it in shape and is stretched to it, within `stretch`: nothing of it is lost,
and none is distorted by more than half of what lies between two buckets (an eighth, where there are eleven). Cropping
to the bucket instead would lose as large a share of the picture and of what its caption tells. Only what is longer
than the longest bucket and its stretch is cropped to that, about its middle, and refused where it would lose more than
half. Small pictures are enlarged. Knows nothing about rows.
"""

import math

import numpy as np
from transformers.image_utils import SizeDict

from ..configuration_arm import MAX_GRID_SIDE
from ..image_processing_arm import ArmImageProcessor

LONGEST = 2.5  # long side to short side of the longest buckets; few pictures of the web are longer
MOST_LOST = 0.5  # share of a picture that cropping may take


def grid_of(aspect: float, patches: int) -> tuple[int, int]:
    """Rows and columns of the grid of at most so many patches that is nearest to an aspect (rows / columns)."""
    if aspect < 1:
        return grid_of(1 / aspect, patches)[::-1]
    grids = [(min(patches // columns, MAX_GRID_SIDE), columns) for columns in range(1, math.isqrt(patches) + 1)]
    return min(grids, key=lambda grid: abs(math.log(grid[0] / grid[1] / aspect)))


class AspectBuckets:
    """The buckets within the area of an image processor's `size`.

    Args:
        image_processor: says that area, the side of a patch and how pictures are resampled.
        count: buckets, evenly spaced in the logarithm of their aspect; small areas have room for fewer.

    Attributes:
        sizes: (height, width) in px of each bucket, from wide to tall.
        stretch: the most by which a picture's aspect is changed, as a factor.
    """

    def __init__(self, image_processor: ArmImageProcessor, count: int):
        self.image_processor, patch_size = image_processor, image_processor.patch_size
        area = image_processor.size.height * image_processor.size.width
        aspects = [LONGEST ** (2 * number / (count - 1) - 1) for number in range(count)] if count > 1 else [1.0]
        grids = {grid_of(aspect, area // patch_size**2) for aspect in aspects}
        sizes = [(rows * patch_size, columns * patch_size) for rows, columns in grids]
        self.sizes = sorted(sizes, key=lambda size: size[0] / size[1])
        logs = [math.log(height / width) for height, width in self.sizes]
        self.stretch = math.exp(max((b - a for a, b in zip(logs, logs[1:], strict=False)), default=0.0) / 2)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the bucket that a picture of this size goes into."""
        return min(self.sizes, key=lambda size: abs(math.log(size[0] * width / (size[1] * height))))

    def kept(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what is kept of a picture of this size.

        Raises:
            ValueError: it is smaller than a patch, or so long that cropping would take more than half of it.
        """
        patch_size, bucket = self.image_processor.patch_size, self.size_of(height, width)
        whose = f"the picture has {height}x{width} pixels (height x width)"
        if min(height, width) < patch_size:
            raise ValueError(
                f"{whose}, but a patch has {patch_size} a side: enlarged to {bucket[0]}x{bucket[1]} it would show "
                "nothing. Leave it out."
            )
        aspect = bucket[0] / bucket[1]
        tallest, widest = width * aspect * self.stretch, height / aspect * self.stretch
        if min(tallest / height, widest / width) < 1 - MOST_LOST:
            raise ValueError(
                f"{whose}, of which the longest bucket, {bucket[0]}x{bucket[1]}, would keep less than half. Crop it."
            )
        return min(height, max(1, round(tallest))), min(width, max(1, round(widest)))

    def fit(self, picture) -> np.ndarray:
        """A picture of any kind that the image processor takes -> uint8 [3, H, W] of its bucket's size.

        Raises:
            ValueError: see `kept`.
        """
        pixels = self.image_processor.process_image(picture)
        height, width = pixels.shape[1:]
        (rows, columns), size = self.kept(height, width), self.size_of(height, width)
        top, left = (height - rows) // 2, (width - columns) // 2
        pixels = pixels[:, top : top + rows, left : left + columns]
        if pixels.shape[1:] == size:
            return pixels
        return self.image_processor.resize(pixels, SizeDict(*size), self.image_processor.resample)
