"""Pictures become placeholders of their grid, ids come back as texts and codes, and files keep all of it."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from processor_inputs import PLACEHOLDER, drawing, special_tokens, user
from transformers import AutoTokenizer

from transformers_arm.image_processing_arm import ArmImageProcessor
from transformers_arm.processing_arm import CHAT_TEMPLATE, SHAPE_TOKENS, ArmProcessor

# --- assembling, saving, loading -------------------------------------------------------------------------------------


def test_its_ids_are_those_of_the_model_from_the_same_backbones(processor, model):
    config, tokenizer = model.config, processor.tokenizer
    assert processor.visual_token_offset == config.visual_token_offset
    assert tokenizer.convert_tokens_to_ids(SHAPE_TOKENS) == list(
        range(config.shape_token_offset, config.shape_token_offset + 256)
    )
    assert tokenizer.convert_tokens_to_ids("<|w:1|>") == config.width_token_offset
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == config.image_token_id
    assert tokenizer.padding_side == "left"
    assert set(SHAPE_TOKENS) <= set(special_tokens(processor))


def test_save_and_load_round_trip(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["visual_token_offset"] == (
        processor.visual_token_offset
    )
    loaded = ArmProcessor.from_pretrained(tmp_path)
    assert type(loaded.image_processor) is ArmImageProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.chat_template == loaded.tokenizer.chat_template == CHAT_TEMPLATE
    assert loaded.tokenizer.padding_side == "left" and len(loaded.tokenizer) == len(processor.tokenizer)
    conversations = [user("what is this? <|im_end|>", drawing()), user("short")]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
    first, second = (each.apply_chat_template(conversations, **options) for each in (processor, loaded))
    assert (
        set(first) == set(second) == set(loaded.model_input_names) == {"input_ids", "attention_mask", "pixel_values"}
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_changed_chat_template_is_saved(processor, tmp_path):
    changed = ArmProcessor(
        processor.image_processor, processor.tokenizer, processor.visual_token_offset, "{{ messages[0].content }}!"
    )
    changed.save_pretrained(tmp_path)
    assert ArmProcessor.from_pretrained(tmp_path).apply_chat_template([{"role": "user", "content": "x"}]) == "x!"


def test_tokenizers_without_arms_tokens_are_refused(processor, tiny_arm_backbones):
    bare = AutoTokenizer.from_pretrained(tiny_arm_backbones["text"])
    with pytest.raises(ValueError, match=r"lacks 256 .*<\|h:1\|> first; .*from_backbones"):
        ArmProcessor(processor.image_processor, bare, visual_token_offset=len(bare) + 271)
    with pytest.raises(ValueError, match=r"below visual_token_offset 300"):
        ArmProcessor(processor.image_processor, processor.tokenizer, visual_token_offset=300)


# --- trusted text and pictures ---------------------------------------------------------------------------------------


def test_an_image_becomes_its_shape_and_one_placeholder_a_patch(processor):
    inputs = processor(PIL.Image.fromarray(drawing()), f"a{PLACEHOLDER}b", size={"height": 32, "width": 64})
    expected = f"a<|vision_start|><|h:2|><|w:4|>{'<|image_pad|>' * 8}<|vision_end|>b"
    assert processor.tokenizer.decode(inputs["input_ids"][0]) == expected
    assert inputs["pixel_values"].shape == (1, 3, 32, 64) and inputs["pixel_values"].dtype == torch.float32


def test_any_number_and_order_of_images_is_filled_in_their_order(processor, model, collator):
    pictures = [drawing(seed) for seed in range(3)]
    inputs = processor(pictures, f"{PLACEHOLDER}{PLACEHOLDER} and {PLACEHOLDER}", return_tensors="pt")
    tokens = model.model.fill_image_tokens(**{name: inputs[name] for name in ("input_ids", "pixel_values")})[0]
    codes = tokens[tokens >= processor.visual_token_offset].view(3, 3, 3)
    assert torch.equal(codes, torch.stack(collator.image_tokens(pictures)))


def test_several_texts_share_a_flat_list_or_have_lists_of_their_own(processor):
    pictures = [drawing(seed) for seed in range(3)]
    texts = [PLACEHOLDER * 2, "none", PLACEHOLDER]
    options = {"return_tensors": "pt", "padding": True}
    flat = processor(pictures, texts, **options)
    nested = processor([pictures[:2], [], pictures[2:]], texts, **options)
    for name in flat:
        assert torch.equal(flat[name], nested[name])
    assert (flat["input_ids"] == processor.image_token_id).sum(1).tolist() == [18, 0, 9]
    alone = processor.tokenizer("none").input_ids
    assert flat["attention_mask"][1].tolist() == [0] * (flat["input_ids"].shape[1] - len(alone)) + [1] * len(alone)
    assert torch.equal(processor(tuple(pictures[:2]), texts[:1], **options)["pixel_values"], flat["pixel_values"][:2])


def test_images_come_as_paths_arrays_tensors_and_pil(processor, tmp_path):
    array = drawing()
    PIL.Image.fromarray(array).save(tmp_path / "picture.png")
    sources = [array, PIL.Image.fromarray(array), torch.from_numpy(array), str(tmp_path / "picture.png")]
    pixel_values = processor(sources, PLACEHOLDER * 4)["pixel_values"]
    assert all(torch.equal(each, pixel_values[0]) for each in pixel_values)


def test_mixed_sizes_are_a_list_that_moves_with_the_batch(processor, model):
    pictures = [drawing(0, 32, 48), drawing(1, 48, 16)]
    inputs = processor(pictures, f"{PLACEHOLDER}x{PLACEHOLDER}", keep_aspect_ratio=True, return_tensors="pt")
    assert [tuple(each.shape) for each in inputs["pixel_values"]] == [(3, 32, 48), (3, 48, 16)]
    decoded = processor.tokenizer.decode(inputs["input_ids"][0])
    assert "<|h:2|><|w:3|>" in decoded and "<|h:3|><|w:1|>" in decoded
    moved = inputs.to("cpu", torch.bfloat16)
    assert [each.dtype for each in moved["pixel_values"]] == [torch.bfloat16] * 2
    assert moved["input_ids"].dtype == torch.int64
    assert model(**inputs.to(torch.float32)).logits.isfinite().all()


def test_text_alone_and_images_alone(processor):
    assert set(processor(text="a red circle")) == {"input_ids", "attention_mask"}
    assert set(processor(drawing())) == {"pixel_values"}
    assert set(processor([], "a red circle")) == {"input_ids", "attention_mask"}
    for nothing in ({}, {"text": []}):
        with pytest.raises(ValueError, match="neither text nor an image"):
            processor(**nothing)
    with pytest.raises(ValueError, match="list of str"):
        processor(text=["a", 5])
    with pytest.raises(ValueError, match="no images"):
        processor([])
    with pytest.raises(ValueError, match="leave out videos"):
        processor(text="a", videos=[drawing()])


@pytest.mark.parametrize(
    ("images", "text", "numbers"),
    [
        (0, PLACEHOLDER, "1 .*, but 0 images"),
        (1, "none", "0 .*, but 1 images"),
        (1, [PLACEHOLDER, PLACEHOLDER], "2 .*, but 1 images"),
        ([1, 1], [PLACEHOLDER * 2, "none"], r"\[2, 0\] .*, but the 2 lists hold \[1, 1\]"),
        ([2], [PLACEHOLDER, PLACEHOLDER], r"2 texts hold \[1, 1\] .*, but the 1 lists hold \[2\]"),
    ],
)
def test_a_wrong_number_of_images_is_refused_with_both_numbers(processor, images, text, numbers):
    images = [[drawing()] * each for each in images] if isinstance(images, list) else [drawing()] * images or None
    with pytest.raises(ValueError, match=rf"{numbers}.*<\|vision_start\|><\|image_pad\|><\|vision_end\|>"):
        processor(images, text)


def test_grids_beyond_128_a_side_are_refused(processor):
    with pytest.raises(ValueError, match="16 to 2048"):
        processor(drawing(), PLACEHOLDER, size={"height": 16, "width": 2064})
    with pytest.raises(ValueError, match="16 to 2048"):
        processor(drawing(0, 16, 2064), PLACEHOLDER, do_resize=False)


def test_an_image_is_never_cut_by_truncation(processor):
    with pytest.raises(ValueError, match="truncation"):
        processor(drawing(), PLACEHOLDER, truncation=True, max_length=5)


def test_servers_learn_how_many_tokens_a_picture_takes(processor):
    sizes = [(32, 48), (48, 16)]
    assert processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens == [9, 9]
    counts = processor._get_num_multimodal_tokens(image_sizes=sizes, keep_aspect_ratio=True).num_image_tokens
    assert counts == [6, 3]


# --- ids -> text and codes -------------------------------------------------------------------------------------------


def image_ids(processor, codes):
    """Codes [H, W] -> the ids of the image, opening and closing included."""
    height, width = codes.shape
    first = processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    shape = processor.tokenizer.convert_tokens_to_ids([f"<|h:{height}|>", f"<|w:{width}|>"])
    last = processor.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    return [first, *shape, *(codes.flatten() + processor.visual_token_offset).tolist(), last]


def test_decode_interleaved_gives_texts_and_codes_in_order(processor):
    codes = [torch.randint(0, 1024, shape) for shape in ((2, 3), (1, 1), (3, 2))]
    images = [image_ids(processor, each) for each in codes]
    a, b = processor.tokenizer(["a red circle", " then"]).input_ids
    ids = [*images[0], *a, *images[1], *images[2], *b, processor.tokenizer.eos_token_id]
    for sequence in (ids, torch.tensor(ids), np.array(ids)):
        pieces = processor.decode_interleaved(sequence)
        assert [piece if isinstance(piece, str) else piece.tolist() for piece in pieces] == [
            codes[0].tolist(),
            "a red circle",
            codes[1].tolist(),
            codes[2].tolist(),
            " then",
        ]
        assert pieces[0].dtype == torch.int64
    assert processor.decode_interleaved(ids, skip_special_tokens=False)[-1] == f" then{processor.tokenizer.eos_token}"
    assert processor.decode_interleaved([]) == []


def test_decode_interleaved_undoes_a_filled_prompt(processor, model):
    inputs = processor([drawing(0), drawing(1)], f"a{PLACEHOLDER}b{PLACEHOLDER}", return_tensors="pt")
    with pytest.raises(ValueError, match="18 placeholders .*fill_image_tokens"):
        processor.decode_interleaved(inputs["input_ids"][0])
    tokens = model.model.fill_image_tokens(inputs["input_ids"], inputs["pixel_values"])
    expected = model.vq_model.encode(inputs["pixel_values"]).codes
    a, first, b, second = processor.decode_interleaved(tokens[0])
    assert (a, b) == ("a", "b") and torch.equal(torch.stack([first, second]), expected)


def test_decode_interleaved_refuses_unfinished_and_overfull_images(processor):
    whole = image_ids(processor, torch.randint(0, 1024, (2, 3)))
    for broken, found in ((whole[:-2], 5), (whole[:3], 0), (whole[:-1] + whole[-2:], 7)):
        with pytest.raises(ValueError, match=f"at position 0 has {found} image tokens, .* 2x3"):
            processor.decode_interleaved(broken)
    with pytest.raises(ValueError, match="position 0 has 6 image tokens.* 0x0"):
        processor.decode_interleaved(whole[3:])
    with pytest.raises(ValueError, match="one sequence"):
        processor.decode_interleaved(torch.tensor([whole]))
    assert processor.decode_interleaved(whole[:-1])[0].shape == (2, 3)


def test_decoding_to_text_leaves_images_out(processor):
    ids = [*processor.tokenizer("see").input_ids, *image_ids(processor, torch.zeros(2, 2, dtype=torch.long))]
    ids += processor.tokenizer(" it").input_ids
    assert processor.decode(ids, skip_special_tokens=True) == "see it"
    assert processor.decode(ids) == "see<|vision_start|><|h:2|><|w:2|><|vision_end|> it"
    for batch in (torch.tensor([ids, ids]), np.array([ids, ids]), [ids, torch.tensor(ids)]):
        assert processor.batch_decode(batch, skip_special_tokens=True) == ["see it"] * 2
        assert processor.post_process_image_text_to_text(batch) == ["see it"] * 2
    assert processor.post_process_image_text_to_text(torch.tensor(ids)) == ["see it"]
    assert processor.decode(processor.visual_token_offset) == ""
    assert processor.decode(ids[0]) == processor.tokenizer.decode(ids[0])
