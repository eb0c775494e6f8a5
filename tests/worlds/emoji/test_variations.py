"""Varied pictures are like their originals, on white, and samples of them have no caption."""

import random

import numpy as np
import pytest

from transformers_arm.worlds.emoji.pictures import EmojiDataset
from transformers_arm.worlds.emoji.variations import moved, varied


@pytest.fixture
def square():
    """A square of red, off the middle, on white."""
    image = np.full((64, 64, 3), 255, np.uint8)
    image[20:40, 16:36] = (200, 30, 90)
    return image


def test_what_is_drawn_stays_whole_on_white_in_any_order_of_its_colors(square):
    colors, places = set(), set()
    for seed in range(200):
        new = varied(square, random.Random(seed))
        assert new.shape == square.shape and new.dtype == np.uint8 and (new[0] == 255).all()
        drawn = np.argwhere((new != 255).any(-1))
        assert 10 <= np.ptp(drawn, axis=0).min() and np.ptp(drawn, axis=0).max() <= 31
        colors.add(tuple(np.median(new[(new != 255).all(-1)], axis=0).astype(int)))
        places.add(tuple(drawn.min(0)))
    assert {tuple(sorted(color)) for color in colors} == {(30, 90, 200)} and len(colors) == 6
    assert len(places) > 20 and (square == varied(square, random.Random(1))).mean() < 1


def test_moved_by_no_more_than_is_said_and_in_its_own_colors(square):
    for seed in range(50):
        drawn = np.argwhere((moved(square, random.Random(seed), zoom=(1, 1), shift=2) != 255).any(-1))
        assert np.abs(drawn.mean(0) - (29.5, 25.5)).max() <= 2.5
    large = moved(square, random.Random(0), zoom=(1.3, 1.3), shift=0)
    assert 25 <= np.ptp(np.argwhere((large != 255).any(-1)), axis=0).min() and (large[30, 30] == (200, 30, 90)).all()


def test_so_many_samples_are_varied_and_those_have_no_caption(emoji_folder):
    samples = EmojiDataset(200, 1, varied=0.7, folder=emoji_folder)
    captions = [samples[index]["caption"] for index in range(200)]
    assert 0.6 < captions.count(None) / 200 < 0.8
    assert (samples[3]["image"] == EmojiDataset(200, 1, varied=0.7, folder=emoji_folder)[3]["image"]).all()
    with pytest.raises(ValueError, match="varied is 7"):
        EmojiDataset(1, 1, varied=7, folder=emoji_folder)
