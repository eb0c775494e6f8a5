"""Scores of an ARM on emoji: who does all right scores one, who does nothing scores none, a folder is scored whole."""

import random

import numpy as np
import pytest
from PIL import Image

from transformers_arm.data.world import find_world
from transformers_arm.worlds.emoji.edits import KINDS, LOOKUP, edits
from transformers_arm.worlds.emoji.evaluation import editing, generation, look_scores, rows_of_splits, understanding
from transformers_arm.worlds.emoji.items import items_of, taking_turns
from transformers_arm.worlds.emoji.judge import Judges
from transformers_arm.worlds.emoji.questions import QUESTION_KINDS, questions
from transformers_arm.worlds.emoji.rows import Row
from transformers_arm.worlds.emoji.scores import read_originals
from transformers_arm.worlds.emoji.splits import HELD_OUT
from transformers_arm.worlds.emoji.tasks import full
from transformers_arm.worlds.emoji.traits import part_of


@pytest.fixture(scope="module", autouse=True)
def originals(emoji_folder):
    return read_originals()


class Oracle:
    """Does all right, from what it was told alone: stands for an `Arm`."""

    def __init__(self, originals):
        drawn = originals.drawn
        self.pictures = {self.parts(full(each)): each.image for each in drawn}
        self.targets, self.answers = {}, {}
        for edit in (edit for kind in KINDS for edit in edits(drawn, kind)):
            for words in edit.instructions:
                self.targets[edit.source.image.tobytes(), words] = edit.target.image
        for each in (each for kind in QUESTION_KINDS for each in questions(drawn, kind)):
            for words in each.wordings:
                self.answers[each.drawn.image.tobytes(), words] = f" {each.answer}\n"

    @staticmethod
    def parts(caption):
        """In whatever order they stand."""
        return frozenset(caption.split(", "))

    def draw(self, prompts, *, seed, **size):
        black = np.zeros((64, 64, 3), np.uint8)  # what it does not know
        return [Image.fromarray(self.pictures.get(self.parts(prompt), black)) for prompt in prompts]

    def edit(self, images, prompts, *, seed, **size):
        return [
            Image.fromarray(self.targets[image.tobytes(), each]) for image, each in zip(images, prompts, strict=True)
        ]

    def answer(self, images, prompts, **size):
        return [self.answers[image.tobytes(), each] for image, each in zip(images, prompts, strict=True)]


class Fool(Oracle):
    """Draws one picture, edits nothing and answers with one word."""

    def draw(self, prompts, **kwargs):
        return [next(iter(self.pictures.values()))] * len(prompts)

    def edit(self, images, prompts, **kwargs):
        return images

    def answer(self, images, prompts, **kwargs):
        return ["noto"] * len(prompts)


@pytest.fixture(scope="module")
def oracle(originals):
    return Oracle(originals)


@pytest.fixture(scope="module")
def fool(originals):
    return Fool(originals)


@pytest.fixture(scope="module")
def judges(originals):
    return Judges(originals)


@pytest.fixture(scope="module")
def held_out():
    return items_of("tone")


def some(by_kind, count=24):
    return taking_turns(random.Random(0), by_kind, count)


def means(scored, main="right"):
    return Row("", main, scored).means


def test_who_does_all_right_scores_one(oracle, judges, held_out):
    drawn = means(generation(oracle, judges, held_out.pictures[:20], seed=0))
    assert set(drawn) == {"right", "concept", "tone", "gender", "style"}
    assert {value.mean for value in drawn.values()} == {1.0}
    edited = means(editing(oracle, judges, some(held_out.edits), seed=0))
    assert edited.pop("copied").mean == 0.0
    assert set(edited) == {"target", "attribute", "kept", "tone", "gender", LOOKUP}
    assert {value.mean for value in edited.values()} == {1.0}
    assert means(understanding(oracle, some(held_out.questions)))["right"].mean == 1.0


def test_who_does_nothing_scores_nothing_and_one_answer_the_majority_rate(fool, judges, held_out):
    assert means(generation(fool, judges, held_out.pictures[:20], seed=0))["right"].mean == 0.0
    edited = means(editing(fool, judges, some(held_out.edits), seed=0))
    found = {name: edited[name].mean for name in ("target", "copied", "attribute", "kept")}
    assert found == {"target": 0.0, "copied": 1.0, "attribute": 0.0, "kept": 1.0}
    asked = [each for each in held_out.questions["style"] if each.answer == "noto"][:6]
    asked += [each for each in held_out.questions["style"] if each.answer != "noto"][:4]
    row = Row("style", "right", understanding(fool, asked))
    assert row.means["right"].mean == row.majority == row.figures()["style_majority"] == 0.6


