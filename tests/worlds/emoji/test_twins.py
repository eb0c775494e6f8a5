"""Twins: what differs by less than anyone sees, and all that such pairs lead to."""

import numpy as np
import pytest

from transformers_arm.worlds.emoji.twins import ALIKE, twin_classes


def changed(picture, decibels, rng):
    """The picture with one pixel's value in four changed, so that its PSNR is as stated, or the next above."""
    step = int(np.sqrt(4 * 255**2 / 10 ** (decibels / 10)))
    places = rng.random(picture.shape) < 0.25
    return np.where(places, picture + rng.choice([-step, step], picture.shape), picture).astype(np.uint8)


def psnr(first, second):
    return 10 * np.log10(255**2 / np.square(first.astype(float) - second).mean())


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_classes_are_counted_in_order_of_appearance(rng):
    red, green, blue = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    assert twin_classes(np.stack([red, green, red, blue, green, red])) == [0, 1, 0, 2, 1, 0]


@pytest.mark.parametrize(("decibels", "alike"), [(ALIKE + 1, True), (ALIKE - 2, False)])
def test_next_to_nothing_makes_no_difference_and_a_little_does(rng, decibels, alike):
    picture = rng.integers(30, 220, (64, 64, 3), dtype=np.uint8)
    other = changed(picture, decibels, rng)
    assert (psnr(picture, other) >= ALIKE) == alike
    assert twin_classes(np.stack([picture, other])) == ([0, 0] if alike else [0, 1])


def test_twins_of_twins_are_twins(rng):
    """Whatever their order: 0 and 2 are too far apart, and 1 is close to both."""
    first = np.full((64, 64, 3), 100, np.uint8)
    chain = np.stack([first, first + 2, first + 4])
    assert psnr(chain[0], chain[1]) >= ALIKE > psnr(chain[0], chain[2])
    assert twin_classes(chain) == [0, 0, 0]
    assert twin_classes(chain[[0, 2, 1]]) == [0, 0, 0] and twin_classes(chain[[0, 2]]) == [0, 1]


def test_a_difference_that_means_over_blocks_hide_is_seen():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    pictures = np.stack([board, 255 - board]).astype(np.uint8)[..., None].repeat(3, 3)
    assert twin_classes(pictures) == [0, 1]


def test_more_pictures_than_are_compared_at_once_have_as_many_classes_as_kinds(rng):
    kinds = rng.integers(40, 200, (60, 32, 32, 3), dtype=np.uint8)
    chosen = [*range(60), *rng.integers(0, 60, 1440)]
    pictures = np.stack([changed(kinds[kind], 44, rng) for kind in chosen])
    assert twin_classes(pictures) == chosen
