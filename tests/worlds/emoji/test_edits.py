"""Edits differ in one thing alone, ask for it in words, and keep what is held out away from what is learnt."""

from collections import Counter

import pytest

from transformers_arm.worlds.emoji.edits import KINDS, LOOKUP, Edit, clock_words, edits
from transformers_arm.worlds.emoji.pictures import read_pictures
from transformers_arm.worlds.emoji.traits import TRAITS

CHANGED = {"tone": "tone", "gender": "gender", "hair": "hair", "facing": "facing", "roles": "tone", "style": "style"}
CHANGED |= {"color": "concept", "clock": "concept"}  # what a thing is called


@pytest.fixture(scope="module")
def drawn(emoji_folder):
    return read_pictures(emoji_folder)


def is_like(each, **wanted):
    return all(getattr(each.emoji, name) == value for name, value in wanted.items())


@pytest.mark.parametrize("kind", KINDS)
def test_one_thing_changes_and_all_else_stays(drawn, kind):
    found = list(edits(drawn, kind))
    assert found
    for edit in found:
        assert edit.changes == (CHANGED[kind],)
        assert set(edit.keeps) == set(TRAITS) - set(edit.changes)
        assert edit.source.twins != edit.target.twins
        assert len(set(edit.instructions)) >= 3


def test_every_ordered_pair_is_there_once_but_for_twins(drawn):
    found = Counter((id(edit.source), id(edit.target)) for edit in edits(drawn, "gender"))
    alike = [each for each in drawn if each.emoji.concept == "pilot" and each.style == "fluent"]
    triples = 8 * 6 * 3  # jobs, tones, styles
    assert set(found.values()) == {1} and len(found) == (triples - 1) * 6
    assert len({each.twins for each in alike if not each.emoji.tones}) == 1
    assert len(list(edits(drawn, "tone"))) == 8 * 3 * 3 * 30
    assert len(list(edits(drawn, "roles"))) == 3 * 2


@pytest.mark.parametrize(
    ("kind", "source", "target", "words"),
    [
        ("tone", {}, {"tones": ("dark",)}, "make the skin tone dark"),
        ("tone", {"tones": ("dark",)}, {"tones": ()}, "remove the skin tone"),
        ("gender", {"gender": "woman"}, {"gender": "man"}, "change her to a man"),
        ("hair", {}, {"hair": "red"}, "give the person red hair"),
        ("hair", {}, {"hair": "bald"}, "make the person bald"),
        ("facing", {}, {"faces_right": True}, "turn to face right"),
        ("facing", {"faces_right": True}, {}, "turn to face left"),
        ("color", {}, {"label": "blue heart"}, "make the heart blue"),
        ("clock", {}, {"label": "three-thirty"}, "set the clock to half past three"),
        ("roles", {}, {}, "swap the two skin tones"),
    ],
)
def test_instructions_say_what_the_target_is(drawn, kind, source, target, words):
    found = (edit for edit in edits(drawn, kind) if is_like(edit.source, **source) and is_like(edit.target, **target))
    assert next(found).instructions[0] == words


def test_a_style_is_named(drawn):
    for edit in edits(drawn, LOOKUP):
        assert all(edit.target.style in words for words in edit.instructions)
        assert edit.source.emoji == edit.target.emoji


def test_an_edit_is_of_its_target_s_split_and_training_sees_nothing_held_out(drawn):
    splits = Counter()
    for kind in KINDS:
        for edit in edits(drawn, kind):
            splits[edit.split] += 1
            if edit.split == "train":
                assert edit.source.split == edit.target.split == "train"
            elif edit.split is None:
                assert edit.target.split in ("train", "twin") and "train" != edit.source.split
            else:
                assert edit.split == edit.target.split
    assert set(splits) >= {"train", "unseen", "gender", "tone", "style", None}


def test_a_target_that_is_a_twin_of_something_held_out_is_nobody_s(drawn):
    learnt = next(edit for edit in edits(drawn, "tone") if edit.split == "train")
    assert Edit("tone", learnt.source, learnt.target._replace(split="twin")).split is None
    assert Edit("tone", learnt.source._replace(split="twin"), learnt.target).split is None


def test_clocks_are_read_and_other_labels_are_not():
    assert clock_words("twelve o’clock") == "twelve o'clock"
    assert clock_words("eleven-thirty") == "half past eleven"
    assert clock_words("alarm clock") is None


def test_an_unknown_kind_is_refused(drawn):
    with pytest.raises(ValueError, match="Unknown kind of edit 'size'; use one of tone, gender"):
        next(edits(drawn, "size"))
