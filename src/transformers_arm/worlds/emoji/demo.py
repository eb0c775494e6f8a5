"""The demo's pages: what an ARM draws, edits and answers of held-out emoji, and pictures to tokens and back.

Knows nothing about how any of it is done.
"""

import os
import random
from collections.abc import Iterator, Sequence

from PIL import Image

from ...data.world import Sheet
from ...evaluation.arm import Arm
from ...evaluation.results import EVALUATION_SEED
from ...evaluation.sheets import token_sheet
from ...evaluation.tokenizer import Tokenizer
from ..pages import MARKED, answers_page, edits_page, prompts_page
from .evaluation import COMPOSED, SIZE
from .items import Items, items_of, taking_turns
from .pictures import missing_pictures
from .scores import read_originals
from .tasks import full

PROMPTS, PAIRS, TOKENS = 12, 6, 8  # pictures on the pages
Folder = str | os.PathLike | None
EXAMPLES = (
    ("a man detective, medium-dark skin tone, twemoji style", "make the skin tone light", "what skin tone is it?"),
    ("a woman mage, medium-dark skin tone, fluent style", "change her to a man", "is it a woman, a man or a person?"),
    ("a man astronaut, medium-light skin tone, twemoji style", "make the skin tone dark", "what is it?"),
    ("a woman mechanic, medium-dark skin tone, noto style", "change her to a man", "what style is it?"),
    ("a man teacher, medium skin tone, noto style", "remove the skin tone", "what skin tone is it?"),
    ("a woman guard, medium-light skin tone, fluent style", "make the skin tone medium", "what is it?"),
    ("a man farmer, medium skin tone, twemoji style", "change him to a woman", "what style is it?"),
    ("a man elf, medium-light skin tone, noto style", "make the skin tone dark", "what is it?"),
)
"""For who has no pictures: captions of `COMPOSED`, an edit of what is drawn of each, and a question about it."""


def held_out(folder: Folder = None) -> Items:
    """What is held out of known concepts, of `COMPOSED` in one."""
    both = [items_of(split, folder) for split in COMPOSED]
    pictures = sum((each.pictures for each in both), ())
    edits, questions = ({}, {})
    for each in both:
        for together, of_split in ((edits, each.edits), (questions, each.questions)):
            for kind, found in of_split.items():
                together[kind] = together.get(kind, ()) + found
    return Items(pictures, edits, questions)


def draw_prompts(arm: Arm, *, seed: int = EVALUATION_SEED, folder: Folder = None) -> Image.Image:
    """Twelve held-out captions with their pictures: right is what is nearest to the one that was wanted."""
    items, originals = held_out(folder), read_originals(folder)
    wanted = random.Random(f"{seed}/prompts").sample(items.pictures, min(PROMPTS, len(items.pictures)))

    def judge(pictures: Sequence[Image.Image]) -> Iterator[bool]:
        found = originals.nearest(pictures)
        return (originals.picture_scores(*pair)["right"] for pair in zip(found, wanted, strict=True))

    return prompts_page(arm, [full(each) for each in wanted], judge, seed=seed, **SIZE)


def draw_edits(arm: Arm, *, seed: int = EVALUATION_SEED, folder: Folder = None) -> Image.Image:
    """Six held-out edits, source above result: right is what is nearest to the target."""
    asked, originals = (
        taking_turns(random.Random(f"{seed}/edits"), held_out(folder).edits, PAIRS),
        read_originals(folder),
    )

    def judge(pictures: Sequence[Image.Image]) -> Iterator[bool]:
        found = originals.nearest(pictures)
        return (originals.edit_scores(*pair)["target"] for pair in zip(found, asked, strict=True))

    sources = [Image.fromarray(edit.source.image) for edit in asked]
    return edits_page(arm, sources, [edit.instructions[0] for edit in asked], judge, seed=seed, **SIZE)


def draw_answers(arm: Arm, *, seed: int = EVALUATION_SEED, folder: Folder = None) -> Image.Image:
    """Six held-out questions with the model's answers."""
    asked = taking_turns(random.Random(f"{seed}/answers"), held_out(folder).questions, PAIRS)

    def judge(answers: Sequence[str]) -> Iterator[bool]:
        return (answer.strip() == each.answer for answer, each in zip(answers, asked, strict=True))

    pictures = [Image.fromarray(each.drawn.image) for each in asked]
    return answers_page(arm, pictures, [each.wordings[0] for each in asked], judge, **SIZE)


def draw_world(tokenizer: Tokenizer, *, seed: int = EVALUATION_SEED, folder: Folder = None) -> tuple[Image.Image, str]:
    """Held-out pictures, what comes back of them, and their tokens, as a picture and as text."""
    pictures = held_out(folder).pictures
    shown = random.Random(f"{seed}/world").sample(pictures, min(TOKENS, len(pictures)))
    return token_sheet(tokenizer, {full(each): each.image for each in shown})


def examples(arm: Arm, *, seed: int) -> Iterator[Sheet]:
    """Pages of `EXAMPLES`, which nothing can judge: prompts, and edits and questions of what was drawn of them."""
    prompts, instructions, questions = zip(*EXAMPLES, strict=True)
    yield Sheet("prompts", "captions and what the model draws", prompts_page(arm, prompts, seed=seed, **SIZE))
    drawn = arm.draw(prompts, seed=seed, **SIZE)
    edited = edits_page(arm, drawn, instructions, seed=seed, **SIZE)
    yield Sheet("edits", "what it drew, instructions and results", edited)
    yield Sheet("answers", "questions and answers about what it drew", answers_page(arm, drawn, questions, **SIZE))


def sheets(folder: str | os.PathLike, *, seed: int = EVALUATION_SEED, pictures: Folder = None) -> Iterator[Sheet]:
    """All pages, of the model in a folder; where `pictures` are missing, `examples`."""
    arm = Arm.from_pretrained(folder)
    if missing_pictures(pictures):
        yield from examples(arm, seed=seed)
        return
    page = draw_world(arm.tokenizer, seed=seed, folder=pictures)
    yield Sheet("world", "originals, reconstructions, token grids", *page)
    for name, draw, what in (
        ("prompts", draw_prompts, "captions and what the model draws"),
        ("edits", draw_edits, "sources, instructions and results"),
        ("answers", draw_answers, "questions and answers"),
    ):
        yield Sheet(name, f"{what}; {MARKED}", draw(arm, seed=seed, folder=pictures))
