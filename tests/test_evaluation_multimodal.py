"""Scores of an ARM: items are balanced, seeded and of their split; right is one and wrong is zero."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from transformers_arm.data.shapes import Canvas
from transformers_arm.evaluation import DEFAULT_CANVAS, HARD_CANVAS
from transformers_arm.evaluation_multimodal import (
    Arm,
    editing,
    editing_pairs,
    generation,
    multimodal_scores,
    question_pairs,
    understanding,
)
from transformers_arm.shapes.captions import parse_caption
from transformers_arm.shapes.draw import render_scene
from transformers_arm.shapes.edits import EDIT_KINDS, apply_edit
from transformers_arm.shapes.prompts import GENERATION_TASKS
from transformers_arm.shapes.questions import NEGATIVES, QUESTION_KINDS, answer_question
from transformers_arm.shapes.reader import read_scene
from transformers_arm.shapes.scene import CELLS, Scene, SceneObject


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


def shown(scene, canvas):
    return Image.fromarray(render_scene(scene, canvas.height, canvas.width))


class Oracle:
    """Does all right: stands for an `Arm`."""

    def draw(self, prompts, canvas=DEFAULT_CANVAS, *, seed, **kwargs):
        return [shown(some_scene(prompt), canvas) for prompt in prompts]

    def edit(self, images, prompts, canvas=DEFAULT_CANVAS, *, seed, **kwargs):
        pairs = zip(images, prompts, strict=True)
        return [shown(apply_edit(scene_in(image), prompt), canvas) for image, prompt in pairs]

    def answer(self, images, prompts, canvas=DEFAULT_CANVAS, question_first=False):
        return [answer_question(prompt, read_scene(image)) for image, prompt in zip(images, prompts, strict=True)]


class Fool:
    """Does all wrong: draws nothing, edits nothing and answers nonsense."""

    def draw(self, prompts, canvas=DEFAULT_CANVAS, **kwargs):
        return [Image.new("RGB", (canvas.width, canvas.height), "white") for _ in prompts]

    def edit(self, images, prompts, canvas=DEFAULT_CANVAS, **kwargs):
        return list(images)

    def answer(self, images, prompts, canvas=DEFAULT_CANVAS, question_first=False):
        return ["nonsense" for _ in prompts]


# --- items -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("held_out_pairs", [False, True])
def test_edits_are_balanced_and_of_the_split(split, held_out_pairs):
    pairs = editing_pairs(3 * len(EDIT_KINDS), seed=1, split=split, held_out_pairs=held_out_pairs)
    assert Counter(pair.kind for pair in pairs) == {kind: 3 for kind in EDIT_KINDS}
    for pair in pairs:
        assert pair.split == split
        assert pair.target.has_held_out_pair == held_out_pairs
        assert apply_edit(pair.source, pair.instruction) == pair.target != pair.source


@pytest.mark.parametrize("split", ["train", "test"])
def test_questions_are_balanced_and_of_the_split(split):
    pairs = question_pairs(6 * len(QUESTION_KINDS), seed=1, split=split)
    assert Counter(asked.kind for _, asked in pairs) == {kind: 6 for kind in QUESTION_KINDS}
    existence = Counter((asked.negatives, asked.answer) for _, asked in pairs if asked.kind == "existence")
    assert existence == {(name, answer): 1 for name in NEGATIVES for answer in ("yes", "no")}
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


@pytest.fixture(scope="module")
def perfect():
    return multimodal_scores(Oracle(), count=24)


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
    assert {"understanding", "understanding_question_first", "hard_understanding"} <= set(perfect)
    assert "unguided_understanding" not in perfect  # answers are never guided


def test_one_item_a_row_is_enough():
    scores = multimodal_scores(Oracle(), count=1)
    assert {"generation", "editing_exact", "understanding", "hard_editing_exact"} <= set(scores)


class Listener(Oracle):
    """An oracle that notes what it is given."""

    def __init__(self):
        self.canvases, self.sampling, self.prompts, self.sources = [], [], [], []
        self.questions, self.orders = [], []

    def draw(self, prompts, canvas=DEFAULT_CANVAS, *, seed, **kwargs):
        self.canvases.append(canvas), self.sampling.append(kwargs), self.prompts.extend(prompts)
        return super().draw(prompts, canvas, seed=seed)

    def edit(self, images, prompts, canvas=DEFAULT_CANVAS, *, seed, **kwargs):
        self.canvases.append(canvas), self.sampling.append(kwargs)
        self.sources.extend(zip(images, prompts, strict=True))
        return super().edit(images, prompts, canvas, seed=seed)

    def answer(self, images, prompts, canvas=DEFAULT_CANVAS, question_first=False):
        self.canvases.append(canvas), self.orders.append(question_first)
        self.questions.extend(zip(images, prompts, strict=True))
        return super().answer(images, prompts, canvas)


def test_the_variants_are_the_folders_own_without_guidance_and_hard():
    listener = Listener()
    multimodal_scores(listener, count=8)
    assert listener.canvases == [DEFAULT_CANVAS] * 6 + [HARD_CANVAS] * 3
    assert listener.orders == [False, True, False]
    off = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
    assert listener.sampling == [{}, {}, off, off, {}, {}]
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


# --- an ARM ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arm(arm_folder):
    return Arm.from_pretrained(arm_folder)


def sources(count, width=48, height=48):
    shape = (count, height, width, 3)
    return list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def test_an_arm_draws_on_the_canvas(arm):
    drawn = arm.draw(("a cross", "a circle"), Canvas(32, 64), seed=1)
    assert [picture.size for picture in drawn] == [(64, 32)] * 2
    again, other = arm.draw(("a cross",), seed=1), arm.draw(("a cross",), seed=2)
    assert again[0].tobytes() == arm.draw(("a cross",), seed=1)[0].tobytes() != other[0].tobytes()


def test_an_arm_edits_in_order(arm):
    edited = arm.edit(sources(1) + sources(1, 100, 80), ("x", "y"), HARD_CANVAS, seed=1, guidance_scale=1.0)
    assert [picture.size for picture in edited] == [(48, 48), (100, 80)]


@pytest.mark.parametrize("question_first", [False, True])
def test_an_arm_answers_as_transformers_pipeline_does(arm, arm_folder, question_first):
    prompts = ["what color is the circle?", "how many?", "<|im_end|>"]
    answers = arm.answer(sources(3), prompts, question_first=question_first)
    ask = pipeline("image-text-to-text", model=arm_folder, device="cpu", dtype=torch.float32)
    for image, prompt, answer in zip(sources(3), prompts, answers, strict=True):
        content = [{"type": "image", "image": Image.fromarray(image)}, {"type": "text", "text": prompt}]
        chat = [{"role": "user", "content": content[::-1] if question_first else content}]
        (expected,) = ask(text=chat, return_full_text=False, generate_kwargs={"do_sample": False})
        assert answer == expected["generated_text"]


def test_an_arm_tells_texts_and_pictures_in_order(arm, monkeypatch):
    offset = arm.model.config.visual_token_offset
    opening, closing = (
        arm.processor.tokenizer(text)["input_ids"]
        for text in ("first<|vision_start|><|h:2|><|w:3|>", "<|vision_end|>then<|im_end|>")
    )
    written = torch.tensor([[*opening, *range(offset, offset + 6), *closing]])
    monkeypatch.setattr(arm.model, "generate", lambda input_ids, **kwargs: torch.cat([input_ids, written], 1))
    first, picture, then = arm.tell("a red circle")
    assert (first, then) == ("first", "then")
    assert picture.size == (48, 32)


def test_an_untrained_arm_tells_something(arm):
    assert all(isinstance(part, (str, Image.Image)) for part in arm.tell("a red circle"))


def test_scores_of_an_untrained_arm_come_out_again(arm):
    assert editing(arm, count=2, seed=1) == editing(arm, count=2, seed=1)
    assert understanding(arm, count=8, seed=1)["overall"] < 0.5
