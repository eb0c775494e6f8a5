"""The files that a dataset consists of, and their rows as they stand there, as far as they can be read.

Tars and JSON lines are read here and nowhere else: members stay bytes and lines texts, so that one that cannot be
decoded costs its row, not the rest of its file. Knows nothing about what becomes of the rows.
"""

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import escape
from io import TextIOWrapper
from itertools import chain, groupby, islice
from operator import itemgetter
from traceback import walk_tb
from typing import IO

from datasets import (
    Dataset,
    DatasetBuilder,
    DownloadConfig,
    Features,
    IterableDataset,
    List,
    StreamingDownloadManager,
    Value,
    load_dataset,
    load_dataset_builder,
)
from datasets.data_files import DataFilesDict
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError
from datasets.iterable_dataset import _BaseExamplesIterable
from datasets.load import infer_module_for_data_files
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext
from datasets.utils.file_utils import xopen
from fsspec.implementations.http import HTTPStreamFile

from ..fetching_arm import FROM_OUTSIDE, Fetcher
from .columns import undecoded
from .file_errors import Fault, fault_of, read_on
from .fingerprints import of_files, of_step
from .folders import load_files, stated_files, told_unnamed
from .pictures import FROM_TRUSTED, fetcher_for, sources_of, steps_before
from .renaming import BROKEN, BROKEN_FILE
from .row_errors import file_error

SAMPLE = Features({"key": Value("string"), "members": List({"name": Value("string"), "bytes": Value("large_binary")})})
LINES = re.compile(r"\.(jsonl|ndjson)(\.\w+)?$")
FILES = re.compile(r"[*?]|://|\.(parquet|tar|tar\.gz|tgz)$")  # and no Hub id
LOOKED_AT = 1000  # lines that say which columns there are
LINE = Features({"line": Value("large_string")})
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


def whole_samples(
    files: list[str], marks: list[str], read: Callable[..., Iterator[dict]], download_config: DownloadConfig
) -> Iterator[dict]:
    """The samples of files that must not end early.

    Args:
        marks: what tells a file from one of another time, so that what is kept of the one is not taken for the other.
        read: `tar_samples` or `line_samples`.
    """
    for file in files:
        rows = 0
        try:
            for sample in read_on(lambda first, file=file: islice(read(file, download_config), first, None), file):
                rows += 1
                yield sample
        except Exception as error:
            if fault_of(error) is not Fault.BROKEN:
                raise
            raise ValueError(
                f"{file} ends early, after {rows} rows ({type(error).__name__}: {error}). Replace it, or state "
                "streaming: true, which reads it as far as it goes."
            ) from error


class IndexedRaw(Sequence):
    """Rows by number, kept by `datasets` as a table of what they are made from, samples of tars or lines.

    Args:
        samples: the table.
        decode: makes a row of one of its rows.
    """

    def __init__(self, samples: Dataset, decode: Callable[[dict], dict]):
        self.samples, self.decode = samples, decode

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict:
        return self.decode(self.samples[number])


def streamed_tars(tars: list[str], download_config: DownloadConfig | None = None) -> IterableDataset:
    """The rows of tars, streamed; each tar is a shard."""
    kwargs = {"tars": tars, "download_config": download_config}
    dataset = IterableDataset.from_generator(tar_rows, gen_kwargs=kwargs)
    dataset.info.builder_name = "webdataset"  # which says what its rows may name
    return dataset


# --- JSON, a row a line ----------------------------------------------------------------------------------------------


def line_samples(file: str, download_config: DownloadConfig | None = None) -> Iterator[dict]:
    """The lines, as `LINE` has them, of a file, unpacked, without blank ones; a byte that is no text is escaped, and
    as JSON knows no such escape, costs its line.
    """
    path = StreamingDownloadManager(download_config=download_config).extract(file)
    with xopen(path, "rb", download_config=download_config) as file:
        lines = TextIOWrapper(file, encoding="utf-8-sig", errors="backslashreplace")
        yield from ({"line": line} for line in map(str.strip, lines) if line)


def line_files(builder: DatasetBuilder, split: str) -> list[str]:
    """The files of a split that hold a row of JSON a line; none where they, or what is asked of them, differ."""
    config = builder.config
    if builder.name != "json" or config.field or config.features or config.encoding != "utf-8":
        return []
    files = list(chain.from_iterable((config.data_files or {}).get(name.strip(), [""]) for name in split.split("+")))
    if not all(map(LINES.search, files)):
        return []
    first = next(line_samples(files[0], downloading(builder)), {"line": ""})["line"]
    return [] if first == "{" or first.startswith("[") else files  # one text that spreads over lines


def line_row(sample: Mapping[str, str], names: Mapping[str, None], file: str = "") -> dict:
    """A line of JSON, as `LINE` has it, as a row with these columns in any case; one that is none as `BROKEN` says."""
    line = sample["line"]
    try:
        row, problem = json.loads(line), "no object, as a row is"
    except (ValueError, RecursionError) as error:
        row, problem = None, f"no JSON: {error}"
    if not isinstance(row, dict):
        return {BROKEN: f"the line {line[:80]!r} is {problem}. Mend it, or drop it.", BROKEN_FILE: file}
    return {**names, **row}


