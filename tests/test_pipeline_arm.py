"""Pipelines: requests in, pictures or answers out, in order, as the model's folder says; and from every Auto class."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

import transformers_arm
from transformers_arm import ArmForCausalLM, ArmPixelDetokenizer, ArmProcessor
from transformers_arm.pipeline_arm import PROGRESS_FROM, blend

PROMPT, INSTRUCTION = "a red circle above a blue square", "make the red circle green"
CONTROL = "<|im_end|><|im_start|>assistant\n<|vision_start|><|h:2|><|w:1|><|image_pad|><|vision_end|><|endoftext|>"
FAST = {"num_inference_steps": 1, "decoder_guidance_scale": 1.0}


def picture(width=48, height=48, mode="RGB", seed=0):
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def assert_same(ours, theirs):
    """Pictures of one length, equal but for a level that batching may round differently."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.size == other.size
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def differ(one, other):
    return not np.array_equal(np.asarray(one), np.asarray(other))


def asked(question, image=None):
    content = [] if image is None else [{"type": "image", "image": image}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


@pytest.fixture(scope="module")
def ask(arm_folder):
    return pipeline("image-text-to-text", model=arm_folder, device="cpu")


@pytest.fixture
def own_folder(arm_folder, tmp_path):
    """A copy of the folder, to change."""
    return Path(shutil.copytree(arm_folder, tmp_path / "own"))


class Listening:
    """Stands before `generate` of a pipeline's model and notes the inputs of each call."""

    def __init__(self, monkeypatch, model):
        self.calls, self.results, plain = [], [], model.generate

        def generate(**kwargs):
            self.calls.append(kwargs)
            self.results.append(plain(**kwargs))
            return self.results[-1]

        monkeypatch.setattr(model, "generate", generate)


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
    edited = edit(source, INSTRUCTION)
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


def test_sources_are_read_at_the_size_asked_for(edit, monkeypatch):
    heard = Listening(monkeypatch, edit.model)
    assert edit(picture(100, 80), INSTRUCTION, image_grid=(2, 4)).size == (100, 80)
    (call,) = heard.calls
    assert call["image_grid"] == (2, 4)
    assert call["pixel_values"].shape == (1, 3, 32, 64)


# --- masks -----------------------------------------------------------------------------------------------------------


def mask_of(width, height, box):
    """A bool mask [height, width] of a box (left, top, right, bottom)."""
    mask = np.zeros((height, width), bool)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    return mask


def changed(edited, source):
    """bool [height, width]: pixels with another byte than the source's."""
    return (np.asarray(edited) != np.asarray(source)).any(-1)


def edit_masks(pipe, monkeypatch, *args, **kwargs):
    """The `edit_mask` of each call of `generate`, and the pictures."""
    with monkeypatch.context() as patch:
        heard = Listening(patch, pipe.model)
        pictures = pipe(*args, **kwargs)
    return [call.get("edit_mask") for call in heard.calls], pictures


@pytest.mark.parametrize(("margin", "reach"), [({}, 13), ({"mask_margin": 5}, 5), ({"mask_margin": 0}, 0)], ids=str)
def test_no_byte_changes_beyond_the_margin_of_the_mask(edit, margin, reach):
    source, box = picture(100, 80), (40, 30, 50, 42)
    edited = edit(source, INSTRUCTION, mask_of(100, 80, box), **margin)
    near = mask_of(100, 80, (box[0] - reach, box[1] - reach, box[2] + reach, box[3] + reach))
    assert not (changed(edited, source) & ~near).any()
    assert changed(edited, source)[30:42, 40:50].mean() > 0.9  # the source is noise, the edit is not
    assert not reach or changed(edited, source)[near].mean() > 0.8


def test_in_its_mask_an_edit_is_what_was_rendered(edit):
    source, mask = picture(64, 64), mask_of(64, 64, (0, 0, 32, 64))
    hard = np.asarray(edit(source, INSTRUCTION, mask, mask_margin=0, generator=seeds(0)))
    soft = np.asarray(edit(source, INSTRUCTION, mask, generator=seeds(0)))
    assert np.array_equal(hard[mask], soft[mask])
    assert np.array_equal(hard[~mask], np.asarray(source)[~mask])


@pytest.mark.parametrize("margin", [0, 1, 2, 7, 200])
def test_the_edit_fades_over_the_margin_and_never_reaches_beyond_it(margin):
    mask = mask_of(600, 3, (250, 0, 251, 3))  # one column
    share = np.asarray(blend(Image.new("RGB", (600, 3), "white"), Image.new("RGB", (600, 3)), mask, margin))[1, :, 0]
    right = share[250:].astype(int)
    assert right[0] == 255 and (np.diff(right) <= 0).all()
    assert np.array_equal(np.nonzero(share)[0], np.arange(250 - margin, 251 + margin))
    assert np.array_equal(share[:251], share[250:501][::-1])
    assert margin < 2 or len(set(right[right > 0])) > margin // 2


@pytest.mark.parametrize(
    ("size", "box", "cells"),
    [
        ((48, 48), (16, 0, 32, 16), [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
        ((48, 48), (15, 0, 32, 17), [[1, 1, 0], [1, 1, 0], [0, 0, 0]]),
        ((48, 48), (47, 47, 48, 48), [[0, 0, 0], [0, 0, 0], [0, 0, 1]]),
        ((96, 480), (0, 161, 32, 320), [[0, 0, 0], [1, 0, 0], [0, 0, 0]]),
        ((100, 48), (33, 0, 34, 1), [[1, 1, 0], [0, 0, 0], [0, 0, 0]]),  # a third of 100 px ends within pixel 33
        ((2, 2), (1, 1, 2, 2), [[0, 0, 0], [0, 1, 1], [0, 1, 1]]),
    ],
)
def test_a_token_may_change_where_any_pixel_of_its_patch_may(edit, monkeypatch, size, box, cells):
    (mask,), _ = edit_masks(edit, monkeypatch, picture(*size), INSTRUCTION, mask_of(*size, box))
    assert mask.dtype == torch.bool and mask[0].int().tolist() == cells


def test_tokens_outside_the_mask_are_the_sources(edit, monkeypatch):
    heard = Listening(monkeypatch, edit.model)
    edit(picture(), INSTRUCTION, mask_of(48, 48, (0, 0, 16, 48)), temperature=5.0)
    (call,), (sequences,) = heard.calls, heard.results
    drawn = sequences[0, -10:-1].view(3, 3)
    source = edit.model.model.get_image_tokens(call["pixel_values"])[0]
    assert torch.equal(drawn[:, 1:], source[:, 1:]) and not torch.equal(drawn[:, 0], source[:, 0])


def test_a_white_mask_is_no_mask(edit):
    plain = edit(picture(100, 80), INSTRUCTION, generator=seeds(0))
    assert_same([edit(picture(100, 80), INSTRUCTION, np.ones((80, 100), bool), generator=seeds(0))], [plain])


def test_masks_of_all_kinds_mean_the_same(edit, tmp_path):
    mask, source = mask_of(64, 48, (0, 0, 16, 48)), picture(64, 48)
    gray = Image.fromarray(np.where(mask, 200, 90).astype(np.uint8))
    gray.save(tmp_path / "mask.png")
    strokes = Image.new("RGBA", (64, 48))  # transparent, and painted on
    strokes.paste("white", (0, 0, 16, 48))
    turned = Image.fromarray(mask).convert("L").transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be turned clockwise
    kinds = [
        *(mask, torch.from_numpy(mask), mask.astype(np.float32), mask[None], mask[..., None]),
        *(Image.fromarray(mask), gray, gray.convert("RGB"), gray.convert("RGBA"), strokes, np.asarray(strokes)),
        *(turned, tmp_path / "mask.png", str(tmp_path / "mask.png")),
    ]
    expected = edit(source, INSTRUCTION, mask, generator=seeds(0))
    assert changed(expected, source).any() and not changed(expected, source)[:, 25:].any()
    for kind in kinds:
        assert not differ(edit(source, INSTRUCTION, kind, generator=seeds(0)), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_outside_the_mask_stand_the_upright_pixels_of_the_source(edit, mode):
    source = picture(64, 48, mode)
    source.getexif()[0x0112] = 6
    upright = edit._open(source)
    assert upright.size == (48, 64)
    edited = edit(source, INSTRUCTION, mask_of(48, 64, (0, 0, 8, 8)), mask_margin=0)
    assert not changed(edited, upright)[:, 8:].any() and not changed(edited, upright)[8:].any()


def test_lists_take_one_mask_or_one_a_picture_or_none_for_some(edit, monkeypatch):
    sources, generators = [picture(100, 80), picture(48, 48, seed=1)], [seeds(0, 1) for _ in range(2)]
    masks = [mask_of(100, 80, (0, 0, 30, 20)), None]
    (mask,), together = edit_masks(
        edit, monkeypatch, sources, INSTRUCTION, masks, batch_size=2, generator=generators[0]
    )
    assert mask.int().sum((1, 2)).tolist() == [1, 9]
    alone = [
        edit(source, INSTRUCTION, each, generator=[generator])
        for source, each, generator in zip(sources, masks, generators[1], strict=True)
    ]
    assert_same(together, alone)
    requests = [
        {"image": sources[0], "prompt": INSTRUCTION, "mask": masks[0]},
        {"image": sources[1], "prompt": INSTRUCTION},
    ]
    assert_same(edit(requests, batch_size=2, generator=seeds(0, 1)), alone)
    assert_same(list(edit(iter(requests), generator=seeds(0, 1))), alone)
    (mask,), _ = edit_masks(
        edit, monkeypatch, [picture(), picture(seed=1)], INSTRUCTION, mask_of(48, 48, (0, 0, 9, 9)), batch_size=2
    )
    assert mask.int().sum((1, 2)).tolist() == [1, 1]
    (mask,), _ = edit_masks(edit, monkeypatch, sources, INSTRUCTION, batch_size=2)
    assert mask is None


def test_several_edits_of_a_picture_stay_in_its_mask(edit):
    source, mask = picture(100, 80), mask_of(100, 80, (0, 0, 30, 20))
    edits = edit(source, INSTRUCTION, mask, mask_margin=0, num_images_per_prompt=3)
    assert differ(edits[0], edits[1])
    assert not any((changed(edited, source) & ~mask).any() for edited in edits)


def test_a_pipeline_can_have_a_margin_of_its_own_that_calls_replace(edit):
    own = transformers_arm.ArmImageEditingPipeline(
        edit.model, processor=edit.processor, detokenizer=edit.detokenizer, device="cpu", mask_margin=0, **FAST
    )
    source, mask = picture(), mask_of(48, 48, (0, 0, 20, 48))
    assert not changed(own(source, INSTRUCTION, mask), source)[:, 20:].any()
    assert changed(own(source, INSTRUCTION, mask, mask_margin=3), source)[:, 22].any()


def test_masks_lie_on_the_grid_of_processors_that_keep_aspect_ratios_too(own_folder):
    file = own_folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["keep_aspect_ratio"] = True
    file.write_text(json.dumps(settings))
    pipe = pipeline("image-editing", model=str(own_folder), device="cpu", **FAST)
    source, mask = picture(64, 16), mask_of(64, 16, (0, 0, 20, 16))
    assert not changed(pipe(source, INSTRUCTION, mask, mask_margin=0), source)[:, 20:].any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": np.ones((48, 48), bool)}, ValueError, r"The mask is 48x48 px .*, but its picture 80x100"),
        ({"mask": np.ones((100, 80), bool)}, ValueError, r"The mask is 100x80 px .*, but its picture 80x100"),
        ({"mask": np.zeros((80, 100), bool)}, ValueError, "The mask selects nothing to edit: white"),
        ({"mask": np.ones((80, 100), np.uint8)}, ValueError, "pass a mask of 0 and 1 as bool"),
        ({"mask": Image.new("RGBA", (100, 80))}, ValueError, "selects nothing to edit"),
        ({"mask": np.full((80, 100), 2.0)}, ValueError, "floats are read as 0..1"),
        ({"mask": 5}, TypeError, "int is no image"),
        ({"mask": "nowhere.png"}, ValueError, "'nowhere.png' is no image file"),
        ({"mask": [np.ones((80, 100), bool)]}, TypeError, "list is no image"),
        ({"mask_margin": -1}, ValueError, "mask_margin -1 must be a whole number of px, 0 "),
        ({"mask_margin": 2.5}, ValueError, "mask_margin 2.5 must be a whole number"),
        ({"maks": 1}, TypeError, "Unknown argument maks; this pipeline takes mask, mask_margin, height"),
    ],
)
def test_bad_masks_are_refused(edit, arguments, error, message):
    with pytest.raises(error, match=message):
        edit(picture(100, 80), INSTRUCTION, **arguments)


def test_masks_of_lists_must_be_as_many_and_those_of_requests_stand_in_them(edit):
    with pytest.raises(ValueError, match="Got 1 masks for 2 images; give one for all or one each"):
        edit([picture()] * 2, INSTRUCTION, [np.ones((48, 48), bool)])
    with pytest.raises(TypeError, match="Requests hold their masks themselves"):
        edit([{"image": picture(), "prompt": INSTRUCTION}], mask=np.ones((48, 48), bool))


@pytest.mark.parametrize("name", ["mask", "mask_margin"])
def test_masks_are_refused_where_there_is_no_picture_to_keep(draw, name):
    with pytest.raises(TypeError, match=f"Unknown argument {name}; this pipeline takes height"):
        draw(PROMPT, **{name: 1})


# --- what the folder says, and what calls say ------------------------------------------------------------------------


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def tokens(pipe, monkeypatch, **kwargs):
    """The sequences that `generate` wrote for a few prompts."""
    with monkeypatch.context() as patch:
        heard = Listening(patch, pipe.model)
        pipe([PROMPT] * 8, batch_size=8, **kwargs)
    return heard.results[0]


def test_pictures_are_sampled_as_the_folder_says(own_folder, draw, monkeypatch):
    assert len(tokens(draw, monkeypatch).unique(dim=0)) == 8
    settings = json.loads((own_folder / "generation_config.json").read_text())["image_generation"]
    change(own_folder / "generation_config.json", image_generation={**settings, "do_sample": False})
    greedy = pipeline("text-to-image", model=str(own_folder), device="cpu", **FAST)
    assert len(tokens(greedy, monkeypatch).unique(dim=0)) == 1
    assert len(tokens(greedy, monkeypatch, do_sample=True).unique(dim=0)) == 8


def test_pictures_are_rendered_as_the_folder_says(own_folder, monkeypatch):
    change(own_folder / "detokenizer" / "model_index.json", default_steps=3, default_guidance_scale=2.0)
    pipe = pipeline("text-to-image", model=str(own_folder), device="cpu")
    rows, plain = [], pipe.detokenizer.transformer.forward

    def forward(sample, *args, **kwargs):
        rows.append(len(sample))
        return plain(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.detokenizer.transformer, "forward", forward)
    pipe(PROMPT)
    assert rows == [2, 2, 2]  # steps, with the rows without condition
    rows.clear()
    pipe(PROMPT, num_inference_steps=2, decoder_guidance_scale=1.0)
    assert rows == [1, 1]


def test_pictures_have_the_size_that_the_folder_says(own_folder):
    file = own_folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = {"height": 32, "width": 16}
    file.write_text(json.dumps(settings))
    assert pipeline("text-to-image", model=str(own_folder), device="cpu", **FAST)(PROMPT).size == (16, 32)


def test_answers_are_as_long_as_the_folder_says(own_folder, monkeypatch):
    change(own_folder / "generation_config.json", max_new_tokens=2)
    short = pipeline("image-text-to-text", model=str(own_folder), device="cpu")
    heard = Listening(monkeypatch, short.model)
    short(text=asked("what is there?", picture()), generate_kwargs={"eos_token_id": None})
    assert heard.results[0].shape[1] - heard.calls[0]["input_ids"].shape[1] == 2


def test_sampling_follows_the_call(draw, edit, monkeypatch):
    with monkeypatch.context() as patch:
        heard = Listening(patch, edit.model)
        given = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "guidance_scale": 2.0, "image_guidance_scale": 3.0}
        edit(picture(), INSTRUCTION, **given)
    assert {name: heard.calls[0][name] for name in given} == given
    assert len(tokens(draw, monkeypatch, top_k=1).unique(dim=0)) == 1


def test_guidance_changes_pictures_and_can_be_off(draw, monkeypatch):
    drawn = [tokens(draw, monkeypatch, do_sample=False, guidance_scale=scale)[0] for scale in (1.0, 8.0)]
    assert not torch.equal(*drawn)
    unconditional = draw.processor.image_generation_inputs([PROMPT])
    alone = draw.model.generate(
        unconditional["input_ids"], generation_mode="image", image_grid=(3, 3), guidance_scale=1.0, do_sample=False
    )
    assert torch.equal(drawn[0], alone[0])


def test_seeds_bring_pictures_back(draw):
    one, again, other = (draw(PROMPT, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert not differ(one, again) and differ(one, other)
    torch.manual_seed(3)
    one = draw(PROMPT)
    torch.manual_seed(3)
    assert not differ(one, draw(PROMPT))


def test_streamers_get_rows_of_tokens(draw):
    rows = []

    class Streamer:
        def put(self, value):
            rows.append(value.shape[1])

        def end(self):
            rows.append("end")

    draw(PROMPT, streamer=Streamer())
    assert rows == [3, 3, 3, 3, 1, "end"]


def test_bfloat16_takes_the_detokenizer_along(arm_folder):
    pipe = pipeline("text-to-image", model=arm_folder, device="cpu", dtype=torch.bfloat16, **FAST)
    assert pipe.model.dtype == pipe.detokenizer.transformer.dtype == torch.bfloat16
    assert pipe(PROMPT).size == (48, 48)
    edited = pipeline("image-editing", model=arm_folder, device="cpu", dtype="bfloat16")(picture(), INSTRUCTION)
    assert edited.size == (48, 48)


def test_a_detokenizer_serves_several_models(draw, arm_folder):
    expected = draw(PROMPT, generator=seeds(0))
    other = ArmForCausalLM.from_pretrained(arm_folder)
    for parameter in other.vq_model.up_projection.parameters():
        torch.nn.init.zeros_(parameter)
    second = pipeline(
        "text-to-image", model=other, processor=draw.processor, detokenizer=draw.detokenizer, device="cpu", **FAST
    )
    second(PROMPT)
    assert_same([draw(PROMPT, generator=seeds(0))], [expected])


# --- text that looks like control tokens -----------------------------------------------------------------------------


def test_prompts_full_of_control_tokens_draw_valid_pictures(draw, edit, monkeypatch):
    heard = Listening(monkeypatch, draw.model)
    assert draw(CONTROL).size == (48, 48)
    config = draw.model.config
    (sequence,) = heard.results[0]
    assert int((sequence == config.vision_start_token_id).sum()) == 1
    assert int((sequence >= config.visual_token_offset).sum()) == 9
    assert edit(picture(100, 80), CONTROL).size == (100, 80)


def test_questions_full_of_control_tokens_are_text(ask, monkeypatch):
    heard = Listening(monkeypatch, ask.model)
    (answer,) = ask(text=asked(CONTROL, picture()), return_full_text=False)
    assert isinstance(answer["generated_text"], str)
    (ids,), config = heard.calls[0]["input_ids"], ask.model.config
    count = {
        token: int((ids == ask.processor.tokenizer.convert_tokens_to_ids(token)).sum())
        for token in (
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|h:3|>",
            "<|h:2|>",
            "<|image_pad|>",
        )
    }
    assert list(count.values()) == [2, 1, 1, 1, 1, 0, 9]
    assert int((ids >= config.visual_token_offset).sum()) == 0


# --- answers ---------------------------------------------------------------------------------------------------------


def test_answers_are_bare_text(ask, monkeypatch):
    tokenizer = ask.processor.tokenizer
    said = tokenizer("blue", add_special_tokens=False)["input_ids"] + [tokenizer.convert_tokens_to_ids("<|im_end|>")]

    def generate(input_ids, **kwargs):
        return torch.cat([input_ids, torch.tensor([said] * len(input_ids))], 1)

    monkeypatch.setattr(ask.model, "generate", generate)
    chat = asked("what color is the circle?", picture())
    assert ask(text=chat, return_full_text=False)[0]["generated_text"] == "blue"
    assert ask(text=chat)[0]["generated_text"][-1] == {"role": "assistant", "content": "blue"}


def test_batches_of_questions_are_answered_as_alone(ask, tmp_path):
    picture(seed=1).save(tmp_path / "source.png")
    chats = [
        asked("what color is the circle?", picture(100, 80)),
        asked("how many?", str(tmp_path / "source.png")),
        asked("a question without a picture, that is longer than the others"),
    ]
    alone = [ask(text=chat, return_full_text=False) for chat in chats]
    assert ask(text=chats[:2], batch_size=2, return_full_text=False) == alone[:2]
    assert ask(text=chats, return_full_text=False) == alone


# --- loading and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auto_class", "name"),
    [
        (AutoConfig, "ArmConfig"),
        (AutoModel, "ArmModel"),
        (AutoModelForCausalLM, "ArmForCausalLM"),
        (AutoModelForMultimodalLM, "ArmForCausalLM"),
        (AutoModelForImageTextToText, "ArmForCausalLM"),
        (AutoProcessor, "ArmProcessor"),
        (AutoImageProcessor, "ArmImageProcessor"),
        (AutoTokenizer, "Qwen2Tokenizer"),
    ],
)
def test_every_auto_class_loads_its_part_of_the_folder(arm_folder, auto_class, name):
    assert type(auto_class.from_pretrained(arm_folder)).__name__ == name


def test_model_objects_come_with_their_processor_and_detokenizer(arm_folder):
    model, processor = ArmForCausalLM.from_pretrained(arm_folder), ArmProcessor.from_pretrained(arm_folder)
    detokenizer = ArmPixelDetokenizer.from_pretrained(f"{arm_folder}/detokenizer")
    given = {"model": model, "processor": processor, "device": "cpu"}
    assert pipeline("text-to-image", detokenizer=detokenizer, **given).detokenizer is detokenizer
    assert pipeline("text-to-image", **given)(PROMPT).size == (48, 48)  # the folder's own
    assert pipeline("image-editing", detokenizer=detokenizer, **given)(picture(), INSTRUCTION).size == (48, 48)
    (answer,) = pipeline("image-text-to-text", **given)(text=asked("what is there?"), return_full_text=False)
    assert isinstance(answer["generated_text"], str)


@pytest.mark.parametrize("task", ["text-to-image", "image-editing"])
def test_saved_pipelines_load_again(draw, edit, task, tmp_path):
    pipe, request = {"text-to-image": (draw, (PROMPT,)), "image-editing": (edit, (picture(), INSTRUCTION))}[task]
    pipe.save_pretrained(tmp_path / "saved")
    again = pipeline(task, model=str(tmp_path / "saved"), device="cpu", **FAST)
    assert_same([again(*request, generator=seeds(0))], [pipe(*request, generator=seeds(0))])
    assert again.processor.chat_template == pipe.processor.chat_template
    assert not list((tmp_path / "saved").glob("*.py"))
    for other in ("text-to-image", "image-editing", "image-text-to-text"):
        pipeline(other, model=str(tmp_path / "saved"), device="cpu")


def test_the_detokenizer_comes_from_the_hub_as_the_model_does(hub, arm_folder, tmp_path):
    other = shutil.copytree(arm_folder, tmp_path / "other")
    detokenizer = ArmPixelDetokenizer.from_pretrained(other / "detokenizer")
    detokenizer.register_to_config(default_steps=7)
    detokenizer.save_pretrained(other / "detokenizer")
    hub.add_repo("someone/drawing", other, revision="v1", private=True)
    hub.add_repo("someone/drawing", arm_folder, private=True)
    given = {"model": "someone/drawing", "token": hub.token, "model_kwargs": {"cache_dir": str(tmp_path / "cache")}}
    pinned = pipeline("text-to-image", revision="v1", **given)
    assert pinned.detokenizer.config.default_steps == 7
    assert pipeline("text-to-image", **given).detokenizer.config.default_steps != 7
    assert not list((hub.folder / "own_cache").rglob("model_index.json"))


def test_no_code_comes_with_a_detokenizer(hub, arm_folder, tmp_path):
    other = shutil.copytree(arm_folder, tmp_path / "other")
    (other / "detokenizer" / "scheduler" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    hub.add_repo("someone/coding", other)
    pipeline("text-to-image", model="someone/coding", model_kwargs={"cache_dir": str(tmp_path / "cache")})
    assert list((tmp_path / "cache").rglob("model_index.json")) and not list((tmp_path / "cache").rglob("*.py"))


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
        (PROMPT, {"height": 50}, ValueError, "50x48 must be multiples of the 16 px patch"),
        (PROMPT, {"width": 0}, ValueError, "48x0 must be multiples of the 16 px patch"),
        (PROMPT, {"height": -16}, ValueError, "-16x48 must be multiples"),
        (PROMPT, {"width": 16 * 129}, ValueError, "3x129 is outside what shape tokens can state"),
        (PROMPT, {"image_grid": (3, 3), "height": 64}, ValueError, "image_grid 3x3 .*'height': 64"),
        (PROMPT, {"image_grid": 3}, ValueError, r"image_grid must be \(H, W\), in tokens, not 3"),
        (PROMPT, {"image_grid": (1.5, 3)}, ValueError, "must be multiples"),
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


def test_folders_without_a_detokenizer_are_refused(own_folder):
    shutil.rmtree(own_folder / "detokenizer")
    with pytest.raises(FileNotFoundError, match="holds no detokenizer/model_index.json; name a complete ARM folder"):
        pipeline("text-to-image", model=str(own_folder), device="cpu")


def test_models_from_nowhere_need_a_detokenizer_and_a_processor(draw, tiny_arm_backbones):
    model = ArmForCausalLM.from_backbones(**tiny_arm_backbones)
    with pytest.raises(FileNotFoundError, match="not loaded from a folder holds no detokenizer"):
        pipeline("text-to-image", model=model, processor=draw.processor, device="cpu")
    with pytest.raises(ValueError, match="needs an ArmProcessor"):
        transformers_arm.ArmTextToImagePipeline(model, detokenizer=draw.detokenizer)
