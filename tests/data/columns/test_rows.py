"""A user's rows become conversations, or an error that names the row, the column, the value and the fix."""

import pickle

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from picture_rows import ONE, ROWS, THREE, TWO, png, said

from transformers_arm.data.columns import check_dataset, read_text, row_conversation, row_task, source_pictures
from transformers_arm.data.row_errors import RowError


@pytest.mark.parametrize("task", ROWS)
def test_the_columns_say_the_task_and_a_task_column_agrees(task):
    assert row_task(ROWS[task], 0) == row_task({**ROWS[task], "task": task}, 0) == task
    assert row_task({**ROWS[task], "task": None}, 0) == task


def test_requests_stand_as_the_pipelines_put_them():
    assert said(row_conversation(ROWS["text_to_image"], 0)) == [("user", "a cat"), ("assistant", ONE)]
    assert said(row_conversation(ROWS["editing"], 0)) == [("user", "make it red", ONE), ("assistant", TWO)]
    assert said(row_conversation(ROWS["image_to_text"], 0)) == [("user", ONE, "what is it?"), ("assistant", "a cat")]
    assert said(row_conversation(ROWS["text"], 0)) == [("user", "hello"), ("assistant", "hi")]
    several = {"prompt": "join them", "source_images": [ONE, TWO], "image": THREE}
    assert said(row_conversation(several, 0)) == [("user", "join them", ONE, TWO), ("assistant", THREE)]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "A page.", "id": "1", "url": "http://a", "language_score": 0.9},
        {"task": None, "text": "A page."},
        {"task": "text", "text": "A page."},
        {"task": "text", "text": "A page."}
        | dict.fromkeys(["prompt", "answer", "image", "messages", "source_images"]),
    ],
)
def test_a_text_alone_is_a_plain_document(row):
    assert row_task(row, 0) == "text"
    assert said(row_conversation(row, 0)) == [("document", "A page.")]


@pytest.mark.parametrize("task", ROWS)
def test_a_text_beside_the_columns_of_a_task_changes_nothing(task):
    row = {**ROWS[task], "text": "A page."}
    assert row_task(row, 0) == task and said(row_conversation(row, 0)) == said(row_conversation(ROWS[task], 0))
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    assert said(row_conversation({"text": "A page.", "messages": turns}, 0))[0] == ("user", "hello")


def test_a_mixture_states_its_tasks():
    rows = [{**row, "task": task} for task, row in ROWS.items()]
    mixed = concatenate_datasets([Dataset.from_list([row]) for row in rows])
    assert check_dataset(mixed) == dict.fromkeys(ROWS, 1)
    with pytest.raises(ValueError, match="Row 0, column 'source_image': an edit has no picture to start from.*'task'"):
        check_dataset(mixed.remove_columns("task"))


def test_columns_of_prompts_alone_have_the_task_that_is_asked_for():
    tasks = {"tasks": ("text_to_image", "editing"), "default": "text_to_image"}
    assert row_task({"prompt": "a cat"}, 0, **tasks) == "text_to_image"
    assert row_task({"prompt": "redder", "source_image": ONE}, 0, **tasks) == "editing"
    with pytest.raises(ValueError, match="Row 4, column 'task': 'text' is not one of text_to_image, editing"):
        row_task({"prompt": "hello", "answer": "hi"} | {"task": "text"}, 4, **tasks)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"image": ONE, "text": "a cat"}, r"column 'prompt': it is missing \(the row has image, text\)"),
        ({"image": ONE, "prompt": 7}, "column 'prompt': 7 is a int, but must be a str"),
        ({"image": ONE, "prompt": " \n"}, r"column 'prompt': ' \\n' is blank"),
        ({"image": None, "prompt": "a cat"}, "column 'image': there is no picture. Fill it in"),
        ({"text": ""}, "column 'text': '' is blank"),
        ({"text": None, "id": 7}, r"column 'text': it is missing \(the row has id\)"),
        ({"text": ["a", "b"]}, r"column 'text': \['a', 'b'\] is a list, but must be a str"),
        ({"text": "\ud83d"}, "column 'text': .* is half a character"),
        ({"text": "a page", "prompt": "a cat"}, ": it has text, prompt, but neither 'image' nor 'answer'"),
        ({"text": "a page", "image": None}, "column 'prompt': it is missing"),
        ({"task": "text", "text": None, "prompt": None}, "column 'text': it is missing"),
        ({"messages": [{"role": "document", "content": "x"}]}, "column 'messages': the role 'document' is not one"),
        ({"prompt": "a cat"}, ": it has prompt, but neither 'image' nor 'answer': there is nothing to learn"),
        ({"image": ONE, "prompt": "what?", "answer": None}, "column 'answer': it is missing"),
        ({"prompt": "redder", "source_image": None, "image": ONE}, "column 'source_image': an edit has no picture"),
        ({"prompt": "redder", "source_images": [], "image": ONE}, "column 'source_images': an edit has no picture"),
        ({"prompt": "redder", "source_image": ONE}, "column 'image': there is no picture"),
        (
            {"prompt": "x", "source_image": ONE, "source_images": [ONE], "image": ONE},
            "column 'source_images': 'source_image' is",
        ),
        ({"prompt": "x", "image": ONE, "task": "edit"}, "column 'task': 'edit' is not one of text_to_image, editing"),
        ({"prompt": "x", "image": {"bytes": b"xx", "path": "a.png"}}, "column 'image': a.png: cannot identify image"),
        ({"prompt": "x", "image": {"bytes": None, "path": None}}, "column 'image': there is no picture"),
        ({"prompt": "x", "image": "missing.png"}, "column 'image': 'missing.png' is no image file"),
        ({"prompt": "x", "image": 7}, "column 'image': int is no image"),
        ({"prompt": "x", "image": np.full((4, 4, 3), 2.0)}, "column 'image': values span 2..2, but floats are read"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, error):
    with pytest.raises(ValueError, match=f"Row 5(, )?{error}"):
        row_conversation(row, 5)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": ONE, "text": "a cat"}, "prompt: missing"),
        ({"image": ONE, "prompt": 7}, "prompt: no text"),
        ({"image": ONE, "prompt": " "}, "prompt: blank"),
        ({"image": None, "prompt": "a cat"}, "image: missing"),
        ({"image": png(ONE)[:-3000], "prompt": "a cat"}, "image: unreadable picture"),
        ({"image": b"xx", "prompt": "a cat"}, "image: unreadable picture"),
        ({"image": np.full((4, 4, 3), 2.0), "prompt": "a cat"}, "image: refused picture"),
        ({"prompt": "redder", "source_image": None, "image": ONE}, "source_image: missing"),
        ({"prompt": "a cat"}, "nothing to learn"),
    ],
)
def test_errors_have_a_reason_to_count_them_by(row, reason):
    with pytest.raises(RowError) as caught:
        row_conversation(row, 5)
    assert caught.value.reason == reason
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason  # from one process to another


def test_pieces_name_the_row_they_read():
    assert read_text({"caption": "a cat"}, 0, "caption") == "a cat"
    with pytest.raises(ValueError, match="Row 2, column 'caption': it is missing"):
        read_text({"prompt": "a cat"}, 2, "caption")
    assert source_pictures({"prompt": "a cat"}, 0) == []
    assert source_pictures({"source_image": {"bytes": png(TWO), "path": None}}, 0) == [TWO]
