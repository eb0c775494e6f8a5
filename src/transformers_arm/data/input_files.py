"""The files that a dataset consists of, and their rows as they stand there, as far as they can be read.

Tars are read here and nowhere else: their members stay bytes, so that one that cannot be decoded costs its row, not
the rest of its tar. Knows nothing about what becomes of the rows.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import IO

from datasets import (
    Dataset,
    DownloadConfig,
    Features,
    IterableDataset,
    List,
    StreamingDownloadManager,
    Value,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext
from datasets.utils.file_utils import xopen
from fsspec.implementations.http import HTTPStreamFile

from ..fetching_arm import FROM_OUTSIDE, Fetcher
from .columns import undecoded
from .file_errors import Fault, fault_of, read_on
from .fingerprints import of_files, of_step
from .pictures import FROM_FOLDERS, fetcher_for

SAMPLE = Features({"key": Value("string"), "members": List({"name": Value("string"), "bytes": Value("large_binary")})})
SAMPLES_AT_ONCE = 100  # that are in memory together while tars become a table
# Of `load_dataset`, and not of the builder that it makes.
LOADING = ("num_proc", "keep_in_memory", "verification_mode", "save_infos")


# --- tars ------------------------------------------------------------------------------------------------------------


class Whole(tarfile.TarInfo):
    """A member of a tar that must not end early: `tarfile` takes a damaged or cut header for the end of the tar."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "Whole":
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(f"{error}, at byte {archive.offset}") from error
        except tarfile.EmptyHeaderError as error:
            raise tarfile.ReadError("the blocks that close a tar are missing") from error


def tar_members(path: str, download_config: DownloadConfig | None) -> Iterator[tuple[str, IO[bytes]]]:
    """The members of a tar in order, as `iter_archive` of `datasets` has them, which goes on for long where this ends.

    Behind an address it reads a lost connection again for 100 seconds, and gets nothing more.
    """
    with xopen(path, "rb", download_config=download_config, block_size=0) as file:
        if isinstance(file, HTTPStreamFile):
            vars(file).pop("read", None)  # the one that reads again
        with tarfile.open(fileobj=file, mode="r|*", tarinfo=Whole) as archive:
            for member in archive:
                if member.isreg() and not os.path.basename(member.name).startswith((".", "__")):
                    yield member.name, archive.extractfile(member)
                archive.members = []  # or it keeps them all


def tar_samples(path: str, download_config: DownloadConfig | None = None) -> Iterator[dict]:
    """The samples of a tar, as `SAMPLE` has them: members that follow each other and share what is before the dot.

    Of a tar that ends early the last sample is none: nobody knows which of its members were to follow.
    """
    if path.endswith(".zip"):
        archive = StreamingDownloadManager(download_config=download_config).iter_archive(path)
    else:
        archive = tar_members(path, download_config)
    named = ((*base_plus_ext(name), file) for name, file in archive)
    for key, members in groupby((each for each in named if each[0] is not None), itemgetter(0)):
        yield {"key": key, "members": [{"name": name, "bytes": file.read()} for _, name, file in members]}


def sample_row(sample: dict) -> dict:
    """A sample of a tar as a row: what stands behind a member's first dot names its column.

    A column that two members have holds both, which is of no use, as its row's error will say.
    """
    row = {}
    for member in sample["members"]:
        value = {"bytes": member["bytes"], "path": f"{sample['key']}.{member['name']}"}
        row[member["name"]] = [row[member["name"]], value] if member["name"] in row else value
    return row


def tar_rows(tars: Sequence[str], download_config: DownloadConfig | None = None) -> Iterator[dict]:
    """The rows of tars, one after the other."""
    for tar in tars:
        yield from map(sample_row, tar_samples(tar, download_config))


def whole_tar_samples(tars: list[str], marks: list[str], download_config: DownloadConfig) -> Iterator[dict]:
    """The samples of tars that must not end early.

    Args:
        marks: what tells a tar from one of another time, so that what is kept of the one is not taken for the other.
    """
    for tar in tars:
        rows = 0
        try:
            for sample in read_on(lambda first, tar=tar: islice(tar_samples(tar, download_config), first, None), tar):
                rows += 1
                yield sample
        except Exception as error:
            if fault_of(error) is not Fault.BROKEN:
                raise
            raise ValueError(
                f"{tar} ends early, after {rows} rows ({type(error).__name__}: {error}). Replace it, or state "
                "streaming: true, which reads it as far as it goes."
            ) from error


class IndexedTars(Sequence):
    """The rows of tars by number, kept by `datasets` as a table."""

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict:
        return sample_row(self.samples[number])


def streamed_tars(tars: list[str], download_config: DownloadConfig | None = None) -> IterableDataset:
    """The rows of tars, streamed; each tar is a shard."""
    kwargs = {"tars": tars, "download_config": download_config}
    dataset = IterableDataset.from_generator(tar_rows, gen_kwargs=kwargs)
    dataset.info.builder_name = "webdataset"  # which says what its rows may name
    return dataset


# --- datasets --------------------------------------------------------------------------------------------------------


