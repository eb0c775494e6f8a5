"""Pages of a demo that all worlds have: what an ARM draws, edits and answers, right or wrong. Knows no world."""

from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from ..evaluation.arm import Arm
from ..evaluation.sheets import enlarged, in_columns, lettered, marked, sheet

MARKED = "ticked if right, crossed if wrong"
Judge = Callable[[Sequence], Iterable[bool | None]]
"""Says of each result, in order, whether it is right, or None."""


def unjudged(results: Sequence) -> list[None]:
    """The judge that knows nothing: its pages have no marks."""
    return [None] * len(results)


def prompts_page(arm: Arm, prompts: Sequence[str], judge: Judge = unjudged, *, seed: int, **size: int) -> Image.Image:
    """Prompts below their pictures, which are marked; four columns."""
    pictures = arm.draw(prompts, seed=seed, **size)
    tiles = zip(pictures, prompts, judge(pictures), strict=True)
    return sheet(in_columns([lettered(*tile) for tile in tiles], 4))


def edits_page(
    arm: Arm,
    sources: Sequence[Image.Image],
    instructions: Sequence[str],
    judge: Judge = unjudged,
    *,
    seed: int,
    **size: int,
) -> Image.Image:
    """Sources with their instructions above what becomes of them, which is marked."""
    results = arm.edit(sources, instructions, seed=seed, **size)
    columns = zip(sources, instructions, results, judge(results), strict=True)
    return sheet(
        [[lettered(source, words), marked(enlarged(result), right)] for source, words, result, right in columns]
    )


def answers_page(
    arm: Arm, pictures: Sequence[Image.Image], questions: Sequence[str], judge: Judge = unjudged, **size: int
) -> Image.Image:
    """Pictures above a question and the answer, marked as the answer is right or wrong; six columns."""
    answers = arm.answer(pictures, questions, **size)
    texts = [f"{question} {answer}" for question, answer in zip(questions, answers, strict=True)]
    tiles = zip(pictures, texts, judge(answers), strict=True)
    return sheet(in_columns([lettered(*tile) for tile in tiles], 6))
