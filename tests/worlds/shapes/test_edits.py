"""Edits do what they say, leave the rest alone, and lead to legal scenes only."""

import random
from collections import Counter

import pytest

from transformers_arm.worlds.shapes.edits import (
    EDIT_KINDS,
    apply_edit,
    edit_instructions,
    parse_instruction,
    sample_edit,
    sample_editing_pair,
)
from transformers_arm.worlds.shapes.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    sample_scene,
)

CIRCLE = SceneObject("circle", "red", "small", "top-left", (1, -2))
SQUARE = SceneObject("square", "blue", "large", "center", (2, 0))
SCENE = Scene((CIRCLE, SQUARE), "gray")


@pytest.mark.parametrize(
    ("instruction", "target"),
    [
        (
            "make the red circle green",
            Scene((SceneObject("circle", "green", "small", "top-left", (1, -2)), SQUARE), "gray"),
        ),
        (
            "turn the red circle into a cross",
            Scene((SceneObject("cross", "red", "small", "top-left", (1, -2)), SQUARE), "gray"),
        ),
        (
            "make the red circle larger",
            Scene((SceneObject("circle", "red", "large", "top-left", (1, -2)), SQUARE), "gray"),
        ),
        (
            "make the blue square smaller",
            Scene((CIRCLE, SceneObject("square", "blue", "small", "center", (2, 0))), "gray"),
        ),
        ("remove the red circle", Scene((SQUARE,), "gray")),
        (
            "add a large yellow cross at the bottom-right",
            Scene((CIRCLE, SQUARE, SceneObject("cross", "yellow", "large", "bottom-right", (0, 0))), "gray"),
        ),
        (
            "move the red circle to the right",
            Scene((SceneObject("circle", "red", "small", "right", (1, -2)), SQUARE), "gray"),
        ),
        ("make the background black", Scene((CIRCLE, SQUARE), "black")),
    ],
)
def test_an_edit_changes_what_it_names_and_nothing_else(instruction, target):
    assert apply_edit(SCENE, instruction) == target


def test_an_edit_that_is_done_already_leaves_the_scene_as_it_is():
    for instruction in ("make the red circle red", "move the red circle to the top-left", "make the background gray"):
        assert apply_edit(SCENE, instruction) == SCENE


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        (
            "make the green circle red",
            "'the green circle' names no object of the scene; name the red circle or the blue square",
        ),
        ("remove the red object at the left", "'the red object at the left' names no object"),
        ("move the red circle to the center", "share a cell"),
        ("add a small green cross at the center", "share a cell"),
        ("add a small red circle at the top", "share shape and color"),
        ("make the blue square larger", "the blue square is large already"),
        ("remove the red square", "'the red square' names no object"),
        ("paint the red circle green", "Cannot read the instruction"),
        ("make the red circle green ", "Cannot read the instruction"),
        ("make the background red", "Cannot read the instruction"),
    ],
)
def test_impossible_edits_are_refused_with_the_reason(instruction, reason):
    with pytest.raises(ValueError, match=reason):
        apply_edit(SCENE, instruction)


def test_illegal_numbers_of_objects_are_refused():
    with pytest.raises(ValueError, match="A scene has 1 to 3 objects, got 0"):
        apply_edit(Scene((CIRCLE,)), "remove the red circle")
    full = apply_edit(SCENE, "add a small green cross at the top")
    with pytest.raises(ValueError, match="A scene has 1 to 3 objects, got 4"):
        apply_edit(full, "add a small green circle at the bottom")


def all_instructions(scene):
    """Every sentence of the language about the scene's objects, whatever it leads to."""
    for item in scene.objects:
        name = f"the {item.color} {item.shape}"
        yield from (f"make {name} {word}" for word in (*COLORS, "larger", "smaller"))
        yield from (f"turn {name} into a {shape}" for shape in SHAPES)
        yield from (f"move {name} to the {cell}" for cell in CELLS)
        yield f"remove {name}"
    yield from (f"make the background {background}" for background in BACKGROUNDS)
    for size in SIZES:
        for color in COLORS:
            for shape in SHAPES:
                yield from (f"add a {size} {color} {shape} at the {cell}" for cell in CELLS)


def test_candidates_are_exactly_the_legal_edits_that_change_something():
    rng = random.Random(0)
    for _ in range(15):
        scene = sample_scene(rng, max_jitter=2)
        legal = set()
        for instruction in all_instructions(scene):
            try:
                if apply_edit(scene, instruction) != scene:
                    legal.add(instruction)
            except ValueError:
                continue
        candidates = [instruction for kind in EDIT_KINDS for instruction in edit_instructions(scene, kind)]
        assert len(candidates) == len(set(candidates)) and set(candidates) == legal


def test_sampled_edits_are_what_applying_them_gives():
    rng = random.Random(1)
    for _ in range(500):
        edit = sample_edit(rng, sample_scene(rng, max_jitter=2))
        assert parse_instruction(edit.instruction)[0] == edit.kind
        assert apply_edit(edit.source, edit.instruction) == edit.target != edit.source


@pytest.mark.parametrize("kind", EDIT_KINDS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_pairs_have_the_kind_and_the_split_of_their_target(kind, split):
    rng = random.Random(2)
    for _ in range(20):
        edit = sample_editing_pair(rng, kind, split)
        assert edit.kind == kind and edit.split == edit.target.split == split


def test_held_out_pairs_stay_out_of_targets_but_not_of_sources():
    rng = random.Random(3)
    without = [sample_editing_pair(rng, held_out_pairs=False) for _ in range(500)]
    assert not any(edit.target.has_held_out_pair for edit in without)
    assert any(edit.source.has_held_out_pair for edit in without)
    assert all(sample_editing_pair(rng, held_out_pairs=True).target.has_held_out_pair for _ in range(50))
    scene = Scene((SceneObject("cross", "red", "small", "top"),))
    assert all(
        sample_edit(rng, scene, "recolor", held_out_pairs=False).instruction != "make the red cross purple"
        for _ in range(50)
    )


def test_kinds_are_equally_frequent_and_repeat_with_the_seed():
    def draw():
        rng = random.Random(4)
        return [sample_editing_pair(rng, max_jitter=2) for _ in range(1400)]

    sampled = draw()
    assert sampled == draw()
    counts = Counter(edit.kind for edit in sampled)
    assert set(counts) == set(EDIT_KINDS) and min(counts.values()) > 150


def test_sampling_the_impossible_says_so():
    rng = random.Random(5)
    with pytest.raises(ValueError, match="sample another scene"):
        sample_edit(rng, Scene((CIRCLE,)), "remove")
    with pytest.raises(ValueError, match="Unknown kind of edit 'paint'"):
        sample_edit(rng, SCENE, "paint")
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        sample_edit(rng, SCENE, split="dev")
