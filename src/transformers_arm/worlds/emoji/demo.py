"""The demo's pages: what an ARM draws, edits and answers of held-out emoji, and pictures to tokens and back.

Knows nothing about how any of it is done.
"""

import os
import random
from collections.abc import Iterator

from PIL import Image

from ...data.world import Sheet
from ...evaluation.arm import Arm
from ...evaluation.results import EVALUATION_SEED
from ...evaluation.sheets import token_sheet
from ...evaluation.tokenizer import Tokenizer
from ..pages import answers_page, edits_page, prompts_page
from .evaluation import COMPOSED, SIZE
from .items import Items, items_of, taking_turns
from .tasks import full

PROMPTS, PAIRS, TOKENS = 12, 6, 8  # pictures on the pages


def held_out(folder: str | os.PathLike | None = None) -> Items:
    """What is held out of known concepts, of `COMPOSED` in one."""
    both = [items_of(split, folder) for split in COMPOSED]
    pictures = sum((each.pictures for each in both), ())
    edits, questions = ({}, {})
    for each in both:
        for together, of_split in ((edits, each.edits), (questions, each.questions)):
            for kind, found in of_split.items():
                together[kind] = together.get(kind, ()) + found
    return Items(pictures, edits, questions)


def sheets(
    folder: str | os.PathLike, *, seed: int = EVALUATION_SEED, pictures: str | os.PathLike | None = None
) -> Iterator[Sheet]:
    """All pages, of the model in a folder."""
    items, rng = held_out(pictures), random.Random(f"{seed}/sheets")
    shown = {full(each): each.image for each in rng.sample(items.pictures, min(TOKENS, len(items.pictures)))}
    page = token_sheet(Tokenizer.from_pretrained(folder), shown)
    yield Sheet("world", "originals, reconstructions, token grids", *page)
    arm = Arm.from_pretrained(folder)
    prompts = [full(each) for each in rng.sample(items.pictures, min(PROMPTS, len(items.pictures)))]
    page = prompts_page(arm, prompts, seed=seed, **SIZE)
    yield Sheet("prompts", "names and what the model draws", page)
    asked = taking_turns(rng, items.edits, PAIRS)
    sources = [Image.fromarray(edit.source.image) for edit in asked]
    page = edits_page(arm, sources, [edit.instructions[0] for edit in asked], seed=seed, **SIZE)
    yield Sheet("edits", "sources, instructions and results", page)
    asked = taking_turns(rng, items.questions, PAIRS)
    pictured = [Image.fromarray(each.drawn.image) for each in asked]
    yield Sheet(
        "answers", "questions and answers", answers_page(arm, pictured, [q.wordings[0] for q in asked], **SIZE)
    )
