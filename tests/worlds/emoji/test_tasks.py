"""Tasks and documents are functions of their index, say what is right, and show nothing that is held out."""

from collections import Counter

import numpy as np
import pytest

from transformers_arm.data.conversations import NO_DROPOUT
from transformers_arm.worlds.emoji.edits import edits
from transformers_arm.worlds.emoji.items import items_of
from transformers_arm.worlds.emoji.pictures import read_pictures
from transformers_arm.worlds.emoji.questions import WORDINGS, questions
from transformers_arm.worlds.emoji.tasks import DESCRIBE, DOCUMENTS, TASKS, EmojiTasks, EmojiText, full

EVEN = {task: 1.0 for task in TASKS}


def tasks(length=60, *, mixture=EVEN, batch_size=4, seed=0, **kwargs):
    return EmojiTasks(
        length, mixture=mixture, batch_size=batch_size, seed=seed, **{"condition_dropout": NO_DROPOUT} | kwargs
    )


def conversations(task, length=60, **kwargs):
    data = tasks(length, mixture={task: 1.0}, **kwargs)
    return [data[index] for index in range(length)]


def texts(turn):
    return [part["text"] for part in turn["content"] if part["type"] == "text"]


def images(turn):
    return [part["image"] for part in turn["content"] if part["type"] == "image"]


@pytest.fixture(scope="module", autouse=True)
def known(emoji_folder):
    """Training pictures by their bytes; look-alikes are one."""
    return {each.image.tobytes(): each for each in read_pictures() if each.split == "train"}


def same(one, other):
    return [turn["role"] for turn in one] == [turn["role"] for turn in other] and all(
        texts(a) == texts(b) and all(map(np.array_equal, images(a), images(b)))
        for a, b in zip(one, other, strict=True)
    )


def test_a_conversation_is_a_function_of_seed_and_index():
    assert all(same(tasks()[index], tasks()[index]) for index in range(60))
    assert not all(same(tasks()[index], tasks(seed=1)[index]) for index in range(60))
    with pytest.raises(IndexError, match="Conversation 60"):
        tasks()[60]


def test_a_batch_is_of_one_task_and_all_tasks_come():
    data = tasks(400)
    assert {data.task(index) for index in range(400)} == set(TASKS)
    assert all(len({data.task(index) for index in range(start, start + 4)}) == 1 for start in range(0, 400, 4))


@pytest.mark.parametrize("task", TASKS)
def test_no_picture_is_held_out(task, known):
    shown = [image for turns in conversations(task, 100) for turn in turns for image in images(turn)]
    assert all(image.tobytes() in known for image in shown)
    assert bool(shown) == (task != "text")


def test_what_is_drawn_is_what_the_caption_says(known):
    for asked, answer in conversations("text_to_image", paraphrased=0.0):
        (image,) = images(answer)
        alike = [each for each in known.values() if each.image is image or np.array_equal(each.image, image)]
        assert texts(asked)[0] in {full(each) for each in items_of("train").pictures if each.twins == alike[0].twins}


def test_captions_may_have_their_parts_in_any_order():
    fixed = {full(each) for each in items_of("train").pictures}
    asked = [texts(turns[0])[0] for turns in conversations("text_to_image", 100, paraphrased=1.0)]
    assert 0 < sum(text in fixed for text in asked) < 100


def test_pictures_are_described_and_asked_about_rightly():
    drawn = read_pictures()
    right = {}
    for kind, wordings in WORDINGS.items():
        for each in questions(drawn, kind):
            right |= {(each.drawn.image.tobytes(), wording): each.answer for wording in wordings}
    captions = {(each.image.tobytes(), full(each)) for each in drawn}
    for turns in conversations("image_to_text", described=0.0):
        (image,) = images(turns[0])
        for asked, answer in zip(turns[::2], turns[1::2], strict=True):
            assert right[image.tobytes(), texts(asked)[0]] == texts(answer)[0]
    for asked, answer in conversations("image_to_text", described=1.0):
        assert texts(asked) == [DESCRIBE]
        assert (images(asked)[0].tobytes(), texts(answer)[0]) in captions


def test_edits_lead_from_source_to_target():
    drawn = read_pictures()
    of_kind = [edit for edit in edits(drawn, "color") if edit.split == "train"]
    pairs = {
        (edit.source.image.tobytes(), words): edit.target.image for edit in of_kind for words in edit.instructions
    }
    only = dict.fromkeys(("tone", "gender", "hair", "facing", "clock", "roles", "style"), 0.0)
    for asked, answer in conversations("editing", edit_kinds=only):
        wanted = pairs[images(asked)[0].tobytes(), texts(asked)[0]]
        assert np.array_equal(images(answer)[0], wanted)


def test_documents_hold_all_kinds_and_nothing_held_out():
    data = EmojiText(600, seed=0)
    turns = [data.turn(index) for index in range(600)]
    assert set(Counter(task for task, _, _ in turns)) == set(DOCUMENTS)
    learnt = {full(each) for each in items_of("train").pictures}
    for task, prompt, answer in turns:
        if task in ("paraphrase", "edit"):
            assert answer in learnt
        if task in ("question", "edit"):
            assert prompt.splitlines()[0] in learnt
    assert data[1] == {"prompt": turns[1][1], "answer": turns[1][2], "chat": True}


def test_conditions_are_dropped_as_stated():
    always = {"text": 1.0, "image": 0.0, "both": 0.0}
    assert all(not texts(turns[0]) for turns in conversations("text_to_image", 20, condition_dropout=always))


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="Unknown task drawing in the mixture; use text, "):
        tasks(mixture={"drawing": 1.0})
    with pytest.raises(ValueError, match="Unknown kind of edit size"):
        tasks(edit_kinds={"size": 1.0})
    with pytest.raises(ValueError, match="No picture is of the split 'test'; these pictures are of gender, style"):
        tasks(split="test")
