"""What an emoji is called and what it is made of, read from its code points and its names in emojibase's data.

An emoji of people is a product: a concept ("astronaut"), the tones of its skins, a gender, a hair, a direction. Each
is read from the code points, which are exact, and never from the name. Knows no picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
GENDERS = ("person", "woman", "man")
HAIRS = ("red", "curly", "white", "bald")
COLORS = (
    *("red", "orange", "yellow", "green", "blue", "light blue"),
    *("purple", "brown", "black", "grey", "pink", "white"),
)

JOINER, VARIANT, RIGHT = "200D", "FE0F", "27A1"
TONE_OF = {f"1F3F{code}": tone for code, tone in zip("BCDEF", TONES, strict=True)}
GENDER_OF_PERSON = {"1F9D1": "person", "1F469": "woman", "1F468": "man"}
GENDER_OF_SIGN = {"2640": "woman", "2642": "man"}
HAIR_OF = dict(zip(("1F9B0", "1F9B1", "1F9B3", "1F9B2"), HAIRS, strict=True))
# People whose genders have code points of their own: the one of no gender stands for all.
ALONE = {
    **{"1F9D2": ("1F9D2", "person"), "1F467": ("1F9D2", "woman"), "1F466": ("1F9D2", "man")},
    **{"1F9D3": ("1F9D3", "person"), "1F475": ("1F9D3", "woman"), "1F474": ("1F9D3", "man")},
}
GROUPS = (
    *("smileys", "people", "components", "animals and nature", "food and drink", "travel and places"),
    *("activities", "objects", "symbols", "flags"),
)


@dataclass(frozen=True)
class Emoji:
    """An emoji, in no style.

    Attributes:
        hexcode: its code points, without those that choose between picture and text, as "1F469-1F3FD-200D-1F680".
        label: its English name without tones, "woman astronaut".
        concept: what emojis that differ in tone, gender, hair and direction alone have in common: the label of the
            plainest of them, "astronaut".
        group: one of `GROUPS`.
        tags: English words for it, such as "rocket".
        tones: of its skins among `TONES`: none, one, or two different ones in order.
        gender: among `GENDERS`, or None where the concept has no such choice.
        hair: among `HAIRS`, or None.
        faces_right: whether it is the mirrored one of two.
        names: what it is called elsewhere, tones and all, as pairs of a language and a name.
    """

    hexcode: str
    label: str
    concept: str
    group: str
    tags: tuple[str, ...]
    tones: tuple[str, ...] = ()
    gender: str | None = None
    hair: str | None = None
    faces_right: bool = False
    names: tuple[tuple[str, str], ...] = ()


def plain_hexcode(hexcode: str) -> str:
    """Code points, in upper case and without the one that asks for a picture in place of a sign."""
    return "-".join(code for code in hexcode.upper().split("-") if code != VARIANT)


def tones_of(hexcode: str) -> tuple[str, ...]:
    """The tones that code points, as `plain_hexcode` gives them, choose: two only where they differ. A tone by itself,
    which is an emoji too, is of none.
    """
    tones = tuple(TONE_OF[code] for code in hexcode.split("-")[1:] if code in TONE_OF)
    return tones[:1] if len(set(tones)) == 1 else tones


@dataclass(frozen=True)
class Made:
    """What the code points of an emoji without tones say: `key` is what is left, the same for all of a concept."""

    key: tuple[str, ...]
    gender: str | None
    hair: str | None
    faces_right: bool


def made_of(hexcode: str) -> Made:
    """Reads code points without tones, as `plain_hexcode` gives them."""
    parts = hexcode.split(f"-{JOINER}-")
    hair = next((HAIR_OF[part] for part in parts[1:] if part in HAIR_OF), None)
    key = [parts[0], *(part for part in parts[1:] if part != RIGHT and part not in HAIR_OF)]
    gender, people = None, [part for part in key if part in GENDER_OF_PERSON or part in ALONE]
    if people == key[:1] and key[0] in GENDER_OF_PERSON:  # of several people none has the gender of all
        key[0], gender = "1F9D1", GENDER_OF_PERSON[key[0]]
    elif len(key) == 1 and key[0] in ALONE:
        key[0], gender = ALONE[key[0]]
    elif signs := [part for part in key[1:] if part in GENDER_OF_SIGN]:
        key, gender = [part for part in key if part not in signs], GENDER_OF_SIGN[signs[0]]
    return Made(tuple(key), gender, hair, RIGHT in parts[1:])


def every_one(entries: Sequence[Mapping]) -> Iterator[tuple[Mapping, str, str]]:
    """All emojis of emojibase's `data.json`, in its order: the entry of an emoji, its own hexcode and its own label,
    which tells of tones. An entry holds the emoji without tones, and those with tones as its `skins`.

    Raises:
        KeyError: an entry lacks its hexcode or label.
    """
    for entry in entries:
        for each in (entry, *entry.get("skins", ())):
            yield entry, plain_hexcode(each["hexcode"]), each["label"]


def read_catalog(entries: Sequence[Mapping], elsewhere: Mapping[str, Sequence[Mapping]] | None = None) -> list[Emoji]:
    """All emojis of emojibase's `data.json`, those with tones too, in its order.

    What an emoji with tones is but for them is read from the one without: two people of different tones are joined by
    other code points than two of one tone.

    Args:
        entries: the English ones.
        elsewhere: those of other languages, by language; an emoji that one of them lacks has no name there.

    Raises:
        KeyError: an entry lacks its hexcode or label.
    """
    made = {entry["hexcode"]: made_of(plain_hexcode(entry["hexcode"])) for entry in entries}
    gendered = {each.key for each in made.values() if each.gender in ("woman", "man")}
    concepts: dict[tuple[str, ...], str] = {}
    for entry in sorted(entries, key=lambda entry: _plainness(made[entry["hexcode"]])):
        concepts.setdefault(made[entry["hexcode"]].key, entry["label"])
    names = {
        language: {code: label for _, code, label in every_one(theirs)}
        for language, theirs in (elsewhere or {}).items()
    }
    return [
        Emoji(
            hexcode=hexcode,
            label=entry["label"],
            concept=concepts[parts.key],
            group=GROUPS[
                entry.get("group", GROUPS.index("components"))
            ],  # letters that flags are spelt with have none
            tags=tuple(entry.get("tags", ())),
            tones=tones_of(hexcode),
            gender=(parts.gender or "person") if parts.key in gendered else None,
            hair=parts.hair,
            faces_right=parts.faces_right,
            names=tuple((language, known[hexcode]) for language, known in names.items() if hexcode in known),
        )
        for entry, hexcode, _ in every_one(entries)
        for parts in [made[entry["hexcode"]]]
    ]


def _plainness(made: Made) -> tuple:
    """The plainest emoji of a concept comes first: of no gender, no hair, as it always looked."""
    return made.gender in ("woman", "man"), made.hair is not None, made.faces_right
