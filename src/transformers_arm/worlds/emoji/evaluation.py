"""Scores of an ARM on emoji, beside what its tokenizer allows: what the demo, the card and trainings print.

Knows nothing about where a model comes from or what becomes of its scores.
"""

import os
import random
from collections.abc import Iterator, Mapping, Sequence

from ...evaluation.arm import Arm
from ...evaluation.results import EVALUATION_SEED
from ...evaluation.tokenizer import Tokenizer
from ...metrics.arm_fidelity.arm_fidelity import psnr
from .captions import reordered, tagged, true_tags
from .edits import KINDS, Edit
from .items import Item, Items, items_of, of_part, taking_turns
from .judge import Judge, Judges
from .pictures import Drawn
from .prepare import SIDE
from .questions import QUESTION_KINDS, Question
from .rows import Row, Scored, flat
from .scores import Originals, read_originals
from .splits import TRAIN
from .tasks import full
from .tokenizer_scores import IN_ORDER, all_codes, code_scores, rebuilt

SIZE = {"height": SIDE, "width": SIDE}
COMPOSED = ("tone", "gender")
"""The splits that rows named `composed` are of: all parts of their pictures are known, and how they go together is
new.
"""
PARTS = {"people": "", "objects": "objects_"}
"""What is scored apart, and what stands before the name of a split where it is of that part."""
MEANT_EDITS = ("tone", "gender", "color", "clock")
"""Those that the scores of a row of edits are of: of people and hands the first two, of objects the others."""
MEANT_QUESTIONS = ("what", "style", "tone", "gender")
OTHERS = 5
"""Of other kinds of edits and questions there is one item for so many."""
TOLD_OTHERWISE = {"reordered": reordered, "tagged": tagged}
TOLD_SPLITS = (TRAIN, "tone")


def generation(
    arm: Arm, judges: Judges, wanted: Sequence[Drawn], captions: Sequence[str] | None = None, *, seed: int
) -> list[Scored]:
    """`Judges.picture_scores` of what a model draws of captions, the full ones by default."""
    images = arm.draw(captions or [full(each) for each in wanted], seed=seed, **SIZE)
    return list(map(Scored, judges.picture_scores(images, wanted), wanted))


def ceiling(tokenizer: Tokenizer, judges: Judges, wanted: Sequence[Drawn], *, seed: int) -> list[Scored]:
    """The same, and PSNR, of what comes back of pictures through the tokenizer: of the best that a model could do."""
    images = rebuilt(tokenizer, wanted, seed=seed)
    scored = zip(images, wanted, judges.picture_scores(images, wanted), strict=True)
    return [Scored({**scores, "psnr": psnr(image, each.image)}, each) for image, each, scores in scored]


def editing(arm: Arm, judges: Judges, asked: Sequence[Edit], *, seed: int) -> list[Scored]:
    """`Judges.edit_scores` of the kinds of `MEANT_EDITS`; and of every kind, by its name, which targets were hit."""
    instructions, scored = [edit.instructions[0] for edit in asked], []
    images = arm.edit([edit.source.image for edit in asked], instructions, seed=seed, **SIZE)
    for scores, edit in zip(judges.edit_scores(images, asked), asked, strict=True):
        hit = {edit.kind: scores["target"]}
        scored.append(Scored(scores | hit if edit.kind in MEANT_EDITS else hit, edit.target, edit.kind))
    return scored


def understanding(arm: Arm, asked: Sequence[Question]) -> list[Scored]:
    """Which answers are exactly `right`."""
    answers = arm.answer([each.drawn.image for each in asked], [each.wordings[0] for each in asked], **SIZE)
    return [
        Scored({"right": answer.strip() == each.answer}, each.drawn, each.kind, each.answer)
        for answer, each in zip(answers, asked, strict=True)
    ]


def _of(by_kind: Mapping[str, Sequence[Item]], kinds: Sequence[str]) -> dict[str, Sequence[Item]]:
    return {kind: by_kind[kind] for kind in kinds if kind in by_kind}


