"""Pictures like those that there are: moved, zoomed, mirrored, in exchanged colors. Knows no names."""

import random
from itertools import permutations

import numpy as np
from PIL import Image

ZOOM = 0.75, 1.35
SHIFT = 8  # px, at most, either way
COLORS = tuple(permutations(range(3)))


def varied(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """A picture, uint8 [H, W, 3] on white, zoomed and moved by chance, half of the time mirrored, in one of the six
    orders of its colors.
    """
    height, width = image.shape[:2]
    zoom = rng.uniform(*ZOOM)
    left, top = (side / 2 * (1 - 1 / zoom) + rng.uniform(-SHIFT, SHIFT) for side in (width, height))
    where = (1 / zoom, 0, left, 0, 1 / zoom, top)
    picture = Image.fromarray(image[..., COLORS[rng.randrange(len(COLORS))]])
    moved = picture.transform(
        (width, height), Image.Transform.AFFINE, where, Image.Resampling.BICUBIC, fillcolor="white"
    )
    return np.asarray(moved.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else moved)
