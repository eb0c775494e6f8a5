"""Edits of scenes, in words: sampled, and applied. Knows nothing about pixels.

An instruction names exactly one object of a scene, in any of the ways of `references`; everything it does not speak of
stays as it is, jitter included.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from .references import NAMES, REFERENCE, check_names, name_object, object_named, plain_name
from .scene import BACKGROUNDS, CELLS, COLORS, MAX_OBJECTS, SHAPES, SIZES, Scene, SceneObject, sample_scene

_RESIZED = {"larger": "large", "smaller": "small"}
_WORDS = {
    name: f"(?P<{name}>{'|'.join(values)})"
    for name, values in {
        "object": (REFERENCE,),
        "color": COLORS,
        "shape": SHAPES,
        "size": SIZES,
        "cell": CELLS,
        "background": BACKGROUNDS,
        "change": _RESIZED,
    }.items()
}
_TEMPLATES = {
    "recolor": "make {object} {color}",
    "reshape": "turn {object} into a {shape}",
    "resize": "make {object} {change}",
    "remove": "remove {object}",
    "add": "add a {size} {color} {shape} at the {cell}",
    "move": "move {object} to the {cell}",
    "background": "make the background {background}",
}
_PATTERNS = {kind: re.compile(template.format(**_WORDS)) for kind, template in _TEMPLATES.items()}
EDIT_KINDS = tuple(_TEMPLATES)
NAMING_KINDS = tuple(kind for kind, template in _TEMPLATES.items() if "{object}" in template)
"""Kinds of edits that name an object of the scene."""


@dataclass(frozen=True)
class Edit:
    """An instruction with the scene it is given for and the scene it leads to.

    `names` is the group of `NAMES` that its object's name was drawn from; None where it names none.
    """

    kind: str
    instruction: str
    source: Scene
    target: Scene
    names: str | None = None

    @property
    def split(self) -> str:
        """An editing pair belongs to the split of its target."""
        return self.target.split


def parse_instruction(instruction: str) -> tuple[str, dict[str, str]]:
    """The kind of an edit and the words it states.

    Raises:
        ValueError: the instruction is not of the language.
    """
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(instruction):
            return kind, match.groupdict()
    wordings = "; ".join(repr(template) for template in _TEMPLATES.values())
    raise ValueError(f"Cannot read the instruction {instruction!r}; write one of {wordings}.")


def edited_object(scene: Scene, instruction: str) -> SceneObject | None:
    """The object of the scene that an instruction changes; None for `add` and `background`, which change none.

    Raises:
        ValueError: the instruction is not of the language, or does not name exactly one object of the scene.
    """
    kind, stated = parse_instruction(instruction)
    if kind not in NAMING_KINDS:
        return None
    try:
        return object_named(scene, stated["object"])
    except ValueError as error:
        raise ValueError(f"Cannot {instruction!r}: {error}") from None


def _changed_object(kind: str, stated: dict[str, str], item: SceneObject | None) -> SceneObject | None:
    """What stands in place of `item` after the edit; None if nothing does."""
    if kind == "add":
        return SceneObject(stated["shape"], stated["color"], stated["size"], stated["cell"])
    if kind == "resize":
        size = _RESIZED[stated["change"]]
        if size == item.size:
            raise ValueError(f"{plain_name(item)} is {size} already.")
        return replace(item, size=size)
    return None if kind == "remove" else replace(item, **{name: stated[name] for name in stated if name != "object"})


def _applied(scene: Scene, kind: str, stated: dict[str, str], item: SceneObject | None) -> Scene:
    if kind == "background":
        return replace(scene, background=stated["background"])
    changed = _changed_object(kind, stated, item)
    objects = tuple(other for other in scene.objects if other != item)
    return replace(scene, objects=objects if changed is None else (*objects, changed))


def apply_edit(scene: Scene, instruction: str) -> Scene:
    """The scene an instruction leads to. An object added stands at its cell's centre, one moved keeps its jitter.

    Raises:
        ValueError: the instruction is not of the language, does not name exactly one object of the scene, or leads to
            no legal scene (1 to 3 objects, each in its own cell, no two of the same shape and color).
    """
    kind, stated = parse_instruction(instruction)
    item = edited_object(scene, instruction)
    try:
        return _applied(scene, kind, stated, item)
    except ValueError as error:
        raise ValueError(f"Cannot {instruction!r}: {error}") from None


class Candidate(NamedTuple):
    """What can be said of an object, or of the scene: the words of a template, but for the object's name."""

    item: SceneObject | None
    stated: dict[str, str]

    def instruction(self, kind: str, name: str | None = None) -> str:
        """The instruction, with the object's plain name if not another."""
        names = {"object": name or plain_name(self.item)} if self.item else {}
        return _TEMPLATES[kind].format(**self.stated, **names)


# The candidates below are those that change something and lead to a legal scene.


def _pairs(scene: Scene) -> set[tuple[str, str]]:
    return {(item.color, item.shape) for item in scene.objects}


def _recolors(scene: Scene) -> list[Candidate]:
    present = _pairs(scene)
    return [
        Candidate(item, {"color": color})
        for item in scene.objects
        for color in COLORS
        if (color, item.shape) not in present
    ]


def _reshapes(scene: Scene) -> list[Candidate]:
    present = _pairs(scene)
    return [
        Candidate(item, {"shape": shape})
        for item in scene.objects
        for shape in SHAPES
        if (item.color, shape) not in present
    ]


def _resizes(scene: Scene) -> list[Candidate]:
    return [
        Candidate(item, {"change": change})
        for item in scene.objects
        for change, size in _RESIZED.items()
        if size != item.size
    ]