class _Rows:
    """The rows of one part of a split: `where` is its name in theirs. `items` are of it."""

    def __init__(self, arm: Arm, judges: Judges, items: Items, where: str, *, count: int, seed: int):
        self.arm, self.judges, self.items, self.where = arm, judges, items, where
        self.count, self.seed, self.rng = count, seed, random.Random(f"{seed}/{where}")

    def drawn(self, tokenizer: Tokenizer | None) -> Iterator[Row]:
        wanted = self.rng.sample(self.items.pictures, min(self.count, len(self.items.pictures)))
        yield Row(f"generation_{self.where}", "right", generation(self.arm, self.judges, wanted, seed=self.seed))
        if tokenizer:
            yield self.ceiling("generation", tokenizer, wanted)

    def told_otherwise(self) -> Iterator[Row]:
        """Drawn of captions that say the same in another way, as far as they can."""
        for name, way in TOLD_OTHERWISE.items():
            able = [each for each in self.items.pictures if way is not tagged or true_tags(each.emoji)]
            wanted = self.rng.sample(able, min(self.count, len(able)))
            captions = [way(each.emoji, each.style, self.rng) for each in wanted]
            if wanted:
                scored = generation(self.arm, self.judges, wanted, captions, seed=self.seed)
                yield Row(f"generation_{name}_{self.where}", "right", scored)

    def edited(self, tokenizer: Tokenizer | None) -> Iterator[Row]:
        meant = taking_turns(self.rng, _of(self.items.edits, MEANT_EDITS), self.count)
        others = [kind for kind in KINDS if kind not in MEANT_EDITS]
        asked = meant + taking_turns(self.rng, _of(self.items.edits, others), self.count // OTHERS)
        if asked:
            yield Row(f"editing_{self.where}", "target", editing(self.arm, self.judges, asked, seed=self.seed))
        if meant and tokenizer:
            yield self.ceiling("editing", tokenizer, [edit.target for edit in meant])

    def answered(self) -> Iterator[Row]:
        """A row a kind."""
        for kind, questions in self.items.questions.items():
            most = self.count if kind in MEANT_QUESTIONS else max(1, self.count // OTHERS)
            asked = self.rng.sample(questions, min(most, len(questions)))
            yield Row(f"understanding_{self.where}_{kind}", "right", understanding(self.arm, asked))

    def ceiling(self, of: str, tokenizer: Tokenizer, wanted: Sequence[Drawn]) -> Row:
        return Row(f"{of}_ceiling_{self.where}", "right", ceiling(tokenizer, self.judges, wanted, seed=self.seed))


def rows_of_splits(
    arm: Arm,
    judges: Judges,
    *,
    splits: Sequence[str],
    parts: Sequence[str] = tuple(PARTS),
    told: Sequence[str] = TOLD_SPLITS,
    tokenizer: Tokenizer | None = None,
    count: int,
    seed: int,
) -> Iterator[Row]:
    """All rows of splits, of at most `count` items each, as they come, and then those over `COMPOSED` in one.

    Args:
        parts: people and hands, objects, or both; never mixed.
        told: splits whose people are drawn of captions in another order, and of tags, as well.
        tokenizer: with it come the rows `generation_ceiling_...` and `editing_ceiling_...`, what it gives back of the
            same pictures.
    """
    known, found = {each.split for each in judges.originals.drawn}, {}
    for part in parts:
        for split in (split for split in splits if split in known):
            items = of_part(items_of(split, judges.originals.folder), part)
            if not items.pictures:
                continue
            rows = _Rows(arm, judges, items, PARTS[part] + split, count=count, seed=seed)
            otherwise = rows.told_otherwise() if part == "people" and split in told else ()
            for group in (rows.drawn(tokenizer), otherwise, rows.edited(tokenizer), rows.answered()):
                for row in group:
                    found[row.name] = row
                    yield row
    yield from _composed(found)


def _composed(found: Mapping[str, Row]) -> Iterator[Row]:
    names = [f"{task}_{{}}" for task in ("generation", "generation_ceiling", "editing", "editing_ceiling")]
    for name in (*names, *(f"understanding_{{}}_{kind}" for kind in QUESTION_KINDS)):
        if rows := [found[name.format(split)] for split in COMPOSED if name.format(split) in found]:
            yield Row(name.format("composed"), rows[0].main, (item for row in rows for item in row.items))


def score_rows(
    folder: str | os.PathLike,
    *,
    count: int = 500,
    seed: int = EVALUATION_SEED,
    originals: Originals | None = None,
    judge: Judge | None = None,
) -> Iterator[Row]:
    """All rows of a complete ARM folder beside its tokenizer's ceiling, as they come.

    Args:
        count: items a row, at most.
        originals: `read_originals()` by default.
        judge: with one, its scores stand beside, of people and hands.
    """
    judges = Judges(originals or read_originals(), judge)
    arm = Arm.from_pretrained(folder)
    yield from rows_of_splits(arm, judges, splits=IN_ORDER, tokenizer=arm.tokenizer, count=count, seed=seed)


def score_parts(folder: str | os.PathLike, *, count: int = 500, seed: int = EVALUATION_SEED) -> Iterator[dict]:
    """All scores of a complete ARM folder, flat, by name, as they come: its tokenizer's codes, then `score_rows`."""
    originals, arm = read_originals(), Arm.from_pretrained(folder)
    tokenizer, settings = arm.tokenizer, {"count": count, "seed": seed}
    codes = all_codes(tokenizer, originals.drawn)
    yield flat("tokenizer", code_scores(codes, originals.drawn, tokenizer.model.config.codebook_size), "")
    for row in rows_of_splits(arm, Judges(originals), splits=IN_ORDER, tokenizer=tokenizer, **settings):
        yield row.figures()


def look_scores(arm: Arm, originals: Originals, *, split: str, count: int, seed: int) -> dict[str, float]:
    """Right pictures, edits and answers of a split, for a look while a model trains."""
    items, rng, judges = items_of(split, originals.folder), random.Random(f"{seed}/look"), Judges(originals)
    wanted = rng.sample(items.pictures, min(count, len(items.pictures)))
    asked = taking_turns(rng, _of(items.edits, MEANT_EDITS), count)
    edited = Row("", "target", editing(arm, judges, asked, seed=seed)).means
    answered = understanding(arm, taking_turns(rng, items.questions, count))
    return {
        "generation": Row("", "right", generation(arm, judges, wanted, seed=seed)).means["right"].mean,
        "editing": edited["target"].mean,
        "copied": edited["copied"].mean,
        "understanding": Row("", "right", answered).means["right"].mean,
    }
