"""Scores of an ARM: items are balanced, seeded and of their split; right is one and wrong is zero."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transformers_arm.evaluation.arm import Arm
from transformers_arm.worlds.shapes.captions import parse_caption
from transformers_arm.worlds.shapes.draw import PICTURE_SIZES, render_scene
from transformers_arm.worlds.shapes.edits import EDIT_KINDS, NAMING_KINDS, apply_edit
from transformers_arm.worlds.shapes.evaluation import (
    editing,
    generation,
    merged,
    multimodal_parts,
    multimodal_scores,
    size_choices,
    tiny_parts,
    understanding,
)
from transformers_arm.worlds.shapes.figure_names import FIGURE_NAMES
from transformers_arm.worlds.shapes.items import editing_pairs, question_pairs
from transformers_arm.worlds.shapes.prompts import FULL_CELLS, GENERATION_TASKS
from transformers_arm.worlds.shapes.questions import NEGATIVES, QUESTION_KINDS, answer_question
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.scene import CELLS, Scene, SceneObject


def some_scene(caption):
    """A scene that a caption is true of."""
    spec, rng = parse_caption(caption), random.Random(0)
    while True:
        cells = rng.sample(CELLS, len(spec.nouns))
        objects = tuple(
            SceneObject(noun.shape, noun.color or color, noun.size or "small", noun.cell or cell)
            for noun, cell, color in zip(spec.nouns, cells, ("red", "green", "blue"), strict=False)
        )
        try:
            scene = Scene(objects, spec.background or "white")
        except ValueError:  # two objects overlap
            continue
        if spec.is_true_of(scene):
            return scene


def scene_in(image):
    """The scene that a picture shows."""
    reading = read_scene(image)
    objects = tuple(
        SceneObject(*(getattr(item, name) for name in ("shape", "color", "size", "cell"))) for item in reading.objects
    )
    return Scene(objects, reading.background)


def shown(scene, height, width):
    return Image.fromarray(render_scene(scene, height, width))


class Oracle:
    """Does all right: stands for an `Arm`."""

    max_pixels = 48 * 48

    def draw(self, prompts, *, seed, height, width, **kwargs):
        return [shown(some_scene(prompt), height, width) for prompt in prompts]

    def edit(self, images, prompts, *, seed, height, width, **kwargs):
        pairs = zip(images, prompts, strict=True)
        return [shown(apply_edit(scene_in(image), prompt), height, width) for image, prompt in pairs]

    def answer(self, images, prompts, *, question_first=False, **size):
        return [answer_question(prompt, read_scene(image)) for image, prompt in zip(images, prompts, strict=True)]

    def opened_sizes(self, prompts):
        return [PICTURE_SIZES[parse_caption(prompt).size or "small"] for prompt in prompts]


class Fool:
    """Does all wrong: draws nothing, edits nothing, answers nonsense and opens no picture."""

    max_pixels = 96 * 96

    def draw(self, prompts, *, height, width, **kwargs):
        return [Image.new("RGB", (width, height), "white") for _ in prompts]

    def edit(self, images, prompts, **kwargs):
        return list(images)

    def answer(self, images, prompts, **kwargs):
        return ["nonsense" for _ in prompts]

    def opened_sizes(self, prompts):
        return [None for _ in prompts]


# --- items -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("held_out_pairs", [False, True])
def test_edits_are_balanced_and_of_the_split(split, held_out_pairs):
    pairs = editing_pairs(6 * len(EDIT_KINDS), seed=1, split=split, held_out_pairs=held_out_pairs)
    assert Counter(pair.kind for pair in pairs) == {kind: 6 for kind in EDIT_KINDS}
    assert Counter(len(pair.source.objects) for pair in pairs if pair.kind in ("move", "background")) == dict.fromkeys(
        (1, 2, 3), 4
    )
    assert Counter(pair.names for pair in pairs if pair.kind == "move") == {"plain": 3, "other": 3}
    for pair in pairs:
        assert (pair.names is None) == (pair.kind not in NAMING_KINDS)
        assert pair.split == split
        assert pair.target.has_held_out_pair == held_out_pairs
        assert apply_edit(pair.source, pair.instruction) == pair.target != pair.source


@pytest.mark.parametrize("split", ["train", "test"])
def test_questions_are_balanced_and_of_the_split(split):
    pairs = question_pairs(18 * len(QUESTION_KINDS), seed=1, split=split)
    assert Counter(asked.kind for _, asked in pairs) == {kind: 18 for kind in QUESTION_KINDS}
    existence = Counter((asked.negatives, asked.answer) for _, asked in pairs if asked.kind == "existence")
    assert existence == {(name, answer): 3 for name in NEGATIVES for answer in ("yes", "no")}
    of_color = Counter((len(scene.objects), asked.names) for scene, asked in pairs if asked.kind == "color")
    assert of_color == {(number, names): 3 for number in (1, 2, 3) for names in ("plain", "other")}
    assert {len(scene.objects) for scene, asked in pairs if asked.kind == "relation"} == {2, 3}
    for scene, asked in pairs:
        assert scene.split == split
        assert answer_question(asked.question, scene) == asked.answer


@pytest.mark.parametrize("items", [editing_pairs, question_pairs])
def test_items_follow_the_seed(items):
    assert items(20, seed=1) == items(20, seed=1) != items(20, seed=2)
    assert items(20, seed=1)[:8] == items(8, seed=1)


@pytest.mark.parametrize("items", [editing_pairs, question_pairs])
def test_items_jitter_as_much_as_asked(items):
    def jitters(pairs):
        scenes = [pair.source if items is editing_pairs else pair[0] for pair in pairs]
        return {item.jitter for scene in scenes for item in scene.objects}

    assert jitters(items(20, seed=1)) == {(0, 0)}
    assert len(jitters(items(20, seed=1, max_jitter=2))) > 1


# --- scores ----------------------------------------------------------------------------------------------------------


class SizedOracle(Oracle):
    max_pixels = 96 * 96


@pytest.fixture(scope="module")
def perfect():
    return multimodal_scores(SizedOracle(), count=18)


def test_who_does_all_right_scores_one(perfect):
    tens = {"editing_sc": 10, "editing_pq": pytest.approx(10, abs=0.1), "editing_o": pytest.approx(10, abs=0.1)}
    for name, score in perfect.items():
        if not name.endswith("yes_share"):
            assert score == tens.get(name, 1), name


def test_who_does_all_wrong_scores_zero():
    scores = multimodal_scores(Fool(), count=16)
    del scores["editing_pq"]  # untouched pictures are good pictures
    assert set(scores.values()) == {0}


def test_scores_have_the_names_that_cards_ask_for(perfect):
    for prefix in ("", "unguided_", "hard_"):
        for name in ("generation", "generation_full", "generation_composition", "editing_exact"):
            assert f"{prefix}{name}" in perfect
    assert {f"generation_{task}" for task in GENERATION_TASKS} <= set(perfect)
    assert {f"editing_{kind}" for kind in EDIT_KINDS} <= set(perfect)
    assert {f"understanding_{kind}" for kind in QUESTION_KINDS} <= set(perfect)
    assert {f"generation_full_{cell}" for cell in FULL_CELLS} <= set(perfect)
    assert {f"understanding_{kind}_{number}" for kind in ("color", "location") for number in ("one", "three")} <= {
        *perfect
    }
    assert {"understanding", "understanding_question_first", "hard_understanding"} <= set(perfect)
    assert {f"{word}_{name}" for word in ("wide", "tall", "large") for name in ("generation", "understanding")} <= {
        *perfect
    }
    assert "unguided_understanding" not in perfect  # answers are never guided
    assert set(perfect) <= set(FIGURE_NAMES)


def test_each_mean_has_its_weakest_cell_behind_it(perfect):
    means = [name for name in perfect if f"{name}_weakest" in perfect]
    names = list(perfect)
    assert all(names[names.index(mean) + 1] == f"{mean}_weakest" for mean in means)
    variants = ("", "unguided_", "hard_", "wide_", "tall_", "large_")
    assert {f"{each}{name}" for each in variants for name in ("generation", "generation_full", "editing_exact")} <= {
        *means
    }
    assert {"understanding", "editing_new_names", "understanding_new_names", "size_choice"} <= {*means}


class Reverser(Oracle):
    """Draws right what is told in reading order, answers right what is asked plainly, and edits one object alone."""

    def draw(self, prompts, *, seed, height, width, **kwargs):
        right = super().draw(prompts, seed=seed, height=height, width=width)
        scenes = [some_scene(prompt) for prompt in prompts]
        nouns = [parse_caption(prompt).nouns for prompt in prompts]
        told = [
            [noun.cell for noun in each] == [item.cell for item in scene.objects]
            for each, scene in zip(nouns, scenes, strict=True)
        ]
        return [
            picture if is_right else Image.new("RGB", (48, 48)) for picture, is_right in zip(right, told, strict=True)
        ]

    def edit(self, images, prompts, *, seed, height, width, **kwargs):
        right = super().edit(images, prompts, seed=seed, height=height, width=width)
        return [new if len(read_scene(old).objects) == 1 else old for new, old in zip(right, images, strict=True)]

    def answer(self, images, prompts, **size):
        right = super().answer(images, prompts)
        return ["?" if " at the " in prompt else answer for answer, prompt in zip(right, prompts, strict=True)]


def test_what_a_mean_hides_stands_in_its_cells():
    drawn = generation(Reverser(), tasks=("full",), count=54)
    assert drawn["full_reading"] == drawn["full_reversed_one"] == 1
    assert drawn["full_reversed_two"] == drawn["full_weakest"] == 0 < drawn["full_shuffled"] < 1
    edited = editing(Reverser(), count=84)
    assert (edited["one_exact"], edited["three_exact"], edited["weakest"]) == (1, 0, 0)
    assert 0 < edited["exact"] < 1
    answered = understanding(Reverser(), count=144)
    assert answered["plain_names"] == 1 > answered["other_names"] >= answered["weakest"]


def test_names_that_training_never_has_are_a_test_of_their_own():
    listener = Listener()
    for _ in multimodal_parts(listener, count=12):
        pass
    asked = [prompt for _, prompt in listener.questions]
    new = [prompt for prompt in asked if "the only" in prompt and " object" in prompt]
    assert new and not set(new) & set(asked[: asked.index(new[0])])


def test_a_model_free_to_choose_is_scored_by_the_size_it_opens():
    assert set(size_choices(SizedOracle(), count=90).values()) == {1}
    scores = size_choices(Stubborn(), count=90)
    assert (scores["wide"], scores["small"], scores["unstated"], scores["weakest"]) == (0, 1, 1, 0)


class Stubborn(Oracle):
    """Opens pictures of one size."""

    def opened_sizes(self, prompts):
        return [(48, 48) for _ in prompts]


def test_half_of_the_prompts_of_a_size_state_it():
    listener = Listener()
    listener.max_pixels = 96 * 96
    multimodal_scores(listener, count=12)
    assert {(48, 96), (96, 48), (96, 96)} <= set(listener.sizes)
    stated = Counter(parse_caption(prompt).size for prompt in listener.prompts)
    assert stated["wide"] == stated["tall"] == stated["large"] == 12 and stated["small"] == 0


def test_one_item_a_row_is_enough():
    scores = multimodal_scores(Oracle(), count=1)
    assert {"generation", "editing_exact", "understanding", "hard_editing_exact"} <= set(scores)


class Listener(Oracle):
    """An oracle that notes what it is given."""

    def __init__(self):
        self.sizes, self.sampling, self.prompts, self.sources = [], [], [], []
        self.questions, self.orders = [], []

    def draw(self, prompts, *, seed, height, width, **kwargs):
        self.sizes.append((height, width)), self.sampling.append(kwargs), self.prompts.extend(prompts)
        return super().draw(prompts, seed=seed, height=height, width=width)

    def edit(self, images, prompts, *, seed, height, width, **kwargs):
        self.sizes.append((height, width)), self.sampling.append(kwargs)
        self.sources.extend(zip(images, prompts, strict=True))
        return super().edit(images, prompts, seed=seed, height=height, width=width)

    def answer(self, images, prompts, *, question_first=False, height, width):
        self.sizes.append((height, width)), self.orders.append(question_first)
        self.questions.extend(zip(images, prompts, strict=True))
        return super().answer(images, prompts)


def test_the_variants_are_the_folders_own_without_guidance_and_hard():
    listener = Listener()
    multimodal_scores(listener, count=8)
    assert listener.sizes == [(48, 48)] * 9 + [(64, 64)] * 3
    assert listener.orders == [False, True, False, False]
    off = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
    assert listener.sampling == [{}, {}, {}, {}, off, off, {}, {}]
    sizes = {np.asarray(image).shape for image, _ in listener.sources}
    assert sizes == {(48, 48, 3), (64, 64, 3)}


@pytest.mark.parametrize("split", ["train", "test"])
def test_scored_items_are_of_the_split(split):
    listener = Listener()
    settings = {"count": 12, "seed": 3, "split": split}
    assert generation(listener, tasks=(*GENERATION_TASKS, "full"), **settings)["overall"] == 1
    assert editing(listener, **settings)["exact"] == 1
    assert understanding(listener, **settings)["overall"] == 1
    assert len(listener.prompts) == 24
    assert {some_scene(prompt).split for prompt in listener.prompts[12:]} == {split}
    assert {apply_edit(scene_in(image), prompt).split for image, prompt in listener.sources} == {split}
    assert {scene_in(image).split for image, _ in listener.questions} == {split}


def test_a_folder_without_backbones_is_scored_by_what_it_has():
    folder = Path(__file__).parents[3] / "checkpoints" / "arm-tiny-rl"
    found = merged(tiny_parts(folder, count=2))
    assert "read_back" in found and "hard_read_back" in found
    assert not any(name.startswith("text_") or "zero_shot" in name for name in found)


def test_scores_of_an_untrained_arm_come_out_again(arm_folder):
    arm = Arm.from_pretrained(arm_folder)
    assert editing(arm, count=2, seed=1) == editing(arm, count=2, seed=1)
    assert understanding(arm, count=8, seed=1)["overall"] < 0.5