def _removals(scene: Scene) -> list[Candidate]:
    return [Candidate(item, {}) for item in scene.objects if len(scene.objects) > 1]


def _free_cells(scene: Scene) -> list[str]:
    taken = {item.cell for item in scene.objects}
    return [cell for cell in CELLS if cell not in taken]


def _additions(scene: Scene) -> list[Candidate]:
    if len(scene.objects) == MAX_OBJECTS:
        return []
    present, cells = _pairs(scene), _free_cells(scene)
    absent = [(color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in present]
    return [
        Candidate(None, {"size": size, "color": color, "shape": shape, "cell": cell})
        for color, shape in absent
        for size in SIZES
        for cell in cells
    ]


def _moves(scene: Scene) -> list[Candidate]:
    cells = _free_cells(scene)
    return [Candidate(item, {"cell": cell}) for item in scene.objects for cell in cells]


def _backgrounds(scene: Scene) -> list[Candidate]:
    return [
        Candidate(None, {"background": background}) for background in BACKGROUNDS if background != scene.background
    ]


_CANDIDATES: dict[str, Callable[[Scene], list[Candidate]]] = {
    "recolor": _recolors,
    "reshape": _reshapes,
    "resize": _resizes,
    "remove": _removals,
    "add": _additions,
    "move": _moves,
    "background": _backgrounds,
}


def _candidates(scene: Scene, kind: str) -> list[Candidate]:
    if kind not in _CANDIDATES:
        raise ValueError(f"Unknown kind of edit {kind!r}; use one of {', '.join(EDIT_KINDS)}.")
    return _CANDIDATES[kind](scene)


def objects_edited(kind: str) -> tuple[int, ...]:
    """How many objects scenes can have that have an edit of a kind."""
    return tuple(range(1 + (kind == "remove"), MAX_OBJECTS + 1 - (kind == "add")))


def edit_instructions(scene: Scene, kind: str) -> list[str]:
    """Every instruction of a kind that changes the scene and leads to a legal one, objects by their plain names; maybe
    none.

    Raises:
        ValueError: unknown kind.
    """
    return [candidate.instruction(kind) for candidate in _candidates(scene, kind)]


def _edit(
    rng: random.Random,
    scene: Scene,
    kind: str,
    candidate: Candidate,
    *,
    split: str | None,
    held_out_pairs: bool | None,
    names: str,
) -> Edit | None:
    """The edit, its object named by a form of the group; None if its target does not fit or no form picks it out."""
    target = _applied(scene, kind, candidate.stated, candidate.item)
    if split not in (None, target.split):
        return None
    if held_out_pairs is not None and target.has_held_out_pair != held_out_pairs:
        return None
    if candidate.item is None:
        return Edit(kind, candidate.instruction(kind), scene, target)
    name = name_object(rng, scene, candidate.item, NAMES[names])
    return Edit(kind, candidate.instruction(kind, name), scene, target, names) if name else None


def _check(split: str | None, names: str) -> None:
    if split not in (None, "train", "test"):
        raise ValueError(f"Unknown split {split!r}; use 'train', 'test' or None.")
    check_names(names)


def sample_edit(
    rng: random.Random,
    scene: Scene,
    kind: str | None = None,
    split: str | None = None,
    held_out_pairs: bool | None = None,
    names: str = "plain",
) -> Edit:
    """Draws an edit of a scene, uniformly over the kinds it allows, then over the instructions of that kind.

    Args:
        rng: source of randomness.
        scene: the source.
        kind: one of `EDIT_KINDS`; None draws it.
        split: the target's, `"train"` or `"test"`; None takes both.
        held_out_pairs: True takes only targets with a held-out pair, False only those without, None both.
        names: group of `NAMES` that the object's name is drawn from.

    Raises:
        ValueError: unknown kind, split or names, or no edit of this scene fits. `sample_editing_pair` draws the scene,
            too.
    """
    _check(split, names)
    wanted = {"split": split, "held_out_pairs": held_out_pairs, "names": names}
    for tried in (kind,) if kind else rng.sample(EDIT_KINDS, len(EDIT_KINDS)):
        candidates = _candidates(scene, tried)
        while candidates:
            if edit := _edit(rng, scene, tried, candidates.pop(rng.randrange(len(candidates))), **wanted):
                return edit
    raise ValueError(
        f"No edit of {scene.to_json()} has kind={kind}, split={split}, names={names} and "
        f"held_out_pairs={held_out_pairs}; sample another scene."
    )


def sample_editing_pair(
    rng: random.Random,
    kind: str | None = None,
    split: str | None = None,
    *,
    num_objects: int | None = None,
    max_jitter: int = 0,
    held_out_pairs: bool | None = None,
    names: str = "plain",
) -> Edit:
    """Draws a source scene of either split, of `num_objects` if that is stated, and an edit as `sample_edit` does.

    The kind is drawn before the scene, so all kinds are equally frequent whatever the scenes allow.

    Raises:
        ValueError: as `sample_edit` for unknown ones, or no scene of so many objects has an edit of the kind.
    """
    _check(split, names)
    kind = kind or rng.choice(EDIT_KINDS)
    if num_objects is not None and num_objects not in objects_edited(kind):
        raise ValueError(f"No scene of {num_objects} objects has an edit of the kind {kind!r}.")
    wanted = {"split": split, "held_out_pairs": held_out_pairs, "names": names}
    while True:
        scene = sample_scene(rng, num_objects=num_objects, max_jitter=max_jitter)
        candidates = _candidates(scene, kind)
        # One try a scene: sources with few fitting edits are not preferred.
        if candidates and (edit := _edit(rng, scene, kind, rng.choice(candidates), **wanted)):
            return edit
