"""Requests for reinforcement learning: seeded, of the split, and none that scores are taken with."""

import re

import numpy as np
import pytest

from transformers_arm import ArmImageProcessor
from transformers_arm.training.requests import usable_requests
from transformers_arm.worlds.shapes.captions import parse_caption
from transformers_arm.worlds.shapes.edits import apply_edit, parse_instruction
from transformers_arm.worlds.shapes.prompts import GENERATION_TASKS, names_held_out_pair, task_prompts
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.requests import world_requests
from transformers_arm.worlds.shapes.scene import COLORS, SHAPES, Scene, SceneObject

PLAIN = rf"the ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
CAPTIONS = {"full": 1, "short": 1, "any": 1, "loose": 1, "related": 1}


def test_the_same_arguments_give_the_same_rows():
    rows = world_requests(20, seed=1, editing=0.5, captions=CAPTIONS)
    again = world_requests(20, seed=1, editing=0.5, captions=CAPTIONS)
    assert rows["prompt"] == again["prompt"] != world_requests(20, seed=2, editing=0.5, captions=CAPTIONS)["prompt"]
    usable_requests(rows, "rows", ArmImageProcessor(size={"height": 48, "width": 48}))


def test_no_prompt_is_one_that_scores_are_taken_with():
    scored = {prompt for task in GENERATION_TASKS for prompt in task_prompts(task)}
    prompts = world_requests(2000, seed=1, captions=CAPTIONS)["prompt"]
    assert not scored & set(prompts)
    assert not any(names_held_out_pair(prompt) for prompt in prompts)
    relations = [parse_caption(prompt).relation for prompt in prompts]
    assert 300 < sum(relation is not None for relation in relations) < 800


def test_edits_stay_in_the_split_and_can_be_done():
    rows = [row for row in world_requests(300, seed=3, editing=0.7) if row["task"] == "editing"]
    assert 180 < len(rows) < 240
    for row in rows:
        reading = read_scene(row["source_image"])
        objects = [SceneObject(item.shape, item.color, item.size, item.cell) for item in reading.objects]
        target = apply_edit(Scene(tuple(objects), reading.background), row["prompt"])
        assert target.split == "train" and not target.has_held_out_pair
        assert np.asarray(row["source_image"]).shape == (48, 48, 3)
    assert {parse_instruction(row["prompt"])[0] for row in rows} >= {"move", "add", "recolor", "background"}


def test_requests_of_several_sizes_say_which():
    canvases = [{"height": 48, "width": 96}, {"height": 96, "width": 96}]
    rows = world_requests(60, seed=5, editing=0.5, canvases=canvases, stated_size=0.5)
    usable_requests(rows, "rows", ArmImageProcessor(size={"height": 48, "width": 48}))
    assert {(row["height"], row["width"]) for row in rows} == {(48, 96), (96, 96)}
    sources = [row for row in rows if row["task"] == "editing"]
    assert all(row["source_image"].size == (row["width"], row["height"]) for row in sources)
    sizes = {(parse_caption(row["prompt"]).size, row["height"]) for row in rows if row["task"] == "text_to_image"}
    assert sizes == {("wide", 48), ("large", 96), (None, 48), (None, 96)}


def test_edits_name_their_objects_in_other_ways_as_often_as_stated():
    def plain(share):
        rows = world_requests(80, seed=6, editing=1.0, other_names=share)
        named = [parse_instruction(prompt)[1].get("object") for prompt in rows["prompt"]]
        return sum(bool(re.fullmatch(PLAIN, name)) for name in named if name) / sum(map(bool, named))

    assert plain(0.0) == 1 > plain(0.5) > plain(1.0) == 0


def test_edits_are_of_scenes_with_enough_objects():
    rows = world_requests(50, seed=4, editing=1.0, min_objects=3)
    assert all(len(read_scene(row["source_image"]).objects) == 3 for row in rows)


def test_text_to_image_has_no_source():
    assert world_requests(5, seed=0)["source_image"][:] == [None] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"captions": {"long": 1}}, "long"), ({"editing": 1.5}, "1.5"), ({"min_objects": 4}, "min_objects 4")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        world_requests(5, seed=0, **arguments)
