"""Rows of a user's own dataset -> conversations, and a validator that names the row that cannot be used.

| task | columns |
|---|---|
| text_to_image | `prompt`, `image` (what to draw) |
| editing | `prompt` (the instruction), `source_image` or `source_images` (a list), `image` (the result) |
| image_to_text | `image`, `prompt` (the question), `answer` |
| text | `prompt`, `answer` |
| any conversation | `messages` with text and image parts, `images` (the pictures of the parts, in order) |

A column `task` states a row's task. Without it the columns do, not their values: a row of an editing dataset that
lacks its source is an error, and not a picture to draw from nothing. Rows are dicts, as `datasets` gives them.

Wherever a picture stands, its codes may stand in its place (`data/pretokenize.py`): `{"codes", "height", "width"}`,
rows first, the sides in tokens. Knows nothing else about tokens.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from io import BytesIO

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Image, IterableDataset, LargeList, List

from ..configuration_arm import MAX_GRID_SIDE
from ..image_processing_arm import DECODING_ERRORS, ArmImageProcessor
from .conversations import message
from .row_errors import SHOWN_ROWS, RowError, row_error

COLUMNS = ("task", "prompt", "answer", "source_image", "source_images", "image", "messages", "images")
TASKS = ("text_to_image", "editing", "image_to_text", "text")
ROLES = ("system", "user", "assistant")
SOURCES = ("source_image", "source_images")
MAX_CODE = 2**16 - 1  # the largest codebook's last code, and what uint16 holds


# --- pieces of a row -------------------------------------------------------------------------------------------------


def read_text(row: Mapping, index: int, column: str = "prompt") -> str:
    """The text in a column.

    Raises:
        ValueError: it is missing, no str, or blank; names row, column and value.
    """
    value = row.get(column)
    if value is None:
        columns = ", ".join(name for name in row if row[name] is not None) or "nothing"
        problem = f"it is missing (the row has {columns}). Fill it in, or rename what holds it."
        raise row_error(index, column, problem, "missing")
    if not isinstance(value, str):
        problem = f"{value!r} is a {type(value).__name__}, but must be a str. Convert the column."
        raise row_error(index, column, problem, "no text")
    if not value.strip():
        raise row_error(index, column, f"{value!r} is blank. Write a text, or drop the row.", "blank")
    return value


def rgb_picture(image) -> PIL.Image.Image:
    """A picture of any kind that `ArmImageProcessor` takes -> an upright RGB picture at its own size."""
    return PIL.Image.fromarray(ArmImageProcessor().process_image(image).transpose(1, 2, 0))


def read_codes(value: Mapping) -> torch.LongTensor:
    """The codes of a picture -> a grid of them, int64 [h, w].

    Raises:
        ValueError: no grid of 1..128 codes a side, or a code that uint16 cannot hold.
    """
    height, width, codes = value.get("height"), value.get("width"), np.asarray(value["codes"])
    if not all(isinstance(side, int | np.integer) and 1 <= side <= MAX_GRID_SIDE for side in (height, width)):
        raise ValueError(f"the grid of codes is {height}x{width}, but sides are 1..{MAX_GRID_SIDE}. Encode it again.")
    if codes.shape != (int(height) * int(width),):  # of uint8 the product would overflow
        raise ValueError(f"{codes.size} codes do not fill their grid of {height}x{width}. Encode the picture again.")
    if codes.dtype.kind not in "iu" or codes.min() < 0 or codes.max() > MAX_CODE:
        raise ValueError(f"codes span {codes.min()}..{codes.max()}, but must be whole numbers in 0..{MAX_CODE}.")
    return torch.from_numpy(codes.astype(np.int64)).view(height, width)


def read_picture(value, index: int, column: str, prepare: Callable = rgb_picture):
    """One picture of a row.

    Args:
        value: a PIL picture, array, path, address, the bytes of a file, `{"bytes", "path"}` as `datasets` stores
            pictures, or `{"codes", "height", "width"}`, which is returned as codes int64 [h, w].
        index, column: what errors name.
        prepare: makes of a picture of pixels what is returned; its errors are the row's.

    Raises:
        ValueError: there is no picture, it cannot be read, or `prepare` refuses it; names row, column and file.
    """
    where = ""
    if isinstance(value, bytes):
        value = {"bytes": value}
    if value is None or isinstance(value, Mapping) and all(each is None for each in value.values()):
        problem = "there is no picture. Fill it in, or state another task in a column 'task'."
        raise row_error(index, column, problem, "missing")
    try:
        if isinstance(value, Mapping) and "codes" in value:
            return read_codes(value)
        if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
            path, content = value.get("path"), value.get("bytes")
            where = f"{path}: " if path else ""
            value = path if content is None else PIL.Image.open(BytesIO(content))
            if content is None and path is not None and "://" not in path and not os.path.isfile(path):
                raise FileNotFoundError("there is no such file")
        elif isinstance(value, list):  # arrays, as Arrow keeps them
            value = np.asarray(value)
        return prepare(value)
    except (ValueError, TypeError, OverflowError, PIL.Image.DecompressionBombError) as error:
        problem = str(error).removeprefix("Image 0: ").removeprefix("Image 0 ")
        reason = "unreadable picture" if isinstance(error.__cause__, DECODING_ERRORS) else "refused picture"
        raise row_error(index, column, f"{where}{problem}", reason) from error
    except DECODING_ERRORS as error:
        message = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error))  # an address is no name of a file
        problem = f"{where}{message}. Is the file complete, and an image? Replace it, or drop the row."
        raise row_error(index, column, problem, "unreadable picture") from error


def source_pictures(row: Mapping, index: int, prepare: Callable = rgb_picture) -> list:
    """The pictures that a row wants edited, from `source_image` or `source_images`; none of either is an empty list.

    Raises:
        ValueError: both columns are filled, or as `read_picture` says.
    """
    single, several = (row.get(column) for column in SOURCES)
    if single is not None and several is not None:
        problem = "'source_image' is filled as well. Keep one of the two."
        raise row_error(index, "source_images", problem, "filled twice")
    if single is not None:
        return [read_picture(single, index, "source_image", prepare)]
    return [read_picture(each, index, "source_images", prepare) for each in several or []]


def row_task(row: Mapping, index: int, tasks: Iterable[str] = TASKS, default: str | None = None) -> str:
    """The task of a row: what its column `task` states, else what the columns that it has belong to.

    Args:
        row, index: the row and its place.
        tasks: those that may be.
        default: of rows with neither source, picture nor answer; None refuses those.

    Raises:
        ValueError: the task is not among `tasks`, or no column belongs to one.
    """
    task = row.get("task")
    if task is None:
        if any(column in row for column in SOURCES):
            task = "editing"
        elif "answer" in row:
            task = "image_to_text" if "image" in row else "text"
        elif "image" in row:
            task = "text_to_image"
        elif default is not None:
            task = default
        else:
            columns = ", ".join(row) or "nothing"
            error = RowError(
                f"Row {index} has {columns}, but neither 'image' nor 'answer': there is nothing to learn. Add what "
                "the model should draw or say."
            )
            error.reason = "nothing to learn"
            raise error
    if task not in (tasks := tuple(tasks)):
        raise row_error(index, "task", f"{task!r} is not one of {', '.join(tasks)}. State one of these.", "unknown")
    return task


# --- a row -----------------------------------------------------------------------------------------------------------


def row_conversation(row: Mapping, index: int, prepare: Callable = rgb_picture) -> list[dict]:
    """A row -> chat messages, as `ConversationCollator` and `ArmProcessor.apply_chat_template` take them.

    Requests stand as the pipelines put them: an instruction before its pictures, a picture before its question.

    Args:
        row, index: the row and its place.
        prepare: makes of a picture what its part holds; see `read_picture`.

    Raises:
        ValueError: the row cannot be used; names row, column, value and fix.
    """
    if row.get("messages") is not None:
        return _messages(row, index, prepare)
    task = row_task(row, index)
    prompt = read_text(row, index)
    asked, said = [prompt], []
    if task == "editing":
        sources = source_pictures(row, index, prepare)
        if not sources:
            fix = "Fill it in, or state another task in a column 'task'."
            column = next((column for column in SOURCES if column in row), SOURCES[0])
            raise row_error(index, column, f"an edit has no picture to start from. {fix}", "missing")
        asked += sources
    if task in ("editing", "text_to_image"):
        said = [read_picture(row.get("image"), index, "image", prepare)]
    elif task == "image_to_text":
        asked = [read_picture(row.get("image"), index, "image", prepare), prompt]
    return [message("user", *asked), message("assistant", *(said or [read_text(row, index, "answer")]))]


def _messages(row: Mapping, index: int, prepare: Callable) -> list[dict]:
    """`messages` and `images` -> messages whose parts hold their pictures.

    As in TRL, messages that are all strings have their pictures before the first text of the user.
    """
    images = list(row.get("images") or [])
    pictures, messages = iter(images), []
    plain = all(isinstance(turn.get("content"), str) for turn in row["messages"])
    for turn in row["messages"]:
        role, content = turn.get("role"), turn.get("content") or []
        if role not in ROLES:
            problem = f"the role {role!r} is not one of {', '.join(ROLES)}. Rename it."
            raise row_error(index, "messages", problem, "unknown role")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
            if plain and role == "user":
                content, plain = [{"type": "image"}] * len(images) + content, False
        messages.append({"role": role, "content": [_part(part, pictures, index, prepare) for part in content]})
    if left := len(list(pictures)):
        problem = f"there are {len(images)} pictures, but places for {len(images) - left} in the messages."
        raise row_error(index, "images", f"{problem} Each needs a part of type image.", "too many")
    if not any(turn["role"] == "assistant" and turn["content"] for turn in messages):
        problem = "the assistant says nothing: there is nothing to learn. Add its answer."
        raise row_error(index, "messages", problem, "no answer")
    return messages


def _part(part: Mapping, pictures: Iterator, index: int, prepare: Callable) -> dict:
    """A part of a message with its picture: its own, or else the next one of the row."""
    kind, column = part.get("type"), "messages"
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind != "image":
        problem = f"{dict(part)!r} is neither a text nor an image. Leave it out."
        raise row_error(index, column, problem, "unknown part")
    picture = part.get("image")
    if picture is None:
        picture, column = next(pictures, None), "images"
        if picture is None:
            problem = "it holds fewer pictures than the messages have parts of type image."
            raise row_error(index, column, problem, "too few")
    return {"type": "image", "image": read_picture(picture, index, column, prepare)}


# --- a dataset -------------------------------------------------------------------------------------------------------


def undecoded(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The same dataset with pictures as files, not opened: a file that cannot be read must not hide its row.

    Raises:
        ValueError: the dataset has a transform, whose results would be kept for all epochs.
    """
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        raise ValueError(
            "The dataset has a transform (with_transform), which would run once and not once an epoch; apply it with "
            "map, or leave it out."
        )
    dataset = dataset.with_format(None)
    for name, feature in (dataset.features or {}).items():
        closed = _closed(feature)
        if closed != feature:
            dataset = dataset.cast_column(name, closed)
    return dataset


