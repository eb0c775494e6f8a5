"""Where a row that cannot be used, with a broken picture say, is reported: its error, and the count of all such.

    with as_row_error(index, file=file):
        sample = encode(row_conversation(row, index))  # whatever it raises is this row's RowError

Knows nothing about what rows hold.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from .file_errors import no_fault_of_row

logger = logging.getLogger(__name__)

FEWEST_ROWS = 100  # that shares of skipped rows are of: one bad row at the start is no reason to stop
SHOWN_ROWS = 10  # bad rows that one error message names


class RowError(ValueError):
    """A row that cannot be used.

    Attributes:
        reason: in few words of what kind the problem is, for counting rows by it.
        row: its number, or whatever else tells which row it is; None where that is not known yet.
        column: that the problem is in; "" where it is in none, or not known.
        file: that the row is of; "" where that is not known.
    """

    reason, row, column, file = "unusable", None, "", ""


def row_error(
    index: int | str, column: str, problem: str, reason: str = RowError.reason, *, file: str = ""
) -> RowError:
    """The error of a row; every error of this file begins as this one does, and its reason with the column."""
    where = f"Row {index}, column '{column}'" if column else f"Row {index}"
    text = f"{where}: {problem}".encode(errors="backslashreplace").decode()  # half a character breaks logs
    error = RowError(text)
    error.reason = f"{column}: {reason}" if column else reason
    error.row, error.column, error.file = index, column, file
    return error


@contextmanager
def as_row_error(index: int | str, column: str = "", *, file: str = "") -> Iterator[None]:
    """The one boundary at which whatever a row raises, while it becomes a sample, is that row's `RowError`.

    Args:
        index: the row's number, or whatever else tells which one it is.
        column: that is being read, where that is known.
        file: that the row is of, for `RowError.file`.

    Raises:
        RowError: for every Exception; one that names its row keeps its text.
        BaseException: what `no_fault_of_row` finds, with a note of the row: it costs none, another try may go well.
    """
    try:
        yield
    except Exception as error:
        if cause := no_fault_of_row(error):
            note = f"While row {index}{f' of {file}' if file else ''} was read."
            if note not in getattr(cause, "__notes__", ()):  # of a boundary within
                cause.add_note(note)
            raise cause  # noqa: B904 (it is among the causes already)
        if isinstance(error, RowError) and error.row is not None:
            error.file = error.file or file
            raise
        if isinstance(error, RowError):
            problem, reason = str(error), error.reason
        elif isinstance(error, ValueError):
            problem, reason = str(error), RowError.reason
        else:
            kind = type(error).__name__
            problem, reason = f"{kind}: {error}. Mend the row, or drop it.", f"{RowError.reason} ({kind})"
        raise row_error(index, column, problem, reason, file=file) from error


def file_error(rows: int, error: Exception | str, name: str = "the file") -> RowError:
    """The error of a file of which only so many rows can be read."""
    said = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    cause = RowError(f"{name} ends early, after {rows} rows ({said}). Replace it.")
    cause.reason = "file ends early"
    return cause


@dataclass
class Tally:
    """What became of rows; `examples` are the first that were skipped."""

    rows: int = 0
    written: int = 0
    tasks: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    examples: list[dict] = field(default_factory=list)

    def skip(self, file: str, error: ValueError) -> None:
        self.skipped[error.reason if isinstance(error, RowError) else RowError.reason] += 1
        self.examples = (self.examples + [{"file": file, "problem": str(error)}])[:SHOWN_ROWS]

    def add(self, other: Mapping) -> None:
        self.rows += other["rows"]
        self.written += other["written"]
        self.tasks.update(other["tasks"])
        self.skipped.update(other["skipped"])
        self.examples = (self.examples + other["examples"])[:SHOWN_ROWS]

    def check_skipped(self, share: float, rows: int, skipped: int) -> None:
        """Raises a ValueError if more than this share of the rows was skipped."""
        shown = "\n".join(f"{example['file']}: {example['problem']}" for example in self.examples)
        check_skipped(share, rows, skipped, f"The first:\n{shown}")


def check_skipped(share: float, rows: int, skipped: int, shown: str, whose: str = "rows") -> None:
    """Raises a ValueError if more than this share of rows was skipped.

    Args:
        shown: which rows they were, in sentences.
        whose: what the rows are.
    """
    if skipped > share * rows:
        raise ValueError(
            f"{skipped} of {rows} {whose} cannot be used, more than max_skipped {share} allows. Mend the dataset, or "
            f"go on with a larger max_skipped. {shown}"
        )


def check_share(max_skipped: float) -> None:
    """Raises a ValueError unless it is a share of rows."""
    if not 0 <= max_skipped <= 1:
        raise ValueError(f"max_skipped {max_skipped} is a share of the rows and must be in 0..1.")


class Skipping:
    """Passes over rows that cannot be used: names the first in the log, counts all, and stops at too large a share.

    Args:
        name: of the dataset, for messages.
        max_skipped: share of its rows that may be lost.
        rows: how many it has; None for a stream, whose share is of those that were read, and of at least 100.
    """

    def __init__(self, name: str, max_skipped: float, rows: int | None = None):
        check_share(max_skipped)
        self.name, self.max_skipped, self.rows, self.tally = name, max_skipped, rows, Tally()

    @contextmanager
    def row(self, index: int) -> Iterator[None]:
        """`as_row_error`, behind which the row is passed over: what comes of it is to be kept inside."""
        try:
            with as_row_error(index):
                yield
        except RowError as error:
            self.skip(error)

    def skip(self, error: RowError) -> None:
        """Passes over the row of an error."""
        where = f"{self.name}, {error.file}" if error.file else self.name
        self.tally.skip(where, error)
        if self.tally.skipped.total() <= SHOWN_ROWS:
            logger.warning("%s, skipped: %s", where, error)

    def check(self, read: int) -> None:
        """Counts rows as read. Raises a ValueError if too many of all were skipped."""
        self.tally.rows += read
        rows = max(self.tally.rows, FEWEST_ROWS) if self.rows is None else self.rows
        self.tally.check_skipped(self.max_skipped, rows, self.tally.skipped.total())

    def conclude(self, left: int) -> None:
        """Tells how many rows of the whole dataset are left out, by whomever: a cache keeps what is left, not why."""
        if lost := self.rows - left:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.tally.skipped.most_common())
            logger.warning(
                "%s: %d of %d rows are left out%s.", self.name, lost, self.rows, f" ({reasons})" if reasons else ""
            )
