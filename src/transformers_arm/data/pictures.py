"""What stands for a picture in a row -> the picture: a file, its bytes, an address, a member of an archive, codes.

    read_picture(row["image"], index, "image", prepare, fetcher_for(dataset))

Where rows come from decides what they may name. Knows nothing about what rows are for.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import fsspec
import numpy as np
import PIL.Image
import torch
from datasets import Dataset, IterableDataset, LargeList, List
from datasets.config import DATASET_STATE_JSON_FILENAME
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from datasets.utils.file_utils import xopen

from ..configuration_arm import MAX_GRID_SIDE
from ..fetching_arm import ADDRESS, DECODING_ERRORS, FROM_CALLER, FROM_OUTSIDE, Fetcher, httpx, shown
from ..image_processing_arm import ArmImageProcessor
from .file_errors import may_pass, no_fault_of_row, retried
from .row_errors import RowError, as_row_error, row_error

MAX_CODE = 2**16 - 1  # the largest codebook's last code, and what uint16 holds
STORE = re.compile(r"[\w+.-]+://|.*::", re.DOTALL)  # what `datasets` opens with fsspec: archives and remote stores
# Those of them that rows of files may name, if they are trusted. Not: what asks any host (http, ftp, sftp, ...).
LOCAL = frozenset("file local memory zip tar gzip bz2 xz zstd lz4".split())
STORES = LOCAL | frozenset("hf s3 s3a gs gcs az abfs abfss".split())
PAUSES = (0.5, 1.0, 2.0)  # seconds, before what may answer later is asked again
NO_HOST = (httpx.ConnectError, socket.gaierror)  # as the cause: nobody is there, and of an address that does not pass
LONGEST_WAIT = 1.5  # times a fetcher's max_seconds, after which no address is asked again: many hosts never answer


@dataclass(frozen=True)
class RowFetcher(Fetcher):
    """A `Fetcher` of what rows name.

    Args:
        texts: whether texts may name local files too, or only what `datasets` has found in a folder or archive may.
        asks: whether addresses and remote stores are asked. If not, None stands for what they would give.
    """

    texts: bool = True
    asks: bool = True


# Files, archives and stores that the user trusts whoever wrote the rows to name, and addresses of public hosts.
FROM_TRUSTED = replace(FROM_CALLER, private_hosts=False)
FROM_FOLDERS = RowFetcher(**vars(FROM_TRUSTED), texts=False)


def fetcher_for(dataset, local_files: bool = False) -> Fetcher:
    """What rows of a dataset may name as pictures.

    Rows that code of this process made (lists, `from_dict`, `from_generator`, and what `map` and
    `to_iterable_dataset` make of them) may name whatever it may. Of image folders, the files and archives that
    `datasets` found there are opened; texts in their metadata are somebody else's. All other rows (parquet, json, csv,
    tars, and what anybody may have saved: `load_from_disk`, `Dataset.from_file`) name http(s) addresses of public
    hosts alone, unless the caller trusts them; so do mixed ones (`concatenate_datasets`) but those that are all code's
    and in memory.

    Args:
        dataset: of `datasets`, or anything else that has rows.
        local_files: whether rows of files may name local files, archives and remote stores.
    """
    found = _origin(dataset)
    return FROM_TRUSTED if local_files and found != FROM_CALLER else found


def _origin(dataset) -> Fetcher:
    if not isinstance(dataset, Dataset | IterableDataset):
        return FROM_CALLER
    streamed, builder = isinstance(dataset, IterableDataset), dataset.info.builder_name
    if streamed and builder is None:  # `datasets` forgets it where it mixes streams, or makes one of a table
        origins = {_origin_of_source(source) for source in sources_of(dataset._ex_iterable)}
        return origins.pop() if len(origins) == 1 else FROM_OUTSIDE
    if not streamed and (_was_sent(dataset) or builder is None and dataset.cache_files):
        return FROM_OUTSIDE
    return _origin_of_builder(builder, dataset.features)


def _origin_of_source(source) -> Fetcher:
    """Of where a stream begins: tables, or a method of a builder."""
    if tables := [each for each in getattr(source, "kwargs", {}).get("shards", ()) if isinstance(each, Dataset)]:
        origins = set(map(_origin, tables))
        return origins.pop() if len(origins) == 1 else FROM_OUTSIDE
    function = getattr(source, "generate_examples_fn", None) or getattr(source, "generate_tables_fn", None)
    builder = getattr(function, "__self__", None)
    return _origin_of_builder(builder.name, builder.info.features) if hasattr(builder, "info") else FROM_OUTSIDE


def _origin_of_builder(name: str | None, features) -> Fetcher:
    if name in (None, "generator"):
        return FROM_CALLER
    module, _ = _PACKAGED_DATASETS_MODULES.get(name, ("", None))
    return FROM_FOLDERS if module.endswith("folder") and not _spells_pictures(features) else FROM_OUTSIDE


def _spells_pictures(feature) -> bool:
    """Whether metadata of a folder has columns that look as if `datasets` had put pictures there."""
    if isinstance(feature, List | LargeList):
        return _spells_pictures(feature.feature)
    if isinstance(feature, dict):  # parts of messages are no more than texts anyway
        return "path" in feature or any(_spells_pictures(each) for name, each in feature.items() if name != "messages")
    return type(feature).__name__ == "Json"  # which not all versions of `datasets` have


def _was_sent(dataset: Dataset) -> bool:
    """Whether a table was saved as a folder, which says of itself where it is from: anybody may have written that."""
    folders = {folder for file in dataset.cache_files for folder in Path(file["filename"]).parents}
    return any((folder / DATASET_STATE_JSON_FILENAME).is_file() for folder in folders)


def steps_before(examples) -> list:
    """What a step of a streamed dataset takes its rows from; of where they begin nothing."""
    return [*getattr(examples, "ex_iterables", ()), *filter(None, [getattr(examples, "ex_iterable", None)])]


def sources_of(examples) -> Iterator[object]:
    """Where a streamed dataset begins: what no other of its steps stands before."""
    before = steps_before(examples)
    for each in before:
        yield from sources_of(each)
    if not before:
        yield examples


class Written(dict):
    """An object of JSON that stood in a text: names in it are no more than those of a text."""


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
            if no_fault_of_row(error):
                raise
            raise _picture_error(error, index, column, file) from error


def _opened(value, fetcher: Fetcher):
    """What a value of `read_picture` names, opened; what names nothing as it is."""
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        content = value.get("bytes")
        if content is not None:
            return fetcher.open(content)
        return _open_named(value["path"], fetcher, is_path=not isinstance(value, Written))
    if isinstance(value, str):
        return _open_named(value, fetcher)
    if isinstance(value, bytes | os.PathLike):
        return fetcher.open(value)
    return np.asarray(value) if isinstance(value, list) else value  # arrays, as Arrow keeps them


def _open_named(name: str, fetcher: Fetcher, is_path: bool = False) -> PIL.Image.Image:
    """Opens what a text names; one that is a path is no base64."""
    texts, asks = getattr(fetcher, "texts", True), getattr(fetcher, "asks", True)
    if ADDRESS.match(name):
        return _open_address(name, fetcher) if asks else None
    is_local = fetcher.local_files and (is_path or texts)
    if is_local and STORE.match(name):
        protocols = _protocols(name)
        if texts and not fetcher.private_hosts:
            _check_protocols(name, protocols)
        if not asks and not LOCAL.issuperset(protocols):
            return None
        return fetcher.open(_stored_bytes(name, fetcher.max_bytes + 1))
    if is_local and (is_path or os.path.exists(name)):
        return fetcher.open(Path(name))
    cause = None
    if not is_path:
        try:
            return (fetcher if is_local else replace(fetcher, local_files=False)).open(name)
        except ValueError as error:
            if is_local or error.__cause__ is None:  # a limit
                raise
            cause = error
    raise ValueError(
        f"{shown(name)!r} is a path, and rows of files may name http(s) addresses only. Pass local_files=True if you "
        "trust whoever wrote them, or store the pictures in the rows."
    ) from cause


def _protocols(name: str) -> list[str]:
    """Through which an archive or a store is opened; a path that ends the chain has none."""
    *hops, last = name.split("::")
    return [hop.partition("://")[0] for hop in (*hops, *([last] if "://" in last else []))]


def _check_protocols(name: str, protocols: list[str]) -> None:
    """Raises a ValueError unless rows of files may name an archive or a store of these."""
    for protocol in protocols:
        if protocol not in STORES:
            raise ValueError(
                f"{shown(name)!r} is opened by {shown(protocol)!r}, but rows of files name "
                f"{', '.join(sorted(STORES))} only: what else opens files may ask any host. Download it first, or "
                "store the pictures in the rows."
            )


def _stored_bytes(name: str, most: int) -> bytes:
    """The first so many bytes of what an archive or a remote store holds.

    Raises:
        ConnectionError: a store does not answer, however often it is asked.
    """
    try:
        return retried(lambda: _stored_bytes_once(name, most), PAUSES)
    except Exception as error:
        if not may_pass(error):
            raise
        raise ConnectionError(
            f"{shown(name)} cannot be read, after {len(PAUSES) + 1} tries ({type(error).__name__}: {error}). No "
            "row is lost: go on later, from the last checkpoint."
        ) from error


def _stored_bytes_once(name: str, most: int) -> bytes:
    member, _, archive = name.partition("::")
    if archive:
        try:
            with _opened_archive(member.partition("://")[0], archive).open(member.partition("://")[2]) as file:
                return file.read(most)
        except FileNotFoundError:  # a member that there is not
            raise
        except Exception:  # a lost connection, or an archive of another kind
            _kept_archive.cache_clear()
    with xopen(name, "rb") as file:  # says what is wrong
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
    began, asked = time.monotonic(), 0

    def ask() -> PIL.Image.Image:
        nonlocal asked
        asked += 1
        return fetcher.open(address)

    def passes(error: Exception) -> bool:
        is_late = time.monotonic() - began > LONGEST_WAIT * fetcher.max_seconds
        return may_pass(error) and not is_late and not isinstance(error.__cause__, NO_HOST)

    try:
        return retried(ask, PAUSES, passes)
    except (ConnectionError, ValueError) as error:
        if isinstance(error, ValueError) and not may_pass(error):
            raise
        times = f", asked {asked} times" if asked > 1 else ""
        raise AddressError(f"{error}{times}. Is there a picture at {shown(address)}?") from error


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
