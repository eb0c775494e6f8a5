"""Intervals hold the mean, shrink with items, follow the seed, and are wider where items hang together."""

import numpy as np
import pytest

from transformers_arm.evaluation.intervals import mean_interval, mean_intervals


def coins(count, share=0.3):
    return list(np.random.default_rng(0).random(count) < share)


def width(interval):
    return interval.high - interval.low


def test_the_mean_lies_within_and_the_bounds_are_those_of_the_standard_error():
    found = mean_interval(coins(2000))
    assert found.low < found.mean < found.high and found.items == 2000
    assert found.mean == pytest.approx(0.3, abs=0.05)
    assert width(found) == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 2000) ** 0.5, rel=0.15)
    assert mean_interval(coins(200)).high - mean_interval(coins(200)).low > 2 * width(found)


def test_the_same_seed_gives_the_same_bounds():
    values = np.random.default_rng(0).random(50)
    assert mean_interval(values) == mean_interval(values) != mean_interval(values, seed=1)


def test_items_that_hang_together_count_as_one():
    values = coins(100)
    together = mean_interval(
        [value for value in values for _ in range(10)], [n for n in range(100) for _ in range(10)]
    )
    assert together.mean == mean_interval(values).mean and together.items == 1000
    assert width(together) == pytest.approx(width(mean_interval(values)), rel=0.1)


def test_what_is_always_alike_has_no_width():
    assert mean_interval([1, 1, 1]) == (1, 1, 1, 3)
    assert str(mean_interval([1, 1, 1])) == "1 (1 to 1)"


def test_scores_by_name_are_over_the_items_that_have_them():
    found = mean_intervals([{"right": True, "tone": True}, {"right": False}, {"right": False}], "abc")
    assert found["right"].mean == pytest.approx(1 / 3) and found["right"].items == 3
    assert found["tone"] == (1, 1, 1, 1)


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="The mean of no values"):
        mean_interval([])
