"""One rule for names of columns: old names go, the first that holds something counts, dots reach inside."""

import gzip
import json
import tracemalloc

import pytest

from transformers_arm.data.renaming import MAX_BYTES, arranged, check_rename
from transformers_arm.data.row_errors import RowError


def member(name, content):
    """A member of a tar, as `tar_rows` gives it."""
    return {"bytes": content, "path": f"0001.{name}"}


def test_what_is_renamed_is_no_longer_there_under_its_old_name():
    row = {"caption": "a cat", "image": 1, "other": 2}
    assert arranged(row, 0, {"caption": "answer"}) == {"image": 1, "other": 2, "answer": "a cat"}
    assert row == {"caption": "a cat", "image": 1, "other": 2}
    assert arranged(row, 0, {}) == row


def test_two_columns_change_names():
    row = {"prompt": "a cat", "answer": "what is it?"}
    swapped = {"prompt": "what is it?", "answer": "a cat"}
    assert arranged(row, 0, {"prompt": "answer", "answer": "prompt"}) == swapped


@pytest.mark.parametrize("order", [("jpg", "png"), ("png", "jpg")])
@pytest.mark.parametrize("missing", ["", None, " \n"])
def test_of_several_names_the_first_that_holds_something_counts_in_their_order_and_not_the_row_s(order, missing):
    rename = dict.fromkeys(order, "image")
    assert arranged({"jpg": "one", "png": missing}, 0, rename) == {"image": "one"}
    assert arranged({"jpg": missing, "png": "two"}, 0, rename) == {"image": "two"}
    for row in ({"jpg": "one", "png": "two"}, {"png": "two", "jpg": "one"}):
        assert arranged(row, 0, rename) == {"image": row[order[0]]}


def test_what_is_renamed_counts_before_a_column_of_that_name_unless_it_holds_nothing():
    assert arranged({"prompt": "x", "caption": "a cat"}, 0, {"caption": "prompt"}) == {"prompt": "a cat"}
    assert arranged({"prompt": "x", "caption": None}, 0, {"caption": "prompt"}) == {"prompt": "x"}
    nothing = {"bytes": None, "path": None}
    assert arranged({"image": "x", "photo": nothing}, 0, {"photo": "image"}) == {"image": "x"}


def test_a_column_that_holds_nothing_is_still_there_and_one_that_no_name_has_is_not():
    """The columns say the task, so that an edit which lacks its source is an error and no picture to draw."""
    assert arranged({"before": None}, 0, {"before": "source_image"}) == {"source_image": None}
    assert arranged({"caption": " "}, 0, {"caption": "prompt"}) == {"prompt": " "}
    assert arranged({"image": 1}, 0, {"before": "source_image"}) == {"image": 1}
    assert arranged({"image": 1}, 0, {}, columns=["prompt", "image"]) == {"prompt": None, "image": 1}


@pytest.mark.parametrize(
    "column",
    [
        {"texts": {"caption": "a cat"}, "url": "x"},
        json.dumps({"texts": {"caption": "a cat"}}),
        {"texts": json.dumps({"caption": "a cat"})},
        member("json", json.dumps({"texts": {"caption": "a cat"}}).encode()),
    ],
    ids=["mapping", "text", "text within", "member of a tar"],
)
def test_dots_reach_inside_a_column(column):
    assert arranged({"json": column}, 0, {"json.texts.caption": "prompt"})["prompt"] == "a cat"
    assert arranged({"json": column}, 0, {"json.texts.title": "prompt"})["prompt"] is None


def test_a_column_whose_own_name_has_a_dot_is_itself():
    assert arranged({"a.b": "x", "a": {"b": "y"}}, 0, {"a.b": "prompt"}) == {"a": {"b": "y"}, "prompt": "x"}


def test_texts_of_tars_are_decoded_and_pictures_are_not():
    row = {"txt": member("txt", "ein Kater, über".encode()), "jpg": member("jpg", b"\xff\xd8")}
    expected = {"prompt": "ein Kater, über", "image": member("jpg", b"\xff\xd8")}
    assert arranged(row, 0, {"txt": "prompt", "jpg": "image"}) == expected


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"json": "{"}, "json.caption"),
        ({"json": "[" * 100_000}, "json.caption"),
        ({"txt": member("txt", b"\xff\xff")}, "txt"),
        ({"json": member("json", b"{")}, "json.caption"),
    ],
    ids=["text", "deep", "tar", "json of a tar"],
)
def test_what_cannot_be_decoded_is_an_error_of_its_row(row, name):
    with pytest.raises(RowError, match=f"Row 5, column 'prompt': {name} cannot be decoded: ") as caught:
        arranged(row, 5, {name: "prompt"})
    assert caught.value.reason == "prompt: undecodable"


def test_columns_are_filled_in_all_rows_or_in_those_that_hold_nothing():
    row = {"caption": "a cat", "task": None}
    filled = arranged(row, 0, {"caption": "answer"}, fill={"prompt": "what?"}, default={"task": "x", "answer": "y"})
    assert filled == {"task": "x", "answer": "a cat", "prompt": "what?"}
    assert arranged({"prompt": "z", "task": "t"}, 0, {}, fill={"prompt": "what?"}, default={"task": "x"}) == {
        "prompt": "what?",
        "task": "t",
    }


def test_a_rename_that_would_do_nothing_is_refused():
    columns = ("prompt", "image")
    check_rename({"jpg": "image", "png": "image", "json.caption": "prompt"}, columns, ["png", "json"])
    check_rename({"jpg": "image"}, columns)  # which names there are is not known
    with pytest.raises(ValueError, match="Nothing can be renamed to promt. The columns are prompt, image."):
        check_rename({"caption": "promt"}, columns)
    with pytest.raises(ValueError, match="No row has captoin or txt, which should be 'prompt': they have png, json"):
        check_rename({"captoin": "prompt", "txt": "prompt", "png": "image"}, columns, ["png", "json"])


@pytest.mark.parametrize("name", ["txt.gz", "png.gz"])
def test_what_a_member_unpacks_to_is_bounded(name):
    """A few kilobytes of a tar must not take a worker's memory."""
    bomb = gzip.compress(bytes(20 * MAX_BYTES), 9)
    assert len(bomb) < MAX_BYTES / 40
    tracemalloc.start()
    with pytest.raises(RowError, match=f"^Row 7, column 'prompt': .* unpacks to more than {MAX_BYTES:,} bytes"):
        arranged({name: member(name, bomb)}, 7, {name: "prompt"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_BYTES
