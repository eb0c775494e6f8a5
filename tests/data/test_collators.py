"""Batches of captioned pictures and of documents: padded as each model wants them, and only answers carry loss."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from transformers_arm import ArmImageProcessor
from transformers_arm.data.collators import ImageTextCollator, TextCollator, siglip_input_ids, to_pixel_values
from transformers_arm.worlds.shapes.pictures import ShapesDataset
from transformers_arm.worlds.shapes.text import WorldText


@pytest.fixture
def tokenizer(tiny_backbones):
    return AutoTokenizer.from_pretrained(tiny_backbones["vision"])


def dataset():
    return ShapesDataset(60, batch_size=4, seed=0)


def blank_samples(*captions):
    return [{"image": np.zeros((48, 48, 3), np.uint8), "caption": caption} for caption in captions]


def test_pixel_values_are_those_of_the_image_processor():
    every_value = np.arange(48 * 48 * 3).reshape(48, 48, 3).astype(np.uint8)
    images = [every_value, *(dataset()[index]["image"] for index in range(3))]
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


def test_siglip_reads_lower_case_and_the_captioner_learns_what_is_written(tokenizer):
    written, lowered = blank_samples("A Red CIRCLE"), blank_samples("a red circle")
    collator = ImageTextCollator(tokenizer, 32, caption_tokenizer=tokenizer)
    batch, expected = collator(written), collator(lowered)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    ids = batch["caption_ids"][0]
    assert tokenizer.decode(ids[ids != -100], skip_special_tokens=True) == "A Red CIRCLE"


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


def test_documents_are_right_padded_and_closed(tokenizer):
    samples = [WorldText(4, seed=0)[index] for index in range(4)]
    tokenizer.padding_side = "left"  # whatever the tokenizer would do
    batch = TextCollator(tokenizer)(samples)
    texts = [TextCollator.rendered(sample)[1] for sample in samples]
    assert len({len(tokenizer(text).input_ids) for text in texts}) > 1
    for row, text in enumerate(texts):
        expected = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        padding = batch["input_ids"].shape[1] - len(expected)
        assert batch["input_ids"][row, : len(expected)].tolist() == expected
        assert batch["attention_mask"][row].tolist() == [1] * len(expected) + [0] * padding


def test_only_answers_carry_loss(tokenizer):
    samples = [WorldText(40, seed=0)[index] for index in range(40)]
    batch = TextCollator(tokenizer)(samples)
    for ids, labels, sample in zip(batch["input_ids"], batch["labels"], samples, strict=True):
        prompt, text = TextCollator.rendered(sample)
        learnt = labels != -100
        assert torch.equal(labels[learnt], ids[learnt])
        answer = text.removeprefix(prompt) + tokenizer.eos_token
        assert tokenizer.decode(labels[learnt]) == answer
        assert sample["answer"] in answer
