"""What is said of an emoji: its label, tones and style, in any order. Knows no picture."""

import random

from .catalog import Emoji


def tone_words(emoji: Emoji) -> str | None:
    """ "dark skin tone"; of two people "light and dark skin tones"; None where no tone is chosen."""
    if len(emoji.tones) < 2:
        return f"{emoji.tones[0]} skin tone" if emoji.tones else None
    return f"{' and '.join(emoji.tones)} skin tones"


def caption(emoji: Emoji, style: str, rng: random.Random | None = None) -> str:
    """The full caption, "woman astronaut, dark skin tone, noto style"; with `rng` its parts in any order, and now and
    then up to two of the emoji's tags.
    """
    name, _, details = emoji.label.partition(": ")
    parts = [name, *(details.split(", ") if details else ()), tone_words(emoji), f"{style} style"]
    parts = [part for part in parts if part]
    if rng is not None and rng.random() < 0.5:
        parts += rng.sample(emoji.tags, min(len(emoji.tags), rng.randint(0, 2)))
        rng.shuffle(parts)
    return ", ".join(parts)
