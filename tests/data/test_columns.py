"""A user's rows become conversations, or an error that names the row, the column, the value and the fix."""

import json
import pickle
from io import BytesIO

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets, load_dataset

from transformers_arm import ArmImageProcessor
from transformers_arm.data.columns import (
    check_dataset,
    read_picture,
    read_text,
    row_conversation,
    row_task,
    source_pictures,
    undecoded,
)
from transformers_arm.data.row_errors import RowError


def drawing(height=48, width=48, seed=0):
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def png(picture):
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


ONE, TWO, THREE = (drawing(seed=seed) for seed in range(3))
ROWS = {
    "text_to_image": {"prompt": "a cat", "image": ONE},
    "editing": {"prompt": "make it red", "source_image": ONE, "image": TWO},
    "image_to_text": {"image": ONE, "prompt": "what is it?", "answer": "a cat"},
    "text": {"prompt": "hello", "answer": "hi"},
}


def said(messages):
    """Messages -> [(role, part, ...)], a part as its text or its pixels."""
    return [
        (turn["role"], *(part["text"] if part["type"] == "text" else part["image"] for part in turn["content"]))
        for turn in messages
    ]


def folder_dataset(folder, metadata, pictures=("a.png", "b.png", "before/a.png", "before/b.png"), **options):
    """An imagefolder: pictures of random pixels, each of its own, and `metadata` as a CSV text or JSON rows."""
    for seed, name in enumerate(pictures):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawing(seed=seed).save(folder / name)
    if isinstance(metadata, str):
        (folder / "metadata.csv").write_text(metadata)
    else:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metadata))
    cache = str(folder.with_name("cache"))
    return load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache, **options)


# --- tasks -----------------------------------------------------------------------------------------------------------


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


# --- conversations ---------------------------------------------------------------------------------------------------


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


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_metadata_is_a_dataset_of_pictures_to_draw(tmp_path):
    dataset = folder_dataset(tmp_path / "folder", "file_name,prompt\na.png,a cat\nb.png,a dog\n")
    assert check_dataset(dataset) == {"text_to_image": 2}
    assert said(row_conversation(undecoded(dataset)[1], 1)) == [("user", "a dog"), ("assistant", drawing(seed=1))]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("names", ["source_image_file_name,image_file_name", "file_name,source_image_file_name"])
def test_a_folder_s_edits_name_both_files(tmp_path, names, streaming):
    files = {"source_image_file_name": "before/a.png", "image_file_name": "a.png", "file_name": "a.png"}
    metadata = f"{names},prompt\n{','.join(files[name] for name in names.split(','))},redder\n"
    dataset = folder_dataset(tmp_path / "folder", metadata, streaming=streaming)
    assert check_dataset(dataset) == {"editing": 1}
    messages = row_conversation(next(iter(undecoded(dataset))), 0)
    assert said(messages) == [("user", "redder", drawing(seed=2)), ("assistant", drawing(seed=0))]


def test_a_folder_s_edits_of_several_pictures_are_lists_in_jsonl(tmp_path):
    row = {"source_images_file_names": ["before/a.png", "before/b.png"], "image_file_name": "a.png", "prompt": "join"}
    dataset = folder_dataset(tmp_path / "folder", [row])
    assert check_dataset(dataset) == {"editing": 1}
    assert len(source_pictures(undecoded(dataset)[0], 0)) == 2


def test_datasets_hands_a_file_name_behind_the_source_s_to_the_source_and_that_is_noticed(tmp_path):
    metadata = "source_image_file_name,file_name,prompt\nbefore/a.png,a.png,redder\n"
    with pytest.raises(ValueError, match="Row 0, column 'image': there is no picture"):
        check_dataset(folder_dataset(tmp_path / "folder", metadata))


@pytest.mark.parametrize("streaming", [False, True])
def test_every_bad_row_of_a_folder_is_named_with_its_file(tmp_path, streaming):
    folder = tmp_path / "folder"
    metadata = "file_name,prompt\na.png,a cat\nb.png,a dog\nmissing.png,a cow\nbefore/a.png,\nbefore/b.png,a hen\n"
    dataset = folder_dataset(folder, metadata, streaming=streaming)
    (folder / "b.png").write_bytes(b"no picture")
    (folder / "before/b.png").write_bytes(png(ONE)[:-3000])
    with pytest.raises(ValueError) as caught:
        check_dataset(dataset)
    first, *lines = str(caught.value).splitlines()
    assert first == "4 of 5 rows cannot be used:"
    starts = [
        "Row 1, column 'image': ",
        "Row 2, column 'image': ",
        "Row 3, column 'prompt': ",
        "Row 4, column 'image': ",
    ]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 4
    assert "b.png: cannot identify image file" in lines[0] and "missing.png: there is no such file" in lines[1]
    assert "missing (the row has image)" in lines[2] and "before/b.png: image file is truncated" in lines[3]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"image": ONE, "text": "a cat"}, r"column 'prompt': it is missing \(the row has image, text\)"),
        ({"image": ONE, "prompt": 7}, "column 'prompt': 7 is a int, but must be a str"),
        ({"image": ONE, "prompt": " \n"}, r"column 'prompt': ' \\n' is blank"),
        ({"image": None, "prompt": "a cat"}, "column 'image': there is no picture. Fill it in"),
        ({"prompt": "a cat"}, "has prompt, but neither 'image' nor 'answer': there is nothing to learn"),
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
    with pytest.raises(ValueError, match=f"Row 5[ ,]+{error}"):
        row_conversation(row, 5)


