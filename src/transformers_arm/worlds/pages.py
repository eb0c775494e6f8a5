"""Pages of a demo that all worlds have: what an ARM draws, edits and answers. Knows no world."""

from collections.abc import Sequence

from PIL import Image

from ..evaluation.arm import Arm
from ..evaluation.sheets import enlarged, in_columns, lettered, sheet


def prompts_page(arm: Arm, prompts: Sequence[str], *, seed: int, **size: int) -> Image.Image:
    """Prompts below their pictures, four columns."""
    pictures = arm.draw(prompts, seed=seed, **size)
    return sheet(in_columns([lettered(*pair) for pair in zip(pictures, prompts, strict=True)], 4))


def edits_page(
    arm: Arm, sources: Sequence[Image.Image], instructions: Sequence[str], *, seed: int, **size: int
) -> Image.Image:
    """Sources with their instructions above what becomes of them."""
    results = arm.edit(sources, instructions, seed=seed, **size)
    columns = zip(sources, instructions, results, strict=True)
    return sheet([[lettered(source, instruction), enlarged(result)] for source, instruction, result in columns])


def answers_page(arm: Arm, pictures: Sequence[Image.Image], questions: Sequence[str], **size: int) -> Image.Image:
    """Pictures above a question and the answer, six columns."""
    answers = arm.answer(pictures, questions, **size)
    texts = [f"{question} {answer}" for question, answer in zip(questions, answers, strict=True)]
    return sheet(in_columns([lettered(*pair) for pair in zip(pictures, texts, strict=True)], 6))
