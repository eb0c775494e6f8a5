"""Captions say what an emoji is in many ways, all of them true and none of them long."""

import random
import re

import pytest
from emoji_packages import entries

from transformers_arm.training.backbones import new_tokenizer
from transformers_arm.worlds.emoji.articles import with_article
from transformers_arm.worlds.emoji.captions import caption, languages_of, named, reordered, tagged, tone_words
from transformers_arm.worlds.emoji.catalog import Emoji, read_catalog
from transformers_arm.worlds.emoji.splits import STYLES

EMOJIS = read_catalog(entries(), {"de": entries("de")})
LONGEST = 48  # tokens


def emoji(label, *, group="people", tags=(), **known):
    return Emoji("0", label, known.pop("concept", label), group, tags, **known)


ASTRONAUT = emoji("woman astronaut", concept="astronaut", tags=("space", "woman"), tones=("dark",), gender="woman")


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (ASTRONAUT, "a woman astronaut, dark skin tone"),
        (emoji("woman: red hair", tones=("light",), gender="woman"), "a woman, red hair, light skin tone"),
        (emoji("man walking: facing right", gender="man"), "a man walking, facing right"),
        (emoji("people holding hands", tones=("light", "dark")), "people holding hands, light and dark skin tones"),
        (emoji("family: man, woman, girl"), "a family: man, woman, girl"),
        (emoji("flag: Côte d’Ivoire", group="flags"), "the Côte d’Ivoire flag"),
        (emoji("keycap: #", group="symbols"), "the # keycap"),
        (emoji("piñata", group="activities"), "a piñata"),
        (emoji("Japanese “here” button", group="symbols"), "a Japanese “here” button"),
        (emoji("Aries", group="symbols"), "Aries"),
        (emoji("no one under eighteen", group="symbols"), "no one under eighteen"),
    ],
)
def test_full_captions(of, told):
    assert caption(of, "noto") == f"{told}, noto style"


def test_parts_in_another_order_and_tags_for_the_name():
    told = {reordered(ASTRONAUT, "noto", random.Random(seed)) for seed in range(40)}
    parts = ["a woman astronaut", "dark skin tone", "noto style"]
    assert len(told) == 5 and all(sorted(each.split(", ")) == parts for each in told)
    assert caption(ASTRONAUT, "noto") not in told
    assert tagged(ASTRONAUT, "noto", random.Random(0)) == "space, a woman, dark skin tone, noto style"
    with pytest.raises(ValueError, match="Aries has no tag that stands for its name"):
        tagged(emoji("Aries", tags=("Aries",)), "noto", random.Random(0))


@pytest.mark.parametrize(
    "right",
    [
        *("a unicorn", "an axe", "an hourglass done", "a ewe", "an x-ray", "an OK hand", "an SOS button", "grapes"),
        *("an ear of corn", "scissors", "a bus", "an octopus", "a dress", "glasses", "a wine glass", "bread"),
        *("women holding hands", "Santa Claus", "a person lifting weights", "a face with rolling eyes", "a cactus"),
        *("a one-piece swimsuit", "a heart with arrow", "a globe showing Americas", "three-thirty", "meat on bone"),
        *("an alarm clock", "a flexed biceps", "a rhinoceros", "money with wings", "a man in steamy room"),
        *("baguette bread", "twelve o’clock", "a regional indicator S", "heart hands", "thumbs up"),
    ],
)
def test_articles(right):
    assert with_article(re.sub(r"^an? ", "", right)) == right


def test_what_is_said_in_other_words_names_all_of_it():
    """Whatever the words and their order: the label's words, every tone and the style are there, and no other tone."""
    rng = random.Random(0)
    for each in EMOJIS:
        words = set(re.findall(r"[\w#]+", each.label.lower()))
        for style in STYLES:
            for _ in range(20):
                said = caption(each, style, rng)
                assert words <= set(re.findall(r"[\w#]+", said.lower())), said
                assert style in said
                assert set(re.findall(r"(?:medium-)?(?:light|dark)|medium", said)) == set(each.tones), said
                assert said == said.strip() and "  " not in said and ", ," not in said


def test_there_are_many_ways_to_say_it_and_a_seed_says_it_again():
    said = [caption(ASTRONAUT, "noto", random.Random(seed)) for seed in range(200)]
    assert said == [caption(ASTRONAUT, "noto", random.Random(seed)) for seed in range(200)]
    assert len(set(said)) > 25 and caption(ASTRONAUT, "noto") in said
    for way in (
        "an emoji of a woman astronaut with dark skin, in noto style",
        "noto emoji: woman astronaut, dark skin tone",
        "astronaut, a woman with dark skin, in noto style",
    ):
        assert way in said
    assert any(each.startswith("noto style, ") for each in said) and any("space" in each for each in said)


def test_a_tag_that_is_true_of_a_part_only_is_not_said():
    walker = emoji("person walking", tags=("man", "walk", "men", "amble", "pedestrian"), gender="person")
    said = " ".join(caption(walker, "noto", random.Random(seed)) for seed in range(200))
    assert "amble" in said and "pedestrian" in said
    assert not re.search(r"\bm[ae]n\b", said)


@pytest.mark.parametrize(
    ("label", "told", "untold"),
    [
        ("taxi", "cab", "yellow"),
        ("old man", "wise", "bald"),
        ("hot face", "panting", "red-faced"),
        ("rock", "big", "gray"),
    ],
)
def test_a_tag_that_is_true_in_some_styles_only_is_not_said(label, told, untold):
    said = " ".join(caption(emoji(label, tags=(told, untold)), "noto", random.Random(seed)) for seed in range(200))
    assert told in said and untold not in said


def test_a_tag_of_a_color_is_said_where_the_label_says_so_too():
    heart = emoji("red heart", group="smileys", tags=("red", "love"))
    assert all("red" in caption(heart, "noto", random.Random(seed)) for seed in range(50))


def test_who_has_beard_or_hair_has_it_in_a_sentence_too():
    man = emoji("man: beard", concept="person: beard", tones=("medium-dark",), gender="man")
    said = {caption(man, "fluent", random.Random(seed)) for seed in range(100)}
    assert "a picture of a man with medium-dark skin and a beard, in fluent style" in said
    bald = emoji("woman: bald", concept="person", gender="woman", hair="bald")
    assert "an emoji of a woman, bald, as fluent draws it" in {
        caption(bald, "fluent", random.Random(seed)) for seed in range(200)
    }


def test_in_another_language_it_is_called_as_there():
    dark = next(each for each in EMOJIS if each.label == "woman astronaut" and each.tones)
    assert languages_of(dark) == ("en", "de")
    assert caption(dark, "noto", language="de") == "Astronautin: dunkle Hautfarbe, noto"
    with pytest.raises(ValueError, match="woman astronaut has no name in 'fr', only in en, de"):
        caption(dark, "noto", language="fr")


def test_every_caption_fits_into_few_tokens():
    rng = random.Random(0)
    said = [caption(each, style, rng) for each in EMOJIS for style in STYLES for _ in range(10)]
    said += [caption(each, style, language="de") for each in EMOJIS for style in STYLES]
    tokenizer = new_tokenizer(said, 600)
    assert max(len(ids) for ids in tokenizer(said)["input_ids"]) <= LONGEST


def test_parts_by_themselves():
    assert named(ASTRONAUT) == "a woman astronaut" and tone_words(ASTRONAUT) == "dark skin tone"
    assert tone_words(emoji("axe")) is None
