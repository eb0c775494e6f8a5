"""What can differ between two pictures of emoji, by name: what edits change, questions ask for, scores tell apart."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

from .pictures import Drawn

TRAITS: dict[str, Callable[[Drawn], Hashable]] = {
    "concept": lambda drawn: drawn.emoji.concept,
    "tone": lambda drawn: drawn.emoji.tones,
    "gender": lambda drawn: drawn.emoji.gender,
    "hair": lambda drawn: drawn.emoji.hair,
    "facing": lambda drawn: drawn.emoji.faces_right,
    "style": lambda drawn: drawn.style,
}


def word_of(drawn: Drawn, trait: str) -> str:
    """The value of a trait in words: "dark", "light and dark"; "none" where there is none."""
    value = TRAITS[trait](drawn)
    return (" and ".join(value) if isinstance(value, tuple) else value) or "none"


def name_of(drawn: Drawn) -> str:
    """The name of a picture where only words can say which it is: its code points and style."""
    return f"{drawn.emoji.hexcode} {drawn.style}"


def traits_but(drawn: Drawn, *left_out: str) -> tuple[Hashable, ...]:
    """The values of all other traits."""
    return tuple(value(drawn) for name, value in TRAITS.items() if name not in left_out)


def is_people(drawn: Drawn) -> bool:
    """Whether it is of the factorial part, people and hands, in which tones and genders vary."""
    return drawn.emoji.group == "people"


def part_of(drawn: Drawn) -> str:
    return "people" if is_people(drawn) else "objects"


def choices(drawn: Iterable[Drawn]) -> set[tuple[str, str]]:
    """(trait, concept) of all traits in which the pictures of a concept differ."""
    values: dict[tuple[str, str], set] = defaultdict(set)
    for each in drawn:
        for name, value in TRAITS.items():
            values[name, each.emoji.concept].add(value(each))
    return {key for key, found in values.items() if len(found) > 1}
