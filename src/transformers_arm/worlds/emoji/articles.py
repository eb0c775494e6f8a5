"""The English article that a name of an emoji takes: "a woman astronaut", "an axe", "grapes". Knows no emoji.

A name takes one unless its noun is plural, has no number ("bread"), or is somebody's own ("Santa Claus").
"""

import re

_AFTER_NOUN = re.compile(
    r" (?:with|without|in|of|on|at|behind|over|holding|blowing|screaming|pointing|pointed|facing|showing|tilted"
    r"|fluttering|curving|savoring)\b.*"
)
_ALWAYS = {"person", "man", "woman", "face", "head"}  # and whatever they do
_PLURAL = {"people", "men", "women", "children"}
_SINGULAR = re.compile(r"(?:ss|us|rhinoceros|biceps|^s)$")
_WITHOUT_NUMBER = {
    *("away", "bacon", "badminton", "bald", "bowling", "bread", "breast-feeding", "broccoli", "butter", "camping"),
    *("candy", "construction", "cooking", "coral", "dizzy", "dna", "fire", "flatbread", "fog", "foggy", "fondue"),
    *("food", "garlic", "hair", "hockey", "ice", "lacrosse", "liquid", "locked", "luggage", "mate", "meat", "money"),
    *("oden", "o’clock", "polish", "pong", "popcorn", "racing", "rail", "rice", "sake", "salt", "soap", "spaghetti"),
    *("star-struck", "sushi", "tennis", "thirty", "thread", "together", "tone", "unlocked", "voltage", "wood", "yarn"),
    *("zzz", "rolling on the floor laughing", "thumbs up", "thumbs down"),
}
_OWN = {"Santa Claus", "Mrs. Claus", "Mx Claus", "Statue of Liberty", "Tokyo tower", "mount fuji", "milky way"}
_AN = re.compile(r"(?!uni|one\b|eu|ewe)[aeiou]|hour|x-ray|sos\b|ng\b", re.IGNORECASE)


def with_article(name: str) -> str:
    """A name with the article that is right before it, if one is."""
    words = _AFTER_NOUN.sub("", name).lower().split()
    first, noun = words[0], words[-1]
    plural = first in _PLURAL or noun in _PLURAL or (noun.endswith("s") and not _SINGULAR.search(noun))
    bare = plural or name in _OWN or not {name, noun, noun.split("-")[-1]}.isdisjoint(_WITHOUT_NUMBER)
    if bare and first not in _ALWAYS:
        return name
    return f"an {name}" if _AN.match(name) else f"a {name}"
