"""Requests say what is wanted, and rewards pay for it: all for what is right, a share for what is nearly right."""

import pytest
from PIL import Image

from transformers_arm.worlds.emoji.pictures import read_pictures
from transformers_arm.worlds.emoji.requests import emoji_requests
from transformers_arm.worlds.emoji.rewards import emoji_attribute, emoji_kept, emoji_match
from transformers_arm.worlds.emoji.scores import read_originals


@pytest.fixture(scope="module", autouse=True)
def known(emoji_folder):
    return read_originals()


def rewards_of(rows, shown):
    """Each reward of pictures that stand under names."""
    images = [Image.fromarray(read_originals().named(name).image) for name in shown]
    columns = {
        "prompts": rows["prompt"],
        "images": images,
        **{name: rows[name] for name in ("wanted", "source", "task")},
    }
    return {reward.__name__: reward(**columns) for reward in (emoji_match, emoji_attribute, emoji_kept)}


def test_requests_are_a_function_of_the_seed_and_of_training_pictures():
    rows = emoji_requests(200, seed=1, editing=0.5)
    assert rows["prompt"] == emoji_requests(200, seed=1, editing=0.5)["prompt"]
    assert rows["prompt"] != emoji_requests(200, seed=2, editing=0.5)["prompt"]
    named = read_originals().by_name
    assert {named[name].split for name in rows["wanted"]} == {"train"}
    for row in rows:
        assert (row["task"] == "editing") == (row["source"] is not None) == (row["source_image"] is not None)
    assert 60 < sum(task == "editing" for task in rows["task"]) < 140


def test_what_is_right_earns_all():
    rows = emoji_requests(40, seed=1, editing=0.5)
    found = rewards_of(rows, rows["wanted"])
    assert set(found["emoji_match"]) == {1.0}
    for name in ("emoji_attribute", "emoji_kept"):
        assert {(task, reward) for task, reward in zip(rows["task"], found[name], strict=True)} == {
            ("text_to_image", None),
            ("editing", 1.0),
        }


def test_a_source_left_as_it_was_keeps_all_and_changes_nothing():
    rows = emoji_requests(20, seed=1, editing=1.0)
    found = rewards_of(rows, rows["source"])
    assert set(found["emoji_attribute"]) == {0.0} and set(found["emoji_kept"]) == {1.0}
    assert max(found["emoji_match"]) <= 0.5


def test_a_wrong_tone_earns_a_share():
    rows = {"prompt": [""], "wanted": ["1F469-1F3FF-200D-1F527 noto"], "source": [None], "task": ["text_to_image"]}
    assert rewards_of(rows, ["1F469-200D-1F527 noto"])["emoji_match"] == [0.375]  # half of three of four
    assert rewards_of(rows, ["1F490 noto"])["emoji_match"] == [0.125]  # the style alone


def test_pictures_of_any_size_and_mode_are_looked_at():
    wanted = read_pictures()[0]
    image = Image.fromarray(wanted.image).resize((128, 128), Image.Resampling.NEAREST).convert("RGBA")
    assert emoji_match(images=[image], wanted=[f"{wanted.emoji.hexcode} {wanted.style}"]) == [1.0]


@pytest.mark.parametrize("share", [{"editing": 1.5}, {"paraphrased": -0.1}])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="must be a share, 0 to 1"):
        emoji_requests(1, seed=0, **share)


def test_the_rewards_of_a_step_look_once_for_what_is_nearest(monkeypatch):
    rows, looked = emoji_requests(6, seed=3, editing=1.0), []
    originals = read_originals()
    nearest = type(originals).nearest
    monkeypatch.setattr(type(originals), "nearest", lambda self, images: looked.append(1) or nearest(self, images))
    assert set(rewards_of(rows, rows["wanted"])["emoji_match"]) == {1.0} and len(looked) == 1
    assert set(rewards_of(rows, rows["source"])["emoji_attribute"]) == {0.0} and len(looked) == 2
