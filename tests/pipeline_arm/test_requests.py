"""Requests to draw and edit: what comes in goes out in order, at its size; bad ones are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_requests import (
    FAST,
    INSTRUCTION,
    PROMPT,
    Listening,
    assert_same,
    differ,
    picture,
    pictures_prepared,
    seeds,
)
from tiny_arm import runs_of
from torch.utils.data import Dataset
from transformers import pipeline

import transformers_arm
from transformers_arm.fetching_arm import FROM_OUTSIDE
from transformers_arm.pipeline_arm import PROGRESS_FROM

# --- what comes in and goes out --------------------------------------------------------------------------------------


def test_a_prompt_gives_a_picture(draw):
    drawn = draw(PROMPT)
    assert isinstance(drawn, Image.Image)
    assert (drawn.mode, drawn.size) == ("RGB", (48, 48))


def test_a_list_of_prompts_gives_a_list_in_order(draw):
    prompts = [PROMPT, "a green cross", ""]
    together = draw(prompts, generator=seeds(1, 2, 3))
    alone = [draw(prompt, generator=seeds(seed)) for prompt, seed in zip(prompts, (1, 2, 3), strict=True)]
    assert_same(together, alone)
    assert differ(together[0], together[1])
    assert_same(draw(tuple(prompts), generator=seeds(1, 2, 3)), together)


def test_a_list_of_one_gives_a_list_of_one(draw, edit):
    (drawn,) = draw([PROMPT])
    (edited,) = edit([picture()], INSTRUCTION)
    assert isinstance(drawn, Image.Image) and isinstance(edited, Image.Image)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_the_batch_size_changes_no_picture(draw, edit, batch_size):
    prompts = [PROMPT, "a green cross", "two circles and something much longer", "", "a cross"]
    sizes = [(48, 48), (100, 80), (64, 16), (30, 30), (48, 96)]
    sources = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    generators = [seeds(*range(5)) for _ in range(4)]
    alone = draw(prompts, generator=generators[0])
    assert_same(draw(prompts, batch_size=batch_size, generator=generators[1]), alone)
    alone = edit(sources, prompts, generator=generators[2])
    assert_same(edit(sources, prompts, batch_size=batch_size, generator=generators[3]), alone)


def test_requests_are_drawn_a_batch_at_a_time(draw, monkeypatch):
    heard = Listening(monkeypatch, draw.model)
    draw([PROMPT] * 5, batch_size=2)
    assert [len(call["input_ids"]) for call in heard.calls] == [2, 2, 1]


def test_several_pictures_a_prompt_come_as_lists(draw, edit):
    several = draw([PROMPT, "a cross"], num_images_per_prompt=2, batch_size=2, generator=seeds(1, 2, 3, 4))
    assert [len(pictures) for pictures in several] == [2, 2]
    alone = [draw(prompt, generator=seeds(n)) for prompt, n in [(PROMPT, 1), (PROMPT, 2), ("a cross", 3)]]
    assert_same([*several[0], several[1][0]], alone)
    assert len(draw(PROMPT, num_images_per_prompt=3)) == 3
    edits = edit(picture(100, 80), INSTRUCTION, num_images_per_prompt=2)
    assert [edited.size for edited in edits] == [(100, 80)] * 2


def test_generators_of_prompts_are_read_as_pictures_are_asked_for(draw):
    read = []

    def prompts():
        for number in range(100):
            read.append(number)
            yield PROMPT

    stream = draw(prompts(), batch_size=2)
    assert not read
    assert isinstance(next(stream), Image.Image)
    assert read == [0, 1]
    next(stream), next(stream)
    assert read == [0, 1, 2, 3]


def test_datasets_stream(draw, edit):
    class Prompts(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return [PROMPT, "a cross", ""][index]

    expected = draw([PROMPT, "a cross", ""], generator=seeds(0, 1, 2))
    stream = draw(Prompts(), generator=seeds(0, 1, 2))
    assert not isinstance(stream, list)
    assert_same(list(stream), expected)
    rows = ({"image": picture(64, 32), "prompt": INSTRUCTION, "other": 1} for _ in range(2))
    assert [edited.size for edited in edit(rows)] == [(64, 32)] * 2


def test_long_lists_show_progress(draw, capsys):
    draw([PROMPT] * (PROGRESS_FROM - 1), batch_size=8)
    assert "it/s" not in capsys.readouterr().err
    draw([PROMPT] * PROGRESS_FROM, batch_size=8)
    assert f"text-to-image: 100%|██████████| {PROGRESS_FROM}/{PROGRESS_FROM}" in capsys.readouterr().err


def test_requests_to_edit_come_as_dicts_too(edit):
    request = {"image": picture(64, 32), "prompt": INSTRUCTION}
    expected = edit(picture(64, 32), INSTRUCTION, generator=seeds(0))
    assert_same([edit(request, generator=seeds(0))], [expected])
    assert_same(edit([request], generator=seeds(0)), [expected])


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [{"height": 32, "width": 64}, {"image_grid": (2, 4)}, {"image_grid": [2, 4], "height": 32}]
)
def test_pictures_are_drawn_at_the_size_asked_for(draw, size):
    assert draw(PROMPT, **size).size == (64, 32)


def test_one_side_leaves_the_other_as_it_is(draw):
    assert draw(PROMPT, height=16).size == (48, 16)


def test_a_pipeline_can_have_a_size_of_its_own_that_calls_replace(draw):
    small = transformers_arm.ArmTextToImagePipeline(
        draw.model, processor=draw.processor, detokenizer=draw.detokenizer, device="cpu", height=16, width=32, **FAST
    )
    assert small(PROMPT).size == (32, 16)
    assert small(PROMPT, image_grid=(3, 1)).size == (16, 48)


@pytest.mark.parametrize(
    ("source", "size"),
    [
        (picture(100, 80), (100, 80)),
        (picture(100, 80, "RGBA"), (100, 80)),
        (picture(20, 200, "L"), (20, 200)),
        (np.asarray(picture(100, 80)), (100, 80)),
        (np.zeros((80, 100), np.float32), (100, 80)),
        (torch.zeros(3, 80, 100), (100, 80)),
    ],
    ids=["RGB", "RGBA", "gray", "uint8 array", "float array", "tensor"],
)
def test_edits_come_back_at_their_sources_size(edit, source, size):
    edited = edit(source, INSTRUCTION, keep_aspect_ratio=False)
    assert (edited.mode, edited.size) == ("RGB", size)


def test_pictures_to_edit_can_be_files(edit, tmp_path):
    source = picture(100, 80)
    source.save(tmp_path / "source.png")
    expected = edit(source, INSTRUCTION, generator=seeds(0))
    for file in (tmp_path / "source.png", str(tmp_path / "source.png")):
        assert_same([edit(file, INSTRUCTION, generator=seeds(0))], [expected])


def test_sources_of_any_sizes_and_kinds_are_edited_in_one_list(edit, tmp_path):
    picture(17, 90).save(tmp_path / "source.png")
    sources = [picture(100, 80, "RGBA"), str(tmp_path / "source.png"), np.zeros((50, 20, 3), np.uint8)]
    edited = edit(sources, [INSTRUCTION, "remove the circle", ""], batch_size=3)
    assert [each.size for each in edited] == [(100, 80), (17, 90), (20, 50)]


def test_each_source_is_prepared_and_encoded_once(edit, monkeypatch):
    tokenizer, prepared = edit.model.vq_model, pictures_prepared(monkeypatch)
    encoded, decoded = runs_of(tokenizer.vision_model), runs_of(tokenizer.up_blocks)
    sources, several = (
        [picture(100, 80), picture(90, 80, seed=1), picture()],
        {"batch_size": 2, "num_images_per_prompt": 2},
    )
    edit(sources, INSTRUCTION, **several)
    assert prepared == [2, 1] == encoded and decoded == [4, 2]
    edit(picture(), INSTRUCTION, mask=np.ones((48, 48), bool))
    assert prepared == [2, 1, 1] == encoded


def test_sources_are_read_at_the_size_asked_for(edit, monkeypatch):
    heard = Listening(monkeypatch, edit.model)
    assert edit(picture(100, 80), INSTRUCTION, image_grid=(2, 4)).size == (100, 80)
    (call,) = heard.calls
    assert call["image_grid"] == (2, 4)
    assert call["pixel_values"].shape == (1, 3, 32, 64)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "arguments", "error", "message"),
    [
        ([], {}, ValueError, "list of requests is empty"),
        (None, {}, TypeError, "A prompt is a str, not None"),
        (5, {}, TypeError, "A prompt is a str, not 5"),
        ({"prompt": PROMPT}, {}, TypeError, "A prompt is a str, not {"),
        ([PROMPT, None], {}, TypeError, "A prompt is a str, not None"),
        (PROMPT, {"guidence_scale": 2}, TypeError, "Unknown argument guidence_scale; .*guidance_scale"),
        (PROMPT, {"num_images_per_prompt": 0}, ValueError, "num_images_per_prompt 0 must be at least 1"),
        (PROMPT, {"batch_size": 0}, ValueError, "batch_size 0 must be a whole number of requests, 1 or more"),
        ([PROMPT] * 2, {"batch_size": -1}, ValueError, "batch_size -1 must be a whole number"),
        (PROMPT, {"height": 50}, ValueError, r"50x48 \(height x width\) must be multiples of the 16 px patch"),
        (PROMPT, {"width": 0}, ValueError, "48x0 .* must be multiples of the 16 px patch, 16 to 2048"),
        (PROMPT, {"height": -16}, ValueError, "-16x48 .* must be multiples"),
        (PROMPT, {"width": 16 * 129}, ValueError, "48x2064 .* must be multiples of the 16 px patch, 16 to 2048"),
        (PROMPT, {"image_grid": (3, 3), "height": 64}, ValueError, "image_grid 3x3 .*'height': 64"),
        (PROMPT, {"image_grid": 3}, ValueError, r"image_grid must be \(H, W\), in tokens, not 3"),
        (PROMPT, {"image_grid": (1.5, 3)}, ValueError, r"image_grid must be \(H, W\), in tokens, not \(1.5, 3\)"),
        (PROMPT, {"image_grid": (129, 3)}, ValueError, "129x3 is outside what shape tokens can state"),
        (PROMPT, {"num_inference_steps": 0}, ValueError, "num_inference_steps 0 must be at least 1"),
        (PROMPT, {"temperature": 0.0}, ValueError, "temperature 0.0 must be"),
        (PROMPT, {"generator": seeds(1, 2)}, ValueError, "2 generators for 1 images"),
        ([PROMPT] * 3, {"generator": seeds(1, 2)}, ValueError, "2 generators for 3 images"),
        (
            [PROMPT],
            {"generator": tuple(seeds(1)), "num_images_per_prompt": 2},
            ValueError,
            "1 generators for 2 images",
        ),
    ],
)
def test_bad_requests_to_draw_are_refused(draw, prompt, arguments, error, message):
    with pytest.raises(error, match=message):
        draw(prompt, **arguments)


@pytest.mark.parametrize(
    ("image", "prompt", "error", "message"),
    [
        (None, INSTRUCTION, ValueError, "no image to edit"),
        (None, None, ValueError, "no image to edit"),
        ([picture(), None], INSTRUCTION, ValueError, "no image to edit"),
        ({"image": None, "prompt": INSTRUCTION}, None, ValueError, "no image to edit"),
        ([], INSTRUCTION, ValueError, "list of requests is empty"),
        ([], None, ValueError, "list of requests is empty"),
        (picture(), None, TypeError, "A prompt is a str, not None"),
        ("source.png", None, TypeError, "A prompt is a str, not None"),
        ([picture()], None, TypeError, "A request to edit is"),
        ({"image": picture()}, None, TypeError, "A request to edit is"),
        (picture(), 5, TypeError, "A prompt is a str, not 5"),
        (picture(), [INSTRUCTION], TypeError, "A prompt is a str, not \\["),
        ([picture()] * 2, [INSTRUCTION, None], TypeError, "A prompt is a str, not None"),
        ([picture()] * 2, [INSTRUCTION] * 3, ValueError, "3 instructions for 2 images"),
        ("nowhere.png", INSTRUCTION, ValueError, "nowhere.png"),
    ],
)
def test_bad_requests_to_edit_are_refused(edit, image, prompt, error, message):
    with pytest.raises(error, match=message):
        edit(image, prompt)


def test_bad_lists_are_refused_before_anything_is_drawn(draw, edit, monkeypatch):
    heard = [Listening(monkeypatch, pipe.model) for pipe in (draw, edit)]
    with pytest.raises(TypeError):
        draw([PROMPT, PROMPT, 5])
    with pytest.raises(ValueError):
        edit([picture(), None], INSTRUCTION)
    assert not heard[0].calls and not heard[1].calls


@pytest.mark.parametrize(
    ("count", "message"), [(3, "fewer generators than images"), (5, "more generators than images")]
)
def test_streams_need_as_many_generators_as_images(draw, count, message):
    stream = draw((PROMPT for _ in range(4)), batch_size=2, generator=seeds(*range(count)))
    assert isinstance(next(stream), Image.Image)
    with pytest.raises(ValueError, match=message):
        list(stream)


def test_streams_name_a_bad_request(draw):
    stream = draw(iter([PROMPT, 5]))
    next(stream)
    with pytest.raises(TypeError, match="A prompt is a str, not 5"):
        next(stream)


def test_unknown_arguments_are_refused_on_construction_too(arm_folder):
    with pytest.raises(TypeError, match="Unknown argument hight"):
        pipeline("text-to-image", model=arm_folder, device="cpu", hight=32)


def test_pictures_and_masks_are_opened_as_the_image_processor_says(edit, tmp_path, monkeypatch):
    picture(100, 80).save(path := tmp_path / "picture.png")
    (masked := Image.new("L", (100, 80), "white")).save(mask := tmp_path / "mask.png")
    expected = edit(picture(100, 80), INSTRUCTION, masked, generator=seeds(0)[0], **FAST)
    assert_same([edit(str(path), INSTRUCTION, str(mask), generator=seeds(0)[0], **FAST)], [expected])
    monkeypatch.setattr(edit.processor.image_processor, "fetcher", FROM_OUTSIDE, raising=False)
    for image, area in ((str(path), None), (picture(100, 80), str(mask)), ("http://127.0.0.1:9/picture.png", None)):
        with pytest.raises(ValueError, match="paths in texts are not opened here|is not on the public internet"):
            edit(image, INSTRUCTION, area, **FAST)
