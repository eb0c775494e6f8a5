"""Prompts are captions of the language, cover each task evenly, and keep held-out pairs apart."""

import random
from collections import Counter

import pytest

from transformers_arm.worlds.shapes.captions import NUMBERS, ORDERS, caption_is_true, parse_caption
from transformers_arm.worlds.shapes.prompts import (
    FULL_CELLS,
    GENERATION_TASKS,
    PROMPT_TASKS,
    full_prompts,
    generation_prompts,
    names_held_out_pair,
    task_prompts,
)
from transformers_arm.worlds.shapes.scene import Scene, SceneObject, sample_scene


@pytest.mark.parametrize(
    ("task", "example", "size"),
    [
        ("single_object", "a circle", 4),
        ("two_object", "a circle and a square", 12),
        ("counting", "three squares", 8),
        ("colors", "a red circle", 22),
        ("position", "a circle left of a square", 48),
        ("color_attr", "a red circle and a blue square", 302),
    ],
)
def test_a_task_holds_the_prompts_it_is_named_for(task, example, size):
    prompts = task_prompts(task)
    assert example in prompts
    assert len(prompts) == len(set(prompts)) == size


@pytest.mark.parametrize("task", PROMPT_TASKS)
def test_prompts_are_captions_and_repeat_with_the_seed(task):
    prompts = generation_prompts(task, 100, seed=3)
    assert len(prompts) == 100
    assert prompts == generation_prompts(task, 100, seed=3) != generation_prompts(task, 100, seed=4)
    for prompt in prompts:
        parse_caption(prompt)


@pytest.mark.parametrize("task", PROMPT_TASKS)
def test_only_compositions_name_held_out_pairs(task):
    named = {names_held_out_pair(prompt) for prompt in generation_prompts(task, 200)}
    assert named == {task == "composition"}


@pytest.mark.parametrize("task", GENERATION_TASKS)
def test_prompts_of_a_task_are_equally_frequent(task):
    count = 3 * len(task_prompts(task))
    assert set(Counter(generation_prompts(task, count)).values()) == {3}


def scene_of(prompt):
    """The scene that a full caption states."""
    spec = parse_caption(prompt)
    objects = tuple(SceneObject(noun.shape, noun.color, noun.size, noun.cell) for noun in spec.nouns)
    return Scene(objects, spec.background)


def test_full_prompts_state_everything_about_scenes_of_their_split():
    for prompt in generation_prompts("full", 200):
        scene = scene_of(prompt)
        assert scene.split == "test" and caption_is_true(prompt, scene)


def test_full_prompts_tell_scenes_of_all_numbers_in_all_orders():
    found = full_prompts(450, seed=3)
    assert Counter(cell for cell, _ in found) == dict.fromkeys(FULL_CELLS, 50)
    assert [prompt for _, prompt in found] == generation_prompts("full", 450, seed=3)
    in_reading_order = Counter()
    for cell, prompt in found:
        order, number = cell.split("_")
        scene, cells = scene_of(prompt), [noun.cell for noun in parse_caption(prompt).nouns]
        in_reading = [item.cell for item in scene.objects]
        assert NUMBERS[len(cells)] == number
        assert order != "reading" or cells == in_reading
        assert order != "reversed" or cells == in_reading[::-1]
        in_reading_order[cell] += cells == in_reading
    assert 15 < in_reading_order["shuffled_two"] < 35 and 2 < in_reading_order["shuffled_three"] < 18
    told = [[scene_of(prompt) for cell, prompt in found if cell.startswith(order)] for order in ORDERS]
    assert told[0] == told[1] == told[2]


def test_compositions_mix_one_object_two_and_full_captions():
    spec = [parse_caption(prompt) for prompt in generation_prompts("composition", 30)]
    assert all(len(short.nouns) == 1 and short.background is None for short in spec[::3])
    assert all(len(pair.nouns) == 2 and pair.background is None for pair in spec[1::3])
    assert all(full.background is not None for full in spec[2::3])


@pytest.mark.parametrize("task", ["single_object", "two_object", "counting", "colors", "position"])
def test_some_scene_fulfils_each_prompt(task):
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(4000)]
    for prompt in task_prompts(task):
        spec = parse_caption(prompt)
        assert any(spec.is_true_of(scene) for scene in scenes), prompt


def test_unknown_tasks_are_refused_by_name():
    with pytest.raises(ValueError, match="Unknown task 'spelling'; use one of single_object"):
        generation_prompts("spelling", 3)
    with pytest.raises(ValueError, match="Unknown task 'full'"):
        task_prompts("full")
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        generation_prompts("full", 3, split="dev")
