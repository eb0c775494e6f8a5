"""Edits have their source's own shape, several pictures make one edit, and batches are pictures."""

import numpy as np
import pytest
import torch
from pipeline_requests import INSTRUCTION, picture, seeds
from transformers import GenerationConfig, pipeline

from transformers_arm import ArmImageProcessor
from transformers_arm.edits_arm import Sources


@pytest.fixture(scope="module")
def edit(arm_folder):
    return pipeline("image-editing", model=arm_folder)


@pytest.fixture
def drawn_grids(edit, monkeypatch):
    """Grids and sizes of batches that reach `generate`, in order."""
    found, generate = [], edit.model.generate

    def spy(**kwargs):
        found.append((kwargs["image_grid"], len(kwargs["input_ids"])))
        return generate(**kwargs)

    monkeypatch.setattr(edit.model, "generate", spy)
    return found


SHAPES = [(96, 32), (32, 96), (48, 48)]  # width, height
GRIDS = [(2, 6), (6, 2), (3, 3)]


def test_sources_of_one_call_are_edited_at_their_own_shapes(edit, drawn_grids):
    sources = [picture(*size) for size in (*SHAPES, SHAPES[0])]
    edited = edit(sources, INSTRUCTION, batch_size=4, max_pixels=64 * 64)
    assert drawn_grids == [(GRIDS[0], 2), (GRIDS[1], 1), (GRIDS[2], 1)]
    assert [each.size for each in edited] == [each.size for each in sources]


@pytest.mark.parametrize(
    ("size", "grid"),
    [((480, 270), (2, 4)), ((270, 480), (4, 2)), ((1000, 1000), (3, 3)), ((16, 16), (1, 1)), ((3, 3), (1, 1))],
)
def test_a_shape_is_kept_within_the_area_of_the_processor(edit, drawn_grids, size, grid):
    edited = edit(picture(*size), INSTRUCTION)
    assert drawn_grids == [(grid, 1)] and edited.size == size


def test_the_models_settings_and_then_the_call_decide(edit, drawn_grids, monkeypatch):
    wide = picture(96, 24)
    settings = {"keep_aspect_ratio": False, "max_pixels": 4096}
    monkeypatch.setattr(edit.model.generation_config, "image_editing", settings, raising=False)
    edit(wide, INSTRUCTION)
    edit(wide, INSTRUCTION, keep_aspect_ratio=True)
    edit(wide, INSTRUCTION, image_grid=(2, 2), keep_aspect_ratio=True)
    edit(wide, INSTRUCTION, height=64)
    edit(wide, INSTRUCTION, keep_aspect_ratio=True, max_pixels=2304)
    assert [grid for grid, _ in drawn_grids] == [(3, 3), (2, 6), (2, 2), (4, 3), (1, 6)]


def test_settings_of_a_calls_configuration_count_too(edit, drawn_grids):
    config = GenerationConfig(image_editing={"keep_aspect_ratio": True, "max_pixels": 4096})
    edit(picture(96, 32), INSTRUCTION, generation_config=config)
    edit(picture(96, 32), INSTRUCTION, generation_config=config, keep_aspect_ratio=False)
    assert [grid for grid, _ in drawn_grids] == [(2, 6), (3, 3)]


@pytest.mark.parametrize("settings", [{"max_pixels": "9"}, {"max_pixels": 0}, {"keep_aspect_ratio": "yes"}])
def test_settings_of_a_model_are_checked_as_a_calls_are(edit, monkeypatch, settings):
    monkeypatch.setattr(edit.model.generation_config, "image_editing", settings, raising=False)
    with pytest.raises(ValueError, match=f"{next(iter(settings))} .*must be"):
        edit(picture(), INSTRUCTION)


