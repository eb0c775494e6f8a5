"""Masks: what they select may change, and no byte beyond their margin does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_requests import FAST, INSTRUCTION, PROMPT, Listening, assert_same, differ, picture, seeds
from transformers import pipeline

import transformers_arm
from transformers_arm.edits_arm import blend, opened


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
    given = (picture(*size), INSTRUCTION, mask_of(*size, box))
    (mask,), _ = edit_masks(edit, monkeypatch, *given, keep_aspect_ratio=False)
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
    upright = opened(source, edit.processor.image_processor)
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
    edits = edit(source, INSTRUCTION, mask, mask_margin=0, num_images_per_prompt=8)
    assert any(differ(edits[0], other) for other in edits[1:])
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
        (
            {"maks": 1},
            TypeError,
            "Unknown argument maks; this pipeline takes mask, images, mask_margin, keep",
        ),
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
