"""Sheets show what they are given, all of it."""

import numpy as np

from transformers_arm.evaluation.sheets import heat_map


def test_heat_maps_show_every_token_of_the_grid():
    picture = heat_map(np.array([[0, 1023, 512]]), codebook_size=1024, patch_size=16)
    assert picture.size == (3 * 64, 64)
    assert picture.getpixel((1, 1)) != picture.getpixel((65, 1)) != picture.getpixel((129, 1))
