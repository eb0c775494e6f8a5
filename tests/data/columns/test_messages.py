"""Rows with `messages`: their parts take the row's pictures; whatever else may stand there is the row's error."""

import base64
import json

import pytest
from datasets import Dataset, Features, Image, List, Value, load_dataset
from picture_rows import ONE, THREE, TWO, png, said

from transformers_arm.data.columns import check_dataset, row_conversation, undecoded
from transformers_arm.data.row_errors import RowError


def test_messages_take_the_row_s_pictures_in_order():
    row = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "redder"}, {"type": "image"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "here"}, {"type": "image", "image": THREE}]},
        ],
        "images": [ONE, TWO],
    }
    expected = [("system", "be brief"), ("user", ONE, "redder", TWO), ("assistant", "here", THREE)]
    assert said(row_conversation(row, 0)) == expected


def test_plain_messages_have_their_pictures_before_the_first_question_as_in_trl():
    contents = [("user", "what is it?"), ("assistant", "a cat"), ("user", "sure?"), ("assistant", "yes")]
    row = {"messages": [{"role": role, "content": text} for role, text in contents], "images": [ONE, TWO]}
    assert said(row_conversation(row, 0)) == [("user", ONE, TWO, "what is it?"), *contents[1:]]


def test_messages_survive_a_dataset_that_fills_parts_with_none():
    part = {"type": Value("string"), "text": Value("string")}
    features = Features({"messages": [{"role": Value("string"), "content": [part]}], "images": List(Image())})
    user = {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}
    dataset = Dataset.from_list([{"messages": [user, answer], "images": [ONE]}], features=features)
    assert check_dataset(dataset) == {"messages": 1}
    assert said(row_conversation(undecoded(dataset)[0], 0)) == [("user", ONE, "what?"), ("assistant", "a cat")]


@pytest.mark.parametrize(
    ("messages", "images", "error"),
    [
        ([("tool", "x"), ("assistant", "y")], [], "'messages': the role 'tool' is not one of system, user, assistant"),
        ([("user", "x")], [], "'messages': the assistant says nothing"),
        ([("user", [{"type": "image"}]), ("assistant", "y")], [], "'images': it holds fewer pictures"),
        (
            [("user", [{"type": "text", "text": "x"}]), ("assistant", "y")],
            [ONE],
            "'images': there are 1 pictures, but",
        ),
        ([("user", [{"type": "audio"}]), ("assistant", "y")], [], r"'messages': \{'type': 'audio'\} is neither"),
        ([("user", [{"type": "text", "text": 7}]), ("assistant", "y")], [], "'messages': .*7.* is neither"),
    ],
)
def test_messages_that_do_not_fit_their_pictures_are_refused(messages, images, error):
    messages = [{"role": role, "content": content} for role, content in messages]
    with pytest.raises(ValueError, match=f"Row 3, column {error}"):
        row_conversation({"messages": messages, "images": images}, 3)


