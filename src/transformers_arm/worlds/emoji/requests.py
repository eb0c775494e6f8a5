"""The emoji world's requests for reinforcement learning: captions, and pictures to edit, and what is wanted."""

import random

from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from .captions import caption
from .items import items_of
from .splits import TRAIN
from .tasks import EDIT_WEIGHTS, full, weighted
from .traits import name_of


def emoji_requests(
    count: int,
    *,
    seed: int,
    editing: float = 0.0,
    paraphrased: float = 0.5,
) -> Dataset:
    """Rows `task`, `prompt`, `source_image` (None for text-to-image), and `wanted` and `source`, the names of the
    target and of what is edited (None for text-to-image), which the rewards compare with; of training
    pictures, in the folder where the rewards look for them.

    Args:
        count: rows.
        seed: the same arguments give the same rows.
        editing: share of the rows that are edits.
        paraphrased: share of the captions whose words stand in any order, with tags.

    Raises:
        ValueError: a share outside 0..1.
    """
    for name, share in (("editing", editing), ("paraphrased", paraphrased)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} {share} must be a share, 0 to 1.")
    items, rng, rows = items_of(TRAIN), random.Random(f"{seed}/requests"), []
    for _ in range(count):
        if rng.random() < editing:
            edit = weighted(rng, items.edits, EDIT_WEIGHTS)
            picture = Pictures.fromarray(edit.source.image)
            rows.append(
                ("editing", rng.choice(edit.instructions), picture, name_of(edit.target), name_of(edit.source))
            )
        else:
            each = rng.choice(items.pictures)
            asked = caption(each.emoji, each.style, rng) if rng.random() < paraphrased else full(each)
            rows.append(("text_to_image", asked, None, name_of(each), None))
    text = Value("string")
    features = Features({"task": text, "prompt": text, "source_image": Image(), "wanted": text, "source": text})
    return Dataset.from_list([dict(zip(features, row, strict=True)) for row in rows], features=features)
