"""Questions about scenes, only those with exactly one right answer. Knows nothing about pixels.

`questions` and the samplers build questions together with their answers; `answer_question` reads the words alone and
answers from the scene, so each checks the other.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from .captions import NUMBERS, RELATIONS, plural
from .scene import COLORS, HELD_OUT_PAIRS, SHAPES, Scene

NEGATIVES = ("random", "popular", "adversarial")
_ALL_PAIRS = tuple((color, shape) for color in COLORS for shape in SHAPES)


@dataclass(frozen=True)
class Question:
    """A question and its one right answer.

    `negatives` is set by `sample_existence_question` only: the kind of negatives its question belongs to.
    """

    kind: str
    question: str
    answer: str
    negatives: str | None = None


def _name(item) -> str:
    return f"{item.color} {item.shape}"


def _color_questions(scene: Scene) -> list[Question]:
    shapes = [item.shape for item in scene.objects]
    return [
        Question("color", f"what color is the {item.shape}?", item.color)
        for item in scene.objects
        if shapes.count(item.shape) == 1
    ]


def _shape_questions(scene: Scene) -> list[Question]:
    colors = [item.color for item in scene.objects]
    return [
        Question("shape", f"what shape is the {item.color} object?", item.shape)
        for item in scene.objects
        if colors.count(item.color) == 1
    ]


def _count_questions(scene: Scene) -> list[Question]:
    return [Question("count", "how many objects are there?", NUMBERS[len(scene.objects)])]


def _count_shape_questions(scene: Scene) -> list[Question]:
    shapes = [item.shape for item in scene.objects]
    return [
        Question("count_shape", f"how many {plural(shape)} are there?", NUMBERS[shapes.count(shape)])
        for shape in SHAPES
    ]


def _location_questions(scene: Scene) -> list[Question]:
    return [Question("location", f"where is the {_name(item)}?", item.cell) for item in scene.objects]


def _existence_questions(scene: Scene) -> list[Question]:
    present = {(item.color, item.shape) for item in scene.objects}
    return [
        Question("existence", f"is there a {color} {shape}?", "yes" if (color, shape) in present else "no")
        for color, shape in _ALL_PAIRS
    ]


def _relation_questions(scene: Scene) -> list[Question]:
    found = []
    for relation, holds in RELATIONS.items():
        for item in scene.objects:
            there = [other for other in scene.objects if holds(other, item)]
            if len(there) == 1:
                found.append(Question("relation", f"what is {relation} the {_name(item)}?", _name(there[0])))
    return found


def _background_questions(scene: Scene) -> list[Question]:
    return [Question("background", "what color is the background?", scene.background)]


_BUILDERS: dict[str, Callable[[Scene], list[Question]]] = {
    "color": _color_questions,
    "shape": _shape_questions,
    "count": _count_questions,
    "count_shape": _count_shape_questions,
    "location": _location_questions,
    "existence": _existence_questions,
    "relation": _relation_questions,
    "background": _background_questions,
}
QUESTION_KINDS = tuple(_BUILDERS)


def questions(scene: Scene) -> list[Question]:
    """Every question of the language that has exactly one right answer about the scene, kind by kind."""
    return [question for build in _BUILDERS.values() for question in build(scene)]


def negative_pairs(scene: Scene, negatives: str) -> list[tuple[str, str]]:
    """The (color, shape) pairs to ask for in vain, as POPE chooses them.

    - random: any pair that is absent;
    - popular: absent, and among the pairs met most often in training. Scenes are uniform, so the only pairs met less
      often are the held-out ones, which never occur in generation and editing targets; all others are popular;
    - adversarial: the shape or the color is present in the scene, not both.

    Raises:
        ValueError: unknown kind of negatives.
    """
    present = {(item.color, item.shape) for item in scene.objects}
    absent = [pair for pair in _ALL_PAIRS if pair not in present]
    if negatives == "random":
        return absent
    if negatives == "popular":
        return [pair for pair in absent if pair not in HELD_OUT_PAIRS]
    if negatives == "adversarial":
        colors, shapes = {color for color, _ in present}, {shape for _, shape in present}
        return [(color, shape) for color, shape in absent if (color in colors) != (shape in shapes)]
    raise ValueError(f"Unknown negatives {negatives!r}; use one of {', '.join(NEGATIVES)}.")


def sample_existence_question(
    rng: random.Random, scene: Scene, *, negatives: str | None = None, answer: str | None = None
) -> Question:
    """Draws an existence question; yes and no are equally likely.

    Args:
        rng: source of randomness.
        scene: the scene asked about.
        negatives: where a "no" comes from, `"random"`, `"popular"` or `"adversarial"` (see `negative_pairs`); None
            draws it. A "yes" is labelled with it as well, since POPE scores each kind over as many of both.
        answer: `"yes"` or `"no"`; None draws it.
    """
    negatives = negatives or rng.choice(NEGATIVES)
    absent = negative_pairs(scene, negatives)
    answer = answer or rng.choice(("yes", "no"))
    if answer not in ("yes", "no"):
        raise ValueError(f"Unknown answer {answer!r} to an existence question; use 'yes', 'no' or None.")
    color, shape = rng.choice(absent if answer == "no" else [(item.color, item.shape) for item in scene.objects])
    return Question("existence", f"is there a {color} {shape}?", answer, negatives)


def sample_question(
    rng: random.Random, scene: Scene, kind: str | None = None, *, weights: dict[str, float] | None = None
) -> Question:
    """Draws a question over the kinds the scene allows, then over the answers, then over the questions.

    Balancing the answers keeps "no" and "zero" from outweighing the rest.

    Args:
        rng: source of randomness.
        scene: the scene asked about.
        kind: the kind of the question; None draws it.
        weights: of the kinds, above 0; None weighs all alike.

    Raises:
        ValueError: unknown kind, or the scene allows no question of it (e.g. a relation with one object).
    """
    if kind is not None and kind not in _BUILDERS:
        raise ValueError(f"Unknown kind of question {kind!r}; use one of {', '.join(QUESTION_KINDS)}.")
    if kind:
        kinds = (kind,)
    elif weights:  # exponential waiting times end in an order drawn without replacement by weight
        kinds = sorted(weights, key=lambda name: rng.expovariate(weights[name]))
    else:
        kinds = rng.sample(QUESTION_KINDS, len(QUESTION_KINDS))
    for tried in kinds:
        if tried == "existence":
            return sample_existence_question(rng, scene)
        if asked := _BUILDERS[tried](scene):
            answer = rng.choice(sorted({question.answer for question in asked}))
            return rng.choice([question for question in asked if question.answer == answer])
    raise ValueError(f"No {kind} question has exactly one answer about {scene.to_json()}; sample another scene.")


_SHAPE, _COLOR = f"(?P<shape>{'|'.join(SHAPES)})", f"(?P<color>{'|'.join(COLORS)})"
_PATTERNS = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "color": rf"what color is the {_SHAPE}\?",
        "shape": rf"what shape is the {_COLOR} object\?",
        "count": r"how many objects are there\?",
        "count_shape": rf"how many (?P<plural>{'|'.join(map(plural, SHAPES))}) are there\?",
        "location": rf"where is the {_COLOR} {_SHAPE}\?",
        "existence": rf"is there a {_COLOR} {_SHAPE}\?",
        "relation": rf"what is (?P<relation>{'|'.join(RELATIONS)}) the {_COLOR} {_SHAPE}\?",
        "background": r"what color is the background\?",
    }.items()
}


def parse_question(question: str) -> tuple[str, dict[str, str]]:
    """The kind of a question and the words it states.

    Raises:
        ValueError: the question is not of the language.
    """
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(question):
            return kind, match.groupdict()
    raise ValueError(f"Cannot read the question {question!r}; ask e.g. 'what color is the circle?', in lower case.")


def _matching(scene, stated: dict[str, str]) -> list:
    """Objects that have the shape and the color stated, if any is."""
    return [
        item
        for item in scene.objects
        if stated.get("shape", item.shape) == item.shape and stated.get("color", item.color) == item.color
    ]


def _only(items: list, what: str, question: str):
    if len(items) != 1:
        raise ValueError(f"{question!r} needs exactly one object {what}, the scene has {len(items)}.")
    return items[0]


def _number(count: int, question: str) -> str:
    if count >= len(NUMBERS):
        raise ValueError(f"The answer to {question!r} is {count}; the language counts to {len(NUMBERS) - 1}.")
    return NUMBERS[count]


def answer_question(question: str, scene) -> str:
    """Answers a question about a scene, or about a reading of a picture.

    Raises:
        ValueError: the question is not of the language, or the scene leaves it without exactly one answer.
    """
    kind, stated = parse_question(question)
    if kind == "background":
        if scene.background is None:
            raise ValueError(f"{question!r} has no answer, no background can be read.")
        return scene.background
    if kind == "count":
        return _number(len(scene.objects), question)
    if kind == "count_shape":
        return _number(sum(plural(item.shape) == stated["plural"] for item in scene.objects), question)
    if kind == "existence":
        return "yes" if _matching(scene, stated) else "no"
    item = _only(_matching(scene, stated), "it speaks of", question)
    if kind == "relation":
        holds = RELATIONS[stated["relation"]]
        return _name(_only([other for other in scene.objects if holds(other, item)], "there", question))
    return {"color": item.color, "shape": item.shape, "location": item.cell}[kind]
