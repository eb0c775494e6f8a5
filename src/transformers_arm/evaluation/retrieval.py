"""Which of many pictures each of others is nearest to, in pixels: whether what comes back can be told from all others.

Knows nothing about where pictures come from.
"""

from collections.abc import Iterator, Sequence

import numpy as np

ROWS = 1024  # pictures that are compared at once with as many: 50 MB of float32 each, of 64x64 px
CLOSEST = 8  # the nearest by float32, which are compared exactly


class PictureIndex:
    """Pictures of one size among which the nearest is looked for, exactly; they are held once, as uint8.

    Args:
        candidates: uint8 [H, W, 3] each.
    """

    def __init__(self, candidates: Sequence[np.ndarray]):
        self.size = np.shape(candidates[0])
        self.pixels = np.stack(candidates).reshape(len(candidates), -1)
        self.squares = np.concatenate([np.square(_centred(block)).sum(1) for _, block in _blocks(self.pixels)])

    def nearest(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Places of the candidates that pictures are nearest to, by squared error; of copies any: int [N].

        Raises:
            ValueError: a picture is of another size.
        """
        if wrong := {np.shape(picture) for picture in pictures} - {self.size}:
            raise ValueError(f"Pictures of {wrong.pop()} have no nearest among those of {self.size}; resize them.")
        rows = np.stack(pictures).reshape(len(pictures), -1)
        return np.array([place for _, block in _blocks(rows) for place in self._nearest(block)])

    def errors(self, row: np.ndarray, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Sums of squared differences of a picture, in any shape, from candidates: int [places]."""
        return np.square(self.pixels[places].astype(np.int64) - row.reshape(-1)).sum(1)

    def _nearest(self, rows: np.ndarray) -> Iterator[int]:
        centred, count = _centred(rows), min(CLOSEST, len(self.pixels))
        distances = np.empty((len(rows), len(self.pixels)), np.float32)
        for start, block in _blocks(self.pixels):
            np.matmul(centred, -2 * _centred(block).T, out=distances[:, start : start + len(block)])
        distances += self.squares
        for row, places in zip(rows, np.argpartition(distances, count - 1)[:, :count], strict=True):
            yield min(zip(self.errors(row, places), places, strict=True))[1]


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    return ((start, rows[start : start + ROWS]) for start in range(0, len(rows), ROWS))


def _centred(rows: np.ndarray) -> np.ndarray:
    """uint8 -> float32 about 0: distances stay, and are rounded less."""
    return rows.astype(np.float32) - 128


def nearest(pictures: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> np.ndarray:
    """Places of the candidates that pictures are nearest to, by squared error, among those of their size: int [N].

    Args:
        pictures: uint8 [H, W, 3] each; picture i belongs to candidate i.
        candidates: as many or more, uint8 [H, W, 3]. Where several are as near, such as copies, it is picture i's own,
            or else one of them.

    Raises:
        ValueError: a picture has another size than its own candidate.
    """
    found, sizes = np.arange(len(pictures)), [each.shape for each in candidates]
    for place, picture in enumerate(pictures):
        if picture.shape != sizes[place]:
            raise ValueError(f"Picture {place} is {picture.shape}, but its own is {sizes[place]}; resize one of them.")
    for size in dict.fromkeys(sizes[: len(pictures)]):
        alike = np.array([place for place, each in enumerate(sizes) if each == size])
        index, own = PictureIndex([candidates[place] for place in alike]), alike[alike < len(pictures)]
        for order, other in enumerate(index.nearest([pictures[place] for place in own])):
            own_error, error = index.errors(pictures[own[order]], [order, other])  # those with a picture come first
            found[own[order]] = own[order] if own_error <= error else alike[other]
    return found


def retrieval(pictures: Sequence[np.ndarray], originals: Sequence[np.ndarray]) -> float:
    """The share of pictures, 0..1, that are nearest to their own original; see `nearest`."""
    return float((nearest(pictures, originals) == np.arange(len(pictures))).mean())
