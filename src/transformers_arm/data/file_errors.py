"""What is wrong where a file cannot be read on: the file, which is broken, or the way to it, which is tried again.

Knows nothing about what files hold.
"""

import errno
import logging
import lzma
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

import pyarrow as pa
from datasets.exceptions import DatasetGenerationError

logger = logging.getLogger(__name__)

PAUSES = (1, 5, 20, 60)  # seconds before a file is opened again, after errors with no row between them

# What readers raise on files that are cut off or damaged.
BROKEN_FILE_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError),
    *(pa.ArrowException, DatasetGenerationError),
)
TRANSIENT_ERRNOS = {
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "ESTALE", "EAGAIN", "EBUSY", "EINTR", "ENFILE", "EMFILE", "EPIPE", "ETIMEDOUT"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "ENOTCONN", "ESHUTDOWN"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
}
TRANSIENT_STATUSES = (408, 425, 429)  # of HTTP, besides all from 500 on
STATUS_NAMES = ("status", "code", "status_code")
# By name, because each filesystem brings its own, and none has to be installed.
NETWORK_LIBRARIES = {
    *("aiohttp", "aiobotocore", "botocore", "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "requests"),
    *("http", "socket", "_socket", "ssl", "_ssl", "urllib", "urllib3"),
}


class Fault(Enum):
    """Whose fault an error is that ends the rows of a file: its way's, its own, or that of anything else."""

    TRANSIENT = "transient"
    BROKEN = "broken"
    OTHER = "other"


def fault_of(error: BaseException) -> Fault:
    """Tells a lost connection or a disk that does not answer, which may go on, from a file that is cut off or damaged.

    Files that are missing or forbidden, and a machine that is out of memory, are neither: no second try reads them,
    and no file is to blame. What a server answered counts before what became of that on its way.
    """
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for status in filter(None, map(_status, chain)):
        return Fault.TRANSIENT if status in TRANSIENT_STATUSES or status >= 500 else Fault.OTHER
    kinds = [_fault_alone(each) for each in chain]
    return Fault.TRANSIENT if Fault.TRANSIENT in kinds else kinds[0]


def _of_network(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] in NETWORK_LIBRARIES for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """What a server answered, by HTTP, if an error says that."""
    holders = (error, getattr(error, "response", None)) if _of_network(error) else ()
    statuses = (vars(each).get(name) for each in holders if hasattr(each, "__dict__") for name in STATUS_NAMES)
    return next((status for status in statuses if isinstance(status, int)), None)


def _fault_alone(error: BaseException) -> Fault:
    """Of an error without its causes."""
    if isinstance(error, FileNotFoundError | PermissionError | MemoryError):
        return Fault.OTHER
    if _of_network(error) or isinstance(error, ConnectionError | TimeoutError):
        return Fault.TRANSIENT
    if isinstance(error, OSError) and error.errno is not None:
        return Fault.TRANSIENT if error.errno in TRANSIENT_ERRNOS else Fault.OTHER
    return Fault.BROKEN if isinstance(error, BROKEN_FILE_ERRORS) else Fault.OTHER


def read_on(open_at: Callable[[int], Iterable], name: str, first: int = 0) -> Iterator:
    """The rows of a file from the `first` on; after a transient error it is opened again, where it was.

    A file behind an address that seems to be cut off is opened once more too: not every server says how long it is.

    Args:
        open_at: its rows from a number on.
        name: path or address, for errors.

    Raises:
        ConnectionError: it failed once more than there are `PAUSES`, and no row came between.
        Exception: whatever else its reader raises.
    """
    number, failures, broken_at = first, 0, None
    while True:
        try:
            for row in open_at(number):
                number, failures = number + 1, 0
                yield row
            return
        except Exception as error:
            fault = fault_of(error)
            is_doubtful = fault is Fault.BROKEN and "://" in name and broken_at != number
            if fault is not Fault.TRANSIENT and not is_doubtful:
                error.add_note(f"This was in {name}, behind {number} rows.")
                raise
            said = f"{type(error).__name__}: {error}"
            if failures == len(PAUSES):
                raise ConnectionError(
                    f"{name} cannot be read on from row {number}, after {failures + 1} tries in {sum(PAUSES)} seconds "
                    f"({said}). No row is lost: go on later, from the last checkpoint or with what is written."
                ) from error
            broken_at = number if is_doubtful else broken_at
            logger.warning("%s: %s. Opened again from row %s on, in %s s.", name, said, number, PAUSES[failures])
            time.sleep(PAUSES[failures])
            failures += 1


def until_broken(rows: Iterable[dict], problems: list[str]) -> Iterator[dict]:
    """The rows of a file as far as it can be read; what ended them too early is added to `problems`.

    Raises:
        Exception: what is no fault of the file; the run can go on later.
    """
    try:
        yield from rows
    except Exception as error:
        if fault_of(error) is not Fault.BROKEN:
            raise
        problems.append(f"{type(error).__name__}: {error}")
