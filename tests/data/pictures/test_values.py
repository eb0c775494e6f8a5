"""What stands for a picture: files, bytes, arrays, codes."""

import numpy as np
import pytest
import torch
from picture_rows import GRID, ONE, TWO, png

from transformers_arm.data.columns import row_conversation
from transformers_arm.data.pictures import read_picture


def test_codes_stand_wherever_a_picture_may():
    expected = [[5, 65535, 0], [7, 8, 9]]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "image", "image": GRID}]}]
    messages.append({"role": "assistant", "content": "a cat"})
    for row, pictures in (
        ({"prompt": "a cat", "image": GRID}, 1),
        ({"prompt": "redder", "source_image": GRID, "image": GRID}, 2),
        ({"prompt": "join", "source_images": [GRID, GRID], "image": GRID}, 3),
        ({"messages": messages, "images": [GRID]}, 2),
    ):
        parts = [part for turn in row_conversation(row, 0) for part in turn["content"] if part["type"] == "image"]
        assert [part["image"].tolist() for part in parts] == [expected] * pictures
        assert all(part["image"].dtype == torch.int64 for part in parts)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"height": 3}, "6 codes do not fill their grid of 3x3"),
        ({"codes": []}, "0 codes do not fill their grid of 2x3"),
        ({"height": 0}, "the grid of codes is 0x3, but sides are 1..128"),
        ({"width": 129}, "the grid of codes is 2x129, but sides are 1..128"),
        ({"width": None}, "the grid of codes is 2xNone"),
        ({"codes": [0, 1, 2, 3, 4, 65536]}, "codes span 0..65536, but must be whole numbers in 0..65535"),
        ({"codes": [0, 1, 2, 3, 4, -1]}, "codes span -1..4"),
        ({"codes": [0, 1, 2, 3, 4, 0.5]}, "codes span 0.0..4.0"),
        ({"codes": None, "height": None, "width": None}, "there is no picture"),
    ],
)
def test_codes_that_are_no_grid_are_refused(changed, error):
    with pytest.raises(ValueError, match=f"Row 5, column 'image': {error}"):
        row_conversation({"prompt": "a cat", "image": GRID | changed}, 5)


def test_the_bytes_of_a_file_are_a_picture():
    assert read_picture(png(TWO), 0, "image") == TWO
    with pytest.raises(ValueError, match="Row 0, column 'image': cannot identify image file: .* Is the file"):
        read_picture(b"no picture", 0, "image")


def test_pictures_and_arrays_are_taken_as_they_are():
    assert read_picture(np.asarray(ONE).tolist(), 0, "image") == ONE  # as Arrow keeps arrays
    assert read_picture(ONE, 0, "image", lambda picture: picture.size) == (48, 48)
