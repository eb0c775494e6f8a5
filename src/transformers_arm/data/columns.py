"""Rows of a user's own dataset -> conversations, and a validator that names the row that cannot be used.

| task | columns |
|---|---|
| text_to_image | `prompt`, `image` (what to draw) |
| editing | `prompt` (the instruction), `source_image` or `source_images` (a list), `image` (the result) |
| image_to_text | `image`, `prompt` (the question), `answer` |
| text | `prompt`, `answer`; or `text` and none of the others: a plain document, no conversation |
| any conversation | `messages` with text and image parts, `images` (the pictures of the parts, in order) |

A column `task` states a row's task. Without it the columns do, not their values: a row of an editing dataset that
lacks its source is an error, and not a picture to draw from nothing. Rows are dicts, as `datasets` gives them.

Lists may be JSON text, as files without lists keep them. Wherever a picture stands, its codes may stand in its place
(`data/pretokenize.py`): `{"codes", "height", "width"}`, rows first, the sides in tokens. Knows no other tokens.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from datasets import Dataset, Image, IterableDataset, LargeList, List

from ..fetching_arm import FROM_CALLER, Fetcher
from ..image_processing_arm import ArmImageProcessor
from .conversations import document, message
from .pictures import Written, fetcher_for, read_picture, rgb_picture
from .renaming import check_whole
from .row_errors import SHOWN_ROWS, RowError, as_row_error, row_error

COLUMNS = ("task", "prompt", "answer", "text", "source_image", "source_images", "image", "messages", "images")
TASKS = ("text_to_image", "editing", "image_to_text", "text")
ROLES = ("system", "user", "assistant")
SOURCES = ("source_image", "source_images")
PART = '{"type": "text", "text": "a cat"}'


# --- pieces of a row -------------------------------------------------------------------------------------------------


def checked_text(text: str, index: int | str, column: str) -> str:
    """The text, if it can be written: JSON can hold half a character (`"\\ud83d"`), which no file and no token can.

    Raises:
        RowError: it cannot; names row, column and place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = (
            f"{text[error.start : error.start + 1]!r}, at {error.start} of {len(text)}, is half a character. Whoever "
            "wrote it cut a text in the middle of one: write it whole, or drop it."
        )
        raise row_error(index, column, problem, "half a character") from error
    return text


