"""What stands for a picture in a row -> the picture: a file, its bytes, an address, a member of an archive, codes.

    read_picture(row["image"], index, "image", prepare, fetcher_for(dataset))

Where rows come from decides what they may name. Knows nothing about what rows are for.
"""

import asyncio
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import fsspec
import numpy as np
import PIL.Image
import torch
from datasets import Dataset, IterableDataset
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from datasets.utils.file_utils import xopen

from ..configuration_arm import MAX_GRID_SIDE
from ..fetching_arm import ADDRESS, DECODING_ERRORS, FROM_CALLER, FROM_OUTSIDE, Fetcher, httpx, shown
from ..image_processing_arm import ArmImageProcessor
from .row_errors import RowError, as_row_error, machine_error, row_error

MAX_CODE = 2**16 - 1  # the largest codebook's last code, and what uint16 holds
FROM_FOLDERS = replace(FROM_CALLER, private_hosts=False)  # files that the user named, and addresses that others did
STORE = re.compile(r"[\w+.-]+://|.*::", re.DOTALL)  # what `datasets` opens with fsspec: archives and remote stores
PAUSES = (0.5, 1.0, 2.0)  # seconds, before an address that may answer later is asked again
LONGEST_WAIT = 1.5  # times a fetcher's max_seconds, after which no address is asked again: many hosts never answer
PASSING_CAUSES = (asyncio.TimeoutError, httpx.TimeoutException, httpx.ReadError, httpx.WriteError)
PASSING_CAUSES += (httpx.RemoteProtocolError,)
PASSING = re.compile(r" answered (408|425|429|5\d\d)\b")


def fetcher_for(dataset, local_files: bool = False) -> Fetcher:
    """What rows of a dataset may name as pictures.

    Rows that code made (lists, `from_dict`, `from_generator`, and what `concatenate_datasets` or `to_iterable_dataset`
    give, which say no more where it is from) may name whatever it may. Image folders are files and archives that the
    user named; `datasets` has put their paths there. Rows of other files (parquet, json, csv, tars) name http(s)
    addresses of public hosts alone, unless the caller trusts them.

    Args:
        dataset: of `datasets`, or anything else that has rows.
        local_files: whether rows of files may name local files, archives and remote stores.
    """
    info = getattr(dataset, "info", None) if isinstance(dataset, Dataset | IterableDataset) else None
    builder = getattr(info, "builder_name", None)
    if builder in (None, "generator"):
        return FROM_CALLER
    module, _ = _PACKAGED_DATASETS_MODULES.get(builder, ("", None))
    return FROM_FOLDERS if local_files or module.endswith("folder") else FROM_OUTSIDE


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


def read_picture(
    value, index: int | str, column: str, prepare: Callable = rgb_picture, fetcher: Fetcher = FROM_CALLER
):
    """One picture of a row.

    Args:
        value: a PIL picture, array, path, address, base64 text, the bytes of a file, `{"bytes", "path"}` as
            `datasets` stores pictures (in archives and remote stores too: `zip://a.png::pictures.zip`, `hf://...`), or
            `{"codes", "height", "width"}`, which is returned as codes int64 [h, w].
        index, column: what errors name.
        prepare: makes of a picture of pixels what is returned; its errors are the row's.
        fetcher: opens what is named, within its limits; see `fetcher_for`.

    Raises:
        RowError: there is no picture, it may not be named, cannot be read, or `prepare` refuses it; names row, column
            and file.
    """
    if value is None or isinstance(value, Mapping) and all(each is None for each in value.values()):
        problem = "there is no picture. Fill it in, or state another task in a column 'task'."
        raise row_error(index, column, problem, "missing")
    file = value.get("path") if isinstance(value, Mapping) else None
    with as_row_error(index, column):
        try:
            if isinstance(value, Mapping) and "codes" in value:
                return read_codes(value)
            return prepare(_opened(value, fetcher))
        except Exception as error:
            if machine_error(error):
                raise
            raise _picture_error(error, index, column, file) from error


def _opened(value, fetcher: Fetcher):
    """What a value of `read_picture` names, opened; what names nothing as it is."""
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        content = value.get("bytes")
        return _open_named(value["path"], fetcher, is_path=True) if content is None else fetcher.open(content)
    if isinstance(value, str):
        return _open_named(value, fetcher)
    if isinstance(value, bytes | os.PathLike):
        return fetcher.open(value)
    return np.asarray(value) if isinstance(value, list) else value  # arrays, as Arrow keeps them


