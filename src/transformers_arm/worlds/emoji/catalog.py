"""What an emoji is called and what it is made of, read from its code points and its names in emojibase's data.

An emoji of people is a product: a concept ("astronaut"), the tones of its skins, a gender, a hair, a direction. Each is
read from the code points, which are exact, and never from the name. Knows no picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
GENDERS = ("person", "woman", "man")
HAIRS = ("red", "curly", "white", "bald")

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


def plain_hexcode(hexcode: str) -> str:
    """Code points, in upper case and without the one that asks for a picture in place of a sign."""
    return "-".join(code for code in hexcode.upper().split("-") if code != VARIANT)


@dataclass(frozen=True)
class Made:
    """What the code points of an emoji say: `key` is what is left of them, the same for all of a concept."""

    key: tuple[str, ...]
    tones: tuple[str, ...]
    gender: str | None
    hair: str | None
    faces_right: bool


def made_of(hexcode: str) -> Made:
    """Reads code points, as `plain_hexcode` gives them."""
    joined = [part.split("-") for part in hexcode.split(f"-{JOINER}-")]
    tones = tuple(TONE_OF[code] for part in joined for code in part if code in TONE_OF)
    tones = tones[:1] if len(set(tones)) == 1 else tones
    parts = ["-".join(code for code in part if code not in TONE_OF) for part in joined]
    hair = next((HAIR_OF[part] for part in parts[1:] if part in HAIR_OF), None)
    key = [part for place, part in enumerate(parts) if not place or (part != RIGHT and part not in HAIR_OF)]
    gender, people = None, [part for part in key if part in GENDER_OF_PERSON or part in ALONE]
    if people == key[:1] and key[0] in GENDER_OF_PERSON:  # of several people none has the gender of all
        key[0], gender = "1F9D1", GENDER_OF_PERSON[key[0]]
    elif len(key) == 1 and key[0] in ALONE:
        key[0], gender = ALONE[key[0]]
    elif signs := [part for part in key[1:] if part in GENDER_OF_SIGN]:
        key, gender = [part for part in key if part not in signs], GENDER_OF_SIGN[signs[0]]
    return Made(tuple(key), tones, gender, hair, RIGHT in parts[1:])


def without_tones(label: str) -> str:
    """A label of emojibase, as "person: dark skin tone, red hair", without its tones: "person: red hair"."""
    name, _, details = label.partition(": ")
    kept = [detail for detail in details.split(", ") if detail and not detail.endswith("skin tone")]
    return f"{name}: {', '.join(kept)}" if kept else name


def read_catalog(entries: Sequence[Mapping]) -> Iterator[Emoji]:
    """All emojis of emojibase's `data.json`, those with tones too, in its order.

    Raises:
        KeyError: an entry lacks its hexcode or label.
    """
    read = [(entry, each) for entry in entries for each in (entry, *entry.get("skins", ()))]
    made = [made_of(plain_hexcode(each["hexcode"])) for _, each in read]
    gendered = {each.key for each in made if each.gender in ("woman", "man")}
    concepts: dict[tuple[str, ...], str] = {}
    for (_, each), parts in sorted(zip(read, made, strict=True), key=_plainness):
        concepts.setdefault(parts.key, without_tones(each["label"]))
    for (entry, each), parts in zip(read, made, strict=True):
        yield Emoji(
            hexcode=plain_hexcode(each["hexcode"]),
            label=without_tones(each["label"]),
            concept=concepts[parts.key],
            group=GROUPS[
                entry.get("group", GROUPS.index("components"))
            ],  # letters that flags are spelt with have none
            tags=tuple(entry.get("tags", ())),
            tones=parts.tones,
            gender=parts.gender or ("person" if parts.key in gendered else None),
            hair=parts.hair,
            faces_right=parts.faces_right,
        )


def _plainness(each) -> tuple:
    """The plainest emoji of a concept comes first: of no gender, no tone, no hair, as it always looked."""
    parts = each[1]
    return parts.gender in ("woman", "man"), len(parts.tones), parts.hair is not None, parts.faces_right
