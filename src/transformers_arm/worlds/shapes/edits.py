"""Edits of scenes, in words: sampled, and applied. Knows nothing about pixels.

`the {color} {shape}` names exactly one object of a scene; everything an instruction does not speak of stays as it is,
jitter included.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from .scene import BACKGROUNDS, CELLS, COLORS, MAX_OBJECTS, SHAPES, SIZES, Scene, SceneObject, sample_scene

_RESIZED = {"larger": "large", "smaller": "small"}
_WORDS = {
    name: f"(?P<{name}>{'|'.join(values)})"
    for name, values in {
        "color": COLORS,
        "shape": SHAPES,
        "size": SIZES,
        "cell": CELLS,
        "background": BACKGROUNDS,
        "new_color": COLORS,
        "new_shape": SHAPES,
        "change": _RESIZED,
    }.items()
}
_TEMPLATES = {
    "recolor": "make the {color} {shape} {new_color}",
    "reshape": "turn the {color} {shape} into a {new_shape}",
    "resize": "make the {color} {shape} {change}",
    "remove": "remove the {color} {shape}",
    "add": "add a {size} {color} {shape} at the {cell}",
    "move": "move the {color} {shape} to the {cell}",
    "background": "make the background {background}",
}
_PATTERNS = {kind: re.compile(template.format(**_WORDS)) for kind, template in _TEMPLATES.items()}
EDIT_KINDS = tuple(_TEMPLATES)


@dataclass(frozen=True)
class Edit:
    """An instruction with the scene it is given for and the scene it leads to."""

    kind: str
    instruction: str
    source: Scene
    target: Scene

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
        ValueError: the instruction is not of the language, or the scene has no object it speaks of.
    """
    kind, stated = parse_instruction(instruction)
    if kind in ("add", "background"):
        return None
    for item in scene.objects:
        if (item.color, item.shape) == (stated["color"], stated["shape"]):
            return item
    present = " or ".join(f"the {item.color} {item.shape}" for item in scene.objects)
    raise ValueError(
        f"Cannot {instruction!r}: there is no {stated['color']} {stated['shape']} in the scene; name {present}."
    )


def _changed_object(kind: str, stated: dict[str, str], item: SceneObject | None) -> SceneObject | None:
    """What stands in place of `item` after the edit; None if nothing does."""
    if kind == "add":
        return SceneObject(stated["shape"], stated["color"], stated["size"], stated["cell"])
    if kind == "recolor":
        return replace(item, color=stated["new_color"])
    if kind == "reshape":
        return replace(item, shape=stated["new_shape"])
    if kind == "move":
        return replace(item, cell=stated["cell"])
    if kind == "resize":
        size = _RESIZED[stated["change"]]
        if size == item.size:
            raise ValueError(f"the {item.color} {item.shape} is {size} already.")
        return replace(item, size=size)
    return None


def apply_edit(scene: Scene, instruction: str) -> Scene:
    """The scene an instruction leads to. An object added stands at its cell's centre, one moved keeps its jitter.

    Raises:
        ValueError: the instruction is not of the language, names no object of the scene, or leads to no legal scene
            (1 to 3 objects, each in its own cell, no two of the same shape and color).
    """
    kind, stated = parse_instruction(instruction)
    item = edited_object(scene, instruction)
    try:
        if kind == "background":
            return replace(scene, background=stated["background"])
        changed = _changed_object(kind, stated, item)
        objects = tuple(other for other in scene.objects if other != item)
        return replace(scene, objects=objects if changed is None else (*objects, changed))
    except ValueError as error:
        raise ValueError(f"Cannot {instruction!r}: {error}") from None


# The candidates below are those that change something and lead to a legal scene.


def _recolors(scene: Scene) -> list[str]:
    present = {(item.color, item.shape) for item in scene.objects}
    return [
        f"make the {item.color} {item.shape} {color}"
        for item in scene.objects
        for color in COLORS
        if (color, item.shape) not in present
    ]


def _reshapes(scene: Scene) -> list[str]:
    present = {(item.color, item.shape) for item in scene.objects}
    return [
        f"turn the {item.color} {item.shape} into a {shape}"
        for item in scene.objects
        for shape in SHAPES
        if (item.color, shape) not in present
    ]


