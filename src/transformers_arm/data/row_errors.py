"""Where a row that cannot be used, with a broken picture say, is reported: its error, and the count of all such.

    with as_row_error(index, file=file):
        sample = encode(row_conversation(row, index))  # whatever it raises is this row's RowError

Knows nothing about what rows hold.
"""

import errno
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import gaierror  # whose numbers are its own

import torch

logger = logging.getLogger(__name__)

FEWEST_ROWS = 100  # that shares of skipped rows are of: one bad row at the start is no reason to stop
SHOWN_ROWS = 10  # bad rows that one error message names

# What is wrong with the machine that reads a row, and not with the row: another try, or another machine, can read it.
MACHINE_ERRORS = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
MACHINE_ERRNOS = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EROFS EIO EREMOTEIO ESTALE ENODEV ENXIO EMFILE ENFILE ENOMEM EAGAIN ENOLCK".split()
    if hasattr(errno, name)
}
# torch has no types for these: they are RuntimeErrors as those of a wrong shape are.
MACHINE_MESSAGE = re.compile(
    r"(CUDA|HIP|XPU|NCCL|cuDNN|MPS)\b.* error|CUBLAS_STATUS|CUDNN_STATUS|can't allocate memory"
)


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


def machine_error(error: BaseException | None) -> BaseException | None:
    """What of an error and its causes is no fault of a row: memory, disk, open files, devices. None if nothing is.

    A connection that was lost is one too; but not as the cause of another error, for an address that a row names may
    well be dead.
    """
    if isinstance(error, ConnectionError | TimeoutError):
        return error
    while error is not None:
        if isinstance(error, MACHINE_ERRORS):
            return error
        if isinstance(error, OSError) and not isinstance(error, gaierror) and error.errno in MACHINE_ERRNOS:
            return error
        if isinstance(error, RuntimeError) and MACHINE_MESSAGE.search(str(error)):
            return error
        error = error.__cause__
    return None


@contextmanager
def as_row_error(index: int | str, column: str = "", *, file: str = "") -> Iterator[None]:
    """The one boundary at which whatever a row raises, while it becomes a sample, is that row's `RowError`.

    Args:
        index: the row's number, or whatever else tells which one it is.
        column: that is being read, where that is known.
        file: that the row is of, for `RowError.file`.

    Raises:
        RowError: for every Exception; one that names its row keeps its text.
        BaseException: what `machine_error` finds: it costs no row, and another try may go well.
    """
    try:
        yield
    except Exception as error:
        if machine := machine_error(error):
            raise machine  # noqa: B904 (it is among the causes already)
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


def file_error(rows: int, error: Exception, name: str = "the file") -> RowError:
    """The error of a file of which only so many rows can be read."""
    cause = RowError(f"{name} ends early, after {rows} rows ({type(error).__name__}: {error}). Replace it.")
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
        if skipped > share * rows:
            shown = "\n".join(f"{example['file']}: {example['problem']}" for example in self.examples)
            raise ValueError(
                f"{skipped} of {rows} rows cannot be used, more than max_skipped {share} allows. Mend the dataset, "
                f"or go on with a larger max_skipped. The first:\n{shown}"
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
            self.tally.skip(self.name, error)
            if self.tally.skipped.total() <= SHOWN_ROWS:
                logger.warning("%s, skipped: %s", self.name, error)

    def check(self, read: int) -> None:
        """Counts rows as read. Raises a ValueError if too many of all were skipped."""
        self.tally.rows += read
        rows = max(self.tally.rows, FEWEST_ROWS) if self.rows is None else self.rows
        self.tally.check_skipped(self.max_skipped, rows, self.tally.skipped.total())
