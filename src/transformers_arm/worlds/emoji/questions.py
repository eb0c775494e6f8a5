"""Questions about pictures of emoji, only those with exactly one right answer. Knows no model."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .pictures import Drawn
from .traits import choices

NO_TONE = "none"  # the answer where no tone is chosen


@dataclass(frozen=True)
class Question:
    """A question of a kind about a picture, in several wordings, and its one right answer."""

    kind: str
    drawn: Drawn
    answer: str

    @property
    def wordings(self) -> tuple[str, ...]:
        """The first is the one that scores are taken with."""
        return WORDINGS[self.kind]


WORDINGS = {
    "what": ("what is it?", "what does the picture show?", "name it"),
    "style": ("what style is it?", "in which style is it drawn?", "name the style"),
    "tone": ("what skin tone is it?", "which skin tone?", "name the skin tone"),
    "gender": ("is it a woman, a man or a person?", "woman, man or person?", "what gender is it?"),
    "hair": ("what hair is it?", "which hair?", "name the hair"),
    "facing": ("which way does it face?", "does it face left or right?", "where does it look?"),
}
ANSWERS: dict[str, Callable[[Drawn], str]] = {
    "what": lambda drawn: drawn.emoji.label,
    "style": lambda drawn: drawn.style,
    "tone": lambda drawn: " and ".join(drawn.emoji.tones) or NO_TONE,
    "gender": lambda drawn: drawn.emoji.gender or "person",
    "hair": lambda drawn: drawn.emoji.hair or "ordinary",
    "facing": lambda drawn: "right" if drawn.emoji.faces_right else "left",
}
QUESTION_KINDS = tuple(ANSWERS)


def questions(drawn: Sequence[Drawn], kind: str) -> Iterator[Question]:
    """All questions of a kind, in the order of the pictures: where the concept has a choice of it, and where pictures
    that look alike agree in their answers.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in ANSWERS:
        raise ValueError(f"Unknown kind of question {kind!r}; use one of {', '.join(QUESTION_KINDS)}.")
    answer, open_to, of_twins = ANSWERS[kind], choices(drawn), defaultdict(set)
    for each in drawn:
        of_twins[each.twins].add(answer(each))
    for each in drawn:
        if (kind in ("what", "style") or (kind, each.emoji.concept) in open_to) and len(of_twins[each.twins]) == 1:
            yield Question(kind, each, answer(each))


def majority_rate(asked: Iterable[Question]) -> float:
    """The share that whoever gives always the same answer gets right, at most: the baseline of a kind."""
    counts = Counter(each.answer for each in asked)
    return max(counts.values()) / counts.total()
