"""What is held out is held out: of all genders, tones and styles, and no twin of it is learnt from."""

from collections import Counter
from itertools import product

import pytest

from transformers_arm.worlds.emoji.catalog import GENDERS, TONES, Emoji
from transformers_arm.worlds.emoji.splits import HELD_OUT, SEEN_BY_TOKENIZER, SPLITS, STYLES, TRAIN, splits

CONCEPTS = 300


def people(concept, tones=((), *((tone,) for tone in TONES)), genders=GENDERS):
    return [
        Emoji(f"{concept}-{gender}-{tone}", concept, concept, "people", (), tones=tone, gender=gender)
        for gender, tone in product(genders, tones)
    ]


@pytest.fixture(scope="module")
def drawn():
    """300 concepts of people, 100 of couples, 300 things: (emoji, style, class), no two alike."""
    two = tuple((tone,) for tone in TONES) + tuple(pair for pair in product(TONES, TONES) if len(set(pair)) == 2)
    emojis = [emoji for number in range(CONCEPTS) for emoji in people(f"job {number}")]
    emojis += [emoji for number in range(100) for emoji in people(f"couple {number}", two, [None])]
    emojis += [Emoji(str(number), f"thing {number}", f"thing {number}", "objects", ()) for number in range(CONCEPTS)]
    return [(emoji, style, number) for number, (emoji, style) in enumerate(product(emojis, STYLES))]


@pytest.fixture(scope="module")
def found(drawn):
    return splits(drawn)


def of(drawn, found, split):
    return [(emoji, style) for (emoji, style, _), each in zip(drawn, found, strict=True) if each == split]


def test_concepts_that_are_unseen_are_in_no_other_split(drawn, found):
    unseen = {emoji.concept for emoji, _ in of(drawn, found, "unseen")}
    others = {emoji.concept for split in SEEN_BY_TOKENIZER for emoji, _ in of(drawn, found, split)}
    assert len(unseen) > 10 and not unseen & others


@pytest.mark.parametrize(
    ("split", "held"),
    [
        ("gender", lambda emoji, style: {(emoji.concept, emoji.gender)}),
        ("tone", lambda emoji, style: {(emoji.concept, tone) for tone in emoji.tones}),
        ("style", lambda emoji, style: {(emoji.concept, style)}),
    ],
)
def test_nothing_of_what_is_held_out_is_learnt_from(drawn, found, split, held):
    """Of a tone's pictures some have a second tone, which is held out with them and not by itself."""
    learnt = set().union(*(held(*each) for each in of(drawn, found, TRAIN)))
    pictures = of(drawn, found, split)
    assert len(pictures) > 50
    assert all(held(*each) - learnt for each in pictures)
    assert {emoji.concept for emoji, _ in pictures} <= {emoji.concept for emoji, _ in of(drawn, found, TRAIN)}


def test_every_value_of_a_choice_is_held_out_somewhere_and_learnt_elsewhere(drawn, found):
    """So that a model can know what a woman is, and what a judge is, and no woman judge."""
    for split, values in (("gender", GENDERS), ("tone", TONES), ("style", STYLES)):
        of_split, of_train = of(drawn, found, split), of(drawn, found, TRAIN)
        for pictures in (of_split, of_train):
            seen = {"gender": {e.gender for e, _ in pictures}, "style": {s for _, s in pictures}}
            seen["tone"] = {tone for e, _ in pictures for tone in e.tones}
            assert set(values) <= seen[split]
    assert {style for _, style in of(drawn, found, "gender")} == set(STYLES)
    assert {emoji.tones for emoji, _ in of(drawn, found, "gender")} >= {(), *((tone,) for tone in TONES)}
    assert {emoji.gender for emoji, _ in of(drawn, found, "tone")} >= set(GENDERS)


def test_couples_are_held_out_wherever_one_of_them_has_the_tone(drawn, found):
    couples = [(e, s) for e, s in of(drawn, found, "tone") if e.concept.startswith("couple")]
    assert Counter(len(emoji.tones) for emoji, _ in couples).keys() == {1, 2}
    concepts = {emoji.concept for emoji, _ in couples}
    for concept in concepts:
        tones = [set(emoji.tones) for emoji, _ in couples if emoji.concept == concept]
        assert len(set.intersection(*tones)) == 1 and len(tones) % 9 == 0  # 1 of one tone, 8 of two


def test_no_twin_of_what_is_held_out_is_learnt_from(drawn, found):
    """All held-out pictures in one class each with a picture of the training: none of those stays there."""
    for split in HELD_OUT:
        places = [place for place, each in enumerate(found) if each == split][:20]
        learnt = [place for place, each in enumerate(found) if each == TRAIN][: len(places)]
        classes = [number for _, _, number in drawn]
        for place, twin in zip(places, learnt, strict=True):
            classes[twin] = classes[place]
        again = splits((emoji, style, classes[place]) for place, (emoji, style, _) in enumerate(drawn))
        assert {again[place] for place in learnt} == {"twin"} and {again[place] for place in places} == {split}
        assert Counter(again)["twin"] == len(places)


def test_an_unseen_picture_is_not_seen_in_a_twin_of_any_split(drawn, found):
    classes = [number for _, _, number in drawn]
    unseen = found.index("unseen")
    others = [found.index(split) for split in SEEN_BY_TOKENIZER]
    for place in others:
        classes[place] = classes[unseen]
    again = splits((emoji, style, classes[place]) for place, (emoji, style, _) in enumerate(drawn))
    assert [again[place] for place in others] == ["twin"] * len(others) and again[unseen] == "unseen"


def test_splits_are_the_same_everywhere_and_whatever_else_is_drawn(drawn, found):
    assert splits(reversed(drawn)) == found[::-1]
    assert splits(drawn[:50]) == found[:50]
    assert set(found) <= set(SPLITS)
    judge = people("judge")
    assert [splits([(emoji, "noto", 0)])[0] for emoji in judge] == ["gender"] * 6 + [TRAIN] * 12
