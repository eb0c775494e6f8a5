"""Files: what is read from paths, addresses and damaged files, and how the processor itself is saved."""

import base64
import importlib.util
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from types import ModuleType
from urllib.parse import quote

import numpy as np
import PIL.Image
import pytest
import torch
from image_values import expected_values, pixels_of
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from transformers_arm import fetching_arm
from transformers_arm.image_processing_arm import ArmImageProcessor

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


@pytest.mark.parametrize("start", ["", "data:image/png;base64,", "data:image/png;charset=utf-8;base64,\n"])
@pytest.mark.parametrize("written", ["email", "base64 -w 60", "windows", "indented", "percent"])
def test_base64_may_be_written_in_lines_and_in_a_url(processor, drawing, start, written):
    drawing.save(file := BytesIO(), "PNG")
    whole = base64.b64encode(file.getvalue()).decode()
    lines = [whole[place : place + 60] for place in range(0, len(whole), 60)]
    ways = {
        "email": base64.encodebytes(file.getvalue()).decode(),
        "base64 -w 60": "\n".join(lines) + "\n",
        "windows": "\r\n".join(lines),
        "indented": "".join(f"\n    {line}" for line in lines),
        "percent": quote("\n".join(lines), safe=""),
    }
    assert np.array_equal(pixels_of(processor, start + ways[written]), pixels_of(processor, drawing))


def test_base64_that_is_cut_or_no_picture_is_refused(processor, drawing):
    drawing.save(file := BytesIO(), "PNG")
    for wrong in (base64.encodebytes(file.getvalue()).decode().rstrip()[:-1], "aGVs\nbG8=", "data:image/png;base64,"):
        with pytest.raises(ValueError, match="Image 0: .* is no image file, no http.* address and no base64 image"):
            processor(wrong)


@pytest.mark.parametrize("hub_has_it", [True, False])
def test_it_takes_the_httpx_of_the_hub_client_or_an_own_one(hub_has_it, monkeypatch):
    """huggingface_hub below 1.31 has none to take."""
    utils, hubs, own = ModuleType("huggingface_hub.utils"), ModuleType("hubs"), ModuleType("own")
    hubs.HTTPError = own.HTTPError = OSError
    if hub_has_it:
        utils.httpx = hubs
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    monkeypatch.setitem(sys.modules, "httpx", own)
    spec = importlib.util.spec_from_file_location("transformers_arm.again", fetching_arm.__file__)
    spec.loader.exec_module(again := importlib.util.module_from_spec(spec))
    assert again.httpx is (hubs if hub_has_it else own)


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
    with pytest.raises(
        ValueError, match="Image 0: .*bomb.png' may be a decompression bomb.*2304 pixels.*MAX_IMAGE_PIXELS"
    ):
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
