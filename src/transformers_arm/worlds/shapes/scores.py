"""Scores of single pictures: is it what the prompt says, what the edit asks for. Knows nothing about means."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .captions import caption_is_true
from .edits import apply_edit
from .reader import SceneReading, read_scene, reading_equals
from .scene import Scene, SceneObject


def scene_from_json(text: str) -> Scene:
    """A scene from its canonical JSON, the inverse of `Scene.to_json`; objects have no jitter.

    Raises:
        ValueError: not the JSON of a legal scene.
    """
    try:
        fields = json.loads(text)
        return Scene(tuple(SceneObject(**item) for item in fields["objects"]), fields["background"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"Not the JSON of a scene, which `Scene.to_json` writes: {text!r} ({error!r}).") from None


Reader = Callable[[Image.Image | np.ndarray], SceneReading]


def picture_is_right(prompt: str, image: Image.Image | np.ndarray, read: Reader = read_scene) -> bool:
    """Whether a picture holds exactly the objects a prompt names, with everything it states; see `caption_is_true`."""
    return caption_is_true(prompt, read(image))


@dataclass(frozen=True)
class EditScore:
    """Scores of one edited picture, named as GEdit's.

    `exact`: the picture is the target scene, all of it. `consistency` (SC) and `quality` (PQ) lie in 0..10.
    """

    exact: bool
    consistency: float
    quality: float

    @property
    def overall(self) -> float:
        """O = sqrt(SC * PQ), in 0..10."""
        return math.sqrt(self.consistency * self.quality)


def _instruction_is_done(source: Scene, target: Scene, reading: SceneReading) -> bool:
    """Whether the picture shows the one thing asked for, and no longer what it replaces."""
    if source.background != target.background:
        return reading.background == target.background
    before = [item for item in source.objects if item not in target.objects]
    after = [item.attributes() for item in target.objects if item not in source.objects]
    if not after:  # removed: neither turned into something else nor moved elsewhere
        (gone,) = before
        return not any(
            item.cell == gone.cell or (item.shape, item.color) == (gone.shape, gone.color) for item in reading.objects
        )
    found = [item.attributes() for item in reading.objects]
    return after[0] in found and not any(item.attributes() in found for item in before)


def _share_kept(source: Scene, target: Scene, reading: SceneReading) -> float:
    """Share of what the edit leaves alone, other objects and the background, that the picture shows unchanged."""
    found = [item.attributes() for item in reading.objects]
    kept = [item.attributes() in found for item in source.objects if item in target.objects]
    if source.background == target.background:
        kept.append(reading.background == target.background)
    return sum(kept) / len(kept)  # never empty: an edit of the background has objects to keep


def score_edit(
    source: Scene, instruction: str, image: Image.Image | np.ndarray, read: Reader = read_scene
) -> EditScore:
    """Scores a picture as the outcome of an edit.

    SC = 10 * min(instruction done, share of other objects and background kept in every attribute);
    PQ = 10 * (1 - mean residual of the objects found), 0 if none is found.

    Args:
        source: the scene before the edit.
        instruction: the edit in words.
        image: the edited picture, PIL or uint8 RGB [height, width, 3].
        read: says what the picture shows.

    Raises:
        ValueError: as `apply_edit` and `read_scene`, or the instruction changes nothing.
    """
    target = apply_edit(source, instruction)
    if target == source:
        raise ValueError(f"{instruction!r} changes nothing in {source.to_json()}; there is nothing to score.")
    reading = read(image)
    done = _instruction_is_done(source, target, reading)
    residuals = [item.residual for item in reading.objects]
    return EditScore(
        exact=reading_equals(reading, target),
        consistency=10 * min(float(done), _share_kept(source, target, reading)),
        quality=10 * (1 - sum(residuals) / len(residuals)) if residuals else 0.0,
    )
