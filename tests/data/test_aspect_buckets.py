"""Pictures of any shape come to few sizes: the nearest, stretched a little, cropped only where they are too long."""

import math

import numpy as np
import pytest
from PIL import Image

from transformers_arm.data.aspect_buckets import AspectBuckets
from transformers_arm.image_processing_arm import ArmImageProcessor


def buckets_of(side=512, count=11, **processor):
    return AspectBuckets(ArmImageProcessor(size={"height": side, "width": side}, **processor), count)


def test_buckets_are_as_many_grids_of_about_as_many_patches():
    found = buckets_of()
    assert len(found.sizes) == 11 and (512, 512) in found.sizes
    patches = [height * width // 256 for height, width in found.sizes]
    assert 0.95 * 1024 < min(patches) and max(patches) <= 1024
    assert sorted((width, height) for height, width in found.sizes) == sorted(found.sizes)
    assert 1.1 < found.stretch < 1.13
    assert all(side % 16 == 0 for size in found.sizes for side in size)


@pytest.mark.parametrize(("side", "patch_size", "count"), [(16, 16, 11), (32, 16, 11), (64, 16, 9), (2048, 16, 11)])
def test_buckets_of_any_area_fit_it_and_the_shape_tokens(side, patch_size, count):
    found = buckets_of(side, count, patch_size=patch_size)
    assert 1 <= len(found.sizes) <= count and len(set(found.sizes)) == len(found.sizes)
    for height, width in found.sizes:
        assert height * width <= side**2 and max(height, width) <= 128 * patch_size


def test_a_picture_is_stretched_by_no_more_than_the_stretch_and_nothing_of_it_is_lost():
    found = buckets_of()
    for number in range(200):
        height, width = 300, round(300 * 2.5 ** (number / 100 - 1))
        bucket = found.size_of(height, width)
        change = bucket[0] * width / (bucket[1] * height)
        assert 1 / found.stretch <= change * (1 + 1e-9) and change <= found.stretch * (1 + 1e-9)
        assert found.kept(height, width) == (height, width)


def test_what_is_longer_is_cropped_about_its_middle():
    found = buckets_of(256)
    pixels = np.zeros((40, 200, 3), np.uint8)
    pixels[:, :30], pixels[:, 170:], pixels[:, 95:105] = (255, 0, 0), (0, 0, 255), 255
    height, width = found.kept(40, 200)
    longest = found.sizes[0]
    assert height == 40 and width == round(40 * longest[1] / longest[0] * found.stretch) < 140
    fitted = found.fit(pixels)
    assert fitted.dtype == np.uint8 and fitted.shape == (3, *longest)
    assert fitted[:, :, 0].max() == fitted[:, :, -1].max() == 0  # the red and the blue are gone
    assert (fitted[:, :, longest[1] // 2 - 1 : longest[1] // 2 + 1] > 200).all()
    upright = found.fit(pixels.transpose(1, 0, 2))
    assert upright.shape == (3, *longest[::-1]) and (upright.transpose(0, 2, 1) == fitted).all()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20, 1000), r"20x1000 pixels .* would keep less than half. Crop it"),
        ((1000, 20), r"1000x20 pixels .* would keep less than half. Crop it"),
        ((15, 15), r"15x15 pixels .* a patch has 16 a side: enlarged to 512x512"),
        ((8, 30), r"8x30 pixels .* a patch has 16 a side"),
    ],
    ids=str,
)
def test_what_would_show_next_to_nothing_is_refused(size, message):
    with pytest.raises(ValueError, match=message):
        buckets_of().fit(Image.new("RGB", size[::-1]))


def test_pictures_are_what_the_processor_makes_of_them_at_that_size(tmp_path):
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.effect_noise((90, 60), 60).convert("RGB").save(file, exif=exif)
    processor = ArmImageProcessor(size={"height": 96, "width": 96})
    found = AspectBuckets(processor, 11)
    fitted = found.fit(Image.open(file))
    height, width = fitted.shape[1:]
    assert math.log(height / width) > 0.3  # upright
    size = {"height": height, "width": width}
    expected = processor(Image.open(file), size=size, do_rescale=False, do_normalize=False).pixel_values[0]
    assert (fitted == expected).all()
    small = Image.effect_noise((16, 16), 60)
    assert found.fit(small).shape == (3, 96, 96)  # enlarged
