"""Streams of a mixture as a torch dataset: spread over processes and workers, shuffled, resumable to the row.

Rows may be anything that several samples make together, such as documents packed to a token budget or pictures of one
size. Knows nothing about what they are, and nothing about trainers.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .fingerprints import differences
from .mixture import Mixture, MixtureState, counted
from .signals import outlive_one_sigterm


class Waiting(NamedTuple):
    """A sample that was drawn and is in no row yet: the how-many-eth, of what, the state before its draw, and the
    number of that draw's first sample: of a long document, its first part.
    """

    number: int
    name: str
    sample: object
    before: MixtureState | None
    first: int


class RoomState(NamedTuple):
    """What brings back who waits: the state before the oldest, and which of those drawn since are gone already."""

    before: MixtureState | None
    gone: tuple[int, ...] = ()

    def to_json(self) -> dict:
        return {"before": self.before and self.before.to_json(), "gone": list(self.gone)}

    @classmethod
    def from_json(cls, state: Mapping) -> "RoomState":
        return cls(state["before"] and MixtureState.from_json(state["before"]), tuple(state["gone"]))


class StreamState(NamedTuple):
    """Where a stream of rows is: how it packs, its rows so far, and how many documents and tokens of each source."""

    packing: RoomState | None = None
    rows: int = 0
    documents: Mapping[str, int] = {}
    tokens: Mapping[str, int] = {}

    def to_json(self) -> dict:
        return self._asdict() | {"packing": self.packing and self.packing.to_json()}

    @classmethod
    def from_json(cls, state: Mapping) -> "StreamState":
        return cls(**{**state, "packing": state["packing"] and RoomState.from_json(state["packing"])})


class WaitingRoom:
    """Samples that wait for a place in a row, and the state that brings them back: that of the draws before the oldest
    that waits, and which after it are gone already. Whoever releases them keeps it small, by letting none wait long.

    Args:
        draw: gives what is drawn behind a state, `(name, sample, state after)`, endlessly; without a state where more
            samples of the same draw follow.
        state: of the last row; None begins.
    """

    def __init__(self, draw: Callable[[MixtureState | None], Iterator], state: RoomState | None = None):
        self.before, self.gone = (state.before, set(state.gone)) if state else (None, set())
        self.drawn, self.waiting, self.number, self.first = draw(self.before), [], 0, 0

    def receive(self) -> None:
        """Draws until one more sample waits."""
        entered = False
        while not entered:
            name, sample, after = next(self.drawn)
            entered = self.number not in self.gone
            if entered:
                self.waiting.append(Waiting(self.number, name, sample, self.before, self.first))
            self.number += 1
            if after is not None:
                self.before, self.first = after, self.number

    def release(self, leaving: Sequence[Waiting]) -> None:
        """Takes samples out."""
        numbers = {each.number for each in leaving}
        self.waiting = [each for each in self.waiting if each.number not in numbers]
        self.gone |= numbers

    def state(self) -> RoomState:
        """What a new room needs to go on from here."""
        first, before = self.first, self.before
        if self.waiting:
            first, before = self.waiting[0].first, self.waiting[0].before
        self.gone = {each for each in self.gone if each >= first}
        return RoomState(before, tuple(sorted(each - first for each in self.gone)))


def states_to_json(states: Mapping[int, StreamState]) -> dict[str, dict]:
    """States of streams as `MixtureRows.load_state_dict` takes them."""
    return {str(stream): state.to_json() for stream, state in states.items()}


class MixtureRows(IterableDataset, ABC):
    """Rows of a mixture, endlessly; the same ones in the same order for any number of processes and workers.

    Row k is the next row of stream k modulo the mixture's streams. Each stream draws and fills its rows on its own, so
    a worker that reads whole streams needs to know nothing of the others. A row carries its stream's state; `consume`
    notes it, in the process that trains, and iteration begins behind the rows that were consumed, wherever it stopped.

    Args:
        mixture: what is drawn.
    """

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        self.batch_size, self.process_index, self.processes = 1, 0, 1
        self.states: dict[int, StreamState] = {}  # of the streams, after the rows that this process consumed
        self.rows_consumed = 0  # by all processes

    @abstractmethod
    def encoder(self) -> Callable[[list[dict]], object]:
        """What makes samples of conversations; its `prepare` makes of a picture what their image parts hold."""

    @abstractmethod
    def rows(
        self, draw: Callable[[MixtureState | None], Iterator], state: RoomState | None
    ) -> Iterator[tuple[list, RoomState]]:
        """Rows of samples behind a state: ((name, sample), ...) and the state after the row."""

    @abstractmethod
    def tokens(self, sample: object) -> int:
        """How many tokens a sample counts in the summary."""

    @property
    @abstractmethod
    def row_budget(self) -> int:
        """How many tokens, as the summary counts them, a row has room for."""

    def items(self, batch: dict) -> int | None:
        """What the loss of a batch is a mean over, so that short rows count for less; None where labels say so."""
        return None

    def parts(self, sample: object) -> list:
        """What rows take of a sample, for which they may have no room as a whole."""
        return [sample]

    def kind(self, sample: object) -> object:
        """What samples of one row have in common; None where any can share one."""
        return None

    @abstractmethod
    def row(self, samples: list[tuple[str, object]]) -> dict:
        """Samples and the names of their sources -> what the collator takes."""

    @abstractmethod
    def collator(self) -> Callable[[list[dict]], dict]:
        """Rows -> a batch, with `states` of the streams they are of."""

    def loader(
        self, *, batch_size: int = 1, process_index: int = 0, processes: int = 1, num_workers: int = 0, **options
    ) -> DataLoader:
        """Batches of this process's share of the rows.

        Args:
            batch_size: rows in a batch of one process.
            process_index, processes: whose share, and of how many.
            num_workers, options: as for torch's `DataLoader`.

        Raises:
            ValueError: the streams cannot be shared out evenly, or rows were consumed in batches of another size.
        """
        of_step, rows = processes * batch_size, self.rows_consumed
        if self.mixture.streams % (of_step * max(num_workers, 1)):
            raise ValueError(
                f"{self.mixture.streams} streams cannot be shared out to {processes} processes x {batch_size} rows x "
                f"{max(num_workers, 1)} workers; state a multiple of {of_step * max(num_workers, 1)} as streams."
            )
        if rows % of_step:
            raise ValueError(
                f"{rows} rows were consumed, no whole number of steps of {processes} processes x {batch_size} rows; "
                "go on with as many rows a step as before."
            )
        self.batch_size, self.process_index, self.processes = batch_size, process_index, processes
        # A generator of its own: DataLoader would take its seed from torch's, and resumed training another course.
        options = {"collate_fn": self.collator(), "generator": torch.Generator(), **options}
        return DataLoader(self, batch_size=batch_size, num_workers=num_workers, **options)

    def __iter__(self) -> Iterator[dict]:
        """Rows of this process and worker, with the `stream` of each and its `state` after the row."""
        worker = get_worker_info()
        if worker:
            outlive_one_sigterm()  # here: torch's own handler is there by now
        worker, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        encoder = self.encoder()  # here: it may be something that cannot be sent to workers
        streams = {}
        of_step = self.processes * self.batch_size
        for step in count(self.rows_consumed // of_step + worker, workers):
            first = step * of_step + self.process_index * self.batch_size
            for row in range(first, first + self.batch_size):
                stream = row % self.mixture.streams
                if stream not in streams:
                    streams[stream] = self.rows_of(stream, encoder)
                yield next(streams[stream])

    def rows_of(self, stream: int, encoder: Callable) -> Iterator[dict]:
        """The rows of one stream, behind those that were consumed."""
        state = self.states.get(stream) or StreamState()

        def draw(drawn: MixtureState | None) -> Iterator[tuple[str, object, MixtureState]]:
            return self.mixture.draw(stream, drawn, encode=encoder, prepare=encoder.prepare)

        for samples, packing in self.rows(draw, state.packing):
            documents, tokens = state.documents, state.tokens
            for name, sample in samples:
                documents, tokens = counted(documents, name), counted(tokens, name, self.tokens(sample))
            state = StreamState(packing, state.rows + 1, documents, tokens)
            yield {**self.row(samples), "stream": stream, "state": state}

    def consume(self, batch: dict) -> dict:
        """Notes that a batch is trained on, and takes the states of its streams out of it."""
        states = batch.pop("states")
        self.states |= states
        self.rows_consumed += len(states) * self.processes
        return batch

    def state_dict(self) -> dict:
        """Where the rows consumed by this process end; JSON can hold it. Those of several processes add up."""
        return {"made_of": self.made_of(), "states": states_to_json(self.states)}

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Goes on where a training stopped, with any number of processes and workers.

        Raises:
            ValueError: that training had other sources, seed, streams or limits of a row, or does not say which; rows
                would be repeated and others never seen.
        """
        theirs = state_dict["made_of"]
        if "sources" not in theirs:
            raise ValueError(
                "The training that is to go on was begun by an earlier version, which did not note what its sources "
                "were, so that it cannot be gone on with row by row. Start a new training from its weights."
            )
        # As theirs was written: JSON makes lists of tuples.
        if changed := differences(theirs, json.loads(json.dumps(self.made_of()))):
            raise ValueError(
                f"The training that is to go on had other data: {'; '.join(changed)}. State the same, or start a new "
                "training from its weights."
            )
        self.states = {int(stream): StreamState.from_json(state) for stream, state in state_dict["states"].items()}
        self.rows_consumed = sum(state.rows for state in self.states.values())

    def made_of(self) -> dict:
        """What rows depend on; JSON can hold it."""
        return self.mixture.made_of

    def summary(self, states: Sequence[StreamState] | None = None) -> dict[str, float]:
        """What was drawn, for a log: `row_fill`, tokens per token that rows had room for; of each source its shares
        `documents/<name>` and `tokens/<name>`, the `epoch/<name>` that its slowest stream is in, and how many rows
        were `skipped/<name>` and are `missing/<name>`, where there are such.

        Args:
            states: of all streams; None takes those that this process consumed.
        """
        states = list(self.states.values() if states is None else states)
        documents, tokens, skipped = Counter(), Counter(), Counter()
        for state in states:
            documents.update(state.documents)
            tokens.update(state.tokens)
        drawing = [state.packing.before or MixtureState() for state in states]  # None where the very first waits
        for name, reasons in ((name, reasons) for each in drawing for name, reasons in each.skipped.items()):
            skipped[name] += sum(reasons.values())
        room = self.row_budget * sum(state.rows for state in states)
        logs = {"row_fill": round(tokens.total() / max(room, 1), 4)}
        for name in self.mixture.sources:
            logs[f"documents/{name}"] = round(documents[name] / max(documents.total(), 1), 4)
            logs[f"tokens/{name}"] = round(tokens[name] / max(tokens.total(), 1), 4)
            epochs = [each.readers[name].epoch for each in drawing if name in each.readers]
            logs[f"epoch/{name}"] = min(epochs, default=0)
        logs |= {f"skipped/{name}": rows for name, rows in skipped.items()}
        return logs | {f"missing/{name}": rows for name, rows in self.mixture.missing_rows(drawing).items()}