def _resizes(scene: Scene) -> list[str]:
    return [
        f"make the {item.color} {item.shape} {change}"
        for item in scene.objects
        for change, size in _RESIZED.items()
        if size != item.size
    ]


def _removals(scene: Scene) -> list[str]:
    return [f"remove the {item.color} {item.shape}" for item in scene.objects if len(scene.objects) > 1]


def _free_cells(scene: Scene) -> list[str]:
    taken = {item.cell for item in scene.objects}
    return [cell for cell in CELLS if cell not in taken]


def _additions(scene: Scene) -> list[str]:
    if len(scene.objects) == MAX_OBJECTS:
        return []
    present = {(item.color, item.shape) for item in scene.objects}
    absent = [(color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in present]
    cells = _free_cells(scene)
    return [
        f"add a {size} {color} {shape} at the {cell}" for color, shape in absent for size in SIZES for cell in cells
    ]


def _moves(scene: Scene) -> list[str]:
    return [
        f"move the {item.color} {item.shape} to the {cell}" for item in scene.objects for cell in _free_cells(scene)
    ]


def _backgrounds(scene: Scene) -> list[str]:
    return [f"make the background {background}" for background in BACKGROUNDS if background != scene.background]


_CANDIDATES: dict[str, Callable[[Scene], list[str]]] = {
    "recolor": _recolors,
    "reshape": _reshapes,
    "resize": _resizes,
    "remove": _removals,
    "add": _additions,
    "move": _moves,
    "background": _backgrounds,
}


def edit_instructions(scene: Scene, kind: str) -> list[str]:
    """Every instruction of a kind that changes the scene and leads to a legal one; may be empty.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in _CANDIDATES:
        raise ValueError(f"Unknown kind of edit {kind!r}; use one of {', '.join(EDIT_KINDS)}.")
    return _CANDIDATES[kind](scene)


def sample_edit(
    rng: random.Random,
    scene: Scene,
    kind: str | None = None,
    split: str | None = None,
    held_out_pairs: bool | None = None,
) -> Edit:
    """Draws an edit of a scene, uniformly over the kinds it allows, then over the instructions of that kind.

    Args:
        rng: source of randomness.
        scene: the source.
        kind: one of `EDIT_KINDS`; None draws it.
        split: the target's, `"train"` or `"test"`; None takes both.
        held_out_pairs: True takes only targets with a held-out pair, False only those without, None both.

    Raises:
        ValueError: unknown kind or split, or no edit of this scene fits. `sample_editing_pair` draws the scene, too.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"Unknown split {split!r}; use 'train', 'test' or None.")
    for tried in (kind,) if kind else rng.sample(EDIT_KINDS, len(EDIT_KINDS)):
        candidates = edit_instructions(scene, tried)
        while candidates:
            instruction = candidates.pop(rng.randrange(len(candidates)))
            target = apply_edit(scene, instruction)
            fits = held_out_pairs is None or target.has_held_out_pair == held_out_pairs
            if fits and split in (None, target.split):
                return Edit(tried, instruction, scene, target)
    raise ValueError(
        f"No edit of {scene.to_json()} has kind={kind}, split={split} and held_out_pairs={held_out_pairs}; "
        "sample another scene."
    )


def sample_editing_pair(
    rng: random.Random,
    kind: str | None = None,
    split: str | None = None,
    *,
    max_jitter: int = 0,
    held_out_pairs: bool | None = None,
) -> Edit:
    """Draws a source scene of either split, and an edit of it as `sample_edit` does.

    The kind is drawn before the scene, so all kinds are equally frequent whatever the scenes allow. Raises as
    `sample_edit` for an unknown kind or split.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"Unknown split {split!r}; use 'train', 'test' or None.")
    kind = kind or rng.choice(EDIT_KINDS)
    while True:
        scene = sample_scene(rng, max_jitter=max_jitter)
        candidates = edit_instructions(scene, kind)
        if not candidates:
            continue
        instruction = rng.choice(candidates)  # one try a scene: sources with few fitting edits are not preferred
        target = apply_edit(scene, instruction)
        if held_out_pairs is not None and target.has_held_out_pair != held_out_pairs:
            continue
        if split in (None, target.split):
            return Edit(kind, instruction, scene, target)
