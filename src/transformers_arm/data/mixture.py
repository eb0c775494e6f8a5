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
from itertools import count
from random import Random
from typing import NamedTuple

import datasets

from .columns import COLUMNS, row_conversation, undecoded
from .conversations import NO_DROPOUT, check_condition_dropout, drop_conditions
from .fingerprints import digest
from .input_files import (
    LOADING,
    IndexedRaw,
    open_dataset,
    with_rows_undecoded,
)
from .pictures import fetcher_for, rgb_picture
from .readers import IndexedRows, IndexedState, StreamedRows, StreamedState
from .renaming import arranged, check_rename
from .row_errors import FEWEST_ROWS, RowError, as_row_error, check_skipped
from .world import find_world

logger = logging.getLogger(__name__)

SHOWN_OF_A_REASON = 3  # skipped rows that a stream logs of each source and reason
PLACES = (  # arguments of load_dataset that say where data lie and how they are loaded, not what they are
    *("path", "data_dir", "data_files", "cache_dir", "token", "storage_options", "download_config", "download_mode"),
    *LOADING,
)


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
            section: fields of this class, with `dataset` the arguments of `load_files`, those of `load_dataset` (split
                "train" unless it says otherwise); or in its place `world`, the name of one, and `arguments` of its
                `tasks`: endless, in the world's own order, what it states in steps stated in conversations.
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

    def reader(self, key: str, held_out: int = 0) -> IndexedRows | StreamedRows:
        """What reads its rows, with pictures as files; so many are never drawn."""
        dataset = self.dataset
        if isinstance(dataset, datasets.IterableDataset):
            dataset = with_rows_undecoded(dataset)
        if isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
            dataset = undecoded(dataset)
        if isinstance(dataset, datasets.IterableDataset):
            settings = {"shuffle": self.shuffle, "shuffle_buffer": self.shuffle_buffer, "held_out": held_out}
            return StreamedRows(dataset, key=key, **settings)
        return IndexedRows(dataset, key=key, shuffle=self.shuffle, held_out=held_out)

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
        held_out: rows of each source that are never drawn: the last, or of streamed files the first.

    Raises:
        ValueError: no sources, no streams, or a source without rows, or with none but those that are held out.
    """

    def __init__(
        self, sources: dict[str, Source], *, seed: int, streams: int, max_skipped: float = 0.05, held_out: int = 0
    ):
        if not sources:
            raise ValueError("A mixture needs sources: {name: source, ...}.")
        if streams < 1:
            raise ValueError(f"A mixture has {streams} streams; it takes 1 or more.")
        self.sources, self.seed, self.streams, self.max_skipped = sources, seed, streams, max_skipped
        self.held_out = held_out
        self.readers = {name: source.reader(f"{name}/{seed}", held_out) for name, source in sources.items()}

    @classmethod
    def from_recipe(cls, sources: Mapping[str, Mapping], *, seed: int, complete: bool = False, **fields) -> "Mixture":
        """A mixture of sources as `Source.from_recipe` takes them, and fields of this class.

        Args:
            complete: whether conversations keep all their conditions, whatever the sources say.
        """
        if complete:
            sources = {name: {**section, "condition_dropout": NO_DROPOUT} for name, section in sources.items()}
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
        held_out = {"held_out": self.held_out} if self.held_out else {}  # as before there was such
        return {"seed": self.seed, "streams": self.streams, "order": list(sources), "sources": sources, **held_out}

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
                found = sum(of_streams) + len(reader.held)
            if found < stated:
                missing[name] = stated - found
        return missing
