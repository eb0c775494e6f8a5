"""The world's rewards grade what pictures show: nothing, parts, or all of what was asked for."""

import random

import pytest
from PIL import Image

from transformers_arm.worlds.shapes.captions import parse_caption, sample_caption
from transformers_arm.worlds.shapes.draw import PICTURE_SIZES, draw_scene
from transformers_arm.worlds.shapes.edits import EDIT_KINDS, sample_editing_pair
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.rewards import (
    alignment,
    world_alignment,
    world_consistency,
    world_instruction,
    world_preservation,
    world_quality,
)
from transformers_arm.worlds.shapes.scene import Scene, SceneObject, sample_scene
from transformers_arm.worlds.shapes.scores import picture_is_right, score_edit

CIRCLE, SQUARE = SceneObject("circle", "red", "large", "left"), SceneObject("square", "blue", "small", "right")
BOTH = Scene((CIRCLE, SQUARE))


def aligned(prompt, *objects, background="white"):
    (reward,) = world_alignment([prompt], [draw_scene(Scene(objects, background))], ["text_to_image"])
    return reward


def edited(reward, source, instruction, result):
    image = result if isinstance(result, Image.Image) else draw_scene(result)
    (value,) = reward(prompts=[instruction], images=[image], source_images=[[draw_scene(source)]], task=["editing"])
    return value


def test_alignment_is_one_if_and_only_if_the_caption_is_true():
    rng = random.Random(0)
    for _ in range(200):
        scene, other = sample_scene(rng), sample_scene(rng)
        caption = sample_caption(rng, scene)
        for picture in (draw_scene(scene), draw_scene(other)):
            share = alignment(parse_caption(caption), read_scene(picture))
            assert 0 <= share <= 1 and (share == 1) == picture_is_right(caption, picture)


def test_alignment_grows_with_every_detail_that_is_right():
    prompt = "a large red circle at the left on a white background"
    wrong = SceneObject("square", "blue", "small", "right")
    better = [wrong, SceneObject("circle", "blue", "small", "right"), SceneObject("circle", "red", "small", "right"),
              SceneObject("circle", "red", "large", "right"), CIRCLE]  # fmt: skip
    rewards = [aligned(prompt, item) for item in better]
    assert rewards == sorted(rewards) and len(set(rewards)) == 5 and rewards[-1] == 1
    assert aligned(prompt, CIRCLE, background="gray") < 1
    assert aligned(prompt, CIRCLE, SQUARE) < 1  # one object too many


def test_alignment_matches_nouns_to_objects_in_the_best_way():
    assert aligned("a blue square and a red circle", CIRCLE, SQUARE) == 1
    assert aligned("a red circle left of a blue square", CIRCLE, SQUARE) == 1
    turned = aligned("a red circle right of a blue square", CIRCLE, SQUARE)
    missing = aligned("a red circle right of a blue square", CIRCLE)
    assert missing < turned < 1


def test_alignment_looks_at_the_size_that_a_caption_states():
    prompts = ["a wide picture of a red circle"] * 2
    images = [draw_scene(Scene((CIRCLE,)), *size) for size in (PICTURE_SIZES["wide"], PICTURE_SIZES["tall"])]
    wide, tall = world_alignment(prompts, images, ["text_to_image"] * 2)
    assert tall < wide == 1


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_scores_all_when_done_and_nothing_when_not(kind):
    rng = random.Random(kind)
    for _ in range(30):
        pair = sample_editing_pair(rng, kind)
        assert edited(world_instruction, pair.source, pair.instruction, pair.target) == 1
        assert edited(world_instruction, pair.source, pair.instruction, pair.source) == 0
        assert edited(world_preservation, pair.source, pair.instruction, pair.target) == 1
        assert edited(world_consistency, pair.source, pair.instruction, pair.target) == 1
        assert edited(world_consistency, pair.source, pair.instruction, pair.source) == 0
        other = draw_scene(sample_scene(rng))
        values = [
            edited(reward, pair.source, pair.instruction, other) for reward in (world_instruction, world_preservation)
        ]
        assert all(0 <= value <= 1 for value in values)
        assert min(values) == edited(world_consistency, pair.source, pair.instruction, other)
        assert (values == [1, 1]) == score_edit(pair.source, pair.instruction, other).exact


def test_an_edit_that_spoils_the_rest_loses_preservation_alone():
    source, instruction = BOTH, "make the red circle green"
    green = SceneObject("circle", "green", "large", "left")
    other, extra = SceneObject("square", "cyan", "small", "right"), SceneObject("cross", "red", "small", "top")
    spoilt = (((other,), "white"), ((), "white"), ((SQUARE,), "gray"), ((SQUARE, extra), "white"))
    for rest, background in spoilt:
        result = Scene((green, *rest), background)
        assert edited(world_instruction, source, instruction, result) == 1
        assert edited(world_preservation, source, instruction, result) < 1


def test_an_edit_half_done_scores_between():
    half = Scene((CIRCLE, SceneObject("square", "cyan", "small", "top")))
    value = edited(world_instruction, BOTH, "move the blue square to the top", half)
    assert 0 < value < 1


def test_each_reward_is_none_where_it_does_not_apply():
    picture = draw_scene(BOTH)
    text = {"prompts": ["a red circle"], "images": [picture], "source_images": [[]], "task": ["text_to_image"]}
    edit = {
        "prompts": ["remove the red circle"],
        "images": [picture],
        "source_images": [[picture]],
        "task": ["editing"],
    }
    assert world_instruction(**text) == world_preservation(**text) == world_consistency(**text) == [None]
    assert world_alignment(**edit) == [None]
    assert world_alignment(**text | {"prompts": ["a photograph of my cat"]}) == [None]
    assert world_instruction(**edit | {"prompts": ["make it pop"]}) == [None]
    assert world_instruction(**edit | {"prompts": ["remove the green cross"]}) == [None]
    assert world_instruction(**edit | {"prompts": ["make the red circle red"]}) == [None]
    assert world_preservation(**edit | {"prompts": ["make the background white"]}) == [None]
    assert world_instruction(**edit | {"source_images": [[Image.new("RGB", (48, 48), "orange")]]}) == [None]
    assert world_quality(**text)[0] > 0.99 and world_quality(**edit)[0] > 0.99


def test_quality_falls_with_what_blurs_an_object():
    picture = draw_scene(BOTH)
    blurred = picture.resize((24, 24)).resize((48, 48))
    empty = Image.new("RGB", (48, 48), (245, 245, 245))
    sharp, soft, none = world_quality(images=[picture, blurred, empty])
    assert sharp > soft > none == 0