def _closed(feature):
    """A feature in which pictures are not decoded."""
    if isinstance(feature, Image):
        return replace(feature, decode=False)
    if isinstance(feature, dict):
        return {name: _closed(each) for name, each in feature.items()}
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_closed(feature.feature))
    return feature


def check_dataset(dataset: Dataset | IterableDataset, image_processor: ArmImageProcessor | None = None) -> Counter:
    """Reads every row as training would, pictures included.

    Args:
        dataset: rows with the columns at the top of this file. An endless one never returns.
        image_processor: also asked whether it can size each picture, as it does in training.

    Returns:
        How many rows there are of each task; those with `messages` count as "messages".

    Raises:
        ValueError: rows cannot be used; says how many, and of the first ten what is wrong.
    """
    prepare = rgb_picture if image_processor is None else image_processor
    tasks, problems, rows = Counter(), [], 0
    for rows, row in enumerate(undecoded(dataset), 1):
        try:
            row_conversation(row, rows - 1, prepare)
            tasks["messages" if row.get("messages") is not None else row_task(row, rows - 1)] += 1
        except ValueError as error:
            problems.append(str(error))
    if not rows:
        raise ValueError("The dataset has no rows. Does its folder hold pictures, and metadata.csv beside them?")
    if problems:
        more = [f"... and {len(problems) - SHOWN_ROWS} more"] if len(problems) > SHOWN_ROWS else []
        lines = "\n".join(problems[:SHOWN_ROWS] + more)
        raise ValueError(f"{len(problems)} of {rows} rows cannot be used:\n{lines}")
    return tasks
