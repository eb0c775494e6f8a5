"""Scores of pictures, exact: which original does a picture look like most, and what of it is right.

The nearest of all originals in pixels is what a picture shows; pictures that look alike are one. Knows nothing about
models.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from .edits import Edit
from .pictures import Drawn
from .traits import TRAITS

BLOCK = 1024  # pictures that are compared at once with as many: 50 MB of float32 each
CANDIDATES = 8  # the nearest by float32, which are compared exactly
SCORED = ("concept", "tone", "gender", "style")


class Originals:
    """The pictures that others are compared with.

    Args:
        drawn: all of a world, in any order.
    """

    def __init__(self, drawn: Sequence[Drawn]):
        self.drawn = tuple(drawn)
        self.pixels = np.stack([each.image for each in self.drawn]).reshape(len(self.drawn), -1)
        self.norms = np.concatenate([np.square(_centred(block)).sum(1) for _, block in _blocks(self.pixels)])
        self.members: dict[int, list[Drawn]] = defaultdict(list)
        values: dict[tuple[str, str], set] = defaultdict(set)
        for each in self.drawn:
            self.members[each.twins].append(each)
            for name, value in TRAITS.items():
                values[name, each.emoji.concept].add(value(each))
        self.chosen = {key for key, found in values.items() if len(found) > 1}

    def nearest(self, images: Sequence[np.ndarray]) -> list[Drawn]:
        """The original that each picture, uint8 [64, 64, 3], is nearest to in squared differences of pixels.

        Raises:
            ValueError: a picture is of another size.
        """
        side = self.drawn[0].image.shape
        if wrong := {np.shape(image) for image in images} - {side}:
            raise ValueError(f"Pictures of {wrong.pop()} have no nearest among originals of {side}; resize them.")
        rows = np.stack([np.asarray(image, np.uint8) for image in images]).reshape(len(images), -1)
        return [self.drawn[place] for _, block in _blocks(rows) for place in self._nearest(block)]

    def _nearest(self, rows: np.ndarray) -> Iterator[int]:
        centred = _centred(rows)
        distances = np.empty((len(rows), len(self.drawn)), np.float32)
        for start, block in _blocks(self.pixels):
            np.matmul(centred, -2 * _centred(block).T, out=distances[:, start : start + len(block)])
        distances += self.norms
        kept = min(CANDIDATES, len(self.drawn))
        for row, places in zip(rows, np.argpartition(distances, kept - 1)[:, :kept], strict=True):
            errors = np.square(self.pixels[places].astype(np.int64) - row).sum(1)
            yield min(zip(errors, places, strict=True))[1]

    def shows(self, found: Drawn, wanted: Drawn, trait: str) -> bool:
        """Whether what was found, or a twin of it, has the trait of what was wanted."""
        value = TRAITS[trait]
        return any(value(each) == value(wanted) for each in self.members[found.twins])

    def picture_scores(self, found: Drawn, wanted: Drawn) -> dict[str, bool]:
        """`right`: it is what was wanted, or a twin of it; and `concept`, `tone`, `gender`, `style` each by itself,
        where the concept that was wanted has a choice of it.
        """
        scored = [name for name in SCORED if name == "concept" or (name, wanted.emoji.concept) in self.chosen]
        return {"right": found.twins == wanted.twins, **{name: self.shows(found, wanted, name) for name in scored}}

    def edit_scores(self, found: Drawn, edit: Edit) -> dict[str, bool]:
        """`target`: it is the edit's target; `copied`: it is still the source; `attribute`: what was to change is as
        it was to become; `kept`: all else is as it was.
        """
        return {
            "target": found.twins == edit.target.twins,
            "copied": found.twins == edit.source.twins,
            "attribute": all(self.shows(found, edit.target, trait) for trait in edit.changes),
            "kept": all(self.shows(found, edit.target, trait) for trait in edit.keeps),
        }


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    return ((start, rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))


def _centred(rows: np.ndarray) -> np.ndarray:
    """uint8 -> float32 about 0: distances stay, and are rounded less."""
    return rows.astype(np.float32) - 128
