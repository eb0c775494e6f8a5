"""Datasets over the embedded world: a sample is a function of its index, and what stands in a document is true."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from transformers_arm import ArmImageProcessor
from transformers_arm.data.shapes import Canvas, ImageTextCollator, ShapesDataset, siglip_input_ids, to_pixel_values
from transformers_arm.data.world_text import TASKS, TextCollator, WorldText
from transformers_arm.shapes.captions import caption_is_true, full_caption, parse_caption
from transformers_arm.shapes.draw import render_scene
from transformers_arm.shapes.edits import apply_edit
from transformers_arm.shapes.questions import answer_question
from transformers_arm.shapes.reader import read_scene, reading_equals
from transformers_arm.shapes.scene import Scene, SceneObject

CANVASES = [Canvas(48, 48, weight=2), {"height": 64, "width": 48, "max_jitter": 2}, Canvas(32, 96, max_jitter=1)]


def dataset(length=60, batch_size=4, seed=0, **kwargs):
    return ShapesDataset(length, batch_size=batch_size, seed=seed, **({"canvases": CANVASES} | kwargs))


@pytest.fixture
def tokenizer(tiny_backbones):
    return AutoTokenizer.from_pretrained(tiny_backbones["vision"])


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


def blank_samples(*captions):
    return [{"image": np.zeros((48, 48, 3), np.uint8), "caption": caption} for caption in captions]


# --- collating -------------------------------------------------------------------------------------------------------


def test_pixel_values_are_those_of_the_image_processor():
    every_value = np.arange(48 * 48 * 3).reshape(48, 48, 3).astype(np.uint8)
    images = [every_value, *(dataset(canvases=[Canvas()])[index]["image"] for index in range(3))]
    expected = ArmImageProcessor(size=None)([Image.fromarray(image) for image in images], return_tensors="pt")
    pixel_values = to_pixel_values(images)
    assert pixel_values.dtype == torch.float32 and pixel_values.is_contiguous()
    assert torch.equal(pixel_values, expected.pixel_values)


def test_captions_are_padded_to_siglip_s_full_length_and_come_back(tokenizer):
    samples = [dataset()[index] for index in range(4)]
    batch = ImageTextCollator(tokenizer, 32)(samples)
    assert set(batch) == {"pixel_values", "input_ids"} and batch["input_ids"].shape == (4, 32)
    for ids, sample in zip(batch["input_ids"], samples, strict=True):
        own = tokenizer(sample["caption"]).input_ids
        assert ids.tolist() == own + [tokenizer.pad_token_id] * (32 - len(own))
    assert torch.equal(batch["input_ids"], siglip_input_ids(tokenizer, [sample["caption"] for sample in samples], 32))


def test_captions_beyond_siglip_s_length_are_cut(tokenizer):
    assert siglip_input_ids(tokenizer, ["a circle " * 40, "a circle"], 16).shape == (2, 16)


def test_caption_ids_end_with_the_end_of_text_and_are_masked_where_padded(tokenizer):
    samples = blank_samples("a circle", "two squares and")
    batch = ImageTextCollator(caption_tokenizer=tokenizer)(samples)
    assert set(batch) == {"pixel_values", "caption_ids"}
    lengths = []
    for ids, sample in zip(batch["caption_ids"], samples, strict=True):
        expected = [*tokenizer(sample["caption"]).input_ids, tokenizer.eos_token_id]
        assert ids.tolist() == expected + [-100] * (len(ids) - len(expected))  # masked, though padding is end of text
        lengths.append(len(expected))
    assert batch["caption_ids"].shape[1] == max(lengths) != min(lengths)


def test_masking_does_not_depend_on_the_tokenizer_s_own_padding_side(tokenizer):
    samples = blank_samples("a circle", "a red circle")
    expected = ImageTextCollator(caption_tokenizer=tokenizer)(samples)["caption_ids"]
    tokenizer.padding_side = "left"
    assert torch.equal(ImageTextCollator(caption_tokenizer=tokenizer)(samples)["caption_ids"], expected)


def test_pictures_alone_need_no_tokenizer():
    assert set(ImageTextCollator()([dataset()[0]])) == {"pixel_values"}


# --- documents -------------------------------------------------------------------------------------------------------


def scene_of(caption):
    """The scene a full caption states."""
    spec = parse_caption(caption)
    objects = tuple(SceneObject(noun.shape, noun.color, noun.size, noun.cell) for noun in spec.nouns)
    return Scene(objects, spec.background)


def read_document(text):
    """(prompt lines, answer) of a document, by its form alone."""
    if text.startswith("<|im_start|>"):
        head, middle = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
        assert text.startswith(head) and text.endswith("<|im_end|>") and text.count("<|im_start|>") == 2
        prompt, answer = text.removeprefix(head).removesuffix("<|im_end|>").split(middle)
        return prompt.split("\n"), answer
    *prompt, answer = text.split("\n")
    return prompt, answer


def test_every_document_is_well_formed_and_its_answer_is_right():
    data, counts, chats = WorldText(400, seed=0), Counter(), 0
    for index in range(400):
        text = data[index]["text"]
        chats += text.startswith("<|im_start|>")
        prompt, answer = read_document(text)
        if not prompt:
            counts["caption"] += 1
            parse_caption(answer)
            continue
        scene = scene_of(prompt[0])
        assert scene.split == "train"
        if len(prompt) == 1:
            counts["paraphrase"] += 1
            assert answer == full_caption(scene)
        elif prompt[1].endswith("?"):
            counts["question"] += 1
            assert answer == answer_question(prompt[1], scene)
        else:
            counts["edit"] += 1
            target = apply_edit(scene, prompt[1])
            assert answer == full_caption(target) and target.split == "train"
    assert {task: count / 400 for task, count in counts.items()} == pytest.approx(TASKS, abs=0.07)
    assert 0.35 * (400 - counts["caption"]) < chats < 0.65 * (400 - counts["caption"])


def test_a_document_is_a_function_of_seed_and_index():
    first, second = WorldText(50, seed=3), WorldText(500, seed=3)
    assert [first[index] for index in reversed(range(50))][::-1] == [second[index] for index in range(50)]
    assert [WorldText(50, seed=4)[index] for index in range(50)] != [first[index] for index in range(50)]


def test_documents_of_the_test_split_are_about_test_scenes():
    data = WorldText(60, seed=0, split="test")
    turns = [data.turn(index) for index in range(60)]
    scenes = [scene_of(prompt.split("\n")[0]) for _, prompt, _ in turns if prompt]
    assert scenes and all(scene.split == "test" for scene in scenes)


def test_documents_are_right_padded_and_closed(tokenizer):
    samples = [WorldText(4, seed=0)[index] for index in range(4)]
    tokenizer.padding_side = "left"  # whatever the tokenizer would do
    batch = TextCollator(tokenizer)(samples)
    assert len({len(tokenizer(sample["text"]).input_ids) for sample in samples}) > 1
    for row, sample in enumerate(samples):
        expected = [*tokenizer(sample["text"]).input_ids, tokenizer.eos_token_id]
        padding = batch["input_ids"].shape[1] - len(expected)
        assert batch["input_ids"][row, : len(expected)].tolist() == expected
        assert batch["attention_mask"][row].tolist() == [1] * len(expected) + [0] * padding


def test_only_answers_carry_loss(tokenizer):
    samples = [WorldText(40, seed=0)[index] for index in range(40)]
    batch = TextCollator(tokenizer)(samples)
    for ids, labels, sample in zip(batch["input_ids"], batch["labels"], samples, strict=True):
        learnt = labels != -100
        assert torch.equal(labels[learnt], ids[learnt])
        answer = sample["text"].removeprefix(sample["prompt"]) + tokenizer.eos_token
        assert tokenizer.decode(labels[learnt]) == answer
        assert read_document(sample["text"])[1] in answer
