"""Datasets over the embedded world: a sample is a function of its index, and what stands in a document is true."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from transformers_arm.worlds.shapes.captions import caption_is_true
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.pictures import Canvas, ShapesDataset
from transformers_arm.worlds.shapes.reader import read_scene, reading_equals
from transformers_arm.worlds.shapes.text import WorldText

CANVASES = [Canvas(48, 48, weight=2), {"height": 64, "width": 48, "max_jitter": 2}, Canvas(32, 96, max_jitter=1)]


def dataset(length=60, batch_size=4, seed=0, **kwargs):
    return ShapesDataset(length, batch_size=batch_size, seed=seed, **({"canvases": CANVASES} | kwargs))


# --- pictures and captions -------------------------------------------------------------------------------------------


def test_a_sample_is_a_function_of_seed_and_index():
    first, second = dataset(), dataset(length=1000)
    order = random.Random(0).sample(range(60), 60)
    drawn = {index: first[index] for index in order}
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    for index in range(60):
        again = second[index]
        assert np.array_equal(again["image"], drawn[index]["image"]) and again["caption"] == drawn[index]["caption"]


def test_other_seeds_and_indices_give_other_samples():
    scenes = [dataset(seed=seed).scene(index)[0] for seed in (0, 1) for index in range(60)]
    assert len({scene.to_json() for scene in scenes}) > 110


def test_a_batch_shares_one_canvas_and_every_canvas_occurs():
    data = dataset(length=400)
    shapes = [data[index]["image"].shape for index in range(400)]
    batches = [set(shapes[start : start + 4]) for start in range(0, 400, 4)]
    assert all(len(batch) == 1 for batch in batches)
    counts = Counter(shape for batch in batches for shape in batch)
    assert set(counts) == {(48, 48, 3), (64, 48, 3), (32, 96, 3)}
    assert counts[(48, 48, 3)] > max(counts[(64, 48, 3)], counts[(32, 96, 3)])  # twice their weight


@pytest.mark.parametrize("split", ["train", "test", None])
def test_splits_are_respected(split):
    found = {dataset(split=split).scene(index)[0].split for index in range(60)}
    assert found == ({split} if split else {"train", "test"})


def test_the_default_is_the_train_split_on_the_default_canvas():
    data = ShapesDataset(20, batch_size=4, seed=0)
    assert {data.scene(index)[0].split for index in range(20)} == {"train"}
    assert {data[index]["image"].shape for index in range(20)} == {(48, 48, 3)}


def test_pictures_and_captions_are_of_the_scene():
    data = dataset()
    for index in range(60):
        scene, canvas, _ = data.scene(index)
        sample = data[index]
        assert sample["image"].dtype == np.uint8
        assert np.array_equal(sample["image"], render_scene(scene, canvas.height, canvas.width))
        assert caption_is_true(sample["caption"], scene)
        assert max(abs(offset) for item in scene.objects for offset in item.jitter) <= canvas.max_jitter
        if (canvas.height, canvas.width) != (32, 96):
            assert reading_equals(read_scene(sample["image"]), scene)


@pytest.mark.parametrize("data", [dataset(length=5), WorldText(5, seed=0)], ids=["shapes", "text"])
def test_an_index_outside_the_dataset_is_refused(data):
    assert len(data) == 5 and len(list(data)) == 5
    for index in (-1, 5, 100):
        with pytest.raises(IndexError, match=f"{index} is outside this dataset of 5"):
            data[index]
