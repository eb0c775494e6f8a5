"""Documents of words alone: well formed, right, of their split, and a function of seed and index."""

from collections import Counter

import pytest

from transformers_arm.data.collators import TextCollator
from transformers_arm.worlds.shapes.captions import full_caption, parse_caption
from transformers_arm.worlds.shapes.draw import PICTURE_SIZES
from transformers_arm.worlds.shapes.edits import apply_edit
from transformers_arm.worlds.shapes.questions import answer_question
from transformers_arm.worlds.shapes.scene import Scene, SceneObject
from transformers_arm.worlds.shapes.text import TASKS, WorldText


def scene_of(caption):
    """The scene a full caption states."""
    spec = parse_caption(caption)
    objects = tuple(SceneObject(noun.shape, noun.color, noun.size, noun.cell) for noun in spec.nouns)
    return Scene(objects, spec.background)


def read_document(text):
    """(prompt lines, answer) of a document, by its form alone."""
    if text.startswith("<|im_start|>"):
        head, middle = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
        assert text.startswith(head) and text.endswith("<|im_end|>") and text.count("<|im_start|>") == 2
        prompt, answer = text.removeprefix(head).removesuffix("<|im_end|>").split(middle)
        return prompt.split("\n"), answer
    *prompt, answer = text.split("\n")
    return prompt, answer


def test_every_document_is_well_formed_and_its_answer_is_right():
    data, counts, sizes, chats = WorldText(400, seed=0), Counter(), Counter(), 0
    for index in range(400):
        _, text = TextCollator.rendered(data[index])
        chats += text.startswith("<|im_start|>")
        prompt, answer = read_document(text)
        if not prompt:
            counts["caption"] += 1
            sizes[parse_caption(answer).size] += 1
            continue
        scene = scene_of(prompt[0])
        assert scene.split == "train"
        if len(prompt) == 1:
            counts["paraphrase"] += 1
            assert answer == full_caption(scene)
        elif prompt[1].endswith("?"):
            counts["question"] += 1
            assert answer == answer_question(prompt[1], scene)
        else:
            counts["edit"] += 1
            target = apply_edit(scene, prompt[1])
            assert answer == full_caption(target) and target.split == "train"
    assert {task: count / 400 for task, count in counts.items()} == pytest.approx(TASKS, abs=0.07)
    assert sizes.keys() == {*PICTURE_SIZES, None}
    assert 0.35 * (400 - counts["caption"]) < chats < 0.65 * (400 - counts["caption"])


def test_a_document_is_a_function_of_seed_and_index():
    first, second = WorldText(50, seed=3), WorldText(500, seed=3)
    assert [first[index] for index in reversed(range(50))][::-1] == [second[index] for index in range(50)]
    assert [WorldText(50, seed=4)[index] for index in range(50)] != [first[index] for index in range(50)]


def test_documents_of_the_test_split_are_about_test_scenes():
    data = WorldText(60, seed=0, split="test")
    turns = [data.turn(index) for index in range(60)]
    scenes = [scene_of(prompt.split("\n")[0]) for _, prompt, _ in turns if prompt]
    assert scenes and all(scene.split == "test" for scene in scenes)