def _open_named(name: str, fetcher: Fetcher, is_path: bool = False) -> PIL.Image.Image:
    """Opens what a text names; one that is a path is no base64."""
    if ADDRESS.match(name):
        return _open_address(name, fetcher)
    if fetcher.local_files and STORE.match(name):
        return fetcher.open(_stored_bytes(name, fetcher.max_bytes + 1))
    if fetcher.local_files and (is_path or os.path.exists(name)):
        return fetcher.open(Path(name))
    cause = None
    if not is_path:
        try:
            return fetcher.open(name)
        except ValueError as error:
            if fetcher.local_files or error.__cause__ is None:  # a limit
                raise
            cause = error
    raise ValueError(
        f"{shown(name)!r} is a path, and rows of files may name http(s) addresses only. Pass local_files=True if you "
        "trust whoever wrote them, or store the pictures in the rows."
    ) from cause


def _stored_bytes(name: str, most: int) -> bytes:
    """The first so many bytes of what an archive or a remote store holds."""
    member, _, archive = name.partition("::")
    if archive:
        try:
            with _opened_archive(member.partition("://")[0], archive).open(member.partition("://")[2]) as file:
                return file.read(most)
        except Exception:  # a lost connection, or an archive of another kind
            _kept_archive.cache_clear()
    with xopen(name, "rb") as file:  # tries again, and says what is wrong
        return file.read(most)


def _opened_archive(protocol: str, archive: str) -> fsspec.AbstractFileSystem:
    """An archive whose table of contents is read once, and not for each member: that takes seconds of a large one."""
    status = os.stat(archive) if os.path.isfile(archive) else None
    version = (status.st_mtime_ns, status.st_size) if status else None
    return _kept_archive(f"{protocol}://::{archive}", version, os.getpid(), threading.get_ident())


@lru_cache(4)
def _kept_archive(archive: str, version, process: int, thread: int) -> fsspec.AbstractFileSystem:
    """Each process and thread has its own, for the place at which an open file is read is shared."""
    return fsspec.core.url_to_fs(archive)[0]


def _open_address(address: str, fetcher: Fetcher) -> PIL.Image.Image:
    """Opens an address; asks again where that may help.

    Raises:
        AddressError: it gives no picture. That is the row's fault, for an address may be dead.
        ValueError, or another of `DECODING_ERRORS`: what it gives is beyond a limit, or none.
    """
    began = time.monotonic()
    for asked, pause in enumerate((*PAUSES, None), 1):
        try:
            return fetcher.open(address)
        except (ConnectionError, socket.gaierror, ValueError) as error:
            may_pass = _may_pass(error)
            if isinstance(error, ValueError) and not may_pass:
                raise
            is_late = time.monotonic() - began > LONGEST_WAIT * fetcher.max_seconds
            if not may_pass or is_late or pause is None:
                times = f", asked {asked} times" if asked > 1 else ""
                raise AddressError(f"{error}{times}. Is there a picture at {shown(address)}?") from error
        time.sleep(pause)


def _may_pass(error: Exception) -> bool:
    """Whether a later request may go well: of a busy server or a connection that broke, not of no host."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return bool(PASSING.search(str(error))) or isinstance(error.__cause__, PASSING_CAUSES)


class AddressError(ValueError):
    """An address that gives no picture."""


def _picture_error(error: Exception, index: int | str, column: str, file: str | None) -> RowError:
    """What went wrong with a picture as its row's error, which tells damaged pictures from refused ones."""
    problem = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error) or type(error).__name__)  # no name of a file
    problem = re.sub(r"^Image 0:? ", "", problem)
    problem = f"{file}: {problem}" if file and file not in problem else problem
    if isinstance(error, AddressError):
        return row_error(index, column, problem, "address without picture")
    if isinstance(error, ValueError | TypeError | OverflowError | PIL.Image.DecompressionBombError):
        reason = "unreadable picture" if isinstance(error.__cause__, DECODING_ERRORS) else "refused picture"
        return row_error(index, column, problem, reason)
    problem = f"{problem}. Is the file complete, and an image? Replace it, or drop the row."
    return row_error(index, column, problem, "unreadable picture")
