"""The caption language of the embedded world: sampled from scenes, parsed, and judged against scenes or readings."""

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .draw import PICTURE_SIZES
from .references import RELATIONS, Noun, noun_of
from .scene import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, Scene, SceneObject

NUMBERS = ("zero", "one", "two", "three")
ORDERS = ("reading", "shuffled", "reversed")
_SIZED = re.compile(f"a (?P<size>{'|'.join(PICTURE_SIZES)}) picture of (?P<rest>.*)", re.DOTALL)


def plural(shape: str) -> str:
    return "crosses" if shape == "cross" else shape + "s"


@dataclass(frozen=True)
class CaptionSpec:
    """What a caption states: one noun an object, the relation of the first to the second, the background, and the size
    of the picture, one of `PICTURE_SIZES`.
    """

    nouns: tuple[Noun, ...]
    relation: str | None = None
    background: str | None = None
    size: str | None = None

    def is_true_of(self, scene) -> bool:
        """Whether `scene` (or a reading of a picture) holds exactly the objects named, as they are described. A scene
        has no size; a reading must have the one that is stated.
        """
        if self.size is not None and not isinstance(scene, Scene) and scene.size != self.size:
            return False
        if self.background is not None and self.background != scene.background:
            return False
        if len(scene.objects) != len(self.nouns):
            return False
        return any(
            all(noun.names(item) for noun, item in zip(self.nouns, order, strict=True))
            and (self.relation is None or RELATIONS[self.relation](order[0], order[1]))
            for order in itertools.permutations(scene.objects)
        )


def _parse_noun(words: str, caption: str) -> Noun:
    name, _, cell = words.partition(" at the ")
    article, *attributes = name.split(" ")
    size = attributes.pop(0) if attributes and attributes[0] in SIZES else None
    color = attributes.pop(0) if attributes and attributes[0] in COLORS else None
    if article != "a" or len(attributes) != 1 or attributes[0] not in SHAPES or (cell and cell not in CELLS):
        raise ValueError(
            f"Cannot read {words!r} in caption {caption!r}; write 'a [size] [color] shape [at the cell]'."
        )
    return Noun(attributes[0], color, size, cell or None)


def parse_caption(caption: str) -> CaptionSpec:
    """Reads a caption of the embedded world.

    Raises:
        ValueError: the caption is not of the language; the message names the part that is not.
    """
    if sized := _SIZED.fullmatch(caption):
        return replace(parse_caption(sized["rest"]), size=sized["size"])
    for number in (2, 3):
        for shape in SHAPES:
            if caption == f"{NUMBERS[number]} {plural(shape)}":
                return CaptionSpec((Noun(shape),) * number)
    for relation in RELATIONS:
        first, found, second = caption.partition(f" {relation} ")
        if found:
            return CaptionSpec((_parse_noun(first, caption), _parse_noun(second, caption)), relation=relation)
    body, background = caption, None
    if caption.endswith(" background"):
        body, _, background = caption.removesuffix(" background").rpartition(" on a ")
        if background not in BACKGROUNDS:
            raise ValueError(f"Unknown background in caption {caption!r}; use one of {', '.join(BACKGROUNDS)}.")
    nouns = tuple(_parse_noun(part, caption) for part in body.split(" and "))
    return CaptionSpec(nouns, background=background)


def caption_is_true(caption: str, scene) -> bool:
    """Whether a scene, or a reading of a picture, is exactly what the caption says. Raises as `parse_caption`."""
    return parse_caption(caption).is_true_of(scene)


def sized_caption(caption: str, size: str | None) -> str:
    """A caption that states the size of its picture as well, one of `PICTURE_SIZES`; None leaves it open."""
    return f"a {size} picture of {caption}" if size else caption


def _join(nouns, background: str | None) -> str:
    caption = " and ".join(str(noun) for noun in nouns)
    return f"{caption} on a {background} background" if background else caption


def _stating_all(objects: Sequence[SceneObject], background: str) -> str:
    return _join(map(noun_of, objects), background)


