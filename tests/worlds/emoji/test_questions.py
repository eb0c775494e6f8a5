"""Questions have one right answer, also where pictures look alike, and a baseline."""

import pytest

from transformers_arm.worlds.emoji.pictures import read_pictures
from transformers_arm.worlds.emoji.questions import QUESTION_KINDS, Question, majority_rate, questions


@pytest.fixture(scope="module")
def drawn(emoji_folder):
    return read_pictures(emoji_folder)


def about(drawn, kind, **traits):
    return {
        asked.answer
        for asked in questions(drawn, kind)
        if all(getattr(asked.drawn.emoji, name) == value for name, value in traits.items())
    }


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_every_kind_is_asked_in_several_ways(drawn, kind):
    asked = next(questions(drawn, kind))
    assert len(set(asked.wordings)) >= 3 and asked.answer


def test_answers_are_exact_words(drawn):
    assert about(drawn, "what", hexcode="1F469-1F3FF-200D-1F527") == {"woman mechanic"}
    assert about(drawn, "style") == {"noto", "twemoji", "fluent"}
    assert about(drawn, "tone", tones=("medium-dark",)) == {"medium-dark"}
    assert about(drawn, "tone", tones=()) == {"none"}
    assert about(drawn, "tone", tones=("light", "dark")) == {"light and dark"}
    assert about(drawn, "gender", gender="woman") == {"woman"}
    assert about(drawn, "hair") == {"ordinary", "red", "curly", "white", "bald"}
    assert about(drawn, "facing", faces_right=True) == {"right"} and len(about(drawn, "facing")) == 2


def test_only_what_a_concept_has_a_choice_of_is_asked(drawn):
    asked = [each for kind in ("tone", "gender", "hair", "facing") for each in questions(drawn, kind)]
    assert "heart" not in " ".join(each.drawn.emoji.label for each in asked)
    assert {each.drawn.emoji.concept for each in questions(drawn, "hair")} == {"person"}


def test_pictures_that_look_alike_are_not_asked_what_tells_them_apart(drawn):
    alike = {each.twins for each in drawn if each.emoji.concept == "pilot" and not each.emoji.tones}
    alike &= {each.twins for each in drawn if each.style == "fluent"}
    assert len(alike) == 1
    assert not alike & {asked.drawn.twins for kind in ("gender", "what") for asked in questions(drawn, kind)}
    assert alike <= {asked.drawn.twins for asked in questions(drawn, "tone")}


def test_the_majority_rate_is_what_one_answer_would_get(drawn):
    asked = [Question("tone", drawn[0], answer) for answer in ("dark", "light", "dark", "dark")]
    assert majority_rate(asked) == 0.75


def test_an_unknown_kind_is_refused(drawn):
    with pytest.raises(ValueError, match="Unknown kind of question 'size'"):
        next(questions(drawn, "size"))
