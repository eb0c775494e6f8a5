"""Scores are exact: every original is found again, a pixel decides, twins are one, and parts are told apart."""

import numpy as np
import pytest

from transformers_arm.worlds.emoji.edits import edits
from transformers_arm.worlds.emoji.pictures import read_pictures
from transformers_arm.worlds.emoji.scores import Originals, read_originals
from transformers_arm.worlds.emoji.traits import name_of


@pytest.fixture(scope="module")
def originals(emoji_folder):
    return read_originals(emoji_folder)


def named(originals, hexcode, style="noto"):
    return originals.named(f"{hexcode} {style}")


WOMAN, DARK_WOMAN, DARK_MAN = (f"{person}-200D-1F527" for person in ("1F469", "1F469-1F3FF", "1F468-1F3FF"))


def test_all_originals_are_found_again_also_through_noise(originals):
    few = Originals(originals.drawn[:100])
    noise = np.random.default_rng(0).integers(-9, 10, (100, 64, 64, 3))
    noisy = [np.clip(each.image + some, 0, 255).astype(np.uint8) for each, some in zip(few.drawn, noise, strict=True)]
    for images in ([each.image for each in few.drawn], noisy):
        assert [found.twins for found in few.nearest(images)] == [each.twins for each in few.drawn]


def test_a_single_level_of_a_single_pixel_decides(originals):
    one = originals.drawn[0]._replace(image=np.full((64, 64, 3), 200, np.uint8))
    other = one._replace(image=one.image.copy(), twins=one.twins + 1)
    other.image[63, 63, 2] += 1
    both = Originals([one, other])
    assert [found.twins for found in both.nearest([one.image, other.image])] == [one.twins, other.twins]


def test_what_is_right_is_told_by_parts(originals):
    wanted = named(originals, DARK_WOMAN)
    tell = originals.picture_scores
    all_right = dict.fromkeys(("right", "concept", "tone", "gender", "style"), True)
    assert tell(wanted, wanted) == all_right
    assert tell(named(originals, WOMAN), wanted) == all_right | {"right": False, "tone": False}
    assert tell(named(originals, DARK_MAN), wanted) == all_right | {"right": False, "gender": False}
    assert tell(named(originals, DARK_WOMAN, "twemoji"), wanted) == all_right | {"right": False, "style": False}
    assert tell(named(originals, "1F490"), wanted) == dict.fromkeys(all_right, False) | {"style": True}


def test_a_thing_has_no_tone_to_be_right(originals):
    heart = named(originals, "1F490")
    assert originals.picture_scores(heart, heart) == {"right": True, "concept": True, "style": True}


def test_twins_are_one(originals):
    woman, man = (named(originals, f"{person}-200D-2708", "fluent") for person in ("1F469", "1F468"))
    assert woman is not man and woman.twins == man.twins
    assert all(originals.picture_scores(woman, man).values()) and all(originals.picture_scores(man, woman).values())


def test_edits_are_hit_or_left_or_half_right(originals):
    edit = next(
        edit
        for edit in edits(originals.drawn, "tone")
        if edit.source is named(originals, WOMAN) and edit.target is named(originals, DARK_WOMAN)
    )
    tell = originals.edit_scores
    assert tell(edit.target, edit) == {"target": True, "copied": False, "attribute": True, "kept": True}
    assert tell(edit.source, edit) == {"target": False, "copied": True, "attribute": False, "kept": True}
    assert tell(named(originals, DARK_MAN), edit) == {
        "target": False,
        "copied": False,
        "attribute": True,
        "kept": False,
    }


def test_means_have_intervals_over_concepts(originals):
    wanted = originals.drawn[:40]
    found = originals.means([each.image for each in wanted[:20]] * 2, wanted)
    assert found["right"].mean == 0.5 and found["right"].low < 0.5 < found["right"].high
    assert found["right"].items == 40


def test_pictures_of_another_size_and_names_of_nothing_are_refused(originals):
    with pytest.raises(ValueError, match=r"Pictures of \(48, 48, 3\) have no nearest among those of \(64, 64, 3\)"):
        originals.nearest([np.zeros((48, 48, 3), np.uint8)])
    with pytest.raises(ValueError, match="No original is called '1F680'"):
        originals.named("1F680")


def test_originals_are_read_once(emoji_folder):
    assert read_originals() is read_originals(emoji_folder)
    assert {name_of(each) for each in read_originals().drawn} == {name_of(each) for each in read_pictures()}
