"""What a code tells of more than its patch."""

import numpy as np
import pytest

from transformers_arm.evaluation.code_noise import code_noise

WHITE, BLACK = np.full((16, 16, 3), 255, np.uint8), np.zeros((16, 16, 3), np.uint8)
WIDE = np.concatenate([WHITE, BLACK], 1)


def test_codes_that_follow_from_their_patches_have_no_noise():
    assert code_noise([WIDE, WHITE], [np.array([[3, 7]]), np.array([[3]])]) == 0


def test_a_patch_that_has_one_of_two_codes_adds_their_entropy_by_its_share():
    codes = [np.array([[3, 7]]), np.array([[4, 7]])]  # white is 3 or 4: half of the patches
    assert code_noise([WIDE, WIDE], codes) == pytest.approx(np.log(2) / 2)


def test_grids_of_any_patch_and_size_go_together():
    tall = np.concatenate([WIDE, WIDE])
    assert code_noise([tall, WIDE], [np.array([[1, 2], [1, 2]]), np.array([[1, 5]])]) == pytest.approx(
        (3 * np.log(3) - 2 * np.log(2)) / 6
    )
