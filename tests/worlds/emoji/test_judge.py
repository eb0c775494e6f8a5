"""The second judge learns to read originals, is the same for a seed, is kept, and tells what is wrong apart."""

import numpy as np
import pytest
import torch

from transformers_arm.evaluation.intervals import mean_intervals
from transformers_arm.worlds.emoji import judge as judging
from transformers_arm.worlds.emoji.edits import edits
from transformers_arm.worlds.emoji.judge import Judges, labels_of, load_or_train, train_judge
from transformers_arm.worlds.emoji.scores import SCORED, read_originals
from transformers_arm.worlds.emoji.traits import is_people, word_of


@pytest.fixture(scope="module")
def originals(emoji_folder):
    return read_originals(emoji_folder)


@pytest.fixture(scope="module")
def people(originals):
    return [each for each in originals.drawn if is_people(each)]


class Exact:
    """A judge that says of an original what it is."""

    def __init__(self, drawn):
        self.drawn = {each.image.tobytes(): each for each in drawn}

    def read(self, images):
        known = [self.drawn[np.asarray(image).tobytes()] for image in images]
        return [{trait: word_of(each, trait) for trait in SCORED} for each in known]


@pytest.fixture(scope="module")
def both(originals, people):
    return Judges(originals, Exact(people))


@pytest.mark.slow
def test_a_short_training_reads_far_above_chance(originals, people):
    judge = train_judge(people[::3], 60, seed=3)
    scores = Judges(originals, judge).picture_scores([each.image for each in people[::3]], people[::3])
    means = mean_intervals(scores, [each.emoji.concept for each in people[::3]])
    assert means["judge_style"].mean > 0.7  # of three
    assert means["judge_concept"].mean > 0.4  # of eleven


def test_it_has_a_word_for_all_that_people_are(people):
    labels = labels_of(people)
    assert set(labels["style"]) == {"noto", "twemoji", "fluent"}
    assert {"none", "dark", "light and dark"} <= set(labels["tone"]) and "none" in labels["gender"]


def test_training_is_the_same_for_a_seed_and_leaves_the_global_generator_alone(people):
    state = torch.get_rng_state()
    first, second, other = (train_judge(people[:20], 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [judge.network.classifier[-1].weight for judge in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_weights_are_kept_and_read_again_and_other_settings_are_another_judge(
    originals, people, tmp_path, monkeypatch
):
    file = tmp_path / "judge" / "judge.safetensors"
    trained = load_or_train(file, originals=originals, steps=2)
    assert [each.name for each in file.parent.iterdir()] == [file.name]  # nothing written aside stays
    images = [each.image for each in people[:20]]
    with monkeypatch.context() as patch:
        patch.setattr(judging, "train_judge", lambda *_, **__: pytest.fail("trained again"))
        assert load_or_train(file, originals=originals, steps=2).read(images) == trained.read(images)
    learnt = []
    monkeypatch.setattr(judging, "train_judge", lambda drawn, *_, **__: learnt.extend(drawn) or trained)
    load_or_train(file, originals=originals, steps=2, of=["train"])
    assert learnt == [each for each in people if each.split == "train"]


def test_it_says_by_itself_what_is_right(both, originals, people):
    wanted = next(each for each in people if each.emoji.concept == "mechanic" and each.emoji.tones == ("dark",))
    paler = next(
        each
        for each in people
        if (each.emoji.label, each.style) == (wanted.emoji.label, wanted.style) and each.emoji.tones == ("light",)
    )
    thing = next(each for each in originals.drawn if not is_people(each))
    right, pale, objects = both.picture_scores([wanted.image, paler.image, thing.image], [wanted, wanted, thing])
    assert all(right.values()) and len(right) == 2 * (1 + len(SCORED))
    assert not pale["judge_right"] and not pale["judge_tone"] and pale["judge_concept"] and pale["judge_gender"]
    assert not any(name.startswith("judge_") for name in objects)  # it knows people and hands


def test_twins_are_one_to_it_as_well(both, people):
    woman, man = (
        next(
            each
            for each in people
            if each.emoji.concept == "pilot"
            and (each.style, each.emoji.tones, each.emoji.gender) == ("fluent", (), gender)
        )
        for gender in ("woman", "man")
    )
    assert woman.twins == man.twins
    assert all(each["judge_right"] for each in both.picture_scores([woman.image, man.image], [man, woman]))


def test_edits_are_told_by_both(both, originals):
    edit = next(each for each in edits(originals.drawn, "tone") if each.target.emoji.concept == "teacher")
    hit, left = both.edit_scores([edit.target.image, edit.source.image], [edit, edit])
    assert hit == {
        **{"target": True, "copied": False, "attribute": True, "kept": True},
        **{"judge_target": True, "judge_attribute": True, "judge_kept": True},
    }
    assert (left["judge_target"], left["judge_attribute"], left["judge_kept"]) == (False, False, True)