def test_generators_and_masks_stay_with_their_pictures(edit):
    sources = [picture(*size) for size in (*SHAPES, SHAPES[0])]
    masks = [None, np.arange(96 * 32).reshape(96, 32) % 32 < 9, None, np.ones((32, 96), bool)]
    together = edit(sources, INSTRUCTION, masks, generator=seeds(1, 2, 3, 4), batch_size=4)
    for number, (source, mask) in enumerate(zip(sources, masks, strict=True)):
        alone = edit(source, INSTRUCTION, mask, generator=seeds(number + 1))
        assert np.abs(np.asarray(together[number], int) - np.asarray(alone, int)).max() <= 1
    untouched = np.asarray(together[1])[:, 24:]
    assert np.array_equal(untouched, np.asarray(sources[1])[:, 24:])


# --- several pictures ------------------------------------------------------------------------------------------------


def test_several_pictures_make_one_edit_of_the_first(edit, monkeypatch):
    first, second = picture(96, 32), picture(32, 32)
    seen, generate = [], edit.model.generate

    def spy(**kwargs):
        seen.append({name: value for name, value in kwargs.items() if name != "generator"})
        return generate(**kwargs)

    monkeypatch.setattr(edit.model, "generate", spy)
    mask = np.zeros((32, 96), bool)
    mask[:, :10] = True
    edited = edit(images=[first, second], prompt="put the second into the first", mask=mask, generator=seeds(0))
    assert edited.size == first.size
    assert np.array_equal(np.asarray(edited)[:, 32:], np.asarray(first)[:, 32:])
    assert [tuple(each.shape[-2:]) for each in seen[0]["pixel_values"]] == [(16, 80), (32, 32)]
    request = {"images": [first, second], "prompt": "put the second into the first", "mask": mask}
    (row,) = edit([request], generator=seeds(0))
    assert np.array_equal(np.asarray(row), np.asarray(edited))


def test_the_order_of_pictures_matters(edit):
    first, second = picture(48, 48), picture(48, 48).rotate(90)
    one, other = (
        edit(images=each, prompt=INSTRUCTION, generator=seeds(0)) for each in ([first, second], [second, first])
    )
    assert not np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": []}, ValueError, "The list of images is empty"),
        ({"image": picture(), "images": [picture()]}, TypeError, "give one of the two"),
        (
            {"image": [{"image": picture(), "images": [picture()], "prompt": "a"}], "prompt": None},
            TypeError,
            "one of t",
        ),
        ({"images": [picture(), 7]}, TypeError, "Image 1: int is no image"),
        ({"images": [picture(), picture()], "mask": np.ones((3, 3), bool)}, ValueError, "The mask is 3x3 px"),
        ({}, ValueError, "no image to edit"),
        ({"image": picture(), "max_pixels": 200}, ValueError, r"max_pixels 200 must be a whole number, 256 \(one pa"),
    ],
)
def test_bad_pictures_are_refused(edit, arguments, error, message):
    with pytest.raises(error, match=message):
        edit(**{"prompt": INSTRUCTION, **arguments})


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_a_batch_of_pictures_or_masks_is_a_list_of_them(edit, kind):
    sources = [picture(48, 48), picture(48, 48).rotate(90)]
    array = np.stack([np.asarray(each) for each in sources]) / np.float32(255)
    masks = np.zeros((2, 1, 48, 48), np.float32)
    masks[..., :24] = 1
    batch = {"np": array, "pt": torch.from_numpy(array).permute(0, 3, 1, 2)}[kind]
    given = {"np": masks, "pt": torch.from_numpy(masks)}[kind]
    expected = edit(sources, INSTRUCTION, [each[0] for each in masks], generator=seeds(0, 1))
    edited = edit(batch, INSTRUCTION, given, generator=seeds(0, 1))
    assert all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in zip(edited, expected, strict=True))


def test_a_mask_must_have_the_size_of_the_first_picture():
    with pytest.raises(ValueError, match="The mask is 48x48 px"):
        Sources.opened([picture(32, 32)], np.ones((48, 48), bool), ArmImageProcessor())
