"""Scores of pictures, exact: which original does a picture look like most, and what of it is right.

The nearest of all originals in pixels is what a picture shows; pictures that look alike are one. Knows nothing about
models.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ...evaluation.intervals import Interval, mean_intervals
from ...evaluation.retrieval import PictureIndex
from .edits import Edit
from .pictures import Drawn, pictures_folder, read_pictures
from .traits import TRAITS, choices, name_of, word_of

SCORED = ("concept", "tone", "gender", "style")


def read_originals(folder: str | os.PathLike | None = None) -> "Originals":
    """The `Originals` of a folder, made once; raises as `read_pictures`."""
    return _originals(pictures_folder(folder))


@lru_cache(maxsize=1)
def _originals(folder: str) -> "Originals":
    return Originals(read_pictures(folder), folder)


class Originals:
    """The pictures that others are compared with.

    Args:
        drawn: all of a world, in any order.
        folder: where they are from, if anywhere.
    """

    def __init__(self, drawn: Sequence[Drawn], folder: str | None = None):
        self.folder, self.drawn = folder, tuple(drawn)
        self.index = PictureIndex([each.image for each in self.drawn])
        self.members: dict[int, list[Drawn]] = defaultdict(list)
        self.by_name = {name_of(each): each for each in self.drawn}
        for each in self.drawn:
            self.members[each.twins].append(each)
        self.chosen = choices(self.drawn)

    def named(self, name: str) -> Drawn:
        """The picture that `name_of` calls so.

        Raises:
            ValueError: there is none.
        """
        if name not in self.by_name:
            raise ValueError(f"No original is called {name!r}; names are code points and a style, '1F680 noto'.")
        return self.by_name[name]

    def nearest(self, images: Sequence) -> list[Drawn]:
        """The original that each picture, RGB or uint8 [64, 64, 3], is nearest to in squared differences of pixels.

        Raises:
            ValueError: a picture is of another size.
        """
        return [self.drawn[place] for place in self.index.nearest([np.asarray(image) for image in images])]

    def shows(self, found: Drawn, wanted: Drawn, trait: str) -> bool:
        """Whether what was found, or a twin of it, has the trait of what was wanted."""
        value = TRAITS[trait]
        return any(value(each) == value(wanted) for each in self.members[found.twins])

    def called(self, wanted: Drawn, trait: str, word: str) -> bool:
        """Whether `word_of` calls the trait of what was wanted, or of a twin of it, so."""
        return any(word_of(each, trait) == word for each in self.members[wanted.twins])

    def scored(self, wanted: Drawn) -> list[str]:
        """Those of `SCORED` that say something about a picture of this: its concept, and what that has a choice of."""
        return [name for name in SCORED if name == "concept" or (name, wanted.emoji.concept) in self.chosen]

    def picture_scores(self, found: Drawn, wanted: Drawn) -> dict[str, bool]:
        """`right`: it is what was wanted, or a twin of it; and `concept`, `tone`, `gender`, `style` each by itself,
        where the concept that was wanted has a choice of it.
        """
        hits = {name: self.shows(found, wanted, name) for name in self.scored(wanted)}
        return {"right": found.twins == wanted.twins, **hits}

    def means(self, images: Sequence, wanted: Sequence[Drawn]) -> dict[str, Interval]:
        """Means of `picture_scores` of pictures; those of one concept hang together."""
        scores = [self.picture_scores(*pair) for pair in zip(self.nearest(images), wanted, strict=True)]
        return mean_intervals(scores, [each.emoji.concept for each in wanted])

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
