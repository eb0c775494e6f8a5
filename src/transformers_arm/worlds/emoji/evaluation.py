"""Scores of an ARM on emoji, beside what its tokenizer allows: what the demo, the card and trainings print.

Knows nothing about where a model comes from or what becomes of its scores.
"""

import os
import random
from collections.abc import Iterator, Mapping, Sequence

from ...evaluation.arm import Arm
from ...evaluation.intervals import Interval, mean_intervals
from ...evaluation.results import EVALUATION_SEED
from ...evaluation.tokenizer import Tokenizer
from .edits import LOOKUP, Edit
from .items import items_of, taking_turns
from .pictures import Drawn
from .prepare import SIDE
from .questions import Question, majority_rate
from .scores import Originals, read_originals
from .splits import HELD_OUT
from .tasks import full
from .tokenizer_scores import all_codes, code_scores, kept_means

SIZE = {"height": SIDE, "width": SIDE}
COMPOSED = ("gender", "tone")
"""The splits that means are over: all parts of their pictures are known, and how they go together is new."""
Means = dict[str, Interval | float]


def generation(arm: Arm, originals: Originals, wanted: Sequence[Drawn], *, seed: int) -> Means:
    """`Originals.means` of what a model draws of full captions."""
    return originals.means(arm.draw([full(each) for each in wanted], seed=seed, **SIZE), wanted)


def editing(arm: Arm, originals: Originals, asked: Sequence[Edit], *, seed: int) -> Means:
    """Means of `Originals.edit_scores` over all edits but those of `LOOKUP`, and of each kind by its name the share of
    targets that were hit.
    """
    instructions = [edit.instructions[0] for edit in asked]
    found = originals.nearest(arm.edit([edit.source.image for edit in asked], instructions, seed=seed, **SIZE))
    scores = [
        {edit.kind: hit["target"], **({} if edit.kind == LOOKUP else hit)}
        for edit, hit in ((edit, originals.edit_scores(shown, edit)) for shown, edit in zip(found, asked, strict=True))
    ]
    return mean_intervals(scores, [edit.target.emoji.concept for edit in asked])


def understanding(arm: Arm, asked: Sequence[Question]) -> Means:
    """Shares of exact answers: of `all` questions, of each kind, and beside it what its commonest answer would get."""
    answers = arm.answer([each.drawn.image for each in asked], [each.wordings[0] for each in asked], **SIZE)
    right = [answer.strip() == each.answer for answer, each in zip(answers, asked, strict=True)]
    scores = [{"all": hit, each.kind: hit} for hit, each in zip(right, asked, strict=True)]
    means = mean_intervals(scores, [each.drawn.emoji.concept for each in asked])
    kinds = dict.fromkeys(each.kind for each in asked)
    return means | {f"{kind}_majority": majority_rate(each for each in asked if each.kind == kind) for kind in kinds}


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


def split_scores(
    arm: Arm, tokenizer: Tokenizer, originals: Originals, split: str, *, count: int, seed: int
) -> dict[str, float]:
    """All scores of one split, of at most `count` items each; `ceiling` is what the tokenizer alone gives back of the
    same pictures, of the targets where these are of edits.
    """
    items, rng = items_of(split, originals.folder), random.Random(f"{seed}/{split}")
    wanted = rng.sample(items.pictures, min(count, len(items.pictures)))
    scores = flat(f"generation_{split}", generation(arm, originals, wanted, seed=seed), "right")
    scores |= flat(f"ceiling_{split}", kept_means(tokenizer, originals, wanted, seed=seed), "right")
    if items.edits:
        asked = taking_turns(rng, items.edits, count)
        scores |= flat(f"editing_{split}", editing(arm, originals, asked, seed=seed), "target")
        if targets := [edit.target for edit in asked if edit.kind != LOOKUP]:
            right = kept_means(tokenizer, originals, targets, seed=seed)["right"]
            scores |= flat(f"editing_ceiling_{split}", {"right": right}, "right")
    asked = taking_turns(rng, items.questions, count)
    return scores | flat(f"understanding_{split}", understanding(arm, asked), "all")


def score_parts(
    folder: str | os.PathLike, *, count: int = 500, seed: int = EVALUATION_SEED, pictures: str | None = None
) -> Iterator[dict[str, float]]:
    """All scores of a complete ARM folder on held-out items, flat, by name, as they come: its tokenizer, each split,
    and then the means over `COMPOSED`.

    Args:
        count: items a score, at most.
        pictures: folder of them, as `read_pictures` takes it.
    """
    originals = read_originals(pictures)
    tokenizer, arm = Tokenizer.from_pretrained(folder), Arm.from_pretrained(folder)
    codes = all_codes(tokenizer, originals.drawn)
    yield flat("tokenizer", code_scores(codes, originals.drawn, tokenizer.model.config.codebook_size), "")
    found = {}
    for split in HELD_OUT:
        if any(each.split == split for each in originals.drawn):
            scores = split_scores(arm, tokenizer, originals, split, count=count, seed=seed)
            found |= scores
            yield scores
    for name in ("generation", "ceiling", "editing", "editing_ceiling", "understanding"):
        if over := [found[f"{name}_{split}"] for split in COMPOSED if f"{name}_{split}" in found]:
            yield {name: sum(over) / len(over)}


def look_scores(arm: Arm, originals: Originals, *, split: str, count: int, seed: int) -> dict[str, float]:
    """Right pictures, edits and answers of a split, for a look while a model trains."""
    items, rng = items_of(split, originals.folder), random.Random(f"{seed}/look")
    wanted = rng.sample(items.pictures, min(count, len(items.pictures)))
    edited = editing(arm, originals, taking_turns(rng, items.edits, count), seed=seed)
    return {
        "generation": generation(arm, originals, wanted, seed=seed)["right"].mean,
        "editing": edited["target"].mean,
        "copied": edited["copied"].mean,
        "understanding": understanding(arm, taking_turns(rng, items.questions, count))["all"].mean,
    }
