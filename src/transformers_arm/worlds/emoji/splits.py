"""Which emojis a model learns from, and which are held out to see what it has understood. Knows no picture.

A concept is drawn in up to six tones, three genders and three styles. Held out are

- `unseen`: concepts whole, which the tokenizer has not seen either;
- `gender`: one gender of a concept, in all tones and styles;
- `tone`: one tone of a concept, in all genders and styles; of two people, wherever one of them has it;
- `style`: one style of a concept whole, a hard diagnostic: how an artist drew a thing cannot be known.

What is of two splits is of the first. Pictures that look alike are twins: where one of them is held out, those that
would be learnt from are left out, as `twin`. All follows from the names and the twins alone, so that it is the same
everywhere.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from .catalog import GENDERS, TONES, Emoji

STYLES = ("noto", "twemoji", "fluent")
HELD_OUT = ("unseen", "gender", "tone", "style")
TRAIN, TWIN = "train", "twin"
SPLITS = (TRAIN, *HELD_OUT, TWIN)
SEEN_BY_TOKENIZER = (TRAIN, "gender", "tone", "style")
SHARES = {"unseen": 0.05, "gender": 0.2, "tone": 0.4, "style": 0.06}
"""Of the concepts that have the choice."""


def chance(*parts: str) -> float:
    """A number in 0..1 that follows from texts."""
    return int.from_bytes(sha256("/".join(parts).encode()).digest()[:8], "big") / 2**64


def _chosen(split: str, concept: str, values: Sequence[str]) -> str | None:
    """What a split holds out of a concept, if anything."""
    if chance(split, concept) >= SHARES[split]:
        return None
    return values[int(chance(split, concept, "which") * len(values))]


def split_of(emoji: Emoji, style: str) -> str:
    """Where an emoji belongs in a style, its twins left aside: "train", or one of `HELD_OUT`."""
    concept = emoji.concept
    if chance("unseen", concept) < SHARES["unseen"]:
        return "unseen"
    if emoji.gender is not None and _chosen("gender", concept, GENDERS) == emoji.gender:
        return "gender"
    if _chosen("tone", concept, TONES) in emoji.tones:
        return "tone"
    return "style" if _chosen("style", concept, STYLES) == style else TRAIN


def splits(drawn: Iterable[tuple[Emoji, str, int]]) -> list[str]:
    """The splits of emojis, with their styles and the classes of their pictures: twins are of one class."""
    drawn = list(drawn)
    found = [split_of(emoji, style) for emoji, style, _ in drawn]
    kept = {twins for split, (_, _, twins) in zip(found, drawn, strict=True) if split != TRAIN}
    unseen = {twins for split, (_, _, twins) in zip(found, drawn, strict=True) if split == "unseen"}
    for place, (_, _, twins) in enumerate(drawn):
        if (found[place] == TRAIN and twins in kept) or (found[place] != "unseen" and twins in unseen):
            found[place] = TWIN
    return found
