"""How much of a code its own patch does not tell. Knows nothing about worlds and models."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np


def code_noise(images: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> float:
    """Nats that codes of patches with equal pixels differ by: the entropy of a code given its patch, of all patches.

    What surrounds a patch decides the rest, and whoever predicts codes must tell that too. Patches that are met once
    add nothing: take pictures of which many patches are alike, such as flat grounds and drawn things.

    Args:
        images: uint8 [H, W, 3], of any sizes in whole patches.
        codes: of each its grid [h, w].
    """
    of_patch = defaultdict(Counter)
    for image, grid in zip(images, codes, strict=True):
        rows, columns = (side // count for side, count in zip(image.shape, grid.shape, strict=False))
        for (row, column), code in np.ndenumerate(grid):
            patch = image[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            of_patch[patch.tobytes()][int(code)] += 1
    nats = 0.0
    for found in of_patch.values():
        counts = np.array(list(found.values()), float)
        nats -= (counts * np.log(counts / counts.sum())).sum()
    return float(nats) / sum(counts.total() for counts in of_patch.values())