ANSWER = {"role": "assistant", "content": "y"}
USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "error", "reason"),
    [
        (["x", ANSWER], "'x' is no turn", "messages: no turn"),
        ([None, ANSWER], "None is no turn", "messages: no turn"),
        ([{"role": None, "content": "x"}, ANSWER], "the role None is not one of", "messages: unknown role"),
        ([{"role": ["user"], "content": "x"}, ANSWER], "the role .'user'. is not one", "messages: unknown role"),
        ([{"content": "x"}, ANSWER], "the role None is not one of", "messages: unknown role"),
        ([{"role": "user"}, ANSWER], "the content None is neither a text nor", "messages: unknown content"),
        ([{"role": "user", "content": 7}, ANSWER], "the content 7 is neither a text nor", "messages: unknown content"),
        ([{"role": "user", "content": 0}, ANSWER], "the content 0 is neither a text nor", "messages: unknown content"),
        ([{"role": "user", "content": {"a": 1}}, ANSWER], "the content .*'a': 1", "messages: unknown content"),
        ([{"role": "user", "content": ["x"]}, ANSWER], "'x' is neither a text nor an image", "messages: unknown part"),
        ([{"role": "user", "content": [None]}, ANSWER], "None is neither a text nor", "messages: unknown part"),
        ([{"role": "user", "content": [7]}, ANSWER], "7 is neither a text nor an image", "messages: unknown part"),
        ([USER, {"role": "assistant", "content": None}], "the assistant says nothing", "messages: no answer"),
        ({"role": "user"}, ".* is a dict, but must be a list", "messages: no list"),
        (7, "7 is a int, but must be a list", "messages: no list"),
        ([], "the assistant says nothing", "messages: no answer"),
        ("hello", "the text 'hello' is no JSON", "messages: undecodable"),
        ("", "the text '' is no JSON", "messages: undecodable"),
        ("[" * 100_000, "the text .* is no JSON: maximum recursion depth", "messages: undecodable"),
        ('{"role": "user"}', ".* is a dict, but must be a list", "messages: no list"),
        ("7", "7 is a int, but must be a list", "messages: no list"),
    ],
)
def test_whatever_else_stands_in_messages_is_the_row_s_error(messages, error, reason):
    with pytest.raises(RowError, match=f"^Row 3, column 'messages': {error}") as caught:
        row_conversation({"messages": messages}, 3)
    assert (caught.value.reason, caught.value.row, caught.value.column) == (reason, 3, "messages")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("images", [7, {"a": 1}, "no list", "7"])
@pytest.mark.parametrize("column", ["images", "source_images"])
def test_pictures_that_are_no_list_are_the_row_s_error(column, images):
    row = {"messages": [USER, ANSWER]} if column == "images" else {"prompt": "redder", "image": ONE}
    with pytest.raises(RowError, match=f"Row 3, column '{column}': "):
        row_conversation(row | {column: images}, 3)


def test_a_list_with_a_hole_is_not_one_that_is_too_short():
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}, ANSWER]
    with pytest.raises(RowError, match="Row 3, column 'images': there is no picture"):
        row_conversation({"messages": messages, "images": [ONE, None]}, 3)


HALF = "a \ud83d cat"


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": HALF, "image": ONE}, "prompt"),
        ({"prompt": "what?", "answer": HALF}, "answer"),
        ({"prompt": "what?", "image": ONE, "answer": HALF}, "answer"),
        ({"messages": [{"role": "user", "content": HALF}, ANSWER]}, "messages"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": HALF}]}]}, "messages"),
        ({"messages": [{"role": "system", "content": HALF}, USER, ANSWER]}, "messages"),
        ({"messages": json.dumps([{"role": "user", "content": HALF}, ANSWER])}, "messages"),
    ],
)
def test_half_a_character_is_the_row_s_error_wherever_a_text_stands(row, column):
    with pytest.raises(
        RowError, match=f"Row 3, column '{column}': '.ud83d', at 2 of 7, is half a character"
    ) as caught:
        row_conversation(row, 3)
    assert caught.value.reason == f"{column}: half a character"
    whole = json.loads(json.dumps("a \U0001f408 cat"))  # a pair of halves in JSON, and one character
    assert said(row_conversation({"prompt": whole, "answer": "y"}, 3))[0] == ("user", whole)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_lists_may_be_json_text_as_people_store_them(tmp_path, kind):
    """In a CSV there is nothing else; pictures are then named, here by data URLs."""
    url = "data:image/png;base64," + base64.b64encode(png(ONE)).decode()
    turns = [{"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image"}]}, ANSWER]
    file = tmp_path / f"rows.{kind}"
    getattr(Dataset.from_list([{"messages": json.dumps(turns), "images": json.dumps([url])}]), f"to_{kind}")(file)
    dataset = load_dataset(kind, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert check_dataset(dataset) == {"messages": 1}
    assert said(row_conversation(dataset[0], 0)) == [("user", "what?", ONE), ("assistant", "y")]


def test_one_odd_row_costs_none_of_the_others():
    rows = [{"messages": json.dumps([USER, ANSWER])}, {"messages": "[7]"}, {"messages": json.dumps([USER, ANSWER])}]
    with pytest.raises(
        ValueError, match="^1 of 3 rows cannot be used:\nRow 1, column 'messages': 7 is no turn[^\n]*$"
    ):
        check_dataset(Dataset.from_list(rows))
