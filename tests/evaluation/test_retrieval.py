"""Pictures that come back are looked for among all originals, in pixels."""

import numpy as np
import pytest

from transformers_arm.evaluation import retrieval as module
from transformers_arm.evaluation.retrieval import PictureIndex, nearest, retrieval


def pictures(count, height=16, width=16, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8))


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_each_is_nearest_to_what_it_is_made_of(rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", rows)
    originals = pictures(7)
    returned = [(each // 16 * 16 + 8).astype(np.uint8) for each in originals]
    assert nearest(returned, originals).tolist() == list(range(7)) and retrieval(returned, originals) == 1.0
    swapped = [returned[1], returned[0], *returned[2:]]
    assert nearest(swapped, originals).tolist() == [1, 0, 2, 3, 4, 5, 6]
    assert retrieval(swapped, originals) == pytest.approx(5 / 7)


def test_nearest_is_by_squared_error_over_all_candidates():
    originals, returned = pictures(12), pictures(5, seed=1)
    errors = [[np.square(a.astype(int) - b.astype(int)).sum() for b in originals] for a in returned]
    assert nearest(returned, originals).tolist() == np.argmin(errors, 1).tolist()


def test_of_copies_a_picture_s_own_is_the_nearest():
    first, second = pictures(2)
    assert nearest([first, first, second], [first, first.copy(), second]).tolist() == [0, 1, 2]


def test_sizes_are_looked_for_apart():
    square, wide = pictures(3), pictures(3, 8, 32, seed=1)
    originals = [each for pair in zip(square, wide, strict=True) for each in pair]
    returned = [originals[2], originals[1], originals[0], originals[3], originals[4], originals[5]]
    assert nearest(returned, originals).tolist() == [2, 1, 0, 3, 4, 5]
    with pytest.raises(ValueError, match=r"Picture 1 is \(8, 32, 3\), but its own is \(16, 16, 3\)"):
        nearest([square[0], wide[0]], square)


def test_a_single_level_of_a_single_pixel_decides_among_any_number():
    candidates = [np.full((16, 16, 3), 200, np.uint8) for _ in range(2)]
    candidates[1][15, 15, 2] += 1
    index = PictureIndex(candidates + pictures(20))
    assert index.nearest([candidates[1], candidates[0], index.pixels[7].reshape(16, 16, 3)]).tolist() == [1, 0, 7]
    assert index.errors(candidates[1], [0, 1]).tolist() == [1, 0]


def test_an_index_refuses_pictures_of_another_size():
    with pytest.raises(ValueError, match=r"Pictures of \(8, 32, 3\) have no nearest among those of \(16, 16, 3\)"):
        PictureIndex(pictures(2)).nearest(pictures(1, 8, 32))
