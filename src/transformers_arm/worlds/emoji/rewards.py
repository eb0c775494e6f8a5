"""Rewards of the emoji world: what a picture looks like most, against what was wanted, in 0..1.

`emoji_match`, for both tasks, and `emoji_attribute` and `emoji_kept` for edits. Nearly right is still wrong: a match
gives half for the share of traits that are right, and half for the right picture. Each is None where it is not meant.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .edits import Edit
from .pictures import Drawn
from .scores import Originals, read_originals


def _shown(originals: Originals, images: Sequence) -> list[Drawn]:
    """The originals that pictures look like most."""
    side = originals.drawn[0].image.shape[1::-1]
    return _nearest(originals, tuple(image.convert("RGB").resize(side).tobytes() for image in images))


@lru_cache(maxsize=1)
def _nearest(originals: Originals, pictures: tuple[bytes, ...]) -> list[Drawn]:
    """Looked for once, for all rewards of a step."""
    shape = originals.drawn[0].image.shape
    return originals.nearest([np.frombuffer(each, np.uint8).reshape(shape) for each in pictures])


def emoji_match(images, wanted: Sequence[str], **_) -> list[float | None]:
    """How far each picture is what was wanted: concept, tone, gender and style, and all of it."""
    originals, rewards = read_originals(), []
    for found, name in zip(_shown(originals, images), wanted, strict=True):
        scores = originals.picture_scores(found, originals.named(name))
        right = scores.pop("right")
        rewards.append((sum(scores.values()) / len(scores) + right) / 2)
    return rewards


def _edit_rewards(score: str, images, wanted, source) -> list[float | None]:
    originals, rewards = read_originals(), []
    for found, target, before in zip(_shown(originals, images), wanted, source, strict=True):
        edit = before and Edit("", originals.named(before), originals.named(target))
        rewards.append(float(originals.edit_scores(found, edit)[score]) if edit else None)
    return rewards


def emoji_attribute(images, wanted: Sequence[str], source: Sequence[str | None], **_) -> list[float | None]:
    """Whether what an edit changes is as it was to become; editing only."""
    return _edit_rewards("attribute", images, wanted, source)


def emoji_kept(images, wanted: Sequence[str], source: Sequence[str | None], **_) -> list[float | None]:
    """Whether all else is as it was; editing only."""
    return _edit_rewards("kept", images, wanted, source)
