"""Documents of a mixture packed into rows of a token budget, isolated from each other, resumable to the row.

    data = PackedMixture.from_recipe(processor, model.config, seed=0, **recipe["data"])
    for batch in data.loader(num_workers=2):
        loss = model(**data.consume(batch)).loss

`position_ids` restart at every document, and no attention mask comes with them: transformers' sdpa keeps documents
apart by the restarts, flash attention by its variable-length path. Pictures that come as codes are tokens at once;
those that come as pixels stand as placeholders that the model's forward fills. Knows nothing about trainers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..configuration_arm import ArmConfig
from ..processing_arm import ArmProcessor
from .columns import RowError
from .conversations import ConversationCollator, check_codes, is_codes, pictures_of, pixel_values_of
from .mixture import Mixture, Source, counted
from .shapes import to_pixel_values


class Document(NamedTuple):
    """Ids and labels [T] of a conversation, and the pictures [3, H, W] of its placeholders, in order."""

    input_ids: list[int]
    labels: list[int]
    pixel_values: list[torch.Tensor]


class DocumentEncoder:
    """Conversations -> documents, without a model: ids and labels are those of `ConversationCollator`, but where a
    picture came as pixels there are as many `image_token_id` as it will have tokens.

    Args:
        processor: an ARM's; its image processor sizes the pictures.
        config: the model's.
        token_budget: documents longer than this are refused.
    """

    def __init__(self, processor: ArmProcessor, config: ArmConfig, token_budget: int):
        self.image_processor, self.config, self.token_budget = processor.image_processor, config, token_budget
        self.collator = ConversationCollator(processor.tokenizer, None, config)

    def prepare(self, picture) -> torch.Tensor:
        """`pixel_values_of` a picture."""
        return pixel_values_of(picture, self.image_processor)

    def __call__(self, conversation: list[dict]) -> Document:
        """Pictures may be pixels as `prepare` gives them, drawings uint8 [H, W, 3], or codes int64 [h, w].

        Raises:
            ValueError: the document is longer than the budget, or a code is outside the codebook.
        """
        pictures, pixel_values, grids = pictures_of(conversation), [], []
        check_codes(pictures, self.config)
        for picture in pictures:
            if is_codes(picture):
                grids.append(picture + self.config.visual_token_offset)
                continue
            if isinstance(picture, np.ndarray):  # the embedded world's
                picture = to_pixel_values([picture])[0]
            pixel_values.append(picture)
            grid = [side // self.image_processor.patch_size for side in picture.shape[1:]]
            grids.append(torch.full(grid, self.config.image_token_id))
        input_ids, labels = self.collator.encode(conversation, iter(grids))
        if len(input_ids) > self.token_budget:
            error = RowError(
                f"{len(input_ids)} tokens exceed the budget of {self.token_budget}; documents are never cut. Raise "
                "token_budget, or let the image processor make pictures smaller."
            )
            error.reason = "longer than the budget"
            raise error
        return Document(input_ids, labels, pixel_values)


class Waiting(NamedTuple):
    """A document that was drawn and is not packed yet: the how-many-eth draw, of what, and the state before it."""

    number: int
    name: str
    document: Document
    before: dict | None


def packed(
    draw: Callable[[dict | None], Iterator], token_budget: int, lookahead: int, state: dict | None = None
) -> Iterator[tuple[list[tuple[str, Document]], dict]]:
    """Rows of documents, endlessly, behind `state`: ((name, document), ...) and the state after the row.

    A row takes documents in the order in which they are drawn; when the next does not fit any more, whichever of the
    `lookahead` that wait fits best. Thus none waits for longer than a row, and what a state must hold stays small:
    that of the draws before the oldest document that waits, and which after it are packed already.

    Args:
        draw: gives what is drawn behind a state, `(name, document, state after)`, endlessly.
        token_budget: most tokens in a row; no document may have more.
        lookahead: documents that wait.
        state: of the last row; None begins.
    """
    before, gone = (state["before"], set(state["gone"])) if state else (None, set())
    drawn, waiting, number = draw(before), [], 0
    while True:
        row, room = [], token_budget
        while True:
            while len(waiting) < lookahead:
                name, document, after = next(drawn)
                if number not in gone:
                    waiting.append(Waiting(number, name, document, before))
                number, before = number + 1, after
            fitting = [each for each in waiting if len(each.document.input_ids) <= room]
            if not fitting:
                break
            inorder = fitting[0] is waiting[0]
            best = fitting[0] if inorder else max(fitting, key=lambda each: len(each.document.input_ids))
            waiting.remove(best)
            gone.add(best.number)
            row.append((best.name, best.document))
            room -= len(best.document.input_ids)
        first = waiting[0].number
        gone = {each for each in gone if each > first}
        yield row, {"before": waiting[0].before, "gone": sorted(each - first for each in gone)}


class PackedMixture(IterableDataset):
    """Rows of packed documents, endlessly; the same ones in the same order for any number of processes and workers.

    Row k is the next row of stream k modulo `streams`. Each stream draws and packs on its own, so a worker that reads
    whole streams needs to know nothing of the others. A row carries its stream's state; `consume` notes it, in the
    process that trains, and iteration begins behind the rows that were consumed, wherever it stopped.

    Args:
        mixture: what is drawn.
        processor, config: an ARM's processor and configuration.
        token_budget: most tokens in a row.
        lookahead: documents of a stream that wait for a place where they fit.

    Raises:
        ValueError: a budget or lookahead below 1.
    """

    def __init__(
        self,
        mixture: Mixture,
        processor: ArmProcessor,
        config: ArmConfig,
        *,
        token_budget: int,
        lookahead: int = 32,
    ):
        for name, value in (("token_budget", token_budget), ("lookahead", lookahead)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        self.mixture, self.processor, self.config = mixture, processor, config
        self.token_budget, self.lookahead = token_budget, lookahead
        self.batch_size, self.process_index, self.processes = 1, 0, 1
        self.states: dict[int, dict] = {}  # of the streams, after the rows that this process consumed
        self.rows_consumed = 0  # by all processes

    @classmethod
    def from_recipe(
        cls,
        processor: ArmProcessor,
        config: ArmConfig,
        *,
        seed: int,
        sources: Mapping[str, Mapping],
        token_budget: int,
        streams: int = 8,
        max_skipped: float = 0.05,
        lookahead: int = 32,
    ) -> "PackedMixture":
        """The mixture that a recipe's section states: `sources` as `Source.from_recipe` says, the rest as here."""
        sources = {name: Source.from_recipe(section, seed=seed) for name, section in sources.items()}
        mixture = Mixture(sources, seed=seed, streams=streams, max_skipped=max_skipped)
        return cls(mixture, processor, config, token_budget=token_budget, lookahead=lookahead)

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
        options = {"collate_fn": PackedCollator(self.mixture.sources), "generator": torch.Generator(), **options}
        return DataLoader(self, batch_size=batch_size, num_workers=num_workers, **options)

    def __iter__(self) -> Iterator[dict]:
        """Rows of this process and worker: `input_ids`, `labels`, `position_ids` and `sources` (numbers of the
        mixture's) [T], `pixel_values` (a list), and the `stream` and its `state` after the row.
        """
        worker = get_worker_info()
        worker, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        encoder = DocumentEncoder(self.processor, self.config, self.token_budget)  # here: it cannot be sent to workers
        streams = {}
        of_step = self.processes * self.batch_size
        for step in count(self.rows_consumed // of_step + worker, workers):
            first = step * of_step + self.process_index * self.batch_size
            for row in range(first, first + self.batch_size):
                stream = row % self.mixture.streams
                if stream not in streams:
                    streams[stream] = self.rows_of(stream, encoder)
                yield next(streams[stream])

    def rows_of(self, stream: int, encoder: DocumentEncoder) -> Iterator[dict]:
        """The rows of one stream, behind those that were consumed."""
        state = self.states.get(stream) or {"packing": None, "rows": 0, "documents": {}, "tokens": {}}
        numbers = {name: number for number, name in enumerate(self.mixture.sources)}

        def draw(drawn: dict | None) -> Iterator[tuple[str, Document, dict]]:
            return self.mixture.draw(stream, drawn, encode=encoder, prepare=encoder.prepare)

        for row, packing in packed(draw, self.token_budget, self.lookahead, state["packing"]):
            documents, tokens = state["documents"], state["tokens"]
            for name, document in row:
                documents, tokens = counted(documents, name), counted(tokens, name, len(document.input_ids))
            state = {"packing": packing, "rows": state["rows"] + 1, "documents": documents, "tokens": tokens}
            parts = [document for _, document in row]
            yield {
                "input_ids": torch.tensor([token for part in parts for token in part.input_ids]),
                "labels": torch.tensor([label for part in parts for label in part.labels]),
                "position_ids": torch.cat([torch.arange(len(part.input_ids)) for part in parts]),
                "sources": torch.tensor([numbers[name] for name, part in row for _ in part.input_ids]),
                "pixel_values": [picture for part in parts for picture in part.pixel_values],
                "stream": stream,
                "state": state,
            }

    def consume(self, batch: dict) -> dict:
        """Notes that a batch is trained on, and takes the states of its streams out of it."""
        states = batch.pop("states")
        self.states |= states
        self.rows_consumed += len(states) * self.processes
        return batch

    def state_dict(self) -> dict:
        """Where the rows consumed by this process end; JSON can hold it. Those of several processes add up."""
        return {"made_of": self._made_of(), "states": {str(stream): state for stream, state in self.states.items()}}

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Goes on where a training stopped, with any number of processes and workers.

        Raises:
            ValueError: that training had other sources, seed, streams or budget.
        """
        made_of, theirs = self._made_of(), state_dict["made_of"]
        if other := [name for name in made_of if made_of[name] != theirs.get(name)]:
            changed = ", ".join(f"{name} {theirs.get(name)!r} instead of {made_of[name]!r}" for name in other)
            raise ValueError(f"The training that is to go on had {changed}; state the same, or start a new training.")
        self.states = {int(stream): state for stream, state in state_dict["states"].items()}
        self.rows_consumed = sum(state["rows"] for state in self.states.values())

    def _made_of(self) -> dict:
        """What rows depend on, besides the sources' own rows."""
        weights = {name: source.weight for name, source in self.mixture.sources.items()}
        mixture = {"seed": self.mixture.seed, "streams": self.mixture.streams, "weights": weights}
        return {**mixture, "token_budget": self.token_budget, "lookahead": self.lookahead}

    def summary(self, states: Sequence[dict] | None = None) -> dict[str, float]:
        """What was drawn and how well it was packed, for a log.

        `packing_efficiency`: tokens of documents per token of budget. And of each source its shares
        `documents/<name>` and `tokens/<name>`, the `epoch/<name>` that its slowest stream is in, and how many rows
        were `skipped/<name>` and are `missing/<name>`, where there are such.

        Args:
            states: of all streams; None takes those that this process consumed.
        """
        states = list(self.states.values() if states is None else states)
        documents, tokens, skipped = Counter(), Counter(), Counter()
        for state in states:
            documents.update(state["documents"])
            tokens.update(state["tokens"])
        drawing = [state["packing"]["before"] for state in states]
        for name, reasons in ((name, reasons) for each in drawing for name, reasons in each["skipped"].items()):
            skipped[name] += sum(reasons.values())
        budget = self.token_budget * sum(state["rows"] for state in states)
        logs = {"packing_efficiency": round(tokens.total() / max(budget, 1), 4)}
        for name in self.mixture.sources:
            logs[f"documents/{name}"] = round(documents[name] / max(documents.total(), 1), 4)
            logs[f"tokens/{name}"] = round(tokens[name] / max(tokens.total(), 1), 4)
            epochs = [each["readers"][name]["epoch"] for each in drawing if name in each["readers"]]
            logs[f"epoch/{name}"] = min(epochs, default=0)
        logs |= {f"skipped/{name}": rows for name, rows in skipped.items()}
        return logs | {f"missing/{name}": rows for name, rows in self.mixture.missing_rows(drawing).items()}


class PackedCollator:
    """Rows -> one row [1, T] of them all: nothing is padded, and flash attention's variable lengths want it so.

    Args:
        source_names: of the mixture, so that the loss of each is known.
    """

    def __init__(self, source_names: Iterable[str]):
        self.source_names = list(source_names)

    def __call__(self, rows: list[dict]) -> dict:
        names = ("input_ids", "labels", "position_ids", "sources")
        batch = {name: torch.cat([row[name] for row in rows])[None] for name in names}
        pictures = [picture for row in rows for picture in row["pixel_values"]]
        return {
            **batch,
            **({"pixel_values": pictures} if pictures else {}),
            "source_names": self.source_names,
            "use_cache": False,  # a cache would join the documents
            "states": {row["stream"]: row["state"] for row in rows},
        }
