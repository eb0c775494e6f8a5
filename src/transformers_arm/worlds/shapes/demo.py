"""The demo's pages: what an ARM draws, edits, answers and tells of held-out scenes, and pictures to tokens and back.

Knows nothing about how any of it is done.
"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from os import PathLike

from PIL import Image

from ...data.world import Sheet
from ...evaluation.arm import Arm
from ...evaluation.results import EVALUATION_SEED
from ...evaluation.sheets import lettered, sheet, token_sheet
from ...evaluation.tokenizer import Tokenizer
from ..pages import MARKED, answers_page, edits_page, prompts_page
from .captions import shuffled_caption
from .draw import render_scene
from .items import editing_pairs, question_pairs
from .pictures import ShapesDataset
from .prompts import PROMPT_TASKS, generation_prompts
from .scene import sample_scene
from .scores import picture_is_right, score_edit
from .tasks import STORY

STORY_TOKENS = 120


def draw_prompts(arm: Arm, *, seed: int = EVALUATION_SEED) -> Image.Image:
    """Twelve held-out prompts with their pictures: each kind of prompt, then full captions."""
    prompts = [generation_prompts(task, 1, seed=seed)[0] for task in PROMPT_TASKS]
    prompts += generation_prompts("full", 13 - len(prompts), seed=seed)[1:]
    return prompts_page(arm, prompts, partial(map, picture_is_right, prompts), seed=seed)


def draw_edits(arm: Arm, *, seed: int = EVALUATION_SEED) -> Image.Image:
    """Six held-out edits of six kinds, source above result: right is the target scene, all of it."""
    pairs = editing_pairs(6, seed=seed)
    sources = [Image.fromarray(render_scene(pair.source)) for pair in pairs]

    def judge(pictures: Sequence[Image.Image]) -> Iterator[bool]:
        return (
            score_edit(pair.source, pair.instruction, each).exact for pair, each in zip(pairs, pictures, strict=True)
        )

    return edits_page(arm, sources, [pair.instruction for pair in pairs], judge, seed=seed)


def draw_answers(arm: Arm, *, seed: int = EVALUATION_SEED) -> Image.Image:
    """Six held-out questions with the model's answers."""
    pairs = question_pairs(6, seed=seed)
    pictures = [Image.fromarray(render_scene(scene)) for scene, _ in pairs]

    def judge(answers: Sequence[str]) -> Iterator[bool]:
        return (answer.strip() == asked.answer for answer, (_, asked) in zip(answers, pairs, strict=True))

    return answers_page(arm, pictures, [asked.question for _, asked in pairs], judge)


def draw_story(arm: Arm, *, seed: int = EVALUATION_SEED) -> Image.Image:
    """A story the model tells of a held-out scene: it writes, and opens pictures where it wants them."""
    rng = random.Random(seed)
    caption = shuffled_caption(rng, sample_scene(rng, split="test", held_out_pairs=False))
    parts, texts, columns = arm.tell(STORY + caption, max_new_tokens=STORY_TOKENS, seed=seed), [caption], []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        else:
            columns.append([lettered(part, " ".join(texts))])
            texts = []
    return sheet(columns) if columns else lettered(Image.new("RGB", (48, 48), "white"), " ".join(texts))


def draw_world(tokenizer: Tokenizer, count: int = 8, *, seed: int = EVALUATION_SEED) -> tuple[Image.Image, str]:
    """Held-out pictures, what comes back of them, and their tokens, as a picture and as text."""
    data = ShapesDataset(count, batch_size=count, seed=seed, split="test")
    samples = [data[index] for index in range(count)]
    return token_sheet(tokenizer, {sample["caption"]: sample["image"] for sample in samples})


def sheets(folder: str | PathLike, *, seed: int = EVALUATION_SEED) -> Iterator[Sheet]:
    """All pages, of the model in a folder."""
    pictures = draw_world(Tokenizer.from_pretrained(folder), seed=seed)
    yield Sheet("world", "originals, reconstructions, token grids", *pictures)
    arm = Arm.from_pretrained(folder)
    for name, draw, what in (
        ("prompts", draw_prompts, f"twelve prompts and what the model draws; {MARKED}"),
        ("edits", draw_edits, f"six sources, instructions and results; {MARKED}"),
        ("answers", draw_answers, f"six questions and answers; {MARKED}"),
        ("story", draw_story, "a story, told in text and pictures"),
    ):
        yield Sheet(name, what, draw(arm, seed=seed))
