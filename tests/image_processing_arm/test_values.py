"""Values: what pictures of every container, mode and type become, which are refused, and the way back."""

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from image_values import expected_values, pixels_of

from transformers_arm.image_processing_arm import ArmImageProcessor

# --- what comes out --------------------------------------------------------------------------------------------------


def test_a_picture_of_the_right_size_is_returned_pixel_exact(processor, drawing):
    pixel_values = processor(drawing, return_tensors="pt").pixel_values
    assert pixel_values.dtype == torch.float32 and pixel_values.shape == (1, 3, 48, 48)
    assert torch.equal(pixel_values, expected_values(drawing))
    assert pixel_values.min() == -1 and pixel_values.max() == 1


def test_every_8_bit_value_survives_preprocess_and_postprocess(processor):
    every_value = np.arange(48 * 48 * 3).reshape(48, 48, 3).astype(np.uint8)
    for dtype in (torch.float32, torch.float64):
        pixel_values = processor(every_value, return_tensors="pt").pixel_values.to(dtype)
        assert np.array_equal(processor.postprocess(pixel_values)[0], every_value)


@pytest.mark.parametrize(
    "convert",
    [
        lambda array: array,
        lambda array: array.transpose(2, 0, 1),
        lambda array: array.astype(np.int64),
        lambda array: array.astype(np.float32) / 255,
        lambda array: array.astype(np.float16) / 255,
        lambda array: array / 255,
        torch.from_numpy,
        lambda array: torch.from_numpy(array).permute(2, 0, 1),
        lambda array: (torch.from_numpy(array).permute(2, 0, 1) / 255).requires_grad_(),
        lambda array: array[None],
        lambda array: torch.from_numpy(array)[None],
        lambda array: [array],
        lambda array: [[array]],
        lambda array: (PIL.Image.fromarray(array),),
    ],
)
def test_the_same_picture_gives_the_same_values_in_every_container(processor, drawing, convert):
    image = convert(np.array(drawing))
    assert torch.equal(processor(image, return_tensors="pt").pixel_values, expected_values(drawing))


def test_bfloat16_tensors_are_taken(processor, drawing):
    image = (torch.from_numpy(np.array(drawing)).permute(2, 0, 1) / 255).bfloat16()
    values = processor(image, return_tensors="pt").pixel_values
    assert (values - expected_values(drawing)).abs().max() < 2**-7


def test_lists_batches_and_nested_lists_become_one_batch_in_order(processor, drawing):
    white, black = np.full((48, 48, 3), 255, dtype=np.uint8), np.zeros((48, 48), dtype=np.uint8)
    values = processor([[drawing], [white, np.stack([white, white])], black], return_tensors="pt").pixel_values
    assert values.shape == (5, 3, 48, 48)
    assert torch.equal(values[:1], expected_values(drawing))
    assert (values[1:4] == 1).all() and (values[4] == -1).all()


def test_rescaling_and_normalising_can_be_switched_off_but_not_mixed_up(processor, drawing):
    rescaled = processor(drawing, do_normalize=False, return_tensors="pt").pixel_values
    assert torch.allclose(rescaled * 2 - 1, expected_values(drawing), atol=1e-6)
    raw = processor(drawing, do_normalize=False, do_rescale=False, return_tensors="np").pixel_values
    assert np.array_equal(raw[0], np.array(drawing).transpose(2, 0, 1))
    with pytest.raises(ValueError, match="do_rescale=False with do_normalize=True"):
        processor(drawing, do_rescale=False)


@pytest.mark.parametrize("option", [{"do_center_crop": True, "crop_size": 32}, {"do_pad": True, "pad_size": 64}])
def test_options_that_would_break_the_size_rule_are_refused(processor, drawing, option):
    with pytest.raises(ValueError, match="never cropped or padded"):
        processor(drawing, **option)


# --- modes -----------------------------------------------------------------------------------------------------------


def saved_and_as_path(image, path, **options):
    image.save(path, **options)
    return str(path)


def test_transparency_is_composited_over_white(processor, tmp_path):
    image = PIL.Image.new("RGBA", (48, 48), (255, 0, 0, 0))
    PIL.ImageDraw.Draw(image).rectangle((0, 0, 23, 47), fill=(0, 0, 255, 255))
    PIL.ImageDraw.Draw(image).rectangle((24, 0, 35, 47), fill=(0, 0, 0, 128))
    array = np.array(image)
    for source in (
        image,
        image.convert("RGBa"),
        saved_and_as_path(image, tmp_path / "rgba.png"),
        array,
        array.transpose(2, 0, 1),
        array / 255,
        torch.from_numpy(array),
    ):
        pixels = pixels_of(processor, source)
        assert (pixels[:, :24] == (0, 0, 255)).all()
        assert (pixels[:, 24:36] == 127).all()
        assert (pixels[:, 36:] == 255).all()