def line_rows(files: list[str], names: Mapping[str, None], download_config: DownloadConfig | None) -> Iterator[dict]:
    """The rows of files of JSON lines, one after the other."""
    for file in files:
        yield from (line_row(line, names, file) for line in line_samples(file, download_config))


def line_names(lines: Iterable[dict]) -> dict[str, None]:
    """The columns of rows that need not have them all, by the first lines."""
    rows = (line_row(line, {}) for line in islice(lines, LOOKED_AT))
    return {name: None for row in rows if BROKEN not in row for name in row}


def streamed_lines(files: list[str], download_config: DownloadConfig | None = None) -> IterableDataset:
    """The rows of files of JSON lines, streamed; each file is a shard."""
    kwargs = {"files": files, "names": line_names(line_samples(files[0], download_config))}
    dataset = IterableDataset.from_generator(line_rows, gen_kwargs=kwargs | {"download_config": download_config})
    dataset.info.builder_name = "json"  # which says what its rows may name
    return dataset


# --- datasets --------------------------------------------------------------------------------------------------------


def downloading(builder: DatasetBuilder) -> DownloadConfig:
    """How the files of a dataset are asked for."""
    return DownloadConfig(token=builder.token, storage_options=builder.storage_options)


def open_dataset(
    *, split: str = "train", streaming: bool = False, **arguments
) -> Dataset | IterableDataset | IndexedRaw:
    """What `load_files` loads, but for tars and JSON lines, of which nothing bad costs more than its row.

    Args:
        split, streaming, arguments: as for `load_dataset`; of tars a split is whole, or several joined by +.

    Raises:
        ValueError: there is no such split, or no row in it; or a tar ends early and is not streamed.
    """
    loading = {name: arguments.pop(name) for name in LOADING if name in arguments}
    arguments = stated_files(arguments, split)
    builder = load_dataset_builder(**arguments)
    lines, files = line_files(builder, str(split)), dict(builder.config.data_files or {})
    if not lines and builder.name != "webdataset":
        try:
            return load_files(**arguments, **loading, split=split, streaming=streaming)
        except ValueError as error:
            if "corresponds to no data" not in str(error):
                raise
            raise ValueError(
                f"{arguments['path']} has no rows in its split {str(split)!r}. Does its data_dir or data_files name "
                "the files?"
            ) from error
    files = {str(name): files for name, files in files.items()}
    splits = [name.strip() for name in str(split).split("+")]
    if missing := [name for name in splits if name not in files]:
        raise ValueError(f"These tars have no split {missing[0]!r}; they have {', '.join(files)}. Name one of these.")
    named, download_config = list(chain.from_iterable(files[name] for name in splits)), downloading(builder)
    if streaming:
        return (streamed_lines if lines else streamed_tars)(named, download_config)
    read, features = (line_samples, LINE) if lines else (tar_samples, SAMPLE)
    marks = [str(mark) for name in splits for mark in files[name].origin_metadata]
    kept = {"cache_dir": arguments.get("cache_dir"), "keep_in_memory": loading.get("keep_in_memory") or False}
    try:
        samples = Dataset.from_generator(
            whole_samples,
            features,
            gen_kwargs={"files": named, "marks": marks, "read": read, "download_config": download_config},
            num_proc=loading.get("num_proc"),
            writer_batch_size=SAMPLES_AT_ONCE,
            **kept,
        )
    except DatasetGenerationError as error:  # it says no more than that there was one
        raise error.__cause__ or error from None
    samples.info.builder_name = builder.name  # which says what its rows may name
    if not lines:
        return IndexedRaw(samples, sample_row)
    return IndexedRaw(
        samples, partial(line_row, names=line_names(samples.select(range(min(len(samples), LOOKED_AT)))))
    )


def is_of_reader(error: BaseException) -> bool:
    """Whether an error that a streamed dataset raised is of what reads its files, and not of a step behind that."""
    frames = (frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__))
    return any(isinstance(each, _BaseExamplesIterable) and not steps_before(each) for each in frames)


def steps_of(examples) -> list[str]:
    """What was done to a streamed dataset, from its `_ex_iterable` to where it begins: `of_step` each."""
    before = steps_before(examples)
    return [of_step(examples), *chain.from_iterable(map(steps_of, before))] if before else []


def _strings(value) -> Iterator[str]:
    """The texts in nested lists and tuples."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def file_names(dataset: IterableDataset) -> list[str]:
    """The files that a streamed dataset reads, in order, as far as they are known; none of a generator's."""
    names = []
    for source in sources_of(dataset._ex_iterable):  # `datasets` does not say it otherwise
        lists = (value for value in getattr(source, "kwargs", {}).values() if isinstance(value, list | tuple))
        names += next(filter(None, map(list, map(_strings, lists))), [])
    return names