GRID = {"codes": [5, 65535, 0, 7, 8, 9], "height": 2, "width": 3}


def test_codes_stand_wherever_a_picture_may():
    expected = [[5, 65535, 0], [7, 8, 9]]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "image", "image": GRID}]}]
    messages.append({"role": "assistant", "content": "a cat"})
    for row, pictures in (
        ({"prompt": "a cat", "image": GRID}, 1),
        ({"prompt": "redder", "source_image": GRID, "image": GRID}, 2),
        ({"prompt": "join", "source_images": [GRID, GRID], "image": GRID}, 3),
        ({"messages": messages, "images": [GRID]}, 2),
    ):
        parts = [part for turn in row_conversation(row, 0) for part in turn["content"] if part["type"] == "image"]
        assert [part["image"].tolist() for part in parts] == [expected] * pictures
        assert all(part["image"].dtype == torch.int64 for part in parts)


def test_datasets_of_codes_and_of_both_kinds_are_checked():
    rows = [{"prompt": "a cat", "image": GRID}] * 3
    assert check_dataset(Dataset.from_list(rows), ArmImageProcessor()) == {"text_to_image": 3}
    mixed = [{"prompt": "redder", "source_image": ONE, "image": GRID}]
    assert check_dataset(Dataset.from_list(mixed), ArmImageProcessor()) == {"editing": 1}
    missing = Dataset.from_list([*rows, {"prompt": "a dog", "image": None}])
    with pytest.raises(ValueError, match="1 of 4 rows.*\nRow 3, column 'image': there is no picture"):
        check_dataset(missing)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"height": 3}, "6 codes do not fill their grid of 3x3"),
        ({"codes": []}, "0 codes do not fill their grid of 2x3"),
        ({"height": 0}, "the grid of codes is 0x3, but sides are 1..128"),
        ({"width": 129}, "the grid of codes is 2x129, but sides are 1..128"),
        ({"width": None}, "the grid of codes is 2xNone"),
        ({"codes": [0, 1, 2, 3, 4, 65536]}, "codes span 0..65536, but must be whole numbers in 0..65535"),
        ({"codes": [0, 1, 2, 3, 4, -1]}, "codes span -1..4"),
        ({"codes": [0, 1, 2, 3, 4, 0.5]}, "codes span 0.0..4.0"),
        ({"codes": None, "height": None, "width": None}, "there is no picture"),
    ],
)
def test_codes_that_are_no_grid_are_refused(changed, error):
    with pytest.raises(ValueError, match=f"Row 5, column 'image': {error}"):
        row_conversation({"prompt": "a cat", "image": GRID | changed}, 5)


def test_the_bytes_of_a_file_are_a_picture():
    assert read_picture(png(TWO), 0, "image") == TWO
    with pytest.raises(ValueError, match="Row 0, column 'image': cannot identify image file. Is"):
        read_picture(b"no picture", 0, "image")


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


def test_the_image_processor_s_bounds_are_the_row_s(tmp_path):
    dataset = Dataset.from_list([{"prompt": "x", "image": drawing(48, side)} for side in (48, 48 * 200)])
    assert check_dataset(dataset, ArmImageProcessor(size={"height": 48, "width": 48}))["text_to_image"] == 2
    keeping = ArmImageProcessor(size={"height": 48, "width": 48}, keep_aspect_ratio=True)
    with pytest.raises(ValueError, match="1 of 2 rows.*\nRow 1, column 'image': 48x9600 pixels .* cannot keep their"):
        check_dataset(dataset, keeping)
    small = Dataset.from_list([{"prompt": "x", "image": drawing(8, 8)}])
    with pytest.raises(ValueError, match="Row 0, column 'image': the image is 8x8 pixels .* multiples of 16"):
        check_dataset(small, ArmImageProcessor(do_resize=False))


def test_more_than_ten_bad_rows_are_counted():
    with pytest.raises(ValueError, match="12 of 12 rows .*\nRow 0.*\n(?s:.*)Row 9.*\n... and 2 more$"):
        check_dataset(Dataset.from_list([{"prompt": "", "answer": "x"}] * 12))


def test_a_dataset_without_rows_or_with_a_transform_is_refused():
    empty = Dataset.from_dict({"prompt": [], "answer": []})
    with pytest.raises(ValueError, match="The dataset has no rows"):
        check_dataset(empty)
    with pytest.raises(ValueError, match="transform"):
        check_dataset(Dataset.from_list([ROWS["text"]]).with_transform(lambda batch: batch))


def test_pieces_name_the_row_they_read():
    assert read_text({"caption": "a cat"}, 0, "caption") == "a cat"
    with pytest.raises(ValueError, match="Row 2, column 'caption': it is missing"):
        read_text({"prompt": "a cat"}, 2, "caption")
    assert source_pictures({"prompt": "a cat"}, 0) == []
    assert source_pictures({"source_image": {"bytes": png(TWO), "path": None}}, 0) == [TWO]
    assert read_picture(np.asarray(ONE).tolist(), 0, "image") == ONE  # as Arrow keeps arrays
    assert read_picture(ONE, 0, "image", lambda picture: picture.size) == (48, 48)