def test_palette_images_with_and_without_transparency(processor, tmp_path):
    image = PIL.Image.new("P", (48, 48), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    PIL.ImageDraw.Draw(image).rectangle((0, 0, 23, 47), fill=1)
    opaque = pixels_of(processor, saved_and_as_path(image, tmp_path / "opaque.png"))
    assert (opaque[:, :24] == (0, 255, 0)).all() and (opaque[:, 24:] == (255, 0, 0)).all()
    for name in ("clear.png", "clear.gif"):
        clear = pixels_of(processor, saved_and_as_path(image, tmp_path / name, transparency=0))
        assert (clear[:, :24] == (0, 255, 0)).all() and (clear[:, 24:] == 255).all()


def test_gray_one_bit_and_gray_with_alpha(processor, tmp_path):
    gray = PIL.Image.new("L", (48, 48), 100)
    assert (pixels_of(processor, saved_and_as_path(gray, tmp_path / "gray.png")) == 100).all()
    assert (pixels_of(processor, np.array(gray)) == 100).all()
    assert (pixels_of(processor, np.array(gray)[None]) == 100).all()
    assert (pixels_of(processor, np.array(gray)[..., None]) == 100).all()
    clear = PIL.Image.new("LA", (48, 48), (100, 0))
    assert (pixels_of(processor, saved_and_as_path(clear, tmp_path / "clear.png")) == 255).all()
    assert (pixels_of(processor, PIL.Image.new("1", (48, 48), 1)) == 255).all()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_other_colour_spaces_become_rgb(processor, drawing, mode):
    assert np.abs(pixels_of(processor, drawing.convert(mode)).astype(int) - np.asarray(drawing)).max() <= 6


def test_a_cmyk_jpeg_becomes_rgb(processor, tmp_path):
    path = saved_and_as_path(PIL.Image.new("CMYK", (48, 48), (0, 255, 255, 0)), tmp_path / "cmyk.jpg")
    assert np.abs(pixels_of(processor, path).astype(int) - (255, 0, 0)).max() <= 3


def test_16_bit_gray_is_divided_and_not_clipped(processor, tmp_path):
    values = np.repeat(np.arange(48, dtype=np.uint16)[None] * 5 * 257, 48, axis=0)
    image = PIL.Image.fromarray(values)
    big_endian = PIL.Image.fromarray(values.astype(">u2"))
    assert (image.mode, big_endian.mode) == ("I;16", "I;16B")
    for source in (image, big_endian, saved_and_as_path(image, tmp_path / "deep.png")):
        assert np.array_equal(pixels_of(processor, source)[..., 0], values // 257)
    with pytest.raises(ValueError, match="0..60395, but integers are read as 0..255.*257"):
        processor(values)


def test_32_bit_modes_follow_the_rules_of_arrays(processor, tmp_path):
    assert (pixels_of(processor, PIL.Image.new("I", (48, 48), 200)) == 200).all()
    assert (pixels_of(processor, PIL.Image.new("F", (48, 48), 0.2)) == 51).all()
    with pytest.raises(ValueError, match="integers are read as 0..255"):
        processor(PIL.Image.new("I", (48, 48), 70_000))
    with pytest.raises(ValueError, match="floats are read as 0..1"):
        processor(saved_and_as_path(PIL.Image.new("F", (48, 48), 200.0), tmp_path / "float.tiff"))


def test_one_pixel_becomes_a_flat_picture(processor):
    assert (pixels_of(processor, PIL.Image.new("RGB", (1, 1), (1, 2, 3))) == (1, 2, 3)).all()
    assert pixels_of(processor, PIL.Image.new("RGB", (1, 1)), keep_aspect_ratio=True).shape == (16, 16, 3)


def test_20000_pixels_wide_are_resized(processor):
    image = PIL.Image.new("RGB", (20_000, 300), (10, 20, 30))
    assert (pixels_of(processor, image) == (10, 20, 30)).all()
    wide = ArmImageProcessor(keep_aspect_ratio=True)(image, return_tensors="pt").pixel_values
    assert wide.shape == (1, 3, 32, 2048)


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(48, 48, 2), (5, 48, 48), (2, 48, 48), (48,), (1, 1, 48, 48, 3), (48, 48, 5)])
def test_other_shapes_are_refused(processor, drawing, shape):
    image = np.zeros(shape, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"Image 1: the array has shape \(.*C = 1, 3 or 4"):
        processor([drawing, image])
    with pytest.raises(ValueError, match=r"Image 1: the array has shape \(.*C = 1, 3 or 4"):
        processor([drawing, torch.from_numpy(image)])


@pytest.mark.parametrize("shape", [(0, 48, 3), (3, 0, 0), (48, 48, 0), (0, 0)])
def test_arrays_without_pixels_are_refused(processor, drawing, shape):
    with pytest.raises(ValueError, match="Image 1: .*no pixels"):
        processor([drawing, np.zeros(shape)])


def test_pil_images_without_pixels_are_refused(processor, drawing):
    with pytest.raises(ValueError, match="Image 1: .*0x5 pixels"):
        processor([drawing, PIL.Image.new("RGB", (5, 0))])


