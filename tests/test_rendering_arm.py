"""transformers' any-to-any pipeline draws: its own class, with what the model and the processor give it."""

import pytest
import torch
from any_to_any_pipelines import any_to_any_pipeline, chat, draw
from diffusers import FlowMatchEulerDiscreteScheduler

from transformers_arm import (
    ArmImageEditingPipeline,
    ArmPixelDetokenizer,
    ArmPixelTransformer,
    ArmProcessor,
    ArmTextToImagePipeline,
)
from transformers_arm.worlds.shapes.reader import read_scene

FOLDER = "checkpoints/arm-tiny"


@pytest.fixture(scope="module")
def pipe():
    return any_to_any_pipeline(FOLDER)


def colors(picture):
    return sorted(each.color for each in read_scene(picture).objects)


def test_a_chat_gives_the_picture_that_it_asks_for(pipe):
    asked = chat("a red circle left of a blue square")
    (record,) = draw(pipe, asked)
    assert record["input_text"] == asked
    assert colors(record["generated_image"]) == ["blue", "red"]
    (again,), (other,) = draw(pipe, asked), draw(pipe, asked, seed=1, guidance_scale=1, temperature=2.0)
    assert again["generated_image"].tobytes() == record["generated_image"].tobytes()
    assert other["generated_image"].tobytes() != record["generated_image"].tobytes()


def test_tokens_are_those_of_the_pipelines_that_draw_and_edit(pipe, monkeypatch):
    written, plain = [], pipe.model.generate
    monkeypatch.setattr(pipe.model, "generate", lambda **kwargs: written.append(plain(**kwargs)) or written[-1])
    source = draw(pipe, chat("a red circle"), guidance_scale=2.0)[0]["generated_image"]
    ours = ArmTextToImagePipeline(pipe.model, processor=pipe.processor)
    ours("a red circle", guidance_scale=2.0, generator=torch.Generator().manual_seed(0))
    draw(pipe, chat("make it green", source), guidance_scale=2.0, image_guidance_scale=3.0)
    ours = ArmImageEditingPipeline(pipe.model, processor=pipe.processor)
    scales = {"guidance_scale": 2.0, "image_guidance_scale": 3.0}
    ours(source, "make it green", **scales, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*written[:2]) and torch.equal(*written[2:])


def test_several_chats_and_pictures_a_chat_at_once(pipe):
    pipe.processor.tokenizer.padding_side = "left"
    chats = [chat("a red circle"), chat("a large green triangle right of a small blue square"), chat("a gray square")]
    for batch_size in (1, 3):
        options = {"generation_mode": "image", "batch_size": batch_size, "generate_kwargs": {"do_sample": False}}
        drawn = [record[0]["generated_image"] for record in pipe(text=chats, **options)]
        assert [len(colors(each)) for each in drawn] == [1, 2, 1]
    wide = pipe(
        text=chats[0],
        generation_mode="image",
        generate_kwargs={"image_grid": (2, 3), "generator": torch.Generator().manual_seed(0)},
    )
    assert wide[0]["generated_image"].size == (48, 32)


def test_a_chat_with_a_picture_is_an_edit_of_it(pipe):
    source = draw(pipe, chat("a red circle"))[0]["generated_image"]
    edited = draw(pipe, chat("make the red circle green", source))[0]["generated_image"]
    assert colors(edited) == ["green"]
    shaped = pipe(
        text=chat("make the red circle green", source.resize((96, 32))),
        generation_mode="image",
        processor_kwargs={"images_kwargs": {"keep_aspect_ratio": True, "size": {"height": 32, "width": 96}}},
    )
    assert shaped[0]["generated_image"].size == (96, 32)  # the source's own


def test_texts_are_answered_as_before(pipe):
    source = draw(pipe, chat("a red circle"))[0]["generated_image"]
    for mode in ({}, {"generation_mode": "text"}):
        answered = pipe(text=chat("what color is the circle?", source), return_full_text=False, **mode)
        assert answered[0]["generated_text"] == "red"


def test_the_same_tokens_give_the_same_picture_in_any_batch(pipe):
    model = pipe.model
    inputs = pipe.processor.image_generation_inputs(["a red circle", "two blue squares"])
    sequences = model.generate(**inputs, generation_mode="image", image_grid=(3, 3))
    torch.manual_seed(1)
    both = model.decode_image_tokens(sequences)
    alone = model.decode_image_tokens(sequences[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)
    assert both.shape == (2, 3, 48, 48) and -1 <= both.min() < both.max() <= 1


@pytest.mark.parametrize("kind", ["text", "cut", "two grids"])
def test_sequences_that_end_in_no_whole_image_are_refused(few_codes_arm, kind):
    config = few_codes_arm.config
    ids = torch.randint(10, 200, (2, 6))
    first = config.image_opening(2, 3) + [config.visual_token_offset] * 6
    second = first if kind == "cut" else config.image_opening(3, 2) + [config.visual_token_offset] * 6
    if kind != "text":
        ids = torch.cat([ids, torch.tensor([first, second])], 1)[:, : -1 if kind == "cut" else None]
    with pytest.raises(ValueError, match="Not all of the 2 sequences end in a whole image of one grid"):
        few_codes_arm.decode_image_tokens(ids)


def test_a_model_without_a_detokenizer_says_so_and_takes_one(few_codes_arm, tiny_arm_backbones, monkeypatch):
    config = few_codes_arm.config
    ids = torch.tensor([[*config.image_opening(1, 2), *[config.visual_token_offset] * 2, config.vision_end_token_id]])
    with pytest.raises(FileNotFoundError, match="or set it as the model's `detokenizer`"):
        few_codes_arm.decode_image_tokens(ids)
    sizes = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2}
    transformer = ArmPixelTransformer(config.vq_config.hidden_size, **sizes)
    renderer = ArmPixelDetokenizer(transformer, FlowMatchEulerDiscreteScheduler())
    monkeypatch.setattr(few_codes_arm, "detokenizer", renderer)
    monkeypatch.setattr(few_codes_arm, "name_or_path", "")
    assert few_codes_arm.decode_image_tokens(ids).shape == (1, 3, 16, 32)
    processor = ArmProcessor.from_backbones(**tiny_arm_backbones)
    assert ArmTextToImagePipeline(few_codes_arm, processor=processor).detokenizer is renderer
