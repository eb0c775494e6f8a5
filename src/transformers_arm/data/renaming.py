"""Columns under the names that people gave them -> the names that are asked for; the one rule wherever rows are read.

- What is renamed is no longer there under its old name. Nothing else of a row changes.
- Of several names for one column the first that holds something counts, and all of them before a column that has the
  new name already: `{"jpg": "image", "png": "image"}`. None, blank texts and pictures without file hold nothing.
- `json.caption` is a value inside the column `json`, which may be a mapping, JSON text, or the JSON of a tar.

Knows nothing about what columns mean.
"""

import json
from collections.abc import Iterable, Mapping
from io import BytesIO

from datasets.packaged_modules.webdataset.webdataset import WebDataset
from fsspec.compression import compr
from fsspec.utils import infer_compression

from ..fetching_arm import FROM_OUTSIDE
from .file_errors import BROKEN_FILE_ERRORS
from .row_errors import row_error

# The columns of a row that could not be decoded where it was read: why, and of which file it is ("" if unknown).
BROKEN, BROKEN_FILE = "\n", "\n\n"
MAX_BYTES = FROM_OUTSIDE.max_bytes  # that a compressed member may unpack to
DECODED = ("txt", "text", "json", "jsn")  # members of tars that may hold what columns do


def check_rename(rename: Mapping[str, str], columns: Iterable[str], names: Iterable[str] | None = None) -> None:
    """Refuses what would rename nothing, or to a column that nothing reads.

    Args:
        rename: {their name: column}.
        columns: that there are to be renamed to.
        names: of the columns that the rows have, if known: of each column one of its names must be among them.

    Raises:
        ValueError: names the unknown column, or the names that no row has.
    """
    columns = list(columns)
    if unknown := sorted(set(rename.values()) - set(columns)):
        raise ValueError(f"Nothing can be renamed to {', '.join(unknown)}. The columns are {', '.join(columns)}.")
    if names is None:
        return
    names = list(names)
    for column in dict.fromkeys(rename.values()):
        stated = [name for name, target in rename.items() if target == column]
        if not any({name, name.partition(".")[0]} & set(names) for name in stated):
            raise ValueError(
                f"No row has {' or '.join(stated)}, which should be '{column}': they have "
                f"{', '.join(names) or 'nothing'}. Name one of these."
            )


def check_whole(row: Mapping, index: int | str) -> None:
    """Raises a RowError if a row could not be decoded where it was read."""
    if BROKEN in row:
        raise row_error(index, "", row[BROKEN], "undecodable", file=row[BROKEN_FILE])


def arranged(
    row: Mapping,
    index: int | str,
    rename: Mapping[str, str],
    *,
    columns: Iterable[str] = (),
    fill: Mapping | None = None,
    default: Mapping | None = None,
) -> dict:
    """A row with its columns renamed by the rule at the top of this file, and filled.

    Args:
        row, index: the row and its place.
        rename: {their name: column}.
        columns: that it has in any case, None where it lacks them.
        fill: columns that all rows have with one value, whatever they hold.
        default: columns of rows that hold nothing there.

    Raises:
        RowError: a text that must be decoded, and cannot be; names row, column and name.
    """
    check_whole(row, index)
    found = {}
    for name, column in rename.items():
        outer, *inner = [name] if name in row else name.split(".")
        if outer not in row:
            continue
        found.setdefault(column, []).append(_inside(row[outer], inner, index, name, column))
    kept = {name: value for name, value in row.items() if name not in rename}
    found = {column: _first([*values, kept.get(column)]) for column, values in found.items()}
    arranged = dict.fromkeys(columns) | kept | found | dict(fill or {})
    missing = {column: value for column, value in (default or {}).items() if arranged.get(column) is None}
    return arranged | missing


def _first(values: list):
    """The first value that holds something, or else the first that is one at all."""
    return next(filter(_holds, values), next((value for value in values if value is not None), None))


def _holds(value) -> bool:
    if isinstance(value, Mapping):
        return any(each is not None for each in value.values())
    return bool(value.strip()) if isinstance(value, str) else value is not None


def _inside(value, names: list[str], index: int | str, name: str, column: str):
    """What a value holds under names within names; None where there is nothing under them."""
    try:
        value = _member(value)
        for each in names:
            if isinstance(value, str):
                value = json.loads(value) if value.strip() else None
            value = value.get(each) if isinstance(value, Mapping) else None
    except (*BROKEN_FILE_ERRORS, RecursionError) as error:
        problem = f"{name} cannot be decoded: {error or type(error).__name__}. Mend it, or drop the row."
        raise row_error(index, column, problem, "undecodable") from error
    return value


def _member(value):
    """A text or JSON of a tar, decoded, and unpacked where it is compressed; anything else as it is."""
    if not isinstance(value, Mapping) or value.get("bytes") is None:
        return value
    path, content = str(value.get("path")), value["bytes"]
    if compression := infer_compression(path):
        path, content = path.rpartition(".")[0], compr[compression](BytesIO(content), mode="rb").read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes. Store it in parts, or drop the row.")
    extension = path.rpartition(".")[2].lower()
    if extension in DECODED:
        return WebDataset.DECODERS[extension](content)
    return {"bytes": content, "path": path} if compression else value
