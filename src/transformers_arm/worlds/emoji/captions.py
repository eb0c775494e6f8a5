"""What is said of an emoji: its label, tones and style, in many ways that are all true. Knows no picture.

    a woman astronaut, dark skin tone, noto style

Every caption names all three, and what the label adds to a name after a colon, as hair. In other languages an emoji's
name tells of its tones itself.
"""

import random
import re
from itertools import permutations

from .articles import with_article
from .catalog import COLORS, Emoji

ENGLISH = "en"
# A tag that tells of gender or tone is as a rule one of a whole concept, and true of a part of it; and one of a color,
# or of a bald head, tells what some artists draw: taxis are not yellow in every style.
_NOT_OF_ALL = re.compile(
    r"\b(?:(?:wo)?m[ae]n|fe?male|person|people|girl|boy|lady|gentleman|guy|he|she|her|him|his|tone"
    rf"|{'|'.join(COLORS)}|gray|bald)\b"
)
_SIGNS = re.compile(
    r"\b(?:arrow|asterisk|badge|box|button|circle|cross|dash|diamond|loop|mark|sign|square|star|symbol|triangle)\b"
)


def tone_words(emoji: Emoji) -> str | None:
    """ "dark skin tone"; of two people "light and dark skin tones"; None where no tone is chosen."""
    if len(emoji.tones) < 2:
        return f"{emoji.tones[0]} skin tone" if emoji.tones else None
    return f"{' and '.join(emoji.tones)} skin tones"


def name_and_details(emoji: Emoji) -> tuple[str, list[str]]:
    """The label without an article, and what it says of one person beside: "woman: red hair" is "woman", ["red hair"].

    A flag is "Norway flag"; a family is "family: man, woman, girl", for its people are no details of one person.
    """
    name, _, details = emoji.label.partition(": ")
    if name == "flag":
        return f"{details} flag", []
    if name == "keycap":
        return f"{details} keycap", []
    if emoji.gender is None:
        return emoji.label, []
    return name, details.split(", ") if details else []


def named(emoji: Emoji) -> str:
    """The name with its article: "a woman astronaut", "the Côte d’Ivoire flag", "grapes"."""
    name, _ = name_and_details(emoji)
    if emoji.label.startswith(("flag: ", "keycap: ")):
        return f"the {name}"
    return name if emoji.group == "symbols" and not _SIGNS.search(name) else with_article(name)


def languages_of(emoji: Emoji) -> tuple[str, ...]:
    """What it can be named in."""
    return ENGLISH, *(language for language, _ in emoji.names)


def caption(emoji: Emoji, style: str, rng: random.Random | None = None, language: str = ENGLISH) -> str:
    """A full caption: "a woman astronaut, dark skin tone, noto style"; with `rng` one of many ways to say it, up to
    two of the emoji's tags among the words.

    Raises:
        ValueError: it has no name in the language.
    """
    if language != ENGLISH:
        names = dict(emoji.names)
        if language not in names:
            raise ValueError(f"{emoji.label} has no name in {language!r}, only in {', '.join(languages_of(emoji))}.")
        return f"{names[language]}, {style}"
    return rng.choice(_WAYS)(emoji, style, rng) if rng else ", ".join(_parts(emoji, style))


def _parts(emoji: Emoji, style: str) -> list[str]:
    _, details = name_and_details(emoji)
    return [part for part in (named(emoji), *details, tone_words(emoji), f"{style} style") if part]


def true_tags(emoji: Emoji) -> list[str]:
    """Its tags that are true of every style and everyone, and say what its label does not."""
    return [
        tag for tag in emoji.tags if not _NOT_OF_ALL.search(tag.lower()) and tag.lower() not in emoji.label.lower()
    ]


def reordered(emoji: Emoji, style: str, rng: random.Random) -> str:
    """The parts of the full caption in an order that is not its own: "noto style, dark skin tone, an astronaut"."""
    parts = _parts(emoji, style)
    return ", ".join(rng.choice([order for order in permutations(parts) if order != tuple(parts)]))


def tagged(emoji: Emoji, style: str, rng: random.Random) -> str:
    """The full caption with up to three of `true_tags` in place of the name, and the gender, which they do not tell:
    "rocket, space, a woman, dark skin tone, noto style".

    Raises:
        ValueError: it has no such tag.
    """
    tags, (_, *others) = true_tags(emoji), _parts(emoji, style)
    if not tags:
        raise ValueError(f"{emoji.label} has no tag that stands for its name; see true_tags.")
    gender = [f"a {emoji.gender}"] if emoji.gender else []
    return ", ".join([*rng.sample(tags, min(len(tags), 3)), *gender, *others])


def _in_any_order(emoji: Emoji, style: str, rng: random.Random) -> str:
    tags = true_tags(emoji)
    parts = _parts(emoji, style) + rng.sample(tags, min(len(tags), rng.randint(0, 2)))
    rng.shuffle(parts)
    return ", ".join(parts)


def _with_skin(emoji: Emoji) -> str:
    """ " with dark skin and red hair, facing right"."""
    _, details = name_and_details(emoji)
    skin = [f"{' and '.join(emoji.tones)} skin"] if emoji.tones else []
    owned = skin + [with_article(detail) for detail in details if detail.endswith(("hair", "beard"))]
    others = [detail for detail in details if not detail.endswith(("hair", "beard"))]
    return "".join([f" with {' and '.join(owned)}" if owned else "", *(f", {other}" for other in others)])


def _as_a_sentence(emoji: Emoji, style: str, rng: random.Random) -> str:
    start = rng.choice(("an emoji of ", "a picture of ", ""))
    end = f"in {style} style" if rng.random() < 0.7 else f"as {style} draws it"
    return f"{start}{named(emoji)}{_with_skin(emoji)}, {end}"


def _style_first(emoji: Emoji, style: str, rng: random.Random) -> str:
    name, details = name_and_details(emoji)
    return f"{style} emoji: {', '.join(filter(None, (name, *details, tone_words(emoji))))}"


def _concept_first(emoji: Emoji, style: str, rng: random.Random) -> str:
    """ "astronaut, a woman with dark skin, in noto style": of those whose label is a gender and a concept."""
    if emoji.gender is None or emoji.label != f"{emoji.gender} {emoji.concept}":
        return _as_a_sentence(emoji, style, rng)
    return f"{emoji.concept}, a {emoji.gender}{_with_skin(emoji)}, in {style} style"


def _plain(emoji: Emoji, style: str, rng: random.Random) -> str:
    return caption(emoji, style)


_WAYS = (_plain, _plain, _in_any_order, _in_any_order, _as_a_sentence, _style_first, _concept_first)
