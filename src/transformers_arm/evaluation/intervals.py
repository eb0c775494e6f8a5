"""Means with what chance may have added: bootstrap intervals. Knows nothing about what is measured."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000


class Interval(NamedTuple):
    """A mean of so many items, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float
    items: int

    def __str__(self) -> str:
        return f"{self.mean:.3g} ({self.low:.3g} to {self.high:.3g})"


def mean_interval(values: Sequence[float], groups: Sequence[Hashable] | None = None, *, seed: int = 0) -> Interval:
    """The mean of values, with the percentiles of bootstrap resamples, `seed`ed.

    Args:
        values: of the items, bool or float.
        groups: what items belong to whose values hang together, such as pictures of one thing: whole groups are
            resampled, for items alone would make the interval too narrow. None: each item is by itself.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("The mean of no values is nothing; measure at least one item.")
    values = np.asarray(values, float)
    names = range(len(values)) if groups is None else groups
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    of = np.array([numbers[name] for name in names])
    sums, sizes = np.bincount(of, values), np.bincount(of)
    chosen = np.random.default_rng(seed).integers(len(sizes), size=(RESAMPLES, len(sizes)))
    low, high = np.percentile(sums[chosen].sum(1) / sizes[chosen].sum(1), (2.5, 97.5))
    return Interval(float(values.mean()), float(low), float(high), len(values))


def mean_intervals(
    scores: Sequence[Mapping[str, float]], groups: Sequence[Hashable], *, seed: int = 0
) -> dict[str, Interval]:
    """`mean_interval` of each score by its name, over those items that have it."""
    of = {}
    for each, group in zip(scores, groups, strict=True):
        for name, value in each.items():
            of.setdefault(name, []).append((value, group))
    return {name: mean_interval(*zip(*pairs, strict=True), seed=seed) for name, pairs in of.items()}
