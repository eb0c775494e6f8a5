"""What an emoji is made of follows from its code points, the same for all of a concept."""

import pytest
from emoji_packages import entries

from transformers_arm.worlds.emoji.catalog import made_of, plain_hexcode, read_catalog, tones_of


def read(*given):
    """Emojis of entries that are stated as (label, hexcode, hexcodes with tones), by hexcode."""
    entries = []
    for label, code, *skins in given:
        entries.append({"label": label, "hexcode": code, "group": 1})
        entries[-1]["skins"] = [{"label": f"{label}, toned", "hexcode": skin} for skin in skins]
    return {emoji.hexcode: emoji for emoji in read_catalog(entries)}


@pytest.fixture(scope="module")
def known():
    return {emoji.hexcode: emoji for emoji in read_catalog(entries(), {"de": entries("de")})}


def test_a_concept_comes_in_all_genders_and_tones(known):
    found = {code: each for code, each in known.items() if each.concept == "astronaut"}
    assert {(each.gender, each.tones) for each in found.values()} == {
        (gender, tones) for gender in ("person", "woman", "man") for tones in ((), ("dark",))
    }
    woman = found["1F469-1F3FF-200D-1F680"]
    assert (woman.label, woman.group, woman.tags) == (
        "woman astronaut",
        "people",
        ("astronaut", "rocket", "space", "woman"),
    )
    assert woman.names == (("de", "Astronautin: dunkle Hautfarbe"),)


def test_hair_and_direction_are_of_the_concept(known):
    red, bald = known["1F469-200D-1F9B0"], known["1F9D1-200D-1F9B2"]
    assert (red.label, red.concept, red.gender, red.hair) == ("woman: red hair", "person: bald", "woman", "red")
    assert (bald.gender, bald.hair) == ("person", "bald")
    right = known["1F6B6-200D-2642-200D-27A1"]
    assert right.faces_right and right.gender == "man" and right.concept == known["1F6B6-200D-2642"].concept


def test_two_people_of_different_tones_are_of_one_concept_with_those_of_one():
    """Their code points are others: a kiss is one sign, and two people, a heart and lips where tones differ."""
    two = "1F9D1-1F3FB-200D-2764-FE0F-200D-1F48B-200D-1F9D1-1F3FF"
    found = read(
        ("kiss", "1F48F", "1F48F-1F3FB", two),
        ("people wrestling", "1F93C", "1F9D1-1F3FB-200D-1FAEF-200D-1F9D1-1F3FF"),
        ("men wrestling", "1F93C-200D-2642-FE0F", "1F468-1F3FB-200D-1FAEF-200D-1F468-1F3FF"),
        ("handshake", "1F91D", "1F91D-1F3FB", "1FAF1-1F3FB-200D-1FAF2-1F3FC"),
    )
    assert found[plain_hexcode(two)].tones == ("light", "dark")
    assert {each.concept for each in found.values()} == {"kiss", "people wrestling", "handshake"}
    men = found["1F468-1F3FB-200D-1FAEF-200D-1F468-1F3FF"]
    assert (men.label, men.concept, men.gender) == ("men wrestling", "people wrestling", "man")
    assert {each.gender for each in found.values() if each.concept in ("kiss", "handshake")} == {None}


def test_who_comes_in_one_gender_has_no_gender_to_choose():
    found = read(("Mx Claus", "1F9D1-200D-1F384"), ("judge", "1F9D1-200D-2696-FE0F"), ("w", "1F469-200D-2696-FE0F"))
    assert found["1F9D1-200D-1F384"].gender is None
    assert found["1F9D1-200D-2696"].gender == "person" and found["1F469-200D-2696"].concept == "judge"


@pytest.mark.parametrize(
    ("code", "tones"),
    [
        ("1F44B", ()),
        ("1F44B-1F3FD", ("medium",)),
        ("1F469-1F3FF-200D-1F91D-200D-1F468-1F3FB", ("dark", "light")),
        ("1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FB", ("light",)),
        ("1F3FB", ()),  # the tone itself, which is an emoji
    ],
)
def test_tones_in_order_and_two_only_where_they_differ(code, tones):
    assert tones_of(code) == tones


@pytest.mark.parametrize(
    ("code", "gender"),
    [
        ("1F469", "woman"),
        ("1F467", "woman"),
        ("1F475", "woman"),
        ("1F3C3-200D-2640", "woman"),
        ("1F468-200D-1F469-200D-1F466", None),  # a family has none
        ("2640", None),  # the sign itself
    ],
)
def test_genders(code, gender):
    assert made_of(code).gender == gender


def test_an_emoji_without_a_name_elsewhere_lacks_it_alone():
    english = [{"label": "axe", "hexcode": "1FA93"}, {"label": "key", "hexcode": "1F511"}]
    axe, key = read_catalog(english, {"de": [{"label": "Axt", "hexcode": "1FA93"}], "fr": english})
    assert axe.names == (("de", "Axt"), ("fr", "axe")) and key.names == (("fr", "key"),)
    assert axe.group == "components"  # as letters that flags are spelt with, of which no group is told
