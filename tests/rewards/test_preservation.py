"""Edits are rewarded for what they leave alone, by a mask or by the target picture."""

import random

import numpy as np
import pytest
from PIL import Image

from transformers_arm.rewards.preservation import EditPreservation
from transformers_arm.worlds.shapes import draw_scene, sample_editing_pair

SOURCE = Image.new("RGB", (48, 32), (100, 100, 100))
MASK = np.zeros((32, 48), np.uint8)
MASK[:8, :8] = 1  # 64 of 1,536 pixels may change


def edited(box=(0, 0, 8, 8), color=(255, 0, 0), source=SOURCE) -> Image.Image:
    image = source.copy()
    image.paste(color, box)
    return image


def call(image, reward=None, source=SOURCE, task="editing", **columns):
    (value,) = (reward or EditPreservation())(
        prompts=["make it red"],
        images=[image],
        source_images=[[source]] if source else [[]],
        completion_ids=[[0]],
        task=[task],
        **{name: [column] for name, column in columns.items()},
    )
    return value


def test_an_opaque_alpha_is_no_part_of_a_mask():
    for mode in ("RGB", "RGBA", "LA"):
        mask = Image.fromarray(np.asarray(MASK).astype(np.uint8) * 255).convert("L").convert(mode)
        assert call(edited(), mask=mask) == 1.0
        assert call(edited((0, 0, 48, 32)), mask=mask) == 0.0


def test_changes_inside_the_mask_cost_nothing_and_outside_their_share():
    assert call(edited(), mask=MASK) == 1.0
    assert call(SOURCE, mask=MASK) == 1.0  # whether the edit was done is another reward's matter
    spilt = edited((0, 0, 8, 16))  # 64 pixels too many
    assert call(spilt, mask=MASK) == pytest.approx(1 - 64 / (1536 - 64))
    assert call(edited((0, 0, 48, 32)), mask=MASK) == 0.0


def test_small_differences_cost_in_proportion_to_the_tolerance_by_the_worst_channel():
    shifted = Image.new("RGB", SOURCE.size, (100, 108, 98))
    assert call(shifted, mask=MASK) == pytest.approx(1 - 8 / 32)
    assert call(shifted, EditPreservation(tolerance=16), mask=MASK) == pytest.approx(1 - 8 / 16)
    assert call(shifted, EditPreservation(tolerance=4), mask=MASK) == 0.0


@pytest.mark.parametrize(
    "mask",
    [
        MASK.astype(bool),
        MASK * 255,
        np.repeat(MASK[..., None], 3, -1),
        Image.fromarray(MASK * 255),
        Image.fromarray(MASK * 255).convert("1"),
        Image.fromarray(MASK * 255).convert("RGB"),
        Image.fromarray(MASK * 255).resize((96, 64), Image.Resampling.NEAREST),
    ],
)
def test_masks_of_any_type_and_size_mean_the_same(mask):
    assert call(edited(), mask=mask) == 1.0
    assert call(edited((8, 0, 16, 8)), mask=mask) == pytest.approx(1 - 64 / (1536 - 64))


def test_the_target_defines_the_region_widened_by_the_margin():
    target = edited((16, 8, 24, 16))
    assert call(target, target_image=target) == 1.0
    around = edited((14, 6, 26, 18))  # 2 px more on every side
    assert call(around, target_image=target) == 1.0
    assert call(around, EditPreservation(margin=0), target_image=target) == pytest.approx(1 - 80 / (1536 - 64))
    assert call(edited((13, 6, 26, 18)), target_image=target) == pytest.approx(1 - 12 / (1536 - 144))


def test_a_mask_goes_before_a_target_and_either_may_be_missing_in_a_sample():
    target = edited((0, 0, 48, 16))
    reward = EditPreservation()
    values = reward(
        images=[target] * 3,
        source_images=[[SOURCE]] * 3,
        task=["editing"] * 3,
        mask=[MASK, None, None],
        target_image=[target, target, None],
    )
    assert values[0] < 0.6 and values[1:] == [1.0, None]


def test_real_targets_keep_all_and_another_scene_does_not():
    rng = random.Random(0)
    kept, lost = [], []
    for _ in range(100):
        edit, other = sample_editing_pair(rng), sample_editing_pair(rng)
        source, target = draw_scene(edit.source), draw_scene(edit.target)
        if (share := call(target, source=source, target_image=target)) is not None:  # a background may be all there is
            kept.append(share)
            lost.append(call(draw_scene(other.target), source=source, target_image=target))
    assert len(kept) > 80 and min(kept) > 0.99
    assert np.mean(np.subtract(kept, lost) > 0) > 0.95  # what another scene changes may hide in the region


def test_pictures_of_another_size_are_resized_to_the_source():
    assert call(edited().resize((96, 64), Image.Resampling.NEAREST), mask=MASK) > 0.97
    large = edited((16, 8, 24, 16)).resize((96, 64), Image.Resampling.NEAREST)
    assert call(large, target_image=large) > 0.99


def test_what_cannot_be_judged_is_none():
    assert call(edited(), task="text_to_image", mask=MASK) is None
    assert call(edited(), source=None, mask=MASK) is None
    assert call(edited()) is None
    assert call(edited(), mask=None, target_image=None) is None
    assert call(edited(), mask=np.ones_like(MASK)) is None  # everything may change
    assert call(edited(), target_image=Image.new("RGB", SOURCE.size)) is None
    two = EditPreservation()(images=[SOURCE], source_images=[[SOURCE, SOURCE]], task=["editing"], mask=[MASK])
    assert two == [None]


def test_settings_and_masks_out_of_range_are_refused():
    for tolerance in (0, -1, 256):
        with pytest.raises(ValueError, match=f"tolerance {tolerance} is outside 0..255"):
            EditPreservation(tolerance=tolerance)
    with pytest.raises(ValueError, match="margin -1 is below 0"):
        EditPreservation(margin=-1)
    with pytest.raises(ValueError, match=r"A mask is .* got shape \[48\]"):
        call(edited(), mask=np.ones(48))
