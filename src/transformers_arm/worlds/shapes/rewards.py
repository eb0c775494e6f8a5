"""Rewards of the embedded world: what the template reader sees in a picture against what was asked for, in 0..1.

Text-to-image: `world_alignment`. Editing: `world_instruction`, `world_preservation`, and `world_consistency`, the
smaller of the two. These give half for how far a picture is right and half for all of it being right: nearly right is
still wrong. Both tasks: `world_quality`. Each is None where it does not apply, or where a prompt or a source is not
one of the world's.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

from .captions import CaptionSpec, parse_caption
from .edits import apply_edit
from .reader import SceneReading, read_scene
from .references import RELATIONS
from .scene import CELLS, Scene, SceneObject


@lru_cache(4096)  # four rewards look at each picture, and all samples of a group have one source
def _read(height: int, width: int, pixels: bytes) -> SceneReading:
    return read_scene(np.frombuffer(pixels, np.uint8).reshape(height, width, 3))


def _reading(image: Image.Image) -> SceneReading:
    image = image.convert("RGB")
    return _read(image.height, image.width, image.tobytes())


def alignment(spec: CaptionSpec, reading: SceneReading) -> float:
    """Share of what a caption states that a picture shows, in 0..1, under the best match of nouns and objects.

    One item each: the number of objects, every attribute stated, the relation, the background, the picture's size. 1
    if and only if the caption is true of the picture.
    """
    items = [len(reading.objects) == len(spec.nouns)]
    if spec.background is not None:
        items.append(reading.background == spec.background)
    if spec.size is not None:
        items.append(reading.size == spec.size)
    found = [*reading.objects, *[None] * len(spec.nouns)]  # a noun may be missing from the picture
    best: list[bool] = []
    for order in itertools.permutations(found, len(spec.nouns)):
        seen = [
            item is not None and value == getattr(item, name)
            for noun, item in zip(spec.nouns, order, strict=True)
            for name, value in vars(noun).items()
            if value is not None
        ]
        if spec.relation:
            seen.append(None not in order[:2] and RELATIONS[spec.relation](*order[:2]))
        best = max(best, seen, key=sum) if best else seen
    items += best
    return sum(items) / len(items)


def _cell_score(wanted: SceneObject | None, found: SceneObject | None) -> float:
    """How far a cell shows what it should: all of it, or a share of shape, color and size."""
    if wanted is None or found is None:
        return float(wanted is found)
    return sum(getattr(wanted, name) == getattr(found, name) for name in ("shape", "color", "size")) / 3


def _cells(objects: Sequence[SceneObject]) -> dict[str, SceneObject]:
    return {item.cell: item for item in objects}


def _scene(reading: SceneReading) -> Scene:
    objects = [SceneObject(item.shape, item.color, item.size, item.cell) for item in reading.objects]
    return Scene(tuple(objects), reading.background)


def instruction_done(source: Scene, target: Scene, reading: SceneReading) -> float:
    """How far a picture shows what an edit asks for, in 0..1: 0 for the source as it is, 1 for all of it.

    Looks only at the cells, or the background, that the edit changes.
    """
    if source.background != target.background:
        return float(reading.background == target.background)
    before, after, found = (_cells(scene.objects) for scene in (source, target, reading))
    changed = [cell for cell in CELLS if before.get(cell) != after.get(cell)]
    seen, undone = (
        sum(_cell_score(after.get(cell), shown.get(cell)) for cell in changed) for shown in (found, before)
    )
    return max(0.0, (seen - undone) / (len(changed) - undone))


def rest_kept(source: Scene, target: Scene, reading: SceneReading) -> float:
    """How far a picture keeps what an edit leaves alone, in 0..1: each object, the background, and nothing new."""
    before, after, found = (_cells(scene.objects) for scene in (source, target, reading))
    kept = [cell for cell in before if before[cell] == after.get(cell)]
    scores = [_cell_score(before[cell], found.get(cell)) for cell in kept]
    if source.background == target.background:
        scores.append(float(reading.background == source.background))
    scores.append(float(not any(cell not in before and cell not in after for cell in found)))
    return sum(scores) / len(scores)


def consistency(source: Scene, target: Scene, reading: SceneReading) -> float:
    """The smaller of `instruction_done` and `rest_kept`, as GEdit's SC: a picture left as it was earns nothing."""
    return min(instruction_done(source, target, reading), rest_kept(source, target, reading))


def quality(reading: SceneReading) -> float:
    """1 - mean residual of the objects found, in 0..1; 0 where there is none."""
    residuals = [item.residual for item in reading.objects]
    return 1 - sum(residuals) / len(residuals) if residuals else 0.0


def _graded(share: float) -> float:
    return (share + (share == 1)) / 2


def world_alignment(prompts, images, task, **_) -> list[float | None]:
    """`alignment` with the caption; text-to-image only."""
    rewards: list[float | None] = []
    for prompt, image, each in zip(prompts, images, task, strict=True):
        try:
            share = alignment(parse_caption(prompt), _reading(image)) if each == "text_to_image" else None
        except ValueError:  # no caption of the world
            share = None
        rewards.append(None if share is None else _graded(share))
    return rewards


def _edit_rewards(score, prompts, images, source_images, task) -> list[float | None]:
    rewards: list[float | None] = []
    for prompt, image, sources, each in zip(prompts, images, source_images, task, strict=True):
        try:
            source = _scene(_reading(sources[0])) if each == "editing" else None
            target = source and apply_edit(source, prompt)
            rewards.append(None if target == source else _graded(score(source, target, _reading(image))))
        except ValueError:  # no scene or no edit of the world
            rewards.append(None)
    return rewards


def world_instruction(prompts, images, source_images, task, **_) -> list[float | None]:
    """`instruction_done`; editing only."""
    return _edit_rewards(instruction_done, prompts, images, source_images, task)


def world_preservation(prompts, images, source_images, task, **_) -> list[float | None]:
    """`rest_kept`; editing only."""
    return _edit_rewards(rest_kept, prompts, images, source_images, task)


def world_consistency(prompts, images, source_images, task, **_) -> list[float | None]:
    """`consistency`; editing only."""
    return _edit_rewards(consistency, prompts, images, source_images, task)


def world_quality(images, **_) -> list[float | None]:
    """`quality` of the picture, whatever was asked for."""
    return [quality(_reading(image)) for image in images]
