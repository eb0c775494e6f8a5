"""Rows of one source, by number or from files: shuffled anew every epoch, shared out among streams, some held out.

What a stream reads is a pure function of its state, which is small and goes into JSON. Knows nothing about what is
made of rows, nor about other sources.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import count, islice
from random import Random
from typing import NamedTuple

import datasets
import fsspec

from .file_errors import Fault, fault_of, read_on
from .fingerprints import of_files, of_first_row, of_rows
from .input_files import file_names, is_of_reader, shard_names, steps_of
from .row_errors import RowError, as_row_error, file_error

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
        held_out: how many rows, the last, are never drawn.
    """

    def __init__(self, dataset: Sequence, *, key: str, shuffle: bool = True, held_out: int = 0):
        self.dataset, self.key, self.shuffle = dataset, key, shuffle
        self.drawn_from = len(dataset) - held_out
        if not len(dataset):
            raise ValueError(f"Source {key} has no rows. Does its data_dir or data_files name the files?")
        _check_left(key, len(dataset), held_out)

    def held_out(self) -> Iterator[Read]:
        """The rows that are never drawn."""
        return map(self._read, range(self.drawn_from, len(self.dataset)))

    def first(self, rows: int) -> Iterator[Read]:
        """So many rows from the beginning on."""
        return map(self._read, range(min(rows, len(self.dataset))))

    def _read(self, number: int, state: IndexedState | None = None) -> Read:
        try:
            with as_row_error(number):
                row = self.dataset[number]
        except RowError as error:
            row = error
        return Read(row, number, "", state)

    def read(self, stream: int, streams: int, state: IndexedState | None = None) -> Iterator[Read]:
        """The rows of one of `streams` streams, endlessly, behind `state`."""
        for drawn in count(state.drawn if state else 0):
            epoch, number = divmod(drawn * streams + stream, self.drawn_from)
            if self.shuffle:
                number = permuted(number, self.drawn_from, f"{self.key}/{epoch}")
            yield self._read(number, IndexedState(epoch, drawn + 1))

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
        held_out: how many rows, the first of the first file, and of the next where that has fewer, are never drawn.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        *,
        key: str,
        shuffle: bool = True,
        shuffle_buffer: int,
        held_out: int = 0,
    ):
        self.dataset, self.key, self.shuffle, self.shuffle_buffer = dataset, key, shuffle, shuffle_buffer
        if shuffle_buffer < 1:
            raise ValueError(f"Source {key} has shuffle_buffer {shuffle_buffer}; it takes 1 row or more.")
        self.files = shard_names(dataset)
        found = list(self._first(held_out + 1)) if held_out else []
        self.held = [read for _, read in found[:held_out]]
        self.begins = Counter(file for file, _ in found[:held_out])  # of each file, where what is drawn begins
        _check_left(key, len(found), held_out)
        self.first_file = found[held_out][0] if held_out else 0  # of which there is something to draw

    def held_out(self) -> Iterator[Read]:
        """The rows that are never drawn."""
        return iter(self.held)

    def first(self, rows: int) -> Iterator[Read]:
        """So many rows from the beginning on."""
        return (read for _, read in self._first(rows))

    def _first(self, rows: int) -> Iterator[tuple[int, Read]]:
        found = (
            (file, Read(row, number, self.files[file], None))
            for file in range(self.dataset.num_shards)
            for number, row in self._rows(file, 0)
        )
        return islice(found, rows)

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
            first = max(at.block if begun else 0, self.begins[file])
            for block, held in self._blocks(*parts[number], first):
                if self.shuffle:
                    Random(f"{self.key}/{at.epoch}/{file}/{held[0][0]}").shuffle(held)
                taken = at.taken if begun and block == at.block else 0
                for place, (row_number, row) in enumerate(held[taken:], taken + 1):
                    rows += not isinstance(row, RowError)
                    state = at._replace(part=number, block=block, taken=place, rows=rows)
                    yield Read(row, row_number, self.files[file], state)

    def _parts(self, stream: int, streams: int, epoch: int) -> list[tuple[int, int, int]]:
        """What a stream reads in an epoch: (file, p, n) is every n-th row of a file, from row p on."""
        files = range(self.first_file, self.dataset.num_shards)
        each = -(-streams // max(len(files), 1))
        parts = [(file, part, each) for file in files for part in range(each)]
        if self.shuffle:
            Random(f"{self.key}/{epoch}").shuffle(parts)
        return parts[stream::streams]

    def _blocks(self, file: int, part: int, parts: int, first: int) -> Iterator[tuple[int, list]]:
        """From row `first` of a file on, what the buffer holds at a time: the row where it begins, and (number, row)
        of all, with an error after the last row that can be read.
        """
        rows = self._rows(file, first)
        rows = ((number, row) for number, row in rows if isinstance(row, RowError) or number % parts == part)
        while held := list(islice(rows, self.shuffle_buffer)):
            after = held[-1][0] + 1  # before the rows change places
            yield first, held
            first = after

    def _rows(self, file: int, first: int) -> Iterator[tuple[int, object]]:
        """(number, row) of a file from row `first` on, with an error after the last row that can be read."""
        shard = self.dataset.shard(self.dataset.num_shards, file)
        # By batches, because iter(shard) would share the file out among workers, who have whole files each.
        rows = read_on(lambda number: shard.skip(number).iter(batch_size=1), self.files[file], first)
        for number in count(first):
            try:
                row = {name: values[0] for name, values in next(rows).items()}
            except StopIteration:
                return
            except Exception as error:
                if fault_of(error) is not Fault.BROKEN or not is_of_reader(error):
                    raise
                yield number, file_error(number, error)
                return
            yield number, row


def _check_left(key: str, rows: int, held_out: int) -> None:
    """Refuses to hold out all rows that a source has."""
    if held_out and rows <= held_out:
        raise ValueError(
            f"Source {key} has {rows} rows, of which validation holds out {held_out}: none is left to train on. Hold "
            "out fewer, or leave the source out."
        )