def open_dataset(
    *, split: str = "train", streaming: bool = False, **arguments
) -> Dataset | IterableDataset | IndexedTars:
    """What `datasets.load_dataset` opens, but for tars, whose rows come as `tar_rows` gives them.

    Args:
        split, streaming, arguments: as for `load_dataset`; of tars a split is whole, or several joined by +.

    Raises:
        ValueError: there is no such split, or a tar ends early and is not streamed.
    """
    loading = {name: arguments.pop(name) for name in LOADING if name in arguments}
    builder = load_dataset_builder(**arguments)
    if builder.name != "webdataset":
        return load_dataset(**arguments, **loading, split=split, streaming=streaming)
    files = {str(name): files for name, files in builder.config.data_files.items()}
    splits = [name.strip() for name in str(split).split("+")]
    if missing := [name for name in splits if name not in files]:
        raise ValueError(f"These tars have no split {missing[0]!r}; they have {', '.join(files)}. Name one of these.")
    tars = list(chain.from_iterable(files[name] for name in splits))
    download_config = DownloadConfig(token=builder.token, storage_options=builder.storage_options)
    if streaming:
        return streamed_tars(tars, download_config)
    marks = [str(mark) for name in splits for mark in files[name].origin_metadata]
    kept = {"cache_dir": arguments.get("cache_dir"), "keep_in_memory": loading.get("keep_in_memory") or False}
    try:
        samples = Dataset.from_generator(
            whole_tar_samples,
            SAMPLE,
            gen_kwargs={"tars": tars, "marks": marks, "download_config": download_config},
            num_proc=loading.get("num_proc"),
            writer_batch_size=SAMPLES_AT_ONCE,
            **kept,
        )
    except DatasetGenerationError as error:  # it says no more than that there was one
        raise error.__cause__ or error from None
    samples.info.builder_name = builder.name  # which says what its rows may name
    return IndexedTars(samples)


def _before(examples) -> list:
    """What a step of a streamed dataset takes its rows from; of where they begin nothing."""
    return [*getattr(examples, "ex_iterables", ()), *filter(None, [getattr(examples, "ex_iterable", None)])]


def _sources_of(examples) -> Iterator[object]:
    """Where a streamed dataset begins: what no other of its steps stands before."""
    yield from chain.from_iterable(map(_sources_of, _before(examples))) if _before(examples) else [examples]


def steps_of(examples) -> list[str]:
    """What was done to a streamed dataset, from its `_ex_iterable` to where it begins: `of_step` each."""
    before = _before(examples)
    return [of_step(examples), *chain.from_iterable(map(steps_of, before))] if before else []


def _strings(value) -> Iterator[str]:
    """The texts in nested lists and tuples."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def all_files(dataset: IterableDataset) -> list[str]:
    """All files that a streamed dataset reads, in order, as far as they are known; none of a generator's."""
    values = [getattr(source, "kwargs", {}).values() for source in _sources_of(dataset._ex_iterable)]
    listed = [value for value in chain.from_iterable(values) if isinstance(value, list | tuple)]
    return list(dict.fromkeys(chain.from_iterable(map(_strings, listed))))


def file_names(dataset: IterableDataset) -> list[str] | None:
    """The files that a streamed dataset's shards are, in order; None where they are not known to be files."""
    names = []
    for source in _sources_of(dataset._ex_iterable):  # `datasets` does not say it otherwise
        lists = [value for value in getattr(source, "kwargs", {}).values() if isinstance(value, list)]
        names += next((list(each) for each in lists if each and all(isinstance(name, str) for name in each)), [])
    return names if len(names) == dataset.num_shards else None


def with_tars_undecoded(dataset: IterableDataset) -> IterableDataset:
    """A streamed dataset of tars as `open_dataset` has it, if nothing was done to it yet; any other as it is."""
    function = getattr(dataset._ex_iterable, "generate_examples_fn", None)
    builder = getattr(function, "__self__", None)
    if not isinstance(builder, WebDataset) or (tars := file_names(dataset)) is None:
        return dataset
    return streamed_tars(tars, DownloadConfig(token=builder.token, storage_options=builder.storage_options))


@dataclass(frozen=True)
class InputFile:
    """An input file; or a whole dataset, where one file is not one part of it (image folders)."""

    name: str
    builder: str
    content: str | Dataset  # the path of a file, or the dataset

    def made_of(self) -> list:
        """What tells a file from another of its name: see `of_files`; of a dataset how many rows it has."""
        return of_files([self.content])[0][1:] if isinstance(self.content, str) else [len(self.content)]

    def fetcher(self, local_files: bool = False) -> Fetcher:
        """Opens what its rows name as pictures; see `fetcher_for`."""
        if isinstance(self.content, str):
            return FROM_FOLDERS if local_files else FROM_OUTSIDE
        return fetcher_for(self.content, local_files)

    def rows(self) -> Iterator[dict]:
        """Its rows as they stand there, pictures not opened; read on after transient errors."""
        if isinstance(self.content, str):
            yield from read_on(self._rows_from, self.content)
        else:
            yield from undecoded(self.content)

    def _rows_from(self, first: int) -> Iterator[dict]:
        if self.builder == "webdataset":
            return islice(tar_rows([self.content]), first, None)
        dataset = undecoded(load_dataset("parquet", data_files=self.content, split="train", streaming=True))
        return iter(dataset.skip(first) if first else dataset)


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
