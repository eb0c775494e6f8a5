"""Sheets show what they are given, all of it, and whether it is right."""

import numpy as np
from PIL import Image

from transformers_arm.evaluation.sheets import heat_map, lettered, marked


def test_heat_maps_show_every_token_of_the_grid():
    picture = heat_map(np.array([[0, 1023, 512]]), codebook_size=1024, patch_size=16)
    assert picture.size == (3 * 64, 64)
    assert picture.getpixel((1, 1)) != picture.getpixel((65, 1)) != picture.getpixel((129, 1))


def strokes(tile: Image.Image, picture: Image.Image) -> np.ndarray:
    """Where the mark is drawn above a picture, whatever its colors."""
    strip = np.asarray(tile.convert("L"))[: (tile.height - picture.height) // 2]
    return strip != strip[0, -1]


def test_marks_hide_nothing_and_can_be_told_apart_without_color():
    picture = Image.effect_noise((40, 30), 60).convert("RGB")
    right, wrong = marked(picture, np.bool_(True)), marked(picture, False)
    for tile in (right, wrong):
        left, below = (tile.width - picture.width) // 2, tile.getpixel((0, tile.height - 1))
        inside = next(
            y for y in range(tile.height) if tile.crop((left, y, left + 40, y + 30)).tobytes() == picture.tobytes()
        )
        assert {tile.getpixel(corner) for corner in ((0, 0), (tile.width - 1, 0))} == {below} and inside > 10
    assert strokes(right, picture).any() and (strokes(right, picture) != strokes(wrong, picture)).any()
    assert right.getpixel((0, 0)) != wrong.getpixel((0, 0))


def test_what_nobody_judged_has_no_mark():
    picture = Image.new("RGB", (8, 8), "blue")
    assert marked(picture, None) is picture
    assert lettered(picture, "a text").size < lettered(picture, "a text", False).size
