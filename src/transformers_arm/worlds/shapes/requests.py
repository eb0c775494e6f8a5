"""The embedded world's requests for reinforcement learning: prompts, and pictures to edit, without what is right."""

import random

from datasets import Dataset, Features, Image, Value

from .draw import draw_scene
from .edits import sample_editing_pair
from .prompts import GENERATION_TASKS, task_prompts
from .scene import MAX_OBJECTS, sample_scene
from .tasks import CAPTIONS


def _caption(rng: random.Random, kind: str, split: str | None, held_out: frozenset[str]) -> str:
    """A caption of a scene without a held-out pair, and none of the prompts that generation is scored with."""
    while True:
        scene = sample_scene(rng, split=split, num_objects=2 if kind == "related" else None, held_out_pairs=False)
        caption = CAPTIONS[kind](rng, scene)
        if caption not in held_out:
            return caption


def world_requests(
    count: int,
    *,
    seed: int,
    editing: float = 0.0,
    min_objects: int = 1,
    captions: dict[str, float] | None = None,
    split: str | None = "train",
) -> Dataset:
    """Rows `task`, `prompt` and `source_image` (None for text-to-image), in random order.

    Args:
        count: rows.
        seed: the same arguments give the same rows.
        editing: share of the rows that are edits, all kinds equally often before `min_objects` leaves some out.
        min_objects: fewest objects of the scenes that are edited; with one there is little to mistake.
        captions: weight of each kind of caption: `full`, `short`, `any` form of the language, `loose` (no cells, no
            background) and `related` (two objects, one left of the other, ...). Prompts of GenEval's six tasks, which
            scores are taken with, are left out.
        split: of the scenes, and of the edits' targets; none of them holds a held-out pair.

    Raises:
        ValueError: an unknown kind of caption, or a share outside 0..1.
    """
    captions = captions or {"full": 1.0}
    if unknown := set(captions) - set(CAPTIONS):
        raise ValueError(f"Unknown kind of caption {', '.join(unknown)}; use {', '.join(CAPTIONS)}.")
    if not 1 <= min_objects <= MAX_OBJECTS:
        raise ValueError(f"min_objects {min_objects} must be 1 to {MAX_OBJECTS}.")
    if not 0 <= editing <= 1:
        raise ValueError(f"editing {editing} must be a share, 0 to 1.")
    held_out = frozenset(prompt for task in GENERATION_TASKS for prompt in task_prompts(task))
    rng = random.Random(f"{seed}/requests")
    rows = []
    for _ in range(count):
        if rng.random() < editing:
            pair = sample_editing_pair(rng, split=split, held_out_pairs=False)
            while len(pair.source.objects) < min_objects:
                pair = sample_editing_pair(rng, split=split, held_out_pairs=False)
            rows.append(("editing", pair.instruction, draw_scene(pair.source)))
        else:
            (kind,) = rng.choices(list(captions), list(captions.values()))
            rows.append(("text_to_image", _caption(rng, kind, split, held_out), None))
    features = Features({"task": Value("string"), "prompt": Value("string"), "source_image": Image()})
    return Dataset.from_list([dict(zip(features, row, strict=True)) for row in rows], features=features)
