"""Rows of scores: what each item scored becomes means with their intervals, and the weakest cell beside them.

Knows no model.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ...evaluation.intervals import Interval, mean_interval, mean_intervals
from .judge import JUDGE
from .pictures import Drawn
from .questions import majority_rate
from .traits import word_of

CELL = 10
"""Items that a cell must have to be called the weakest: of fewer its share says nothing."""
IN_CELLS = ("style", "tone", "gender")


class Scored(NamedTuple):
    """What an item scored, by name; the picture that was wanted, or asked about; the kind of the edit or question, and
    the right answer to it.
    """

    scores: Mapping[str, float]
    drawn: Drawn
    kind: str = ""
    answer: str = ""


class Row:
    """The scores of items of one sort, of which those of one concept hang together.

    Args:
        name: of the row, by which alone its `main` score goes.
        items: at least one.
    """

    def __init__(self, name: str, main: str, items: Iterable[Scored]):
        self.name, self.main, self.items = name, main, tuple(items)

    @cached_property
    def means(self) -> dict[str, Interval]:
        """Of each score over those items that have it."""
        return mean_intervals([each.scores for each in self.items], [each.drawn.emoji.concept for each in self.items])

    @cached_property
    def cells(self) -> dict[str, Interval]:
        """The main score of each kind, style, tone and gender that `CELL` items or more are of, as "tone dark"."""
        of = defaultdict(list)
        for each in self.items:
            if self.main in each.scores:
                told = {"kind": each.kind, **{name: word_of(each.drawn, name) for name in IN_CELLS}}
                for cell in (f"{name} {word}" for name, word in told.items() if word):
                    of[cell].append((each.scores[self.main], each.drawn.emoji.concept))
        return {cell: mean_interval(*zip(*found, strict=True)) for cell, found in of.items() if len(found) >= CELL}

    @property
    def weakest(self) -> str | None:
        """The cell with the lowest mean; None of a row too small to have one."""
        return min(self.cells, key=lambda cell: self.cells[cell].mean, default=None)

    @property
    def majority(self) -> float | None:
        """What the commonest answer to the row's questions would get; None of no questions."""
        return majority_rate(self.items) if self.items[0].answer else None

    def figures(self) -> dict[str, float]:
        """All means with their bounds, flat, by name, with the weakest cell's and of questions the majority rate."""
        beside = {"weakest": self.weakest and self.cells[self.weakest], "majority": self.majority}
        known = {name: value for name, value in beside.items() if value is not None}
        return flat(self.name, self.means | known, self.main)


def flat(name: str, means: Mapping[str, Interval | float], main: str) -> dict[str, float]:
    """Scores by name, `main` by the `name` alone; of intervals the bounds as well, `_low` and `_high`."""
    scores = {}
    for each, value in means.items():
        stem = name if each == main else f"{name}_{each}"
        if isinstance(value, Interval):
            scores |= {stem: value.mean, f"{stem}_low": value.low, f"{stem}_high": value.high}
        else:
            scores[stem] = value
    return scores


def as_result(rows: Sequence[Row]) -> dict:
    """Of rows all `figures`, the `cells` and the `weakest` of them, as JSON holds them."""
    return {
        "figures": {name: value for row in rows for name, value in row.figures().items()},
        "weakest": {row.name: row.weakest for row in rows},
        "cells": {row.name: {cell: found._asdict() for cell, found in row.cells.items()} for row in rows},
    }


def table(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown: main scores with their intervals, all scores, by the second judge behind a slash,
    and the weakest cell of each.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.means if not name.startswith(JUDGE)))
    asked = ["majority"] if any(row.majority is not None for row in rows) else []
    lines = [f"| | items | {' | '.join([*names, *asked])} | weakest |", f"|{'---|' * (3 + len(names) + len(asked))}"]
    for row in rows:
        shown = [_in_table(row, name) for name in names] + ([f"{row.majority:.3f}"] if asked else [])
        cell = row.weakest
        weakest = f"{cell} {row.cells[cell].mean:.3f} of {row.cells[cell].items}" if cell else ""
        items = max(found.items for found in row.means.values())
        lines.append(f"| {row.name} | {items} | {' | '.join([*shown, weakest])} |")
    return "\n".join(lines)


def _in_table(row: Row, name: str) -> str:
    if name not in row.means:
        return ""
    first, second = row.means[name], row.means.get(JUDGE + name)
    told = str(first) if name == row.main else f"{first.mean:.3f}"
    return told if second is None else f"{told} / {second.mean:.3f}"
