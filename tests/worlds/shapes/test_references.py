"""Names pick out one object, say what they say, and those of tests are none of training's."""

import random
import re
from collections import Counter

import pytest

from transformers_arm.worlds.shapes.edits import apply_edit, edited_object, sample_editing_pair
from transformers_arm.worlds.shapes.questions import NAMING, answer_question, questions_of, sample_question
from transformers_arm.worlds.shapes.reader import SceneReading
from transformers_arm.worlds.shapes.references import (
    NAMES,
    Noun,
    Reference,
    name_object,
    object_named,
    parse_reference,
)
from transformers_arm.worlds.shapes.scene import COLORS, Scene, SceneObject, sample_scene
from transformers_arm.worlds.shapes.tasks import WorldTasks
from transformers_arm.worlds.shapes.text import WorldText

CIRCLE = SceneObject("circle", "red", "small", "top")
SQUARE = SceneObject("square", "red", "large", "left")
OTHER_CIRCLE = SceneObject("circle", "blue", "large", "bottom-right", (1, 2))
SCENE = Scene((CIRCLE, SQUARE, OTHER_CIRCLE))
FORMS = [(group, form) for group, forms in NAMES.items() for form in forms]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("the red circle", CIRCLE),
        ("the only small one", CIRCLE),
        ("the small object", CIRCLE),
        ("the circle at the top", CIRCLE),
        ("the object at the top", CIRCLE),
        ("the square", SQUARE),
        ("the object left of the red circle", SQUARE),
        ("the blue one", OTHER_CIRCLE),
        ("the circle below the square", OTHER_CIRCLE),
        ("the large circle", OTHER_CIRCLE),
        ("the one right of the small object", OTHER_CIRCLE),
    ],
)
def test_a_name_picks_out_one_object_of_a_scene_and_of_a_reading(words, meant):
    assert object_named(SCENE, words) == meant
    assert object_named(SceneReading(SCENE.objects, "white"), words) == meant


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("the circle", "names not one object but 2 of the scene; name the red circle or the red square or"),
        ("the only red one", "names not one object but 2"),
        ("the green one", "names no object"),
        ("the object left of the circle", "names no object"),  # of which circle?
        ("the square left of the large square", "names no object"),
        ("a red circle", "is no name of an object"),
        ("the red small circle", "is no name of an object"),
        ("the circle at the upper left", "is no name of an object"),
        ("the", "is no name of an object"),
    ],
)
def test_names_of_none_or_several_are_refused_with_the_reason(words, reason):
    with pytest.raises(ValueError, match=reason):
        object_named(SCENE, words)


def test_a_name_is_read_into_its_parts():
    assert parse_reference("the only small red one at the top-left") == Reference(
        Noun(None, "red", "small", "top-left")
    )
    other = Noun("square", "blue")
    assert parse_reference("the object above the blue square") == Reference(Noun(), "above", other)


@pytest.mark.parametrize(("group", "form"), FORMS)
def test_each_form_gives_names_that_pick_out_their_object(group, form):
    rng, found = random.Random(0), 0
    for _ in range(60):
        scene = sample_scene(rng)
        item = rng.choice(scene.objects)
        if words := name_object(rng, scene, item, (form,)):
            assert object_named(scene, words) == item
            found += 1
    assert found > 5


def test_a_name_does_not_give_the_answer_away():
    rng = random.Random(1)
    for _ in range(150):
        scene = sample_scene(rng)
        for group in NAMES:
            for kind in NAMING:
                for asked in questions_of(rng, scene, kind, group):
                    assert answer_question(asked.question, scene) == asked.answer
                    start = asked.question.index("the ")
                    of_object = parse_reference(asked.question[start:-1])
                    assert kind != "color" or of_object.noun.color is None
                    assert kind != "shape" or of_object.noun.shape is None
                    assert kind != "location" or of_object.noun.cell is None
                    assert kind != "relation" or of_object.relation is None


def form_of(words):
    """The form of a name: its words, but fields for the object's own."""
    reference = parse_reference(words)
    for value, field in (
        (reference.other and reference.other.color, "other_color"),
        (reference.other and reference.other.shape, "other_shape"),
    ):
        if value:
            head, _, tail = words.rpartition(value)
            words = f"{head}{{{field}}}{tail}"
    for value, field in (
        (reference.noun.cell, "cell"),
        (reference.relation, "relation"),
        (reference.noun.size, "size"),
        (reference.noun.color, "color"),
        (reference.noun.shape, "shape"),
    ):
        if value:
            words = re.sub(rf"\b{value}(?![-\w}}])", f"{{{field}}}", words, count=1)
    return words


def test_training_never_has_the_forms_of_the_test():
    """Of edits, questions and documents, by the group that each was drawn with, and by its words."""
    rng, seen = random.Random(2), Counter()
    for _ in range(300):
        edit = sample_editing_pair(rng, "remove", names=rng.choice(("plain", "other")))
        assert edited_object(edit.source, edit.instruction) not in edit.target.objects
        seen[form_of(edit.instruction.removeprefix("remove "))] += 1
    assert set(seen) == {*NAMES["plain"], *NAMES["other"]}
    new = Counter()
    for _ in range(100):
        edit = sample_editing_pair(rng, "remove", names="new")
        assert apply_edit(edit.source, edit.instruction) == edit.target
        new[form_of(edit.instruction.removeprefix("remove "))] += 1
    assert set(new) == set(NAMES["new"]) and not set(new) & set(seen)


def test_mixtures_and_documents_name_objects_in_other_ways_as_often_as_stated():
    def plainly(texts):
        named = [text for text in texts if re.match(r"(make the|turn|remove|move)", text) and "background" not in text]
        plain = rf"the ({'|'.join(COLORS)}) (circle|square|triangle|cross)(?! (left|right|above|below|at) )"
        return sum(bool(re.search(plain, text)) for text in named) / len(named)

    for share in (0.0, 0.5, 1.0):
        data = WorldTasks(200, mixture={"editing": 1.0}, batch_size=1, seed=0, other_names=share)
        asked = [part["text"] for messages in data for part in messages[0]["content"] if part["type"] == "text"]
        documents = WorldText(400, seed=0, other_names=share)
        told = [documents.turn(index)[1].split("\n")[-1] for index in range(400)]
        for found in (plainly(asked), plainly(told)):
            assert found == 1 if share == 0 else 1 - share - 0.2 < found < 1 - share / 2 + 0.25


def test_unknown_groups_of_names_are_refused():
    rng = random.Random(3)
    for sample in (lambda: sample_question(rng, SCENE, names="odd"), lambda: sample_editing_pair(rng, names="odd")):
        with pytest.raises(ValueError, match="Unknown names 'odd'; use one of plain, other, new"):
            sample()
