"""Prompts for scoring generation: GenEval's six tasks, full captions of held-back scenes, and compositions.

Prompts of the six tasks leave most of a picture open, and there are only a few of each (4 for `single_object`, 302
for `color_attr`); asked for more, they repeat, each as often as the others. They belong to no split.
"""

import itertools
import random
from collections.abc import Callable

from .captions import NUMBERS, ORDERS, ordered_caption, parse_caption, plural, shuffled_caption
from .references import RELATIONS
from .scene import COLORS, HELD_OUT_PAIRS, MAX_OBJECTS, SHAPES, sample_scene

_PAIRS = tuple((color, shape) for color in COLORS for shape in SHAPES)


def _single_object() -> list[str]:
    return [f"a {shape}" for shape in SHAPES]


def _two_object() -> list[str]:
    return [f"a {first} and a {second}" for first, second in itertools.permutations(SHAPES, 2)]


def _counting() -> list[str]:
    return [f"{number} {plural(shape)}" for number in NUMBERS[2:] for shape in SHAPES]


def _colors() -> list[str]:
    return [f"a {color} {shape}" for color, shape in _PAIRS]


def _position() -> list[str]:
    return [
        f"a {first} {relation} a {second}"
        for relation in RELATIONS
        for first, second in itertools.permutations(SHAPES, 2)
    ]


def _color_attr() -> list[str]:
    return [
        f"a {color} {shape} and a {other_color} {other_shape}"
        for (color, shape), (other_color, other_shape) in itertools.permutations(_PAIRS, 2)
        if color != other_color and shape != other_shape
    ]


_TASKS: dict[str, Callable[[], list[str]]] = {
    "single_object": _single_object,
    "two_object": _two_object,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attr": _color_attr,
}
GENERATION_TASKS = tuple(_TASKS)
PROMPT_TASKS = (*GENERATION_TASKS, "full", "composition")


def names_held_out_pair(prompt: str) -> bool:
    """Whether a caption names a (color, shape) pair that no generation target of train shows.

    Raises:
        ValueError: the prompt is no caption of the language.
    """
    return any((noun.color, noun.shape) in HELD_OUT_PAIRS for noun in parse_caption(prompt).nouns)


def task_prompts(task: str) -> list[str]:
    """All prompts of one of the six tasks, without those that name a held-out pair.

    Raises:
        ValueError: unknown task.
    """
    if task not in _TASKS:
        raise ValueError(f"Unknown task {task!r}; use one of {', '.join(GENERATION_TASKS)}.")
    return [prompt for prompt in _TASKS[task]() if not names_held_out_pair(prompt)]


def _repeated(prompts: list[str], count: int, rng: random.Random) -> list[str]:
    """`count` prompts in random order, none more than once more often than another."""
    shuffled = rng.sample(prompts, len(prompts))
    return [shuffled[index % len(shuffled)] for index in range(count)]


FULL_CELLS = tuple(f"{order}_{NUMBERS[number]}" for order in ORDERS for number in range(1, MAX_OBJECTS + 1))


def full_prompts(count: int, *, seed: int, split: str | None = "test") -> list[tuple[str, str]]:
    """Full captions of scenes without a held-out pair, each behind its one of `FULL_CELLS`: its order and number of
    objects. Cells take turns; each scene is told once in each order.
    """
    rng = random.Random(f"{seed}/full")
    found = []
    for index in range(-(-count // len(ORDERS))):
        number = index % MAX_OBJECTS + 1
        scene = sample_scene(rng, split=split, num_objects=number, held_out_pairs=False)
        found += [(f"{order}_{NUMBERS[number]}", ordered_caption(rng, scene, order)) for order in ORDERS]
    return found[:count]


def _held_out_captions(count: int, rng: random.Random, split: str | None) -> list[str]:
    """Full captions of scenes with a held-out pair, objects in random order, no two the same."""
    captions = {}
    while len(captions) < count:
        captions[shuffled_caption(rng, sample_scene(rng, split=split, held_out_pairs=True))] = None
    return list(captions)


COMPOSITION_CELLS = ("colors", "color_attr", "full")


def _compositions(count: int, rng: random.Random, split: str | None) -> list[str]:
    """`COMPOSITION_CELLS` in turn: one object of a held-out pair, two objects with at least one, and full captions."""
    short = [[p for p in _TASKS[task]() if names_held_out_pair(p)] for task in ("colors", "color_attr")]
    each = -(-count // 3)
    groups = [*(_repeated(prompts, each, rng) for prompts in short), _held_out_captions(each, rng, split)]
    return [prompt for turn in zip(*groups, strict=True) for prompt in turn][:count]


def generation_prompts(task: str, count: int, *, seed: int = 0, split: str | None = "test") -> list[str]:
    """Prompts of a task; the same arguments give the same prompts.

    Args:
        task: one of `PROMPT_TASKS`: GenEval's six, `"full"` (captions that state everything, in all of `ORDERS`), or
            `"composition"` (prompts with a held-out pair; all other tasks have none).
        count: how many.
        seed: of the order, and of the scenes that full captions are of.
        split: of those scenes, `"train"`, `"test"` or None for both.

    Raises:
        ValueError: unknown task or split.
    """
    if task == "full":
        return [prompt for _, prompt in full_prompts(count, seed=seed, split=split)]
    rng = random.Random(f"{seed}/{task}")
    if task == "composition":
        return _compositions(count, rng, split)
    if task not in _TASKS:
        raise ValueError(f"Unknown task {task!r}; use one of {', '.join(PROMPT_TASKS)}.")
    return _repeated(task_prompts(task), count, rng)