def full_caption(scene: Scene) -> str:
    """The caption with every size, color, cell and the background stated, objects in reading order, cell by cell."""
    return _stating_all(scene.objects, scene.background)


def shuffled_caption(rng: random.Random, scene: Scene) -> str:
    """The full caption with its objects in random order."""
    return _stating_all(rng.sample(scene.objects, len(scene.objects)), scene.background)


def ordered_caption(rng: random.Random, scene: Scene, order: str) -> str:
    """The full caption with its objects in one of `ORDERS`; of all there are, `shuffled` draws one."""
    if order == "shuffled":
        return shuffled_caption(rng, scene)
    return _stating_all(scene.objects[:: -1 if order == "reversed" else 1], scene.background)


def _noun_of(rng: random.Random, item: SceneObject, with_color: bool, with_cell: bool) -> Noun:
    size = item.size if rng.random() < 0.5 else None
    return Noun(item.shape, item.color if with_color else None, size, item.cell if with_cell else None)


def sample_caption(rng: random.Random, scene: Scene) -> str:
    """One caption of the scene, drawn over every form of the language that is true of it.

    A quarter are full. Objects come in random order; whether colors and cells are stated is drawn once a caption,
    whether a size is stated once an object.
    """
    draw = rng.random()
    if draw < 0.25:
        return shuffled_caption(rng, scene)
    objects = rng.sample(scene.objects, len(scene.objects))
    shapes = {o.shape for o in objects}
    if draw < 0.45 and len(objects) > 1 and len(shapes) == 1:
        return f"{NUMBERS[len(objects)]} {plural(objects[0].shape)}"
    with_color = rng.random() < 0.75
    if draw < 0.5 and len(objects) == 2:
        relations = [name for name, holds in RELATIONS.items() if holds(*objects)]
        first, second = (_noun_of(rng, item, with_color, with_cell=False) for item in objects)
        return f"{first} {rng.choice(relations)} {second}"  # two cells differ in a row or a column
    with_cell = rng.random() < 0.5
    nouns = [_noun_of(rng, item, with_color, with_cell) for item in objects]
    return _join(nouns, scene.background if rng.random() < 0.4 else None)


def short_caption(rng: random.Random, scene: Scene) -> str:
    """A caption of the scene in few words, as GenEval's prompts: no sizes, cells or background.

    Objects of one shape are counted three times in four, two objects stand in a relation half of the time, colors are
    stated half of the time.
    """
    objects = rng.sample(scene.objects, len(scene.objects))
    if len(objects) > 1 and len({item.shape for item in objects}) == 1 and rng.random() < 0.75:
        return f"{NUMBERS[len(objects)]} {plural(objects[0].shape)}"
    with_color = rng.random() < 0.5
    nouns = [Noun(item.shape, item.color if with_color else None) for item in objects]
    if len(objects) == 2 and rng.random() < 0.5:
        return f"{nouns[0]} {rng.choice([name for name, holds in RELATIONS.items() if holds(*objects)])} {nouns[1]}"
    return _join(nouns, None)


def loose_caption(rng: random.Random, scene: Scene) -> str:
    """A caption that leaves cells and background open; each object has its color three times in four, its size half of
    the time.
    """
    objects = rng.sample(scene.objects, len(scene.objects))
    return _join((_noun_of(rng, item, rng.random() < 0.75, with_cell=False) for item in objects), None)


def related_caption(rng: random.Random, scene: Scene) -> str:
    """A caption of two objects in a relation, each with its color three times in four and its size half of the time.

    Raises:
        ValueError: the scene does not have two objects.
    """
    if len(scene.objects) != 2:
        raise ValueError(f"A relation is between two objects, the scene has {len(scene.objects)}.")
    objects = rng.sample(scene.objects, 2)
    first, second = (_noun_of(rng, item, rng.random() < 0.75, with_cell=False) for item in objects)
    return f"{first} {rng.choice([name for name, holds in RELATIONS.items() if holds(*objects)])} {second}"
