"""Where a row that cannot be used, with a broken picture say, is reported: its error, and the count of all such.

Knows nothing about what rows hold.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

SHOWN_ROWS = 10  # bad rows that one error message names


class RowError(ValueError):
    """A row that cannot be used. `reason` says in few words of what kind the problem is, for counting rows by it."""

    reason = "unusable"


def row_error(index: int, column: str, problem: str, reason: str = RowError.reason) -> RowError:
    """The error of a row; every error of this file begins as this one does, and its reason with the column."""
    error = RowError(f"Row {index}, column '{column}': {problem}")
    error.reason = f"{column}: {reason}"
    return error


def file_error(rows: int, error: Exception) -> RowError:
    """The error of a file of which only so many rows can be read."""
    cause = RowError(f"the file ends early, after {rows} rows ({type(error).__name__}: {error}). Replace it.")
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
                f"{skipped} of {rows} rows cannot be used, more than max_skipped {share} allows. What is written "
                f"stays: mend the dataset and start afresh, or go on with a larger max_skipped. The first:\n{shown}"
            )