def read_text(row: Mapping, index: int | str, column: str = "prompt") -> str:
    """The text in a column.

    Raises:
        RowError: it is missing, no str, blank, or holds half a character; names row, column and value.
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
    return checked_text(value, index, column)


def read_list(row: Mapping, index: int | str, column: str) -> list:
    """The list in a column, or in the JSON text there, as CSV and some parquet keep lists; None is an empty one.

    Raises:
        RowError: it is neither; names row, column and value.
    """
    value = row.get(column)
    if value is None:
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value, object_hook=Written)
        except (ValueError, RecursionError) as error:
            problem = f"the text {row[column][:80]!r} is no JSON: {error}. Write a list, or its JSON."
            raise row_error(index, column, problem, "undecodable") from error
    if not isinstance(value, list | tuple):
        kind = "dict" if isinstance(value, Written) else type(value).__name__
        problem = f"{value!r:.200} is a {kind}, but must be a list. Convert the column."
        raise row_error(index, column, problem, "no list")
    return list(value)


def source_pictures(
    row: Mapping, index: int | str, prepare: Callable = rgb_picture, fetcher: Fetcher = FROM_CALLER
) -> list:
    """The pictures that a row wants edited, from `source_image` or `source_images`; none of either is an empty list.

    Raises:
        RowError: both columns are filled, or as `read_picture` says.
    """
    single, several = (row.get(column) for column in SOURCES)
    if single is not None and several is not None:
        problem = "'source_image' is filled as well. Keep one of the two."
        raise row_error(index, "source_images", problem, "filled twice")
    if single is not None:
        return [read_picture(single, index, "source_image", prepare, fetcher)]
    listed = read_list(row, index, "source_images")
    return [read_picture(each, index, "source_images", prepare, fetcher) for each in listed]


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
        elif is_plain(row):
            task = "text"
        elif default is not None:
            task = default
        else:
            columns = ", ".join(row) or "nothing"
            problem = (
                f"it has {columns}, but neither 'image' nor 'answer': there is nothing to learn. Add what the model "
                "should draw or say."
            )
            raise row_error(index, "", problem, "nothing to learn")
    if task not in (tasks := tuple(tasks)):
        raise row_error(index, "task", f"{task!r} is not one of {', '.join(tasks)}. State one of these.", "unknown")
    return task


def is_plain(row: Mapping) -> bool:
    """Whether a row is a plain document: its `text` stands alone among the columns of all tasks, or where a column
    `task` states the task, alone among those that are filled, as in a mixture whose rows have all columns.
    """
    stated = row.get("task") is not None
    others = [column for column in COLUMNS if column not in ("task", "text") and column in row]
    return "text" in row and all(stated and row[column] is None for column in others)


# --- a row -----------------------------------------------------------------------------------------------------------


def row_conversation(
    row: Mapping, index: int | str, prepare: Callable = rgb_picture, fetcher: Fetcher = FROM_CALLER
) -> list[dict]:
    """A row -> chat messages, as `ConversationCollator` and `ArmProcessor.apply_chat_template` take them; a plain
    document -> its one, of `conversations.document`, which only the collator takes.

    Requests stand as the pipelines put them: an instruction before its pictures, a picture before its question.

    Args:
        row, index: the row and its place.
        prepare: makes of a picture what its part holds; see `read_picture`.
        fetcher: opens what the row names as pictures; `fetcher_for` a dataset says which.

    Raises:
        RowError: the row cannot be used; names row, column, value and fix. What else it may raise, `as_row_error`
            takes for the row's.
    """
    check_whole(row, index)
    read = partial(read_picture, prepare=prepare, fetcher=fetcher)
    if row.get("messages") is not None:
        return _messages(row, index, read)
    task = row_task(row, index)
    if task == "text" and is_plain(row):
        return document(read_text(row, index, "text"))
    prompt = read_text(row, index)
    asked, said = [prompt], []
    if task == "editing":
        sources = source_pictures(row, index, prepare, fetcher)
        if not sources:
            fix = "Fill it in, or state another task in a column 'task'."
            column = next((column for column in SOURCES if column in row), SOURCES[0])
            raise row_error(index, column, f"an edit has no picture to start from. {fix}", "missing")
        asked += sources
    if task in ("editing", "text_to_image"):
        said = [read(row.get("image"), index, "image")]
    elif task == "image_to_text":
        asked = [read(row.get("image"), index, "image"), prompt]
    return [message("user", *asked), message("assistant", *(said or [read_text(row, index, "answer")]))]


def _messages(row: Mapping, index: int | str, read: Callable) -> list[dict]:
    """`messages` and `images` -> messages whose parts hold their pictures.

    As in TRL, messages that are all strings have their pictures before the first text of the user.
    """
    turns, images = read_list(row, index, "messages"), read_list(row, index, "images")
    for turn in turns:
        _check_turn(turn, index)
    pictures, messages = iter(images), []
    plain = all(isinstance(turn["content"], str) for turn in turns)
    for turn in turns:
        content = turn["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
            if plain and turn["role"] == "user":
                content, plain = [{"type": "image"}] * len(images) + content, False
        parts = [_part(part, pictures, index, read) for part in content or []]
        messages.append({"role": turn["role"], "content": parts})
    if left := len(list(pictures)):
        problem = f"there are {len(images)} pictures, but places for {len(images) - left} in the messages."
        raise row_error(index, "images", f"{problem} Each needs a part of type image.", "too many")
    if not any(turn["role"] == "assistant" and turn["content"] for turn in messages):
        problem = "the assistant says nothing: there is nothing to learn. Add its answer."
        raise row_error(index, "messages", problem, "no answer")
    return messages


def _check_turn(turn, index: int | str) -> None:
    """Raises a RowError unless this is a role and what it says, a text or a list of parts."""
    if not isinstance(turn, Mapping):
        problem = f"{turn!r:.200} is no turn, which is a dict with 'role' and 'content'. Write it so, or leave it out."
        raise row_error(index, "messages", problem, "no turn")
    if turn.get("role") not in ROLES:
        problem = f"the role {turn.get('role')!r:.200} is not one of {', '.join(ROLES)}. Rename it."
        raise row_error(index, "messages", problem, "unknown role")
    if "content" not in turn or not isinstance(turn["content"], str | list | tuple | None):
        problem = (
            f"the content {turn.get('content')!r:.200} is neither a text nor a list of parts. Write one of these."
        )
        raise row_error(index, "messages", problem, "unknown content")


def _part(part, pictures: Iterator, index: int | str, read: Callable) -> dict:
    """A part of a message with its picture: its own, or else the next one of the row."""
    kind, column = part.get("type") if isinstance(part, Mapping) else None, "messages"
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": checked_text(part["text"], index, column)}
    if kind != "image":
        problem = f"{part!r:.200} is neither a text nor an image part, as {PART} is. Write it so, or leave it out."
        raise row_error(index, column, problem, "unknown part")
    picture = part.get("image")
    picture = Written(picture) if isinstance(picture, Mapping) else picture
    if picture is None:
        column = "images"
        try:
            picture = next(pictures)
        except StopIteration:
            problem = "it holds fewer pictures than the messages have parts of type image."
            raise row_error(index, column, f"{problem} Add them, or leave the parts out.", "too few") from None
    return {"type": "image", "image": read(picture, index, column)}


# --- a dataset -------------------------------------------------------------------------------------------------------


def undecoded(dataset: Dataset | IterableDataset, columns: Iterable[str] | None = None) -> Dataset | IterableDataset:
    """The same dataset with pictures as files, not opened: a file that cannot be read must not hide its row.

    Args:
        columns: whose pictures; None takes all, and makes plain values of what a format gives.

    Raises:
        ValueError: the dataset has a transform, whose results would be kept for all epochs.
    """
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        raise ValueError(
            "The dataset has a transform (with_transform), which would run once and not once an epoch; apply it with "
            "map, or leave it out."
        )
    dataset = dataset.with_format(None) if columns is None else dataset
    for name, feature in (dataset.features or {}).items():
        closed = _closed(feature)
        if closed != feature and (columns is None or name in columns):
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


def check_dataset(
    dataset: Dataset | IterableDataset,
    image_processor: ArmImageProcessor | None = None,
    *,
    local_files: bool = False,
) -> Counter:
    """Reads every row as training would, pictures included.

    Args:
        dataset: rows with the columns at the top of this file. An endless one never returns.
        image_processor: also asked whether it can size each picture, as it does in training.
        local_files: whether rows of files may name local pictures, see `fetcher_for`.

    Returns:
        How many rows there are of each task; those with `messages` count as "messages".

    Raises:
        ValueError: rows cannot be used; says how many, and of the first ten what is wrong.
    """
    from .input_files import rows_of  # which needs `undecoded`

    prepare = rgb_picture if image_processor is None else image_processor
    fetcher = fetcher_for(dataset, local_files)
    tasks, problems, rows = Counter(), [], 0
    for rows, row in enumerate(rows_of(dataset), 1):
        try:
            with as_row_error(rows - 1):
                row_conversation(row, rows - 1, prepare, fetcher)
                tasks["messages" if row.get("messages") is not None else row_task(row, rows - 1)] += 1
        except RowError as error:
            problems.append(str(error))
    if not rows:
        raise ValueError("The dataset has no rows. Does its folder hold pictures, and metadata.csv beside them?")
    if problems:
        more = [f"... and {len(problems) - SHOWN_ROWS} more"] if len(problems) > SHOWN_ROWS else []
        lines = "\n".join(problems[:SHOWN_ROWS] + more)
        raise ValueError(f"{len(problems)} of {rows} rows cannot be used:\n{lines}")
    return tasks
