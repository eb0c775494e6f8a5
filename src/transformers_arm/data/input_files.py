"""The files that a dataset of pictures consists of, and their rows as they stand there, as far as they can be read.

Knows nothing about what becomes of the rows.
"""

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from datasets import Dataset, StreamingDownloadManager, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .columns import undecoded

# What readers raise on files that are cut off or damaged.
BROKEN_FILE_ERRORS = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, ValueError, OSError)


class UndecodedWebDataset(WebDataset):
    """Tars whose members stay bytes: a text that cannot be decoded must cost its row, not the rest of its tar."""

    DECODERS = {}


def lacks_closing_blocks(path: str) -> bool:
    """Whether a plain tar on the disk was cut off between two members, where its reader notices nothing."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        is_plain = file.read(262)[257:] == b"ustar"
        file.seek(-min(1024, os.path.getsize(path)), os.SEEK_END)
        return is_plain and any(file.read())


def tar_rows(path: str) -> Iterator[dict]:
    """The samples of a tar as rows: what stands behind a member's first dot names its column."""
    for row in UndecodedWebDataset._get_pipeline_from_tar(path, StreamingDownloadManager().iter_archive(path)):
        key, _ = row.pop("__key__"), row.pop("__url__")
        yield {name: {"bytes": content, "path": f"{key}.{name}"} for name, content in row.items()}
    if lacks_closing_blocks(path):
        raise EOFError("the blocks that close a tar are missing")


@dataclass(frozen=True)
class InputFile:
    """An input file; or a whole dataset, where one file is not one part of it (image folders)."""

    name: str
    builder: str
    content: str | Dataset  # the path of a file, or the dataset

    def rows(self) -> Iterator[dict]:
        """Its rows as they stand there, pictures not opened."""
        if self.builder == "webdataset":
            yield from tar_rows(self.content)
        elif self.builder == "parquet":
            yield from undecoded(load_dataset("parquet", data_files=self.content, split="train", streaming=True))
        else:
            yield from undecoded(self.content)


def find_sources(dataset: str, config: str | None, split: str) -> list[InputFile]:
    """The sources of a dataset: a folder, a Hub id, or parquet or tar files (a pattern with * too).

    Parquet and tars are streamed, file by file; anything else `datasets` loads first, of pictures only the paths.

    Raises:
        ValueError: there is no such split, or it cannot be loaded.
    """
    folder = os.path.abspath(dataset) if os.path.isdir(dataset) else None
    if folder is None and dataset.endswith((".parquet", ".tar", ".tar.gz", ".tgz")):
        kind = "parquet" if dataset.endswith(".parquet") else "webdataset"
        builder = load_dataset_builder(kind, data_files={split: dataset})
    else:
        builder = load_dataset_builder(folder or dataset, config)
    files = {str(name): paths for name, paths in builder.config.data_files.items()}
    if split not in files:
        raise ValueError(f"{dataset} has no split {split!r}; it has {', '.join(files)}. Name one of these.")
    if builder.name in ("parquet", "webdataset"):
        kind = builder.name
        return [InputFile(os.path.relpath(file, folder) if folder else file, kind, file) for file in files[split]]
    try:
        return [InputFile(dataset, builder.name, load_dataset(folder or dataset, config, split=split))]
    except DatasetGenerationError as error:  # it says no more than that there was one
        raise ValueError(f"{dataset} cannot be loaded: {error.__cause__}") from error


def until_broken(rows: Iterable[dict], problems: list[str]) -> Iterator[dict]:
    """The rows of a file as far as it can be read; what ended them too early is added to `problems`.

    An error of the disk or the network is no fault of the file and is raised: the run can go on later.
    """
    try:
        yield from rows
    except BROKEN_FILE_ERRORS as error:
        if isinstance(error, OSError) and (error.errno is not None or isinstance(error, ConnectionError)):
            raise
        problems.append(f"{type(error).__name__}: {error}")
