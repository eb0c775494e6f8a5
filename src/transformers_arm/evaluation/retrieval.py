"""Which of many pictures each of others is nearest to, in pixels: whether what comes back can be told from all others.

Knows nothing about where pictures come from.
"""

from collections.abc import Sequence

import numpy as np

ROWS = 256  # pictures that are compared with all others together


def nearest(pictures: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> np.ndarray:
    """Places of the candidates that pictures are nearest to, by squared error, among those of their size: int [N].

    Args:
        pictures: uint8 [H, W, 3] each; picture i belongs to candidate i.
        candidates: as many or more, uint8 [H, W, 3]. Where several are as near, such as copies, it is picture i's own,
            or else the first.

    Raises:
        ValueError: a picture has another size than its own candidate.
    """
    found, sizes = np.arange(len(pictures)), [each.shape for each in candidates]
    for place, picture in enumerate(pictures):
        if picture.shape != sizes[place]:
            raise ValueError(f"Picture {place} is {picture.shape}, but its own is {sizes[place]}; resize one of them.")
    for size in dict.fromkeys(sizes):
        alike = np.array([place for place, each in enumerate(sizes) if each == size])
        flat = np.stack([candidates[place] for place in alike]).reshape(len(alike), -1).astype(float)
        squares, own = np.square(flat).sum(1), alike[alike < len(pictures)]
        for first in range(0, len(own), ROWS):
            places = own[first : first + ROWS]
            rows = np.stack([pictures[place] for place in places]).reshape(len(places), -1).astype(float)
            # Whole numbers below 2^53, so that no rounding tells copies apart; the picture's own square is left out.
            distances = squares - 2 * rows @ flat.T
            own_distances = distances[np.arange(len(places)), np.searchsorted(alike, places)]
            others = alike[distances.argmin(1)]
            found[places] = np.where(own_distances <= distances.min(1), places, others)
    return found


def retrieval(pictures: Sequence[np.ndarray], originals: Sequence[np.ndarray]) -> float:
    """The share of pictures, 0..1, that are nearest to their own original; see `nearest`."""
    return float((nearest(pictures, originals) == np.arange(len(pictures))).mean())
