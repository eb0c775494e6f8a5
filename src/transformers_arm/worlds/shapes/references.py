"""Words for objects: `a small red circle at the top`, and those that pick out one of a scene, `the only small one`.

Captions, questions and edits name objects by nothing else. Knows nothing about pixels, nor about what is said of an
object.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .scene import CELLS, COLORS, SHAPES, SIZES, SceneObject

RELATIONS = {
    "left of": lambda a, b: a.column < b.column,
    "right of": lambda a, b: a.column > b.column,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
}
ANY_SHAPE = ("object", "one")
PLAIN = "the {color} {shape}"  # always of one object alone
NAMES = {
    "plain": (PLAIN,),
    "other": (
        "the {shape}",
        "the {color} object",
        "the {color} one",
        "the {size} {color} {shape}",
        "the only {size} one",
        "the object at the {cell}",
        "the {shape} at the {cell}",
        "the object {relation} the {other_color} {other_shape}",
    ),
    "new": (
        "the {size} {shape}",
        "the only {color} object",
        "the {color} one at the {cell}",
        "the one {relation} the {other_shape}",
        "the {shape} {relation} the {other_color} {other_shape}",
    ),
}
"""Forms of names by group. Those that are `new` are for tests: no training has them, but all of their words."""


@dataclass(frozen=True)
class Noun:
    """An object as words name it; what is None is left open."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    cell: str | None = None

    def names(self, item) -> bool:
        """Whether `item` (anything with shape, color, size and cell) has every attribute stated here."""
        stated = (("shape", self.shape), ("color", self.color), ("size", self.size), ("cell", self.cell))
        return all(value is None or value == getattr(item, name) for name, value in stated)

    def __str__(self) -> str:
        words = " ".join(word for word in (self.size, self.color, self.shape or ANY_SHAPE[0]) if word)
        return f"a {words} at the {self.cell}" if self.cell else f"a {words}"


def noun_of(item: SceneObject) -> Noun:
    """All of an object in words."""
    return Noun(item.shape, item.color, item.size, item.cell)


def _one_of(words: Sequence[str], name: str) -> str:
    return f"(?P<{name}>{'|'.join(words)})"


def _noun(prefix: str = "") -> str:
    size, color = _one_of(SIZES, f"{prefix}size"), _one_of(COLORS, f"{prefix}color")
    return f"(?:{size} )?(?:{color} )?{_one_of((*SHAPES, *ANY_SHAPE), f'{prefix}shape')}"


_NAME = re.compile(
    f"the (?:only )?{_noun()}"
    f"(?: at the {_one_of(CELLS, 'cell')}| {_one_of(RELATIONS, 'relation')} the {_noun('other_')})?"
)
REFERENCE = re.sub(r"\(\?P<\w+>", "(?:", _NAME.pattern)
"""Pattern of a name, without groups, for patterns of what names stand in."""


@dataclass(frozen=True)
class Reference:
    """`the` and what picks out an object: a noun, and maybe how it lies to another one, which a noun picks out."""

    noun: Noun
    relation: str | None = None
    other: Noun | None = None

    def meant(self, scene) -> list:
        """The objects of a scene, or of a reading, that this fits; a name is right if that is one."""
        items = [item for item in scene.objects if self.noun.names(item)]
        if self.relation is None:
            return items
        others = [item for item in scene.objects if self.other.names(item)]
        return [item for item in items if len(others) == 1 and RELATIONS[self.relation](item, others[0])]


def parse_reference(words: str) -> Reference:
    """Reads `the [only] [size] [color] shape`, maybe with `at the cell` or `left of the ...` behind it, as a `Noun` of
    its own; a shape may be `object` or `one`.

    Raises:
        ValueError: the words are not of the language.
    """
    match = _NAME.fullmatch(words)
    if not match:
        raise ValueError(f"{words!r} is no name of an object; write 'the red circle' or 'the object at the top'.")
    stated = {name: None if value in ANY_SHAPE else value for name, value in match.groupdict().items()}
    noun = Noun(*(stated[name] for name in ("shape", "color", "size", "cell")))
    if stated["relation"] is None:
        return Reference(noun)
    return Reference(noun, stated["relation"], Noun(*(stated[f"other_{name}"] for name in ("shape", "color", "size"))))


def plain_name(item) -> str:
    return PLAIN.format(color=item.color, shape=item.shape)


def object_named(scene, words: str):
    """The one object of a scene, or of a reading, that is meant.

    Raises:
        ValueError: the words are not of the language, or there is not exactly one.
    """
    found = parse_reference(words).meant(scene)
    if len(found) != 1:
        present = " or ".join(map(plain_name, scene.objects)) or "none at all"
        number = "no object" if not found else f"not one object but {len(found)}"
        raise ValueError(f"{words!r} names {number} of the scene; name {present}.")
    return found[0]


def _attributes(item) -> dict[str, str]:
    return {name: getattr(item, name) for name in ("shape", "color", "size", "cell")}


def _relations(scene, item) -> list[dict[str, str]]:
    """How an object lies to the others."""
    return [
        {"relation": relation, "other_color": other.color, "other_shape": other.shape}
        for other in scene.objects
        for relation, holds in RELATIONS.items()
        if holds(item, other)
    ]


def _of_form(scene, item, form: str) -> list[str]:
    """All names of a form that pick out an object of a scene."""
    relations = _relations(scene, item) if "{relation}" in form else [{}]
    names = {form.format(**_attributes(item), **relation) for relation in relations}
    return sorted(name for name in names if parse_reference(name).meant(scene) == [item])


def name_object(rng: random.Random, scene, item, forms: Sequence[str], *, without: Sequence[str] = ()) -> str | None:
    """Draws a name that picks out `item` alone, uniformly over the forms that have one; None where none has.

    Args:
        rng: source of randomness.
        scene: the scene, or the reading, that it is of.
        item: one of its objects.
        forms: templates, as in `NAMES`.
        without: fields that the name must not state, such as the color that is asked for.
    """
    silent = [form for form in forms if not any(f"{{{field}}}" in form for field in without)]
    for form in rng.sample(silent, len(silent)):
        if found := _of_form(scene, item, form):
            return rng.choice(found)
    return None


def check_names(names: str) -> None:
    """Raises a ValueError unless `names` is a group of `NAMES`."""
    if names not in NAMES:
        raise ValueError(f"Unknown names {names!r}; use one of {', '.join(NAMES)}.")


def names_drawn(rng: random.Random, other_names: float) -> str:
    """The group of `NAMES` for something of a training: `"other"` as often as stated, a share, else `"plain"`."""
    return "other" if rng.random() < other_names else "plain"