def test_an_array_that_can_be_read_both_ways_needs_input_data_format(processor):
    array = np.zeros((3, 32, 3), dtype=np.uint8)
    array[..., 0] = 255  # read as channels last: all red
    with pytest.raises(ValueError, match=r"Image 0: .*\(3, 32, 3\).*input_data_format"):
        processor(array)
    assert (pixels_of(processor, array, input_data_format="channels_last") == (255, 0, 0)).all()
    assert not (pixels_of(processor, array, input_data_format="channels_first") == (255, 0, 0)).all()


def test_an_input_data_format_that_contradicts_the_shape_is_refused(processor, drawing):
    with pytest.raises(ValueError, match=r"\(48, 48, 3\) with input_data_format='channels_first'"):
        processor(np.array(drawing), input_data_format="channels_first")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused(processor, drawing, bad):
    array = np.zeros((48, 48, 3), dtype=np.float32)
    array[3, 4, 1] = bad
    for image in (array, torch.from_numpy(array)):
        with pytest.raises(ValueError, match="Image 1: 1 of 6912 values are NaN or infinite"):
            processor([drawing, image])


@pytest.mark.parametrize(("low", "high", "span"), [(0, 255, "0..255"), (-1, 1, "-1..1"), (0, 1.01, "0..1.01")])
def test_floats_outside_0_to_1_are_refused_with_the_fix(processor, drawing, low, high, span):
    array = np.linspace(low, high, 48 * 48 * 3, dtype=np.float32).reshape(48, 48, 3)
    with pytest.raises(ValueError, match=rf"Image 1: values span {span}, .*0\.\.1; divide by 255.*\(x \+ 1\) / 2"):
        processor([drawing, array])


def test_floats_may_miss_the_range_by_less_than_half_an_8_bit_step(processor):
    array = np.full((48, 48, 3), 1.0001)
    assert (pixels_of(processor, array) == 255).all() and (pixels_of(processor, -array + 1) == 0).all()


@pytest.mark.parametrize(("value", "dtype"), [(-1, np.int64), (256, np.int64), (-5, np.int8), (300, np.uint16)])
def test_integers_outside_0_to_255_are_refused(processor, drawing, value, dtype):
    array = np.zeros((48, 48, 3), dtype=dtype)
    array[0, 0, 0] = value
    with pytest.raises(ValueError, match=f"Image 1: values span .*{value}.*0..255"):
        processor([drawing, array])


def test_booleans_are_black_and_white(processor):
    mask = np.zeros((48, 48), dtype=bool)
    mask[:, 24:] = True
    for image in (mask, torch.from_numpy(mask)):
        pixels = pixels_of(processor, image)
        assert (pixels[:, :24] == 0).all() and (pixels[:, 24:] == 255).all()


@pytest.mark.parametrize(
    ("thing", "named"),
    [(None, "NoneType"), (7, "int"), (b"bytes", "bytes"), ({"image": 1}, "dict"), (np.array([["a"]]), "<U1")],
)
def test_things_that_are_no_images_are_refused_by_type(processor, drawing, thing, named):
    with pytest.raises(TypeError, match=f"Image 1: .*{named}.*pass"):
        processor([drawing, thing])


def test_complex_arrays_are_refused(processor):
    with pytest.raises(TypeError, match="Image 0: arrays of complex128"):
        processor(np.zeros((48, 48), dtype=complex))


def test_no_images_at_all_are_refused(processor):
    for nothing in ([], [[]], np.zeros((0, 48, 48, 3), dtype=np.uint8)):
        with pytest.raises(ValueError, match="no images"):
            processor(nothing)


# --- back to pictures ------------------------------------------------------------------------------------------------


def test_postprocess_rounds_and_clips(processor):
    values = torch.tensor([-9.0, -1.0, 0.0, 0.001, 0.005, 1.0, 3.0]).expand(2, 3, 1, 7)
    pictures = processor.postprocess(values)
    assert [picture.mode for picture in pictures] == ["RGB", "RGB"] and pictures[0].size == (7, 1)
    assert np.asarray(pictures[0])[0, :, 0].tolist() == [0, 0, 128, 128, 128, 255, 255]


def test_postprocess_takes_half_precision_arrays_and_tensors_with_gradients(processor, drawing):
    values = expected_values(drawing)
    for same in (values.clone().requires_grad_(), values.numpy(), list(values), values.double()):
        assert np.array_equal(processor.postprocess(same)[0], drawing)
    rounded = np.asarray(processor.postprocess(values.bfloat16())[0]).astype(int)
    assert np.abs(rounded - np.asarray(drawing)).max() <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_postprocess_refuses_what_is_not_finite(processor, bad):
    values = torch.zeros(2, 3, 16, 16)
    values[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="Image 1: 1 of 768 pixels are NaN or infinite"):
        processor.postprocess(values)


def test_postprocess_refuses_other_shapes_and_types(processor):
    with pytest.raises(ValueError, match=r"\[batch, 3, height, width\], got \(16, 16\)"):
        processor.postprocess(torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match=r"got \(16, 16, 3\)"):
        processor.postprocess(torch.zeros(1, 16, 16, 3))
    with pytest.raises(TypeError, match="floating-point pixels, got uint8"):
        processor.postprocess(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
