"""`examples.json` in the folder of a model: texts to try, by task, as whoever made it wrote them."""

import json
from collections.abc import Mapping
from pathlib import Path

from transformers.utils import cached_file

from ..engine import TASKS

FILE = "examples.json"
LONGEST, MOST = 200, 8  # characters of a text; texts of a task


def examples_of(checkpoint: str, revision: str | None = None) -> dict[str, list[str]]:
    """Texts to try with the model of a folder, or of a repo on the Hub; none, if it brings none.

    Raises:
        ValueError: the file is not what it should be.
    """
    unasked = {f"_raise_exceptions_for_{reason}": False for reason in ("missing_entries", "connection_errors")}
    file = cached_file(checkpoint, FILE, revision=revision, **unasked)
    return {} if file is None else checked(file)


def checked(file: str | Path) -> dict[str, list[str]]:
    try:
        examples = json.loads(Path(file).read_bytes())
    except ValueError as error:
        raise ValueError(f"{FILE} is no JSON: {error}.") from error
    fits = isinstance(examples, Mapping) and all(
        task in TASKS and isinstance(texts, list) and len(texts) <= MOST and all(map(is_example, texts))
        for task, texts in examples.items()
    )
    if not fits:
        raise ValueError(
            f"{FILE} must be an object of lists of at most {MOST} texts, of at most {LONGEST} characters each, for "
            f"{', '.join(sorted(TASKS))}."
        )
    return examples


def is_example(text) -> bool:
    return isinstance(text, str) and 0 < len(text) <= LONGEST
