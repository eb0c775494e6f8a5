"""What is typed, uploaded and painted on the page is what an engine takes, or is refused by its name."""

import numpy as np
import pytest
from arm_server import file_of
from PIL import Image
from pipeline_requests import picture

from transformers_arm.serving.engine import About, InvalidRequest, Sampling
from transformers_arm.serving.page.fields import (
    edited,
    number,
    painted,
    sampling,
    size_of,
    sizes,
    stated,
    uploaded,
)


def test_sizes_are_those_that_the_model_can_state():
    tiny = {"model": "tiny", "device": "cpu", "dtype": "float32", "patch_size": 16, "max_tokens": 4096}
    assert sizes(About(size=(48, 48), max_side=2048, **tiny)) == ["auto", "48x48", "96x48", "48x96", "96x96"]
    assert sizes(About(size=(48, 48), max_side=64, **tiny)) == ["auto", "48x48"]


@pytest.mark.parametrize(
    ("typed", "size"), [("auto", None), ("", None), ("96x48", (96, 48)), (" 96 x 48 ", (96, 48)), ("96×48", (96, 48))]
)
def test_a_size_is_width_by_height(typed, size):
    assert size_of(typed) == size


@pytest.mark.parametrize("typed", ["96", "96x", "ax48", "-96x48", "96x48x3", "9" * 5000 + "x48"])
def test_what_is_no_size_is_refused(typed):
    with pytest.raises(InvalidRequest, match="no width x height") as refused:
        size_of(typed)
    assert len(str(refused.value)) < 200


def test_an_empty_field_leaves_it_to_the_model():
    assert number("", "Seed", int) is None and number(" 7 ", "Seed", int) == 7
    assert sampling() == Sampling() and sampling("2", "", "0.5") == Sampling(0.5, 2.0, None)


@pytest.mark.parametrize("typed", ["much", "1.5", "0x10", "1" * 400, "1" * 5000])
def test_what_is_no_whole_number_is_refused(typed):
    with pytest.raises(InvalidRequest, match='^Seed ".*" is not a whole number'):
        number(typed, "Seed", int)


@pytest.mark.parametrize("typed", ["nan", "inf", "-inf", "1,5"])
def test_what_is_no_number_is_refused_by_its_fields_name(typed):
    with pytest.raises(InvalidRequest, match=f'Guidance "{typed}" is not a number'):
        sampling(typed)


def test_a_text_has_to_say_something():
    assert stated(" a star\n", "what to draw") == "a star"
    with pytest.raises(InvalidRequest, match="write what to draw"):
        stated(" \n", "what to draw")


def test_uploads_are_opened_in_their_order(tmp_path):
    Image.new("RGBA", (5, 4), "red").save(tmp_path / "red.png")
    Image.new("L", (3, 2)).save(tmp_path / "black.jpg")
    files = [(str(tmp_path / name), None) for name in ("red.png", "black.jpg")]
    assert [(each.mode, each.size) for each in uploaded(files)] == [("RGB", (5, 4)), ("RGB", (3, 2))]
    assert uploaded(None) == uploaded([]) == []


def test_what_is_transparent_is_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.putpixel((1, 1), (255, 0, 0, 255))
    clear.save(tmp_path / "clear.png")
    (opened,) = uploaded([(str(tmp_path / "clear.png"), None)])
    source, mask = edited({"background": clear, "layers": []})
    assert opened.tobytes() == source.tobytes() and mask is None
    assert (opened.mode, opened.getpixel((0, 0)), opened.getpixel((1, 1))) == ("RGB", (255, 255, 255), (255, 0, 0))


def test_the_picture_that_is_edited_has_the_bound_of_all_others():
    large = Image.new("1", (4097, 4096))
    with pytest.raises(InvalidRequest, match="4097x4096 px, more than 16,777,216 in all; shrink it"):
        edited({"background": large, "layers": []})
    assert edited({"background": large.crop((0, 0, 4096, 4096)), "layers": []})[0].size == (4096, 4096)


@pytest.mark.parametrize("painting", [None, {"background": None, "layers": []}])
def test_an_edit_is_of_a_picture(painting):
    with pytest.raises(InvalidRequest, match="no picture to edit"):
        edited(painting)


ANIMATED = file_of(picture(), "GIF", save_all=True, append_images=[picture(seed=1)])


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40), file_of(picture())[:200], ANIMATED]
)
def test_a_file_that_is_no_picture_is_named_without_its_folder(tmp_path, content):
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(InvalidRequest, match="^notes.png cannot be opened") as refused:
        uploaded([(str(tmp_path / "notes.png"), None)])
    assert str(tmp_path) not in str(refused.value) and "Fetcher" not in str(refused.value)


def test_a_picture_beyond_the_limit_is_refused_by_its_head(tmp_path):
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    with pytest.raises(InvalidRequest, match="huge.png cannot be opened: .*5000x5000"):
        uploaded([(str(tmp_path / "huge.png"), None)])


def test_a_mask_is_white_where_a_brush_has_been_on_any_layer():
    layers = [Image.new("RGBA", (6, 4)) for _ in range(2)]
    layers[0].putpixel((1, 2), (255, 0, 200, 3))
    layers[1].putpixel((5, 0), (0, 0, 0, 255))
    mask = np.asarray(painted(layers, (6, 4)))
    assert np.argwhere(mask).tolist() == [[0, 5], [2, 1]] and mask[0, 5] == mask[2, 1] == 255


def test_no_paint_is_no_mask():
    assert painted([], (6, 4)) is None and painted([Image.new("RGBA", (6, 4))], (6, 4)) is None


def test_paint_on_a_canvas_of_another_size_covers_the_picture():
    layer = Image.new("RGBA", (12, 8))
    layer.paste((255, 0, 0, 255), (0, 0, 6, 8))
    mask = np.asarray(painted([layer], (6, 4)))
    assert (mask[:, :3] == 255).all() and not mask[:, 3:].any()
