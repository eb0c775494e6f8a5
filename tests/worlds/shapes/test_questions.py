"""Questions are asked only where exactly one answer is right, and both ways to the answer agree."""

import random
from collections import Counter

import pytest

from transformers_arm.worlds.shapes.draw import draw_scene
from transformers_arm.worlds.shapes.questions import (
    NEGATIVES,
    QUESTION_KINDS,
    answer_question,
    negative_pairs,
    parse_question,
    questions,
    sample_existence_question,
    sample_question,
)
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.scene import COLORS, SHAPES, Scene, SceneObject, sample_scene

RED_CIRCLE = SceneObject("circle", "red", "small", "top-left")
BLUE_CIRCLE = SceneObject("circle", "blue", "large", "top")
RED_SQUARE = SceneObject("square", "red", "small", "bottom-right")


def scenes(count, seed=0):
    rng = random.Random(seed)
    return [sample_scene(rng) for _ in range(count)]


def asked(scene, kind):
    return {question.question: question.answer for question in questions(scene) if question.kind == kind}


def test_every_question_gets_its_answer_from_its_words_alone():
    for scene in scenes(300):
        for question in questions(scene):
            assert answer_question(question.question, scene) == question.answer
            assert parse_question(question.question)[0] == question.kind


def test_all_grammatical_questions_with_one_answer_are_asked():
    wordings = {question.question for scene in scenes(3000) for question in questions(scene)}
    assert len(wordings) == 4 + 6 + 1 + 4 + 24 + 24 + 4 * 24 + 1
    for scene in scenes(30, seed=1):
        answered = {}
        for wording in wordings:
            try:
                answered[wording] = answer_question(wording, scene)
            except ValueError:
                continue
        assert answered == {question.question: question.answer for question in questions(scene)}


def test_a_shape_shown_twice_is_not_asked_for_its_color():
    scene = Scene((RED_CIRCLE, BLUE_CIRCLE, RED_SQUARE))
    assert asked(scene, "color") == {"what color is the square?": "red"}
    assert asked(scene, "shape") == {"what shape is the blue object?": "circle"}


def test_counts_name_zero_to_three():
    scene = Scene((RED_CIRCLE, BLUE_CIRCLE, RED_SQUARE))
    assert asked(scene, "count") == {"how many objects are there?": "three"}
    assert asked(scene, "count_shape") == {
        "how many circles are there?": "two",
        "how many squares are there?": "one",
        "how many triangles are there?": "zero",
        "how many crosses are there?": "zero",
    }


def test_relations_are_asked_only_where_one_object_lies_that_way():
    scene = Scene((RED_CIRCLE, BLUE_CIRCLE, RED_SQUARE))
    assert asked(scene, "relation") == {
        "what is left of the blue circle?": "red circle",
        "what is right of the blue circle?": "red square",
        "what is below the red circle?": "red square",
        "what is below the blue circle?": "red square",
    }


def test_location_and_background_are_stated():
    scene = Scene((RED_CIRCLE, RED_SQUARE), "gray")
    assert asked(scene, "location") == {
        "where is the red circle?": "top-left",
        "where is the red square?": "bottom-right",
    }
    assert asked(scene, "background") == {"what color is the background?": "gray"}


def test_existence_covers_every_pair():
    existence = asked(Scene((RED_CIRCLE, RED_SQUARE)), "existence")
    assert len(existence) == len(COLORS) * len(SHAPES)
    assert {question for question, answer in existence.items() if answer == "yes"} == {
        "is there a red circle?",
        "is there a red square?",
    }


def test_questions_about_a_picture_are_answered_from_its_reading():
    for scene in scenes(20):
        reading = read_scene(draw_scene(scene))
        for question in questions(scene):
            assert answer_question(question.question, reading) == question.answer


def test_adversarial_negatives_share_shape_or_color_but_not_both():
    for scene in scenes(100):
        colors, shapes = {item.color for item in scene.objects}, {item.shape for item in scene.objects}
        pairs = negative_pairs(scene, "adversarial")
        assert pairs and all((color in colors) != (shape in shapes) for color, shape in pairs)


def test_popular_negatives_are_absent_and_never_held_out():
    for scene in scenes(100):
        present = {(item.color, item.shape) for item in scene.objects}
        popular, absent = set(negative_pairs(scene, "popular")), set(negative_pairs(scene, "random"))
        assert popular == absent - {("purple", "cross"), ("cyan", "triangle")}
        assert absent.isdisjoint(present) and len(absent) == 24 - len(present)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_existence_is_balanced_and_labelled(negatives):
    rng = random.Random(0)
    sampled = [(scene, sample_existence_question(rng, scene, negatives=negatives)) for scene in scenes(1000)]
    assert all(question.negatives == negatives for _, question in sampled)
    assert all(answer_question(question.question, scene) == question.answer for scene, question in sampled)
    assert 450 < sum(question.answer == "yes" for _, question in sampled) < 550


def test_sampled_kinds_cover_all_and_repeat_with_the_seed():
    def draw():
        rng = random.Random(5)
        return [sample_question(rng, scene) for scene in scenes(800)]

    sampled = draw()
    assert sampled == draw()
    counts = Counter(question.kind for question in sampled)
    assert set(counts) == set(QUESTION_KINDS) and min(counts.values()) > 50


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_a_kind_asked_for_is_the_kind_sampled(kind):
    question = sample_question(random.Random(0), Scene((RED_CIRCLE, RED_SQUARE, BLUE_CIRCLE)), kind)
    assert question.kind == kind


def test_counts_of_a_shape_are_balanced_over_answers():
    scene = Scene((RED_CIRCLE, BLUE_CIRCLE, RED_SQUARE))
    rng = random.Random(0)
    answers = Counter(sample_question(rng, scene, "count_shape").answer for _ in range(600))
    assert set(answers) == {"zero", "one", "two"} and min(answers.values()) > 150


def test_impossible_questions_are_refused_with_the_reason():
    scene = Scene((RED_CIRCLE, BLUE_CIRCLE))
    with pytest.raises(ValueError, match="'the circle' names not one object but 2 of the scene"):
        answer_question("what color is the circle?", scene)
    with pytest.raises(ValueError, match="exactly one object there, the scene has 0"):
        answer_question("what is above the red circle?", scene)
    with pytest.raises(ValueError, match="Cannot read the question 'What color is the circle'"):
        answer_question("What color is the circle", scene)
    with pytest.raises(ValueError, match="No relation question"):
        sample_question(random.Random(0), Scene((RED_CIRCLE,)), "relation")
    with pytest.raises(ValueError, match="Unknown kind of question 'colour'"):
        sample_question(random.Random(0), scene, "colour")
    with pytest.raises(ValueError, match="Unknown negatives 'hard'"):
        sample_existence_question(random.Random(0), scene, negatives="hard")
