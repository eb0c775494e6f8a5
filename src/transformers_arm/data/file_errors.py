"""What is wrong where something cannot be read: itself, which is broken, the way to it, which is tried again, or the
machine.

Knows nothing about what files and rows hold.
"""

import errno
import logging
import lzma
import re
import socket
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum

import pyarrow as pa
import torch
from datasets.exceptions import DatasetGenerationError

logger = logging.getLogger(__name__)

PAUSES = (1, 5, 20, 60)  # seconds before a file is opened again, after errors with no row between them

# What readers raise on files that are cut off or damaged.
BROKEN_FILE_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError),
    *(pa.ArrowException, DatasetGenerationError),
)


def _errnos(names: str) -> set[int]:
    return {getattr(errno, name) for name in names.split() if hasattr(errno, name)}


TRANSIENT_ERRNOS = _errnos(
    "EIO EREMOTEIO ESTALE EAGAIN EBUSY EINTR ENFILE EMFILE EPIPE ETIMEDOUT ECONNRESET ECONNABORTED ECONNREFUSED "
    "ENOTCONN ESHUTDOWN ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH"
)
MACHINE_ERRNOS = _errnos("ENOSPC EDQUOT EROFS ENODEV ENXIO ENOMEM ENOLCK")
MACHINE_ERRORS = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
# torch has no types for these: they are RuntimeErrors as those of a wrong shape are.
MACHINE_MESSAGE = re.compile(
    r"(CUDA|HIP|XPU|NCCL|cuDNN|MPS)\b.* error|CUBLAS_STATUS|CUDNN_STATUS|can't allocate memory"
)
TRANSIENT_STATUSES = (408, 425, 429)  # of HTTP, besides all from 500 on
STATUS_NAMES = ("status", "code", "status_code")
# By name, because each filesystem brings its own, and none has to be installed.
NETWORK_LIBRARIES = {
    *("aiohttp", "aiobotocore", "botocore", "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "requests"),
    *("http", "socket", "_socket", "ssl", "_ssl", "urllib", "urllib3"),
}


class Fault(Enum):
    """Whose fault an error is: its way's, the file's, the machine's that reads, or that of anything else."""

    TRANSIENT = "transient"
    BROKEN = "broken"
    MACHINE = "machine"
    OTHER = "other"


def fault_of(error: BaseException) -> Fault:
    """Tells a lost connection or a disk that does not answer, which may go on, from a file that is cut off or damaged,
    and from a machine that lacks memory, room or a device.

    Files that are missing or forbidden are none of these: no second try reads them, and no file is to blame. What a
    server answered counts before what became of that on its way.
    """
    chain = chain_of(error)
    kinds = list(map(_fault_alone, chain))
    if Fault.MACHINE in kinds:
        return Fault.MACHINE
    answered = [kind for kind, each in zip(kinds, chain, strict=True) if _status(each)]
    return answered[0] if answered else Fault.TRANSIENT if Fault.TRANSIENT in kinds else kinds[0]


def no_fault_of_row(error: BaseException) -> BaseException | None:
    """What of an error and its causes is no fault of the row that raised it; None if nothing is.

    A connection that was lost is one; but not as the cause of another error, for an address that a row names may well
    be dead.
    """
    for each in chain_of(error):
        fault = fault_of(each) if each is error and _of_network(each) else _fault_alone(each)
        if fault is Fault.MACHINE or fault is Fault.TRANSIENT and (each is error or not _of_network(each)):
            return each
    return None


def chain_of(error: BaseException | None) -> list[BaseException]:
    """An error and what it came of."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def _of_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return any(kind.__module__.partition(".")[0] in NETWORK_LIBRARIES for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """What a server answered, by HTTP, if an error says that."""
    holders = (error, getattr(error, "response", None)) if _of_network(error) else ()
    statuses = (vars(each).get(name) for each in holders if hasattr(each, "__dict__") for name in STATUS_NAMES)
    return next((status for status in statuses if isinstance(status, int)), None)


def _fault_alone(error: BaseException) -> Fault:
    """Of an error without its causes."""
    if isinstance(error, MACHINE_ERRORS) or isinstance(error, RuntimeError) and MACHINE_MESSAGE.search(str(error)):
        return Fault.MACHINE
    if isinstance(error, FileNotFoundError | PermissionError):
        return Fault.OTHER
    if status := _status(error):
        return Fault.TRANSIENT if status in TRANSIENT_STATUSES or status >= 500 else Fault.OTHER
    if isinstance(error, socket.gaierror):  # whose numbers are its own
        return Fault.TRANSIENT if error.errno == socket.EAI_AGAIN else Fault.OTHER
    if _of_network(error) and not isinstance(error, ValueError):  # which is a name that is none
        return Fault.TRANSIENT
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in MACHINE_ERRNOS:
            return Fault.MACHINE
        return Fault.TRANSIENT if error.errno in TRANSIENT_ERRNOS else Fault.OTHER
    return Fault.BROKEN if isinstance(error, BROKEN_FILE_ERRORS) else Fault.OTHER


def may_pass(error: BaseException) -> bool:
    """Whether another try may go well."""
    return fault_of(error) is Fault.TRANSIENT


def retried(call: Callable, pauses: Sequence[float], passes: Callable[[Exception], bool] = may_pass):
    """What a call gives that is made again, after each of these pauses in seconds, while its error may pass."""
    for pause in pauses:
        try:
            return call()
        except Exception as error:
            if not passes(error):
                raise
        time.sleep(pause)
    return call()


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
