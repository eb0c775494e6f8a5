"""Scenes: what is legal, how they are hashed into splits, how they are sampled."""

import hashlib
import random

import pytest

from transformers_arm.worlds.shapes.scene import CELLS, Scene, SceneObject, sample_scene


def an_object(**changes) -> SceneObject:
    return SceneObject(**{"shape": "circle", "color": "red", "size": "small", "cell": "top", **changes})


def test_canonical_json_is_the_specified_bytes():
    assert Scene((an_object(jitter=(1, -2)),)).to_json() == (
        '{"background":"white","objects":[{"cell":"top","color":"red","shape":"circle","size":"small"}]}'
    )


def test_objects_stand_in_cell_order_however_they_are_given():
    objects = (an_object(cell="bottom-right"), an_object(color="blue", cell="top-left"))
    assert [item.cell for item in Scene(objects).objects] == ["top-left", "bottom-right"]
    assert Scene(objects) == Scene(objects[::-1])


def test_split_follows_the_first_byte_of_the_hash():
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(2000)]
    for scene in scenes:
        first = hashlib.sha256(scene.to_json().encode()).digest()[0]
        assert scene.split == ("test" if first < 26 else "train")
    assert 0.08 < sum(scene.split == "test" for scene in scenes) / len(scenes) < 0.13


def test_jitter_does_not_move_a_scene_to_the_other_split():
    scene = sample_scene(random.Random(5), max_jitter=2)
    assert scene.without_jitter().split == scene.split


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ((), "1 to 3 objects, got 0"),
        (tuple(an_object(cell=cell, size="large") for cell in CELLS[:4]), "got 4"),
        ((an_object(), an_object(color="blue")), "share a cell"),
        ((an_object(), an_object(cell="left", size="large")), "share shape and color"),
    ],
)
def test_illegal_scenes_are_refused(objects, words):
    with pytest.raises(ValueError, match=words):
        Scene(objects)


def test_unknown_attributes_are_named_with_what_is_allowed():
    with pytest.raises(ValueError, match="Unknown color 'pink'; use one of red"):
        an_object(color="pink")
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        sample_scene(random.Random(0), split="dev")


def test_sampling_is_seeded_and_keeps_what_is_asked():
    assert sample_scene(random.Random(3)) == sample_scene(random.Random(3))
    rng = random.Random(4)
    for _ in range(200):
        scene = sample_scene(rng, split="test", num_objects=2, max_jitter=2, held_out_pairs=False)
        assert scene.split == "test" and len(scene.objects) == 2 and not scene.has_held_out_pair
        assert all(-2 <= offset <= 2 for item in scene.objects for offset in item.jitter)
    assert sample_scene(rng, held_out_pairs=True).has_held_out_pair
