"""Questions about scenes, only those with exactly one right answer. Knows nothing about pixels.

`questions` and the samplers build questions together with their answers; `answer_question` reads the words alone and
answers from the scene, so each checks the other.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from .captions import NUMBERS, plural
from .references import NAMES, PLAIN, REFERENCE, RELATIONS, check_names, name_object, object_named
from .scene import COLORS, HELD_OUT_PAIRS, MAX_OBJECTS, SHAPES, Scene, SceneObject

NEGATIVES = ("random", "popular", "adversarial")
_ALL_PAIRS = tuple((color, shape) for color in COLORS for shape in SHAPES)


@dataclass(frozen=True)
class Question:
    """A question and its one right answer.

    `negatives` is set by `sample_existence_question` only: the kind of negatives its question belongs to. `names` is
    the group of `NAMES` that its object's name was drawn from; None where it names none.
    """

    kind: str
    question: str
    answer: str
    negatives: str | None = None
    names: str | None = None


class Naming(NamedTuple):
    """How a kind of question names its object: plainly, and what no name of it may state, for that is the answer."""

    plain: str
    without: tuple[str, ...]


NAMING = {
    "color": Naming("the {shape}", ("color",)),
    "shape": Naming("the {color} object", ("shape",)),
    "location": Naming(PLAIN, ("cell",)),
    "relation": Naming(PLAIN, ("relation",)),
}
"""Of the kinds of questions that name an object, how they do."""
Namer = Callable[[SceneObject], str | None]


def _answer_name(item) -> str:
    return f"{item.color} {item.shape}"


def _named(scene: Scene, name: Namer) -> list[tuple[SceneObject, str]]:
    """The objects of a scene that can be named, and their names."""
    return [(item, words) for item in scene.objects if (words := name(item))]


def _color_questions(scene: Scene, name: Namer) -> list[Question]:
    return [Question("color", f"what color is {words}?", item.color) for item, words in _named(scene, name)]


def _shape_questions(scene: Scene, name: Namer) -> list[Question]:
    return [Question("shape", f"what shape is {words}?", item.shape) for item, words in _named(scene, name)]


def _count_questions(scene: Scene, _) -> list[Question]:
    return [Question("count", "how many objects are there?", NUMBERS[len(scene.objects)])]


def _count_shape_questions(scene: Scene, _) -> list[Question]:
    shapes = [item.shape for item in scene.objects]
    return [
        Question("count_shape", f"how many {plural(shape)} are there?", NUMBERS[shapes.count(shape)])
        for shape in SHAPES
    ]


def _location_questions(scene: Scene, name: Namer) -> list[Question]:
    return [Question("location", f"where is {words}?", item.cell) for item, words in _named(scene, name)]


def _existence_questions(scene: Scene, _) -> list[Question]:
    present = {(item.color, item.shape) for item in scene.objects}
    return [
        Question("existence", f"is there a {color} {shape}?", "yes" if (color, shape) in present else "no")
        for color, shape in _ALL_PAIRS
    ]


def _relation_questions(scene: Scene, name: Namer) -> list[Question]:
    found = []
    for relation, holds in RELATIONS.items():
        for item, words in _named(scene, name):
            there = [other for other in scene.objects if holds(other, item)]
            if len(there) == 1:
                found.append(Question("relation", f"what is {relation} {words}?", _answer_name(there[0])))
    return found


def _background_questions(scene: Scene, _) -> list[Question]:
    return [Question("background", "what color is the background?", scene.background)]


_BUILDERS: dict[str, Callable[[Scene, Namer | None], list[Question]]] = {
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


def questions_of(rng: random.Random, scene: Scene, kind: str, names: str) -> list[Question]:
    """The questions of a kind that a scene allows, one for each name that a group of `NAMES` gives to an object."""
    naming = NAMING.get(kind)
    if naming is None:
        return _BUILDERS[kind](scene, None)
    forms = (naming.plain,) if names == "plain" else NAMES[names]
    found = _BUILDERS[kind](scene, lambda item: name_object(rng, scene, item, forms, without=naming.without))
    return [replace(question, names=names) for question in found]


def objects_asked(kind: str) -> tuple[int, ...]:
    """How many objects scenes can have that allow a question of a kind."""
    return tuple(range(1 + (kind == "relation"), MAX_OBJECTS + 1))


def questions(scene: Scene) -> list[Question]:
    """Every question of the language that has exactly one right answer about the scene and names objects plainly, kind
    by kind.
    """
    rng = random.Random(0)  # of one form there is one name
    return [question for kind in _BUILDERS for question in questions_of(rng, scene, kind, "plain")]


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
    rng: random.Random,
    scene: Scene,
    kind: str | None = None,
    *,
    weights: dict[str, float] | None = None,
    names: str = "plain",
) -> Question:
    """Draws a question over the kinds the scene allows, then over the answers, then over the questions.

    Balancing the answers keeps "no" and "zero" from outweighing the rest.

    Args:
        rng: source of randomness.
        scene: the scene asked about.
        kind: the kind of the question; None draws it.
        weights: of the kinds, above 0; None weighs all alike.
        names: group of `NAMES` that names of objects are drawn from.

    Raises:
        ValueError: unknown kind or names, or the scene allows no question of it (e.g. a relation with one object).
    """
    check_names(names)
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
        if asked := questions_of(rng, scene, tried, names):
            answer = rng.choice(sorted({question.answer for question in asked}))
            return rng.choice([question for question in asked if question.answer == answer])
    raise ValueError(f"No {kind} question has exactly one answer about {scene.to_json()}; sample another scene.")


_OBJECT = f"(?P<object>{REFERENCE})"
_SHAPE, _COLOR = f"(?P<shape>{'|'.join(SHAPES)})", f"(?P<color>{'|'.join(COLORS)})"
_PATTERNS = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "color": rf"what color is {_OBJECT}\?",
        "shape": rf"what shape is {_OBJECT}\?",
        "count": r"how many objects are there\?",
        "count_shape": rf"how many (?P<plural>{'|'.join(map(plural, SHAPES))}) are there\?",
        "location": rf"where is {_OBJECT}\?",
        "existence": rf"is there a {_COLOR} {_SHAPE}\?",
        "relation": rf"what is (?P<relation>{'|'.join(RELATIONS)}) {_OBJECT}\?",
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
        pair = (stated["color"], stated["shape"])
        return "yes" if pair in {(item.color, item.shape) for item in scene.objects} else "no"
    try:
        item = object_named(scene, stated["object"])
    except ValueError as error:
        raise ValueError(f"{question!r} has no answer: {error}") from None
    if kind == "relation":
        there = [other for other in scene.objects if RELATIONS[stated["relation"]](other, item)]
        if len(there) != 1:
            raise ValueError(f"{question!r} needs exactly one object there, the scene has {len(there)}.")
        return _answer_name(there[0])
    return {"color": item.color, "shape": item.shape, "location": item.cell}[kind]
