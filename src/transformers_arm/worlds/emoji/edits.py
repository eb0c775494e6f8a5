"""Edits of emoji: two pictures that differ in one thing, and how to ask for it. Knows no model.

Pictures that look alike are no edit. All are of one style, but those that change it: these are a lookup, for nothing
in a picture says how another artist would have drawn it.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from .catalog import COLORS
from .pictures import Drawn
from .splits import TRAIN, TWIN
from .traits import TRAITS, traits_but

_HOURS = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_COLORED = re.compile(rf"({'|'.join(COLORS)}) (heart|circle|square|book)")
_CLOCK = re.compile(rf"({_HOURS})( o’clock|-thirty)")
_HIM = {"woman": "her", "man": "him", "person": "the person"}
_SEVERAL = {"woman": "women", "man": "men", "person": "people"}
_CHILD = {"woman": "a girl", "man": "a boy", "person": "a child"}


@dataclass(frozen=True)
class Edit:
    """What is changed, and the pictures before and after."""

    kind: str
    source: Drawn
    target: Drawn

    @property
    def split(self) -> str | None:
        """That of the target; None for what leads from a held-out picture back to one that is learnt, and for twins
        of held-out ones: no training sees those and no score counts them.
        """
        if self.target.split == TWIN or (self.target.split == TRAIN and self.source.split != TRAIN):
            return None
        return self.target.split

    @cached_property
    def instructions(self) -> tuple[str, ...]:
        """All ways to ask for it; the first is the one that scores are taken with."""
        return KINDS[self.kind].words(self.source, self.target)

    @property
    def changes(self) -> tuple[str, ...]:
        """Names of `TRAITS` that the target has otherwise than the source."""
        return tuple(name for name, value in TRAITS.items() if value(self.source) != value(self.target))

    @property
    def keeps(self) -> tuple[str, ...]:
        """The others."""
        return tuple(name for name in TRAITS if name not in self.changes)


@dataclass(frozen=True)
class Kind:
    """A kind of edit: what it changes, what must be the same, and how it is asked for.

    Attributes:
        value: of a picture what the edit changes; None where it has no such thing.
        same: what source and target share.
        words: all instructions from a source to a target.
    """

    value: Callable[[Drawn], Hashable]
    same: Callable[[Drawn], Hashable]
    words: Callable[[Drawn, Drawn], tuple[str, ...]]


def _colored(drawn: Drawn) -> tuple[str, str] | None:
    match = _COLORED.fullmatch(drawn.emoji.label)
    return (match[1], match[2]) if match else None


def _thing(drawn: Drawn) -> str | None:
    colored = _colored(drawn)
    return colored and colored[1]


def clock_words(label: str) -> str | None:
    """ "three o'clock" or "half past three", of a clock's label; None of others."""
    match = _CLOCK.fullmatch(label)
    return match and (f"{match[1]} o'clock" if match[2] == " o’clock" else f"half past {match[1]}")


def _tone_words(source: Drawn, target: Drawn) -> tuple[str, ...]:
    if not target.emoji.tones:
        return "remove the skin tone", "make the skin yellow", "take the skin tone away"
    (tone,) = target.emoji.tones
    return f"make the skin tone {tone}", f"change to {tone} skin", f"{tone} skin tone"


def _gender_words(source: Drawn, target: Drawn) -> tuple[str, ...]:
    gender, name = target.emoji.gender, target.emoji.label.split()[0]
    if name in _SEVERAL.values():
        him, wanted = "them", _SEVERAL[gender]
    else:
        him, wanted = _HIM[source.emoji.gender], _CHILD[gender] if target.emoji.concept == "child" else f"a {gender}"
    return f"change {him} to {wanted}", f"make {him} {wanted}", f"{wanted} instead"


def _hair_words(source: Drawn, target: Drawn) -> tuple[str, ...]:
    him, hair = _HIM.get(source.emoji.gender, "the person"), target.emoji.hair
    if hair == "bald":
        return f"make {him} bald", "no hair", "remove the hair"
    hair = hair or "ordinary"
    return f"give {him} {hair} hair", f"change the hair to {hair}", f"{hair} hair"


def _facing_words(source: Drawn, target: Drawn) -> tuple[str, ...]:
    side = "right" if target.emoji.faces_right else "left"
    return f"turn to face {side}", f"face {side}", f"make it look to the {side}"


def _color_words(source: Drawn, target: Drawn) -> tuple[str, ...]:
    color, thing = _colored(target)
    return f"make the {thing} {color}", f"change the color to {color}", f"a {color} {thing}"


def _clock_words(source: Drawn, target: Drawn) -> tuple[str, ...]:
    time = clock_words(target.emoji.label)
    return f"set the clock to {time}", f"make it {time}", f"change the time to {time}"


def _role_words(source: Drawn, target: Drawn) -> tuple[str, ...]:
    return "swap the two skin tones", "exchange the skin tones", "let the two change skin tones"


def _style_words(source: Drawn, target: Drawn) -> tuple[str, ...]:
    return f"in {target.style} style", f"draw it in {target.style} style", f"change the style to {target.style}"


KINDS = {
    "tone": Kind(
        lambda drawn: drawn.emoji.tones if len(drawn.emoji.tones) < 2 else None,
        lambda drawn: traits_but(drawn, "tone"),
        _tone_words,
    ),
    "gender": Kind(TRAITS["gender"], lambda drawn: traits_but(drawn, "gender"), _gender_words),
    "hair": Kind(lambda drawn: drawn.emoji.hair or "", lambda drawn: traits_but(drawn, "hair"), _hair_words),
    "facing": Kind(TRAITS["facing"], lambda drawn: traits_but(drawn, "facing"), _facing_words),
    "color": Kind(_colored, lambda drawn: (_thing(drawn), drawn.style), _color_words),
    "clock": Kind(lambda drawn: clock_words(drawn.emoji.label), TRAITS["style"], _clock_words),
    "roles": Kind(
        lambda drawn: drawn.emoji.tones if len(drawn.emoji.tones) == 2 else None,
        lambda drawn: (frozenset(drawn.emoji.tones), traits_but(drawn, "tone")),
        _role_words,
    ),
    "style": Kind(TRAITS["style"], lambda drawn: drawn.emoji.hexcode, _style_words),
}
LOOKUP = "style"  # the kind that no mean of scores holds
MEANT = tuple(kind for kind in KINDS if kind != LOOKUP)


def edits(drawn: Sequence[Drawn], kind: str) -> Iterator[Edit]:
    """All edits of a kind among pictures, in their order.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of edit {kind!r}; use one of {', '.join(KINDS)}.")
    rules, alike = KINDS[kind], defaultdict(dict)
    for each in drawn:
        if (value := rules.value(each)) is not None:
            alike[rules.same(each)].setdefault(value, each)
    for group in alike.values():
        for source, target in permutations(group.values(), 2):
            if source.twins != target.twins:
                yield Edit(kind, source, target)