def with_rows_undecoded(dataset: IterableDataset) -> IterableDataset:
    """A streamed dataset of tars or JSON lines as `open_dataset` has it, if nothing was done to it; or as it is."""
    names = ("generate_examples_fn", "generate_tables_fn")
    function = next(filter(None, (getattr(dataset._ex_iterable, name, None) for name in names)), None)
    builder = getattr(function, "__self__", None)
    if isinstance(builder, Json) and (files := line_files(builder, str(dataset.split))):
        return streamed_lines(files, downloading(builder)) if len(files) == dataset.num_shards else dataset
    if not isinstance(builder, WebDataset) or len(tars := file_names(dataset)) != dataset.num_shards:
        return dataset
    return streamed_tars(tars, downloading(builder))


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    """The columns of a dataset; of a stream that does not say, those of its first row that is not `BROKEN`."""
    return dataset.column_names or list(next((row for row in dataset if BROKEN not in row), ()))


def shard_names(dataset: IterableDataset) -> list[str]:
    """What messages call the shards of a streamed dataset: the files that they are, or else their numbers."""
    names, shards = file_names(dataset), dataset.num_shards
    return names if len(names) == shards else [f"file {number} of {shards}" for number in range(1, shards + 1)]


def rows_of(dataset: Dataset | IterableDataset) -> Iterator[dict]:
    """The rows of a dataset in order, as they stand there: pictures are not opened, lines of JSON may be `BROKEN`.

    Raises:
        RowError: a file cannot be read to its end; names it.
        ConnectionError: as `read_on` says.
    """
    if not isinstance(dataset, IterableDataset):
        yield from undecoded(dataset)
        return
    dataset = undecoded(with_rows_undecoded(dataset))
    parts = {", ".join(shard_names(dataset)): dataset}
    if not steps_of(dataset._ex_iterable):  # of which some, such as take, are not what they were in a shard
        parts = {name: dataset.shard(dataset.num_shards, n) for n, name in enumerate(shard_names(dataset))}
    for name, part in parts.items():
        rows = 0
        try:
            for row in read_on(lambda first, part=part: part.skip(first) if first else part, name):
                rows += 1
                yield row
        except Exception as error:
            if fault_of(error) is not Fault.BROKEN or not is_of_reader(error):
                raise
            raise file_error(rows, error, name) from error


@dataclass(frozen=True)
class InputFile:
    """An input file; or a whole dataset, where one file is not one part of it (image folders)."""

    name: str
    builder: str
    content: str | Dataset  # the path of a file, or the dataset
    unnamed: tuple[str, ...] = ()  # pictures that lie there and are in no row

    def made_of(self) -> list:
        """What tells a file from another of its name: see `of_files`; of a dataset how many rows it has."""
        return of_files([self.content])[0][1:] if isinstance(self.content, str) else [len(self.content)]

    def fetcher(self, local_files: bool = False) -> Fetcher:
        """Opens what its rows name as pictures; see `fetcher_for`."""
        if isinstance(self.content, str):
            return FROM_TRUSTED if local_files else FROM_OUTSIDE
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
        if self.builder == "json":
            return islice(line_rows([self.content], {}, None), first, None)
        dataset = undecoded(load_dataset("parquet", data_files=self.content, split="train", streaming=True))
        return iter(dataset.skip(first) if first else dataset)


def find_sources(dataset: str, config: str | None, split: str) -> list[InputFile]:
    """The sources of a dataset: a folder, a Hub id, or files of any kind that `datasets` knows (a pattern with * too).

    Parquet, tars and JSON lines are streamed, file by file; anything else `datasets` loads first, of pictures only the
    paths.

    Raises:
        ValueError: there is no such split, it cannot be loaded, or nobody knows what kind the files are of.
    """
    folder = os.path.abspath(dataset) if os.path.isdir(dataset) else None
    arguments = {"path": folder or dataset, **({"name": config} if config else {})}
    if folder is None and (os.path.isfile(dataset) or FILES.search(dataset)):
        kind, options = "webdataset", {}
        if not dataset.endswith(".tgz"):  # which `datasets` does not know by its name
            try:
                file = escape(dataset) if os.path.isfile(dataset) else dataset
                kind, options = infer_module_for_data_files(DataFilesDict.from_patterns({split: [file]}))
            except DataFilesNotFoundError as error:
                problem = "is of no kind that `datasets` knows. Name parquet files, tars, JSON or a folder"
                raise ValueError(f"{dataset} {problem}.") from error
        arguments = {"path": kind, "data_files": {split: dataset}, **options}
    arguments = stated_files(arguments, split)
    builder = load_dataset_builder(**arguments)
    files = {str(name): paths for name, paths in builder.config.data_files.items()}
    if split not in files:
        raise ValueError(f"{dataset} has no split {split!r}; it has {', '.join(files)}. Name one of these.")
    if builder.name in ("parquet", "webdataset") or line_files(builder, split):
        kind = builder.name
        return [InputFile(os.path.relpath(file, folder) if folder else file, kind, file) for file in files[split]]
    try:
        rows = load_dataset(**arguments, split=split)
    except DatasetGenerationError as error:  # it says no more than that there was one
        raise ValueError(f"{dataset} cannot be loaded: {error.__cause__}") from error
    return [InputFile(dataset, builder.name, rows, tuple(told_unnamed(rows, arguments, split)))]
