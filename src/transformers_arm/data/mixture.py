"""A mixture of sources of conversations: drawn by weight, shuffled, spread over streams, resumable to the row.

    sources = {"drawn": Source.from_recipe({"dataset": {"path": "parquet", "data_files": "codes/*.parquet"}}), ...}
    for name, conversation, state in Mixture(sources, seed=0, streams=8).draw(stream=3):
        ...

Streams share the rows of every source out among themselves: no row is read by two in one epoch. What a stream draws is
a pure function of the seed and its state, which is small and goes into JSON, so that whoever keeps the state of the
last row goes on behind it. Knows nothing about tokens, processes and workers.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import blake2b
from itertools import count
from random import Random
from typing import NamedTuple

import datasets
import fsspec

from .columns import COLUMNS, row_conversation, undecoded
from .conversations import NO_DROPOUT, check_condition_dropout, drop_conditions
from .file_errors import Fault, fault_of, read_on
from .fingerprints import digest, of_files, of_first_row, of_rows
from .input_files import (
    LOADING,
    IndexedRaw,
    file_names,
    is_of_reader,
    open_dataset,
    shard_names,
    steps_of,
    with_rows_undecoded,
)
from .pictures import fetcher_for, rgb_picture
from .renaming import arranged, check_rename
from .row_errors import FEWEST_ROWS, RowError, as_row_error, check_skipped, file_error
from .world import find_world

logger = logging.getLogger(__name__)

SHOWN_OF_A_REASON = 3  # skipped rows that a stream logs of each source and reason
PLACES = (  # arguments of load_dataset that say where data lie and how they are loaded, not what they are
    *("path", "data_dir", "data_files", "cache_dir", "token", "storage_options", "download_config", "download_mode"),
    *LOADING,
)
EMPTY_EPOCHS = 100  # a stream may find no row for; with fewer rows than streams it often does


class IndexedState(NamedTuple):
    """Where a stream of indexed rows is: the epoch of its last row, and how many it has drawn."""

    epoch: int = 0
    drawn: int = 0

    def to_json(self) -> dict:
        return self._asdict()


class StreamedState(NamedTuple):
    """Where a stream of files is: the part of the epoch, the row where its buffer began, how many it took of that.

    `rows` counts those of this epoch, `rows_before` those of the one before.
    """

    epoch: int = 0
    part: int = 0
    block: int = 0
    taken: int = 0
    rows: int = 0
    rows_before: int | None = None

    def to_json(self) -> dict:
        return self._asdict()


class MixtureState(NamedTuple):
    """Where a stream of a mixture is: how often it drew, where its readers are, and by source how many rows it read
    and how many it skipped for which reason.
    """

    draws: int = 0
    readers: Mapping[str, IndexedState | StreamedState] = {}
    read: Mapping[str, int] = {}
    skipped: Mapping[str, Mapping[str, int]] = {}

    def to_json(self) -> dict:
        return self._asdict() | {"readers": {name: state.to_json() for name, state in self.readers.items()}}

    @classmethod
    def from_json(cls, state: Mapping) -> "MixtureState":
        kinds = {name: IndexedState if "drawn" in each else StreamedState for name, each in state["readers"].items()}
        readers = {name: kind(**state["readers"][name]) for name, kind in kinds.items()}
        return cls(**{**state, "readers": readers})


class Read(NamedTuple):
    """A row, or the error that stands in its place; its number, of which file ("" if of none); the state after it."""

    row: object
    number: int
    file: str
    state: IndexedState | StreamedState


def permuted(index: int, length: int, key: str) -> int:
    """Where a pseudo-random permutation of 0..length-1 sends an index.

    A Feistel network of four rounds, walked until it is back in range: no list of a billion rows is kept.
    """
    half = (max(length - 1, 1).bit_length() + 1) // 2
    while True:
        left, right = index >> half, index & (1 << half) - 1
        for turn in range(4):
            digest = blake2b(f"{key}/{turn}/{right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & (1 << half) - 1)
        index = left << half | right
        if index < length:
            return index


class IndexedRows:
    """Rows that can be had by number, such as an Arrow dataset's: drawn in a new random order every epoch.

    Args:
        dataset: what holds them.
        key: two readers with different keys have different orders.
        shuffle: False keeps the order.
    """

    def __init__(self, dataset: Sequence, *, key: str, shuffle: bool = True):
        self.dataset, self.key, self.shuffle = dataset, key, shuffle
        if not len(dataset):
            raise ValueError(f"Source {key} has no rows. Does its data_dir or data_files name the files?")

    def read(self, stream: int, streams: int, state: IndexedState | None = None) -> Iterator[Read]:
        """The rows of one of `streams` streams, endlessly, behind `state`."""
        length = len(self.dataset)
        for drawn in count(state.drawn if state else 0):
            epoch, number = divmod(drawn * streams + stream, length)
            if self.shuffle:
                number = permuted(number, length, f"{self.key}/{epoch}")
            try:
                with as_row_error(number):
                    row = self.dataset[number]
            except RowError as error:
                row = error
            yield Read(row, number, "", IndexedState(epoch, drawn + 1))

    def made_of(self) -> dict:
        """What its order and its rows depend on."""
        return {"shuffle": self.shuffle, **of_rows(self.dataset)}


class StreamedRows:
    """Rows of files that are read from their beginning: files in a new random order every epoch, rows within a buffer.

    A stream reads whole files, or every n-th row of one where there are fewer files than streams: many files are
    better. The buffer is filled, emptied in random order and filled again, so that its state is where it began. A
    file that is cut off or damaged is an error in place of the row after the last; the others go on. Where the
    connection is lost, the file is read on.

    Args:
        dataset: streamed; `num_shards` are its files.
        key, shuffle: as for `IndexedRows`.
        shuffle_buffer: rows that change places.
    """

    def __init__(self, dataset: datasets.IterableDataset, *, key: str, shuffle: bool = True, shuffle_buffer: int):
        self.dataset, self.key, self.shuffle, self.shuffle_buffer = dataset, key, shuffle, shuffle_buffer
        if shuffle_buffer < 1:
            raise ValueError(f"Source {key} has shuffle_buffer {shuffle_buffer}; it takes 1 row or more.")
        self.files = shard_names(dataset)

    def made_of(self) -> dict:
        """What its order and its rows depend on."""
        found = {"shuffle": self.shuffle, "shuffle_buffer": self.shuffle_buffer, "shards": self.dataset.num_shards}
        files, steps = dict.fromkeys(file_names(self.dataset)), steps_of(self.dataset._ex_iterable)
        found |= {"files": of_files(files)} if files else {"first_row": of_first_row(self.dataset)}
        return found | ({"steps": steps} if steps else {})

    def read(self, stream: int, streams: int, state: StreamedState | None = None) -> Iterator[Read]:
        """The rows of one of `streams` streams, endlessly, behind `state`.

        Raises:
            ValueError: there are no rows, or so few that the stream never gets one.
            ConnectionError: a file cannot be read on, however often it is tried.
        """
        fsspec.asyn.reset_lock()  # in a forked worker, files at an address would wait for it for ever
        at, empty = state or StreamedState(), 0
        while True:
            for read in self._epoch(stream, streams, at):
                at = read.state
                yield read
            empty = 0 if at.rows else empty + 1
            if empty == EMPTY_EPOCHS:
                raise ValueError(
                    f"Source {self.key} gave stream {stream} of {streams} no row in {empty} epochs. Does its data_dir "
                    "or data_files name the files? With few rows, take fewer streams, or streaming=False."
                )
            at = StreamedState(epoch=at.epoch + 1, rows_before=at.rows)

    def _epoch(self, stream: int, streams: int, at: StreamedState) -> Iterator[Read]:
        """What an epoch has behind a state: block by block of part by part."""
        parts, rows = self._parts(stream, streams, at.epoch), at.rows
        for number in range(at.part, len(parts)):
            file, *_ = parts[number]
            begun = number == at.part
            for block, held in self._blocks(*parts[number], at.block if begun else 0):
                if self.shuffle:
                    Random(f"{self.key}/{at.epoch}/{file}/{held[0][0]}").shuffle(held)
                taken = at.taken if begun and block == at.block else 0
                for place, (row_number, row) in enumerate(held[taken:], taken + 1):
                    rows += not isinstance(row, RowError)
                    state = at._replace(part=number, block=block, taken=place, rows=rows)
                    yield Read(row, row_number, self.files[file], state)

    def _parts(self, stream: int, streams: int, epoch: int) -> list[tuple[int, int, int]]:
        """What a stream reads in an epoch: (file, p, n) is every n-th row of a file, from row p on."""
        files = self.dataset.num_shards
        each = -(-streams // files)
        parts = [(file, part, each) for file in range(files) for part in range(each)]
        if self.shuffle:
            Random(f"{self.key}/{epoch}").shuffle(parts)
        return parts[stream::streams]

    def _blocks(self, file: int, part: int, parts: int, first: int) -> Iterator[tuple[int, list]]:
        """From row `first` of a file on, what the buffer holds at a time: the row where it begins, and (number, row)
        of all, with an error after the last row that can be read.
        """
        shard = self.dataset.shard(self.dataset.num_shards, file)
        # By batches, because iter(shard) would share the file out among workers, who have whole files each.
        rows = read_on(lambda number: shard.skip(number).iter(batch_size=1), self.files[file], first)
        number, ended = first, False
        while not ended:
            held = []
            while not ended and len(held) < self.shuffle_buffer:
                try:
                    row = {name: values[0] for name, values in next(rows).items()}
                except StopIteration:
                    ended = True
                except Exception as error:
                    if fault_of(error) is not Fault.BROKEN or not is_of_reader(error):
                        raise
                    held.append((number, file_error(number, error)))
                    ended = True
                else:
                    if number % parts == part:
                        held.append((number, row))
                    number += 1
            if held:
                yield first, held
            first = number


@dataclass
class Source:
    """Rows that are conversations, or become them (`data/columns.py`), and how they are drawn.

    Args:
        dataset: of `datasets`, streamed or not, or anything that has conversations or rows by number.
        weight: share of this source among the *examples* that are drawn, relative to the others'. Not of the tokens:
            a picture has a thousand, a question ten.
        rename: names of columns -> the names of `data/columns.py`.
        fill: columns that all rows have with one value: `task`, or a `prompt` for captions that come without one.
        condition_dropout: probabilities `text`, `image` and `both` of `drop_conditions`; None takes its own.
        shuffle: False draws rows in order.
        shuffle_buffer: rows of a streamed file that change places; a stream holds as many.
        rows: how many the source is stated to have; an epoch with fewer is reported.
        local_files: whether rows of files may name local pictures, see `fetcher_for`.

    Raises:
        ValueError: the weight is not positive, a probability has another name, or what is renamed is not there.
    """

    dataset: object
    weight: float = 1.0
    rename: dict[str, str] = field(default_factory=dict)
    fill: dict[str, object] = field(default_factory=dict)
    condition_dropout: dict[str, float] | None = None
    shuffle: bool = True
    shuffle_buffer: int = 1000
    rows: int | None = None
    local_files: bool = False
    stated: dict = field(default_factory=dict, init=False, repr=False)  # by a recipe, of where the rows come from

    def __post_init__(self):
        if not self.weight > 0:
            raise ValueError(f"A source has weight {self.weight}; it must be above 0. Leave out what is not drawn.")
        check_condition_dropout(self.condition_dropout)
        check_rename(self.rename, COLUMNS, getattr(self.dataset, "column_names", None))
        table = self.dataset.samples if isinstance(self.dataset, IndexedRaw) else self.dataset
        self.fetcher = fetcher_for(table, self.local_files)

    @classmethod
    def from_recipe(cls, section: Mapping, *, seed: int = 0) -> "Source":
        """A source as a recipe states it.

        Args:
            section: fields of this class, with `dataset` the arguments of `datasets.load_dataset` (split "train"
                unless it says otherwise); or in its place `world`, the name of one, and `arguments` of its `tasks`:
                endless, in the world's own order, what it states in steps stated in conversations.
            seed: of the world.

        Raises:
            ValueError: neither or both of these, a field that there is not, or no such world.
        """
        section = dict(section)
        known = {each.name for each in fields(cls) if each.init} | (
            {"world", "arguments"} if "world" in section else {"world"}
        )
        if unknown := set(section) - known:
            raise ValueError(f"A source has no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known))}.")
        if ("dataset" in section) == ("world" in section):
            raise ValueError("A source needs either 'dataset' (of load_dataset) or 'world' (the name of one).")
        if "world" in section:
            world = section.pop("world")
            arguments = {"length": sys.maxsize, "seed": seed, **(section.pop("arguments", None) or {})}
            # The mixture drops conditions, of this source as of all.
            tasks = find_world(world).tasks(**arguments, condition_dropout=NO_DROPOUT)
            source = cls(tasks, shuffle=False, **section)
            source.stated = {"world": world, "arguments": arguments}
        else:
            opened = section.pop("dataset")
            source = cls(open_dataset(**opened), **section)
            source.stated = {"dataset": {name: value for name, value in opened.items() if name not in PLACES}}
        return source

    def reader(self, key: str) -> IndexedRows | StreamedRows:
        """What reads its rows, with pictures as files."""
        dataset = self.dataset
        if isinstance(dataset, datasets.IterableDataset):
            dataset = with_rows_undecoded(dataset)
        if isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
            dataset = undecoded(dataset)
        if isinstance(dataset, datasets.IterableDataset):
            return StreamedRows(dataset, key=key, shuffle=self.shuffle, shuffle_buffer=self.shuffle_buffer)
        return IndexedRows(dataset, key=key, shuffle=self.shuffle)

    def conversation(self, row: Mapping | list[dict], number: int, prepare: Callable = rgb_picture) -> list[dict]:
        """`row_conversation` of a row, its columns renamed and filled; a conversation stays one."""
        if not isinstance(row, Mapping):
            return row
        named = arranged(row, number, self.rename, fill=self.fill)
        return row_conversation(named, number, prepare, self.fetcher)

    def made_of(self) -> dict:
        """What the conversations depend on besides its rows."""
        # Of several names the first counts: pairs, because JSON's objects have no order.
        stated = {"weight": self.weight, "rename": list(self.rename.items()), "fill": self.fill}
        stated |= {"condition_dropout": self.condition_dropout, "local_files": self.local_files, **self.stated}
        return json.loads(json.dumps(stated, default=digest))


def counted(counts: dict[str, int], name: str, by: int = 1) -> dict[str, int]:
    """Counts with one of them raised; a new dict, for states are kept."""
    return {**counts, name: counts.get(name, 0) + by}


class Mixture:
    """Sources and how their rows are drawn.

    Args:
        sources: by name.
        seed: two mixtures with different seeds draw in different orders.
        streams: how many share the rows out; fixed for a training, whatever its processes and workers.
        max_skipped: share of the rows that a stream reads of a source, and of at least 100, that may be unusable.

    Raises:
        ValueError: no sources, no streams, or a source without rows.
    """

    def __init__(self, sources: dict[str, Source], *, seed: int, streams: int, max_skipped: float = 0.05):
        if not sources:
            raise ValueError("A mixture needs sources: {name: source, ...}.")
        if streams < 1:
            raise ValueError(f"A mixture has {streams} streams; it takes 1 or more.")
        self.sources, self.seed, self.streams, self.max_skipped = sources, seed, streams, max_skipped
        self.readers = {name: source.reader(f"{name}/{seed}") for name, source in sources.items()}

    @classmethod
    def from_recipe(cls, sources: Mapping[str, Mapping], *, seed: int, **fields) -> "Mixture":
        """A mixture of sources as `Source.from_recipe` takes them, and fields of this class."""
        return cls({name: Source.from_recipe(each, seed=seed) for name, each in sources.items()}, seed=seed, **fields)

    def draw(
        self,
        stream: int,
        state: MixtureState | None = None,
        *,
        encode: Callable = lambda conversation: conversation,
        prepare: Callable = rgb_picture,
    ) -> Iterator[tuple[str, object, MixtureState]]:
        """What a stream draws, endlessly, behind `state`: (name of the source, sample, the stream's state after it).

        Rows that cannot be used are logged, counted in the state by source and reason, and skipped.

        Args:
            stream: 0..streams-1.
            state: of the last sample; None begins.
            encode: makes the sample of a conversation; its errors are the row's.
            prepare: makes of a picture what its part holds; see `read_picture`.

        Raises:
            ValueError: more rows of a source cannot be used than `max_skipped` allows.
            Exception: what is no row's fault; see `as_row_error` and `read_on`.
        """
        state = state or MixtureState()
        reads = {
            name: reader.read(stream, self.streams, state.readers.get(name)) for name, reader in self.readers.items()
        }
        names, weights = list(self.sources), [source.weight for source in self.sources.values()]
        for draws in count(state.draws):
            rng = Random(f"{self.seed}/{stream}/{draws}")
            (name,) = rng.choices(names, weights)
            source, read = self.sources[name], next(reads[name])
            readers = {**state.readers, name: read.state}
            state = MixtureState(draws + 1, readers, counted(state.read, name), state.skipped)
            try:
                with as_row_error(read.number, file=read.file):
                    if isinstance(read.row, RowError):
                        raise read.row
                    conversation = source.conversation(read.row, read.number, prepare)
                    sample = encode(drop_conditions(rng, conversation, **(source.condition_dropout or {})))
            except RowError as error:
                state = state._replace(skipped={**state.skipped, name: self._skipped(state, name, error)})
                total, whose = sum(state.skipped[name].values()), f"rows that stream {stream} read of source '{name}'"
                shown = f"They are {state.skipped[name]}. The last: {error.file or name}: {error}"
                check_skipped(self.max_skipped, max(state.read[name], FEWEST_ROWS), total, shown, whose)
            else:
                yield name, sample, state

    @staticmethod
    def _skipped(state: MixtureState, name: str, error: RowError) -> dict[str, int]:
        """The counts of a source's skipped rows by reason, with one more; the first are logged."""
        skipped = counted(state.skipped.get(name, {}), error.reason)
        if skipped[error.reason] <= SHOWN_OF_A_REASON:
            logger.warning("Source '%s', %sskipped: %s", name, f"{error.file}: " if error.file else "", error)
        return skipped

    @cached_property
    def made_of(self) -> dict:
        """What is drawn depends on, of each source; JSON can hold it. Found once, for files and rows are looked at."""
        rows = {
            # What a world draws follows from its name and its arguments.
            name: {"shuffle": reader.shuffle} if "world" in self.sources[name].stated else reader.made_of()
            for name, reader in self.readers.items()
        }
        sources = {name: {**source.made_of(), **rows[name]} for name, source in self.sources.items()}
        return {"seed": self.seed, "streams": self.streams, "order": list(sources), "sources": sources}

    def missing_rows(self, states: Sequence[MixtureState]) -> dict[str, int]:
        """Of each source that states its `rows`, how many an epoch lacked; of one not over yet nothing is said.

        Args:
            states: of all streams.
        """
        missing = {}
        for name, reader in self.readers.items():
            stated = self.sources[name].rows
            if stated is None:
                continue
            if isinstance(reader, IndexedRows):
                found = len(reader.dataset)
            else:
                of_streams = [state.readers.get(name, StreamedState()).rows_before for state in states]
                if len(of_streams) < self.streams or None in of_streams:
                    continue
                found = sum(of_streams)
            if found < stated:
                missing[name] = stated - found
        return missing
