"""What there is to learn and to score of each split: pictures, edits, questions; found once for a folder."""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import cycle
from typing import NamedTuple, TypeVar

from .edits import KINDS, Edit, edits
from .pictures import Drawn, pictures_folder, read_pictures
from .questions import QUESTION_KINDS, Question, questions
from .traits import part_of

Item = TypeVar("Item")


class Items(NamedTuple):
    """Of one split: pictures, and edits and questions by kind; a kind of which there is none is left out."""

    pictures: tuple[Drawn, ...]
    edits: dict[str, tuple[Edit, ...]]
    questions: dict[str, tuple[Question, ...]]


def items_of(split: str, folder: str | os.PathLike | None = None) -> Items:
    """All of a split: edits whose target is of it, and questions about its pictures.

    Raises:
        ValueError: no picture is of the split.
        FileNotFoundError: as `read_pictures`.
    """
    return _items_of(split, pictures_folder(folder))


@lru_cache(maxsize=8)
def _items_of(split: str, folder: str) -> Items:
    drawn = read_pictures(folder)
    pictures = tuple(each for each in drawn if each.split == split)
    if not pictures:
        known = ", ".join(sorted({each.split for each in drawn}))
        raise ValueError(f"No picture is of the split {split!r}; these pictures are of {known}.")
    return Items(
        pictures,
        _by_kind(KINDS, lambda kind: (edit for edit in edits(drawn, kind) if edit.split == split)),
        _by_kind(QUESTION_KINDS, lambda kind: (each for each in questions(drawn, kind) if each.drawn.split == split)),
    )


def _by_kind(kinds: Iterable[str], of: Callable[[str], Iterator[Item]]) -> dict[str, tuple[Item, ...]]:
    found = ((kind, tuple(of(kind))) for kind in kinds)
    return {kind: items for kind, items in found if items}


def of_part(items: Items, part: str) -> Items:
    """Those of people and hands, or of objects, as `part_of` has it."""
    edits, asked = items.edits, items.questions
    return Items(
        tuple(each for each in items.pictures if part_of(each) == part),
        _by_kind(edits, lambda kind: (edit for edit in edits[kind] if part_of(edit.target) == part)),
        _by_kind(asked, lambda kind: (each for each in asked[kind] if part_of(each.drawn) == part)),
    )


def taking_turns(rng: random.Random, by_kind: dict[str, Sequence[Item]], count: int) -> list[Item]:
    """At most `count` items, all kinds equally often while they last, none twice."""
    left = {kind: rng.sample(items, min(count, len(items))) for kind, items in by_kind.items()}
    count, taken = min(count, sum(map(len, left.values()))), []
    for kind in cycle(left):
        if len(taken) == count:
            return taken
        if left[kind]:
            taken.append(left[kind].pop())
    return taken