def test_edits_that_are_a_lookup_or_of_few_are_kept_out_of_the_mean(oracle, judges, held_out):
    asked = [*held_out.edits["tone"][:3], *held_out.edits[LOOKUP][:5]]
    found = means(editing(oracle, judges, asked, seed=0))
    assert found["target"].items == found["tone"].items == 3 and found[LOOKUP].items == 5


def test_kinds_take_turns_and_nothing_comes_twice(held_out):
    asked = some(held_out.edits, 30)
    assert [edit.kind for edit in asked[:3]] == list(held_out.edits)
    assert len({id(edit) for edit in asked}) == 30
    assert len(some({"tone": held_out.edits["tone"][:2], "gender": held_out.edits["gender"][:9]}, 50)) == 11


def test_a_look_at_training_is_of_training_pictures(oracle, fool, originals):
    right = {"generation": 1.0, "editing": 1.0, "copied": 0.0, "understanding": 1.0}
    assert look_scores(oracle, originals, split="train", count=24, seed=0) == right
    assert look_scores(fool, originals, split="train", count=24, seed=0)["copied"] == 1.0
    scores, sheet = find_world("emoji").look(oracle, count=8, seed=0)
    assert set(scores) == set(right) and sheet.size == (16 * 64, 64)


def rows_by_name(arm, judges, **kwargs):
    return {row.name: row for row in rows_of_splits(arm, judges, count=12, seed=0, **kwargs)}


def test_people_and_objects_are_never_in_one_row(oracle, judges):
    rows = rows_by_name(oracle, judges, splits=["train", "unseen"])
    for name, row in rows.items():
        assert {part_of(item.drawn) for item in row.items} == {"objects" if "objects" in name else "people"}, name
    assert {"generation_objects_train", "editing_objects_train", "understanding_objects_train_what"} <= set(rows)
    assert rows["editing_train"].means["target"].items == 12  # beside them two of other kinds
    assert {item.kind for item in rows["editing_objects_train"].items} <= {"color", "clock", LOOKUP}


def test_captions_in_another_order_ask_for_the_same_and_tags_leave_the_name_out(oracle, judges):
    rows = rows_by_name(oracle, judges, splits=["tone"], parts=["people"])
    assert rows["generation_reordered_tone"].means["right"].mean == 1.0
    assert rows["generation_tagged_tone"].means["right"].mean == 0.0  # it knows no tags


def test_held_out_tones_and_genders_are_one_row_of_all_their_items(oracle, judges):
    rows = rows_by_name(oracle, judges, splits=["gender", "tone"], parts=["people"])
    for name in ("generation_{}", "editing_{}", "understanding_{}_what", "understanding_{}_gender"):
        tone, gender, both = (rows[name.format(split)].items for split in ("tone", "gender", "composed"))
        assert both == tone + gender
    assert {item.drawn.split for item in rows["editing_composed"].items} == {"tone", "gender"}


def test_a_folder_is_scored_whole_and_every_score_has_its_words(arm_folder):
    world = find_world("emoji")
    parts = list(world.scores_as_they_come(arm_folder, count=1, seed=0))
    scores = {name: value for part in parts for name, value in part.items()}
    assert len(parts) > len(HELD_OUT) and all(isinstance(value, int | float) for value in scores.values())
    for split in ("train", *HELD_OUT, "composed"):
        for name in (f"generation_{split}", f"generation_ceiling_{split}", f"understanding_{split}_tone"):
            assert {name, f"{name}_low", f"{name}_high"} <= set(scores)
    assert {"editing_tone", "editing_tone_copied", "editing_ceiling_tone", "generation_tagged_train"} <= set(scores)
    assert {"generation_tone_concept", "generation_tone_tone", "editing_composed_attribute"} <= set(scores)
    assert {"understanding_composed_what_majority", "generation_ceiling_tone_psnr"} <= set(scores)
    assert not set(scores) - set(world.figure_names)


def test_the_demo_has_its_pages(arm_folder):
    pages = list(find_world("emoji").sheets(arm_folder, seed=0))
    assert [page.name for page in pages] == ["world", "prompts", "edits", "answers"]
    assert all(page.picture.size > (64, 64) for page in pages) and "4x4 tokens" in pages[0].text


def test_what_a_tokenizer_gives_back_is_found_again(originals):
    pictures = np.stack([each.image for each in originals.drawn[:30]])
    world = find_world("emoji")
    right = world.reconstruction_scores(pictures, pictures)
    assert right == dict.fromkeys(("right", "concept", "tone", "gender", "style"), 1.0)
    assert world.reconstruction_scores(pictures[::-1], pictures)["right"] < 0.1
