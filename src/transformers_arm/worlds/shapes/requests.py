"""The embedded world's requests for reinforcement learning: prompts, and pictures to edit, without what is right."""

import random
from collections.abc import Sequence

from datasets import Dataset, Features, Image, Value

from .captions import sized_caption
from .draw import draw_scene
from .edits import Edit, sample_editing_pair
from .pictures import Canvas, as_canvases, drawn_canvas
from .prompts import GENERATION_TASKS, task_prompts
from .references import names_drawn
from .scene import MAX_OBJECTS, sample_scene
from .tasks import CAPTIONS


def _caption(rng: random.Random, kind: str, split: str | None, held_out: frozenset[str]) -> str:
    """A caption of a scene without a held-out pair, and none of the prompts that generation is scored with."""
    while True:
        scene = sample_scene(rng, split=split, num_objects=2 if kind == "related" else None, held_out_pairs=False)
        caption = CAPTIONS[kind](rng, scene)
        if caption not in held_out:
            return caption


def _edit(rng: random.Random, min_objects: int, other_names: float, **wanted) -> Edit:
    while True:
        pair = sample_editing_pair(rng, held_out_pairs=False, names=names_drawn(rng, other_names), **wanted)
        if len(pair.source.objects) >= min_objects:
            return pair


def world_requests(
    count: int,
    *,
    seed: int,
    editing: float = 0.0,
    min_objects: int = 1,
    captions: dict[str, float] | None = None,
    other_names: float = 0.5,
    canvases: Sequence[Canvas | dict] | None = None,
    stated_size: float = 0.0,
    split: str | None = "train",
) -> Dataset:
    """Rows `task`, `prompt` and `source_image` (None for text-to-image), in random order; where canvases are stated,
    `height` and `width` as well.

    Args:
        count: rows.
        seed: the same arguments give the same rows.
        editing: share of the rows that are edits, all kinds equally often before `min_objects` leaves some out.
        min_objects: fewest objects of the scenes that are edited; with one there is little to mistake.
        captions: weight of each kind of caption: `full`, `short`, `any` form of the language, `loose` (no cells, no
            background) and `related` (two objects, one left of the other, ...). Prompts of GenEval's six tasks, which
            scores are taken with, are left out.
        other_names: share of the edits that name their object in other ways than plainly (`NAMES`).
        canvases: what is drawn on, or dicts with their fields; None: the default one for sources, and pictures of the
            processor's size.
        stated_size: share of the captions that state the size of their picture, where there is a word for it.
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
        canvas = drawn_canvas(rng, as_canvases(canvases or [Canvas()]))
        if rng.random() < editing:
            pair = _edit(rng, min_objects, other_names, split=split, max_jitter=canvas.max_jitter)
            row = ("editing", pair.instruction, draw_scene(pair.source, **canvas.size))
        else:
            (kind,) = rng.choices(list(captions), list(captions.values()))
            size = canvas.word if rng.random() < stated_size else None
            row = ("text_to_image", sized_caption(_caption(rng, kind, split, held_out), size), None)
        rows.append((*row, *canvas.size.values()) if canvases else row)
    columns = {"task": Value("string"), "prompt": Value("string"), "source_image": Image()}
    features = Features(columns | ({"height": Value("int64"), "width": Value("int64")} if canvases else {}))
    return Dataset.from_list([dict(zip(features, row, strict=True)) for row in rows], features=features)
