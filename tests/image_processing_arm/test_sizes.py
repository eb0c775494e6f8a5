"""Sizes: what is resized, to whole patches, and which bounds hold."""

import numpy as np
import PIL.Image
import pytest
import torch
from image_values import expected_values

from transformers_arm.image_processing_arm import ArmImageProcessor, size_with_aspect_ratio


def test_images_are_resized_to_exactly_the_size_asked_for(processor, drawing):
    assert processor(drawing, size={"height": 32, "width": 80}, return_tensors="pt").pixel_values.shape[2:] == (32, 80)
    assert processor(drawing, size=64, return_tensors="pt").pixel_values.shape[2:] == (64, 64)
    assert ArmImageProcessor()(drawing, return_tensors="pt").pixel_values.shape[2:] == (512, 512)


@pytest.mark.parametrize(
    ("size", "named"),
    [
        ({"height": 50, "width": 48}, "50x48"),
        ({"height": 48, "width": 2064}, "48x2064"),
        ({"height": -16, "width": 16}, "-16x16"),
    ],
)
def test_a_size_outside_whole_patches_is_refused_at_init_and_at_the_call(processor, drawing, size, named):
    for attempt in (lambda: ArmImageProcessor(size=size), lambda: processor(drawing, size=size)):
        with pytest.raises(ValueError, match=f"size is {named} pixels.*multiples of 16 from 16 to 2048"):
            attempt()


def test_a_size_that_is_not_height_and_width_is_refused(processor, drawing):
    with pytest.raises(ValueError, match="'height'.*'width'"):
        processor(drawing, size={"shortest_edge": 48})


def test_without_resizing_the_own_size_is_kept_and_must_be_whole_patches(drawing):
    processor = ArmImageProcessor(do_resize=False)
    wide = drawing.resize((80, 48))
    assert torch.equal(processor(wide, return_tensors="pt").pixel_values, expected_values(wide))
    with pytest.raises(ValueError, match=r"Image 1: the image is 50x48 pixels.*multiples of 16.*do_resize=True"):
        processor([drawing, drawing.resize((48, 50))])
    with pytest.raises(ValueError, match="16x2064 pixels.*to 2048"):
        processor(PIL.Image.new("RGB", (2064, 16)))


def test_size_none_means_the_own_size_and_a_size_at_the_call_means_resizing(processor, drawing):
    wide = drawing.resize((80, 48))
    own_size = ArmImageProcessor(size=None)
    assert own_size(wide, return_tensors="pt").pixel_values.shape[2:] == (48, 80)
    assert processor(wide, size=None, return_tensors="pt").pixel_values.shape[2:] == (48, 80)
    assert own_size(wide, size={"height": 48, "width": 48}, return_tensors="pt").pixel_values.shape[2:] == (48, 48)


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ((512, 512), (512, 512)),
        ((480, 272), (480, 272)),
        ((470, 270), (464, 272)),  # nearest multiples, down and up
        ((20, 100), (16, 96)),
        ((1, 1), (16, 16)),  # at least one patch
        ((1, 20), (16, 320)),
        ((1024, 1024), (512, 512)),  # shrunk to the area
        ((1024, 512), (720, 352)),
        ((1000, 20_000), (96, 2048)),  # shrunk to 128 patches a side
        ((2048, 16), (2048, 16)),
        ((2063, 16), (2048, 16)),  # 128.9 patches, of which 128 can be stated
    ],
)
def test_keeping_the_aspect_ratio_gives_the_nearest_whole_patches_within_the_area(own, kept):
    height, width = size_with_aspect_ratio(*own, patch_size=16, max_pixels=512 * 512)
    assert (height, width) == kept
    assert size_with_aspect_ratio(*own[::-1], patch_size=16, max_pixels=512 * 512) == kept[::-1]


@pytest.mark.parametrize("patch_size", [14, 16])
@pytest.mark.parametrize("side", [3, 16, 32, 61, 128])  # of the area, in patches
def test_any_picture_keeps_its_proportions_within_a_patch_inside_the_bounds(side, patch_size):
    random, max_pixels, longest = np.random.default_rng(side), (side * patch_size) ** 2, 128 * patch_size
    sizes = np.exp(random.uniform(0, np.log(20_000), size=(4000, 2))).astype(int).tolist()
    sizes += [[height, width] for height in range(1, 300, 13) for width in range(1, 3000, 37)]
    refused = 0
    for own in sizes:
        try:
            new = size_with_aspect_ratio(*own, patch_size, max_pixels)
        except ValueError:
            refused += 1
            # With its short side at one patch, its long side has a patch more than there may be.
            assert max(own) / min(own) >= min(side**2, 128) + 1 - 1e-9
            continue
        assert all(new_side % patch_size == 0 and patch_size <= new_side <= longest for new_side in new)
        assert new[0] * new[1] <= max_pixels
        # One factor takes both sides to less than a patch from the new ones, and the short one to a patch or more.
        pairs = list(zip(new, own, strict=True))
        smallest = max(patch_size / min(own), *((new_side - patch_size) / own_side for new_side, own_side in pairs))
        largest = min((new_side + patch_size) / own_side for new_side, own_side in pairs)
        assert smallest < largest * (1 + 1e-9)
        # Nothing is shrunk that fits, and what must be shrunk fills the area or the longest side but for a patch.
        larger = [new_side + patch_size for new_side in new]
        if own[0] * own[1] <= max_pixels and max(own) <= longest:
            assert larger[0] > own[0] and larger[1] > own[1]
        else:
            assert larger[0] * larger[1] > max_pixels or max(larger) > longest
    assert 0 < refused < len(sizes) - 2000


def test_an_image_too_long_to_keep_its_aspect_ratio_is_refused(processor):
    image = PIL.Image.new("RGB", (20_000, 10))
    with pytest.raises(ValueError, match="Image 0: 10x20000 pixels.*128 patches.*keep_aspect_ratio=False"):
        processor(image, keep_aspect_ratio=True)
    assert processor(image, return_tensors="pt").pixel_values.shape == (1, 3, 48, 48)


def test_keep_aspect_ratio_works_at_init_and_at_the_call(processor, drawing):
    wide = drawing.resize((96, 24))
    always = ArmImageProcessor(size={"height": 48, "width": 48}, keep_aspect_ratio=True)
    assert always(wide, return_tensors="pt").pixel_values.shape == (1, 3, 16, 96)
    assert processor(wide, keep_aspect_ratio=True, return_tensors="pt").pixel_values.shape == (1, 3, 16, 96)
    assert always(wide, keep_aspect_ratio=False, return_tensors="pt").pixel_values.shape == (1, 3, 48, 48)
    assert torch.equal(always(drawing, return_tensors="pt").pixel_values, expected_values(drawing))


def test_images_of_different_sizes_come_as_a_list_and_not_as_a_tensor(processor, drawing):
    images = [drawing, drawing.resize((96, 24))]
    pixel_values = processor(images, keep_aspect_ratio=True).pixel_values
    assert [image.shape for image in pixel_values] == [(3, 48, 48), (3, 16, 96)]
    assert [picture.size for picture in processor.postprocess(pixel_values)] == [(48, 48), (96, 16)]
    with pytest.raises(ValueError, match=r"\(16, 96\), \(48, 48\).*leave out return_tensors"):
        processor(images, keep_aspect_ratio=True, return_tensors="pt")
