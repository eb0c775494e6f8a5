"""Pictures like those that there are: moved, zoomed, mirrored, in exchanged colors. Knows no names."""

import random
from itertools import permutations

import numpy as np
from PIL import Image

ZOOM = 0.75, 1.35
SHIFT = 8  # px, at most, either way
COLORS = tuple(permutations(range(3)))


def moved(image: np.ndarray, rng: random.Random, *, zoom: tuple[float, float], shift: float) -> np.ndarray:
    """A picture, uint8 [H, W, 3] on white, zoomed and moved by chance, at most `shift` px either way."""
    height, width = image.shape[:2]
    times = rng.uniform(*zoom)
    left, top = (side / 2 * (1 - 1 / times) + rng.uniform(-shift, shift) for side in (width, height))
    where = (1 / times, 0, left, 0, 1 / times, top)
    picture = Image.fromarray(image)
    return np.asarray(
        picture.transform((width, height), Image.Transform.AFFINE, where, Image.Resampling.BICUBIC, fillcolor="white")
    )


def varied(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """A picture, uint8 [H, W, 3] on white, `moved`, half of the time mirrored, in one of the six orders of its
    colors.
    """
    picture = moved(image, rng, zoom=ZOOM, shift=SHIFT)[..., COLORS[rng.randrange(len(COLORS))]]
    return picture[:, ::-1] if rng.random() < 0.5 else picture
