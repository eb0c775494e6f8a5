"""The second reader learns to read drawn scenes, says so in the form of the first, and is the same for a seed."""

import random

import numpy as np
import pytest
import torch

from transformers_arm.worlds.shapes import (
    CELLS,
    PICTURE_SIZES,
    Scene,
    caption_is_true,
    draw_scene,
    full_caption,
    read_scene,
    reading_equals,
    second_reader,
)
from transformers_arm.worlds.shapes.pictures import Canvas, ShapesDataset
from transformers_arm.worlds.shapes.reader import SceneReading
from transformers_arm.worlds.shapes.second_reader import SceneClassifier, load_or_train, train_scene_classifier


def scenes_of(count: int, seed: int = 11, size: tuple[int, int] = (48, 48)):
    data = ShapesDataset(count, batch_size=count, seed=seed, split="test", canvases=[Canvas(*size)])
    return [data.scene(index)[0] for index in range(count)], [data[index]["image"] for index in range(count)]


@pytest.fixture(scope="module")
def briefly_trained() -> SceneClassifier:
    return train_scene_classifier(200, seed=3, batch_size=32, sizes=[(48, 48)])


def test_a_short_training_reads_far_above_chance(briefly_trained):
    scenes, images = scenes_of(200)
    readings = briefly_trained.read(images)
    assert (
        np.mean([reading.background == scene.background for reading, scene in zip(readings, scenes, strict=True)])
        > 0.9
    )
    cells = [
        ({item.cell for item in reading.objects}, {item.cell for item in scene.objects})
        for reading, scene in zip(readings, scenes, strict=True)
    ]
    assert np.mean([found == due for found, due in cells]) > 0.5
    right = [
        item.attributes() in [found.attributes() for found in reading.objects]
        for reading, scene in zip(readings, scenes, strict=True)
        for item in scene.objects
    ]
    assert np.mean(right) > 0.3  # chance, once its cell is found: 1/48


def test_readings_are_those_of_the_template_reader_in_form():
    """A classifier set by hand to see a large red circle in every cell, on black."""
    model = SceneClassifier()
    with torch.no_grad():
        for name, index in (("shape", 0), ("color", 0), ("size", 1)):
            model.kinds[name].bias[index] = 100
        model.presence.bias.fill_(100)
        model.background.bias[2] = 100
    scene, pixels = (values[0] for values in scenes_of(1))
    first, second = model.read([draw_scene(scene), pixels], batch_size=1)
    assert first == second
    assert isinstance(first, SceneReading) and first.background == "black"
    assert [item.cell for item in first.objects] == list(CELLS)
    assert {(item.shape, item.color, item.size, item.jitter, item.residual) for item in first.objects} == {
        ("circle", "red", "large", (0, 0), 0.0)
    }
    assert reading_equals(first, first) and not caption_is_true(full_caption(scene), first)
    with torch.no_grad():
        model.background.bias[3] = 200  # no background of the world, so nothing readable
    assert model.read([pixels]) == [SceneReading((), None)]
    assert model.read([]) == []


def test_training_is_the_same_for_a_seed_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, second, other = (train_scene_classifier(3, seed=seed, batch_size=4) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [model.presence.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not first.training


def test_training_pictures_hold_what_their_labels_say():
    """Crowds, empty canvases, spoilt objects and foreign backgrounds are all seen, and no scene of the test split."""
    rng = random.Random(0)
    samples = [second_reader._training_sample(rng, 48, 48) for _ in range(500)]
    assert {picture.shape for picture, _ in samples} == {(48, 48, 3)}
    for height, width in PICTURE_SIZES.values():  # an object is spoilt in its own cell at each size
        pictures = [second_reader._training_sample(rng, height, width) for _ in range(30)]
        assert {picture.shape for picture, _ in pictures} == {(height, width, 3)}
        plain = [reading_equals(read_scene(picture), scene) for picture, scene in pictures if isinstance(scene, Scene)]
        assert plain and all(plain)
    assert {len(scene.objects) for _, scene in samples} == set(range(7))
    assert {scene.background for _, scene in samples} == {"white", "gray", "black", None}
    assert {scene.split for _, scene in samples if isinstance(scene, Scene)} == {"train"}
    crowds = [second_reader._crowd(rng).objects for _ in range(200)]
    assert all(len(objects) not in (1, 2, 3) or len({(o.shape, o.color) for o in objects}) == 1 for objects in crowds)
    labels = second_reader._labels([scene for _, scene in samples])
    assert (labels["shape"] >= 0).sum() == sum(len(scene.objects) for _, scene in samples)


def test_weights_are_kept_and_read_again(tmp_path, monkeypatch):
    path = tmp_path / "reader" / "classifier.safetensors"
    trained = load_or_train(path, steps=2, seed=1)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing written aside stays
    with monkeypatch.context() as patch:
        patch.setattr(second_reader, "train_scene_classifier", lambda *_, **__: pytest.fail("trained again"))
        loaded = load_or_train(path, steps=2, seed=1)
    pixel_values = torch.rand(2, 3, 48, 48)
    assert torch.equal(loaded(pixel_values)["shape"], trained(pixel_values)["shape"])
    other = load_or_train(path, steps=2, seed=2)  # another seed is another reader
    assert not torch.equal(other(pixel_values)["shape"], trained(pixel_values)["shape"])


@pytest.mark.parametrize(
    "picture", [np.zeros((16, 48, 3), np.uint8), np.zeros((32, 96, 3), np.uint8), np.zeros((48, 48, 3), np.float32)]
)
def test_other_sizes_and_types_are_refused(picture):
    with pytest.raises(
        ValueError, match=r"uint8 of shape \[height, width, 3\], got|Canvas height 16 is outside|not 32x96"
    ):
        SceneClassifier().read([picture])


def test_pictures_of_all_sizes_are_read_at_once_and_in_order(briefly_trained):
    scenes = scenes_of(len(PICTURE_SIZES) * 2)[0]
    sizes = [*PICTURE_SIZES.values(), *PICTURE_SIZES.values()]
    images = [draw_scene(scene, *size) for scene, size in zip(scenes, sizes, strict=True)]
    together = briefly_trained.read(images, batch_size=2)
    assert together == [briefly_trained.read([image])[0] for image in images]
    assert [reading.size for reading in together] == [*PICTURE_SIZES, *PICTURE_SIZES]


def test_a_large_picture_is_read_as_the_small_one_that_it_is_shrunk_to(briefly_trained):
    scenes, images = scenes_of(40)
    large = [np.kron(image, np.ones((2, 2, 1), np.uint8)) for image in images]
    assert briefly_trained.read(large) == briefly_trained.read(images)


@pytest.mark.slow
def test_full_training_reads_drawn_and_noisy_scenes():
    model = train_scene_classifier(seed=1)
    noise = np.random.default_rng(0)
    for size in PICTURE_SIZES.values():
        scenes, images = scenes_of(1000, size=size)
        noisy = [(image + noise.normal(0, 0.05 * 255, image.shape)).clip(0, 255).astype(np.uint8) for image in images]
        for pictures in (images, noisy):
            right = [reading_equals(*pair) for pair in zip(model.read(pictures), scenes, strict=True)]
            assert np.mean(right) >= 0.995
    empty = [np.full((48, 48, 3), value, np.uint8) for value in (245, 128, 16)]
    assert [(reading.objects, reading.background) for reading in model.read(empty)] == [
        ((), "white"),
        ((), "gray"),
        ((), "black"),
    ]
