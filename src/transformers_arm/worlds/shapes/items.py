"""The items that scores are taken on: edits and questions, balanced over kinds, numbers of objects and ways to name.

Knows nothing about models.
"""

import random
from collections.abc import Sequence

from .captions import NUMBERS
from .edits import EDIT_KINDS, Edit, objects_edited, sample_editing_pair
from .questions import (
    NEGATIVES,
    QUESTION_KINDS,
    Question,
    objects_asked,
    questions_of,
    sample_existence_question,
    sample_question,
)
from .scene import Scene, sample_scene

TRAINED_NAMES = ("plain", "other")


def editing_pairs(
    count: int,
    *,
    seed: int,
    split: str = "test",
    max_jitter: int = 0,
    held_out_pairs: bool | None = False,
    kinds: Sequence[str] = EDIT_KINDS,
    names: Sequence[str] = TRAINED_NAMES,
) -> list[Edit]:
    """Editing pairs: all kinds equally often, of each kind all numbers of objects, and of these all `names`."""
    rng = random.Random(f"{seed}/editing")
    pairs = []
    for index in range(count):
        turn, kind = divmod(index, len(kinds))
        turn, number = divmod(turn, len(objects_edited(kinds[kind])))
        wanted = {"num_objects": objects_edited(kinds[kind])[number], "names": names[turn % len(names)]}
        wanted |= {"max_jitter": max_jitter, "held_out_pairs": held_out_pairs}
        pairs.append(sample_editing_pair(rng, kinds[kind], split, **wanted))
    return pairs


def question_pairs(
    count: int,
    *,
    seed: int,
    split: str = "test",
    max_jitter: int = 0,
    kinds: Sequence[str] = QUESTION_KINDS,
    names: Sequence[str] = TRAINED_NAMES,
) -> list[tuple[Scene, Question]]:
    """Scenes with a question each: all kinds equally often, of each kind all numbers of objects, and of these all
    `names`. Existence questions take turns in their negatives, and then in yes and no, as POPE has as many of both.
    """
    rng = random.Random(f"{seed}/questions")
    return [_question(rng, index, kinds, names, split=split, max_jitter=max_jitter) for index in range(count)]


def _question(
    rng: random.Random, index: int, kinds: Sequence[str], names: Sequence[str], **wanted
) -> tuple[Scene, Question]:
    turn, kind = divmod(index, len(kinds))
    kind = kinds[kind]
    turn, number = divmod(turn, len(objects_asked(kind)))
    group = names[turn % len(names)]
    while True:
        scene = sample_scene(rng, num_objects=objects_asked(kind)[number], **wanted)
        if kind == "existence":
            turn, negatives = divmod(turn, len(NEGATIVES))
            answer = ("yes", "no")[turn % 2]
            return scene, sample_existence_question(rng, scene, negatives=NEGATIVES[negatives], answer=answer)
        if questions_of(rng, scene, kind, group):
            return scene, sample_question(rng, scene, kind, names=group)


def number_of(scene: Scene) -> str:
    """How many objects a scene has, in words."""
    return NUMBERS[len(scene.objects)]
