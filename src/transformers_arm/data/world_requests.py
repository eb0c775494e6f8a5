"""The embedded world's requests for reinforcement learning: prompts, and pictures to edit, without what is right."""

import random

from datasets import Dataset, Features, Image, Value

from ..shapes.captions import full_caption, sample_caption, short_caption
from ..shapes.draw import draw_scene
from ..shapes.edits import sample_editing_pair
from ..shapes.scene import sample_scene

CAPTIONS = {"full": lambda rng, scene: full_caption(scene), "short": short_caption, "any": sample_caption}


def world_requests(
    count: int,
    *,
    seed: int,
    editing: float = 0.0,
    captions: dict[str, float] | None = None,
    split: str | None = "train",
) -> Dataset:
    """Rows `prompt` and `source_image` (None for text-to-image), in random order.

    Args:
        count: rows.
        seed: the same arguments give the same rows.
        editing: share of the rows that are edits, all kinds equally often.
        captions: weight of each kind of caption: `full`, `short` and `any` form of the language.
        split: of the scenes, and of the edits' targets; none of them holds a held-out pair.
    """
    rng = random.Random(f"{seed}/requests")
    captions = captions or {"full": 1.0}
    rows = []
    for _ in range(count):
        if rng.random() < editing:
            pair = sample_editing_pair(rng, split=split, held_out_pairs=False)
            rows.append({"prompt": pair.instruction, "source_image": draw_scene(pair.source)})
        else:
            (kind,) = rng.choices(list(captions), list(captions.values()))
            scene = sample_scene(rng, split=split, held_out_pairs=False)
            rows.append({"prompt": CAPTIONS[kind](rng, scene), "source_image": None})
    return Dataset.from_list(rows, features=Features({"prompt": Value("string"), "source_image": Image()}))
