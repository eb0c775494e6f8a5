"""What ArmImageProcessor makes of pictures, good and bad; its errors name the image, the bound and the fix."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from transformers_arm.image_processing_arm import ArmImageProcessor, size_with_aspect_ratio


@pytest.fixture
def processor():
    return ArmImageProcessor(size={"height": 48, "width": 48})


@pytest.fixture
def drawing():
    """A 48x48 picture with flat colours, a gradient and no symmetry."""
    pixels = np.zeros((48, 48, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(48)[:, None] * 5
    pixels[..., 1] = np.arange(48)[None, :] * 5
    pixels[4:12, 30:44] = (255, 0, 128)
    return PIL.Image.fromarray(pixels)


def expected_values(image: PIL.Image.Image) -> torch.Tensor:
    """The float32 nearest to x / 127.5 - 1, [1, 3, H, W]."""
    values = np.asarray(image.convert("RGB"), dtype=np.float64) / 127.5 - 1
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]


def pixels_of(processor, image, **kwargs) -> np.ndarray:
    """What the model would see, as uint8 [H, W, 3]."""
    return np.asarray(processor.postprocess(processor(image, **kwargs).pixel_values)[0])


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


# --- sizes -----------------------------------------------------------------------------------------------------------


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


# --- files -----------------------------------------------------------------------------------------------------------


def test_paths_addresses_and_base64_keep_what_the_file_says(processor, drawing, tmp_path):
    drawing.putalpha(PIL.Image.linear_gradient("L").resize((48, 48)))
    path = tmp_path / "drawing.png"
    drawing.save(path)
    expected = pixels_of(processor, drawing)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/drawing.png" else 404)
            self.end_headers()
            self.wfile.write(path.read_bytes() if self.path == "/drawing.png" else b"")

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    encoded = base64.b64encode(path.read_bytes()).decode()
    try:
        for source in (str(path), path, f"{address}/drawing.png", encoded, f"data:image/png;base64,{encoded}"):
            assert np.array_equal(pixels_of(processor, source), expected)
            assert np.array_equal(pixels_of(processor, processor.fetch_images([[source]])), expected)
        with pytest.raises(ValueError, match="Image 1 cannot be read.*404"):
            processor([path, f"{address}/missing.png"])
    finally:
        server.shutdown()
        server.server_close()


def test_a_path_that_does_not_exist_is_refused_by_name(processor, drawing, tmp_path):
    for missing in (str(tmp_path / "missing.png"), "cats"):
        with pytest.raises(ValueError, match=f"Image 1: '{missing}' is no image file"):
            processor([drawing, missing])
        with pytest.raises(ValueError, match=f"Image 1: '{missing}' is no image file"):
            processor.fetch_images([drawing, missing])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
def test_empty_and_truncated_files_are_refused(processor, drawing, tmp_path, format, share):
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "whole", format)
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "part").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match="Image 1 cannot be read: .*Is the file complete"):
        processor([drawing, str(tmp_path / "part")])


def test_a_truncated_file_opened_lazily_by_pillow_is_refused_too(processor, drawing, tmp_path):
    PIL.Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "part.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    with PIL.Image.open(tmp_path / "part.png") as image, pytest.raises(ValueError, match="Image 1 cannot be read"):
        processor([drawing, image])


def test_a_text_file_is_no_image(processor, tmp_path):
    (tmp_path / "note.png").write_text("this is not a picture")
    with pytest.raises(ValueError, match="Image 0 cannot be read.*note.png"):
        processor(str(tmp_path / "note.png"))


def test_a_decompression_bomb_is_refused_with_pillows_limit(processor, drawing, tmp_path, monkeypatch):
    drawing.save(tmp_path / "bomb.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="Image 0 may be a decompression bomb.*2304 pixels.*MAX_IMAGE_PIXELS"):
        processor(str(tmp_path / "bomb.png"))


def test_the_exif_orientation_is_applied_to_files_and_to_opened_images(processor, drawing, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    drawing.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(drawing.rotate(-90))
    assert np.array_equal(pixels_of(processor, str(tmp_path / "turned.png")), upright)
    with PIL.Image.open(tmp_path / "turned.png") as image:
        assert np.array_equal(pixels_of(processor, image), upright)


@pytest.mark.parametrize("name", ["animation.gif", "animation.png", "animation.webp", "pages.tiff"])
def test_of_an_animation_the_first_frame_is_taken(processor, tmp_path, name):
    frames = [PIL.Image.new("RGB", (48, 48), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    with PIL.Image.open(tmp_path / name) as image:
        assert image.n_frames == 3
        image.seek(2)
        assert (pixels_of(processor, image) == (0, 0, 255)).all()  # the frame an opened image stands at
    assert (pixels_of(processor, str(tmp_path / name)) == (255, 0, 0)).all()


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


# --- saving and loading ----------------------------------------------------------------------------------------------


def test_save_and_load_round_trip(tmp_path, drawing):
    processor = ArmImageProcessor(size={"height": 48, "width": 64}, keep_aspect_ratio=True)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "ArmImageProcessor"
    assert saved["size"] == {"height": 48, "width": 64}
    assert (saved["patch_size"], saved["keep_aspect_ratio"]) == (16, True)
    loaded = ArmImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert torch.equal(
        loaded(drawing, return_tensors="pt").pixel_values, processor(drawing, return_tensors="pt").pixel_values
    )
    changed = ArmImageProcessor.from_pretrained(tmp_path, keep_aspect_ratio=False, size={"height": 32, "width": 32})
    assert changed(drawing, return_tensors="pt").pixel_values.shape[2:] == (32, 32)
    assert ArmImageProcessor.from_pretrained(tmp_path, size=None).do_resize is False


def test_a_processor_without_resizing_stays_so_after_loading(tmp_path, drawing):
    ArmImageProcessor(size=None).save_pretrained(tmp_path)
    loaded = ArmImageProcessor.from_pretrained(tmp_path)
    assert loaded(drawing.resize((80, 48)), return_tensors="pt").pixel_values.shape[2:] == (48, 80)


def test_the_auto_class_finds_it_once_registered(tmp_path):
    class SomeArmConfig(PreTrainedConfig):
        model_type = "some_arm_for_image_processing"

    ArmImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path)
    AutoImageProcessor.register(SomeArmConfig, image_processor_classes={"pil": ArmImageProcessor})
    try:
        loaded = AutoImageProcessor.from_pretrained(tmp_path)
    finally:
        IMAGE_PROCESSOR_MAPPING._extra_content.pop(SomeArmConfig)
    assert type(loaded) is ArmImageProcessor
    assert dict(loaded.size) == {"height": 48, "width": 48}


def test_it_travels_as_remote_code_in_one_file(tmp_path, monkeypatch, drawing):
    monkeypatch.setattr(ArmImageProcessor, "_auto_class", "AutoImageProcessor")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    processor = ArmImageProcessor(size={"height": 48, "width": 48})
    processor.save_pretrained(tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoImageProcessor": "image_processing_arm.ArmImageProcessor"}
    remote_class = get_class_from_dynamic_module(saved["auto_map"]["AutoImageProcessor"], str(tmp_path / "model"))
    assert remote_class is not ArmImageProcessor
    remote = remote_class.from_pretrained(tmp_path / "model")
    assert torch.equal(remote(drawing, return_tensors="pt").pixel_values, expected_values(drawing))


def test_a_written_picture_file_comes_back_bit_for_bit(processor, drawing):
    file = BytesIO()
    processor.postprocess(processor(drawing, return_tensors="pt").pixel_values)[0].save(file, "PNG")
    with PIL.Image.open(file) as image:
        assert torch.equal(processor(image, return_tensors="pt").pixel_values, expected_values(drawing))
