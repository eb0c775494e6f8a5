"""Captions: the grammar, their truth about scenes, and sampling."""

import random
from collections import Counter

import pytest

from transformers_arm.worlds.shapes.captions import (
    ORDERS,
    caption_is_true,
    full_caption,
    loose_caption,
    ordered_caption,
    parse_caption,
    related_caption,
    sample_caption,
    shuffled_caption,
    sized_caption,
)
from transformers_arm.worlds.shapes.draw import PICTURE_SIZES, draw_scene
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.scene import Scene, SceneObject, sample_scene

RED_CIRCLE = SceneObject("circle", "red", "small", "top-left")
BLUE_SQUARE = SceneObject("square", "blue", "large", "right")
PAIR = Scene((RED_CIRCLE, BLUE_SQUARE), "gray")


@pytest.mark.parametrize(
    "caption",
    [
        "a circle and a square",
        "a square and a circle",
        "a small circle and a large blue square",
        "a red circle left of a square",
        "a square right of a circle",
        "a circle above a blue square",
        "a square below a red circle",
        "a circle at the top-left and a square at the right on a gray background",
        "a circle and a square on a gray background",
    ],
)
def test_true_captions_are_true(caption):
    assert caption_is_true(caption, PAIR)


@pytest.mark.parametrize(
    "caption",
    [
        "a circle",
        "a circle and a square and a cross",
        "a circle and a circle",
        "a blue circle and a red square",
        "a circle right of a square",
        "a square above a circle",
        "a large circle and a square",
        "a circle at the top and a square",
        "a circle and a square on a white background",
        "two circles",
    ],
)
def test_false_captions_are_false(caption):
    assert not caption_is_true(caption, PAIR)


@pytest.mark.parametrize("word", PICTURE_SIZES)
def test_a_caption_may_state_the_size_of_its_picture(word):
    caption = sized_caption("a circle and a square", word)
    assert caption == f"a {word} picture of a circle and a square" and parse_caption(caption).size == word
    assert caption_is_true(caption, PAIR)  # a scene has no size
    for other, size in PICTURE_SIZES.items():
        assert caption_is_true(caption, read_scene(draw_scene(PAIR, *size))) == (other == word)
    assert not caption_is_true(caption, read_scene(draw_scene(PAIR, 64, 64)))
    with pytest.raises(ValueError, match="Cannot read 'a huge picture of a circle'"):
        parse_caption("a huge picture of a circle")


def test_a_full_caption_comes_in_three_orders():
    rng = random.Random(0)
    scene = Scene((RED_CIRCLE, BLUE_SQUARE, SceneObject("cross", "green", "small", "bottom")))
    told = {
        order: [noun.color for noun in parse_caption(ordered_caption(rng, scene, order)).nouns] for order in ORDERS
    }
    assert told["reading"] == ["red", "blue", "green"] == told["reversed"][::-1]
    shuffled = Counter(ordered_caption(rng, scene, "shuffled") for _ in range(600))
    assert len(shuffled) == 6 and min(shuffled.values()) > 60


def test_counts_need_exactly_that_many_and_nothing_else():
    circles = Scene((RED_CIRCLE, SceneObject("circle", "blue", "large", "right")))
    assert caption_is_true("two circles", circles)
    assert not caption_is_true("three circles", circles)
    assert not caption_is_true("two circles", Scene((*circles.objects, SceneObject("cross", "red", "small", "top"))))


@pytest.mark.parametrize(
    "caption",
    [
        *("", "circle", "A circle", "a  circle", "a red small circle", "a circle at the middle", "four circles"),
        *("a pink cross", "a circle on a pink background", "a circle on a gray", "a circle and"),
    ],
)
def test_what_is_not_of_the_language_is_refused(caption):
    with pytest.raises(ValueError, match="aption"):
        parse_caption(caption)


def test_every_sampled_caption_is_true_of_its_scene_and_names_every_object():
    rng = random.Random(0)
    for _ in range(1500):
        scene = sample_scene(rng)
        for caption in (sample_caption(rng, scene), full_caption(scene), shuffled_caption(rng, scene)):
            assert caption_is_true(caption, scene), (caption, scene)
            assert len(parse_caption(caption).nouns) == len(scene.objects)


def test_relations_are_true_and_between_two_objects():
    rng = random.Random(3)
    captions = []
    for _ in range(500):
        scene = sample_scene(rng, num_objects=2)
        captions.append(related_caption(rng, scene))
        spec = parse_caption(captions[-1])
        assert spec.relation and spec.is_true_of(scene)
    assert {parse_caption(caption).relation for caption in captions} == {"left of", "right of", "above", "below"}
    assert any("red" in caption for caption in captions) and any("small" in caption for caption in captions)
    with pytest.raises(ValueError, match="between two objects, the scene has 3"):
        related_caption(rng, sample_scene(rng, num_objects=3))


def test_loose_captions_are_true_and_state_neither_cells_nor_background():
    rng = random.Random(4)
    for _ in range(300):
        scene = sample_scene(rng)
        spec = parse_caption(loose_caption(rng, scene))
        assert spec.is_true_of(scene) and spec.background is None
        assert all(noun.cell is None for noun in spec.nouns)


def test_full_captions_tell_scenes_apart():
    rng = random.Random(1)
    scenes = {sample_scene(rng) for _ in range(300)}
    assert len({full_caption(scene) for scene in scenes}) == len(scenes)


def test_captions_are_sampled_over_every_form():
    rng = random.Random(2)
    captions = [sample_caption(rng, sample_scene(rng)) for _ in range(3000)]
    for words in (
        "two ",
        "three ",
        " left of ",
        " right of ",
        " above ",
        " below ",
        " background",
        " at the ",
        " and ",
    ):
        assert any(words in caption or caption.startswith(words) for caption in captions), words
