"""Documents of a mixture packed into rows of a token budget, isolated from each other, resumable to the row.

    data = PackedMixture.from_recipe(processor, model.config, seed=0, **recipe["data"])
    for batch in data.loader(num_workers=2):
        loss = model(**data.consume(batch)).loss

`position_ids` restart at every document, and no attention mask comes with them: transformers' sdpa, eager and flex
attention keep documents apart by the restarts, flash attention by its variable-length path. Padding at the end of a
row is a document of its own, of which nothing is learnt. Pictures that come as codes are tokens at once; those that
come as pixels stand as placeholders that the model's forward fills. Knows nothing about trainers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress, pairwise
from typing import NamedTuple

import numpy as np
import torch

from ..configuration_arm import ArmConfig
from ..processing_arm import ArmProcessor
from .collators import to_pixel_values
from .conversations import (
    ConversationCollator,
    check_codes,
    document_parts,
    is_codes,
    is_document,
    pictures_of,
    pixel_values_of,
    stacked,
)
from .fingerprints import of_processing
from .mixture import Mixture
from .row_errors import RowError
from .streams import MixtureRows, WaitingRoom

MOST_PLACES = 2  # of a padded batch for each token in it


class Document(NamedTuple):
    """Ids and labels [T] of a conversation, and the pictures [3, H, W] of its placeholders, in order."""

    input_ids: list[int]
    labels: list[int]
    pixel_values: list[torch.Tensor]


class Pictures(Sequence):
    """Pictures [3, H, W] of a batch, however many: a list, but for `torch.compile`.

    That compiles anew for each length of a list that it meets, also where it only passes it on.
    """

    def __init__(self, pictures: Iterable[torch.Tensor]):
        self.pictures = list(pictures)

    def __getitem__(self, place):
        return self.pictures[place]

    def __len__(self) -> int:
        return len(self.pictures)


class DocumentEncoder:
    """Conversations -> documents, without a model: ids and labels are those of `ConversationCollator`, but where a
    picture came as pixels there are as many `image_token_id` as it will have tokens.

    Args:
        processor: an ARM's; its image processor sizes the pictures.
        config: the model's.
        token_budget: conversations longer than this are refused.
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
            ValueError: the conversation is longer than the budget, or a code is outside the codebook. Plain documents
                may be longer; see `in_parts`.
        """
        pictures, pixel_values, grids = pictures_of(conversation), [], []
        check_codes(pictures, self.config)
        for picture in pictures:
            if is_codes(picture):
                grids.append(picture + self.config.visual_token_offset)
                continue
            if isinstance(picture, np.ndarray):  # a world's drawing
                picture = to_pixel_values([picture])[0]
            pixel_values.append(picture)
            grid = [side // self.image_processor.patch_size for side in picture.shape[1:]]
            grids.append(torch.full(grid, self.config.image_token_id))
        input_ids, labels = self.collator.encode(conversation, iter(grids))
        if len(input_ids) > self.token_budget and not (is_document(conversation) and self.token_budget > 1):
            error = RowError(
                f"{len(input_ids)} tokens exceed the budget of {self.token_budget}; conversations are never cut. "
                "Raise token_budget, or let the image processor make pictures smaller."
            )
            error.reason = "longer than the budget"
            raise error
        return Document(input_ids, labels, pixel_values)


def parts_of(document: Document, token_budget: int) -> list[Document]:
    """A document, or parts of one that is longer than the budget."""
    if len(document.input_ids) <= token_budget:
        return [document]
    return [Document(*part, []) for part in document_parts(document.input_ids, document.labels, token_budget)]


def in_parts(
    draw: Callable[[dict | None], Iterator], token_budget: int, state: dict | None = None
) -> Iterator[tuple[str, Document, dict | None]]:
    """What is drawn behind a state, with documents longer than the budget in parts; only the last has a state."""
    for name, whole, after in draw(state):
        *parts, last = parts_of(whole, token_budget)
        yield from ((name, part, None) for part in parts)
        yield name, last, after


def packed(
    draw: Callable[[dict | None], Iterator], token_budget: int, lookahead: int, state: dict | None = None
) -> Iterator[tuple[list[tuple[str, Document]], dict]]:
    """Rows of documents, endlessly, behind `state`: ((name, document), ...) and the state after the row.

    A row takes documents in the order in which they are drawn; when the next does not fit any more, whichever of the
    `lookahead` that wait fits best. Thus none waits for longer than a row.

    Args:
        draw: gives what is drawn behind a state, `(name, document, state after)`, endlessly.
        token_budget: most tokens in a row; no document may have more.
        lookahead: documents that wait.
        state: of the last row; None begins.
    """
    room = WaitingRoom(draw, state)
    while True:
        row, free = [], token_budget
        while True:
            while len(room.waiting) < lookahead:
                room.receive()
            fitting = [each for each in room.waiting if len(each.sample.input_ids) <= free]
            if not fitting:
                break
            inorder = fitting[0] is room.waiting[0]
            best = fitting[0] if inorder else max(fitting, key=lambda each: len(each.sample.input_ids))
            room.release([best])
            row.append((best.name, best.sample))
            free -= len(best.sample.input_ids)
        yield row, room.state()


class PackedMixture(MixtureRows):
    """Rows of packed documents.

    Args:
        mixture: what is drawn.
        processor, config: an ARM's processor and configuration.
        token_budget: most tokens in a row.
        lookahead: documents of a stream that wait for a place where they fit.
        fill_rows: whether rows are padded at the end, so that all have `token_budget` tokens.
        padded: whether `PaddedCollator` makes the batches: what they train is the same.

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
        fill_rows: bool = False,
        padded: bool = False,
    ):
        super().__init__(mixture)
        for name, value in (("token_budget", token_budget), ("lookahead", lookahead)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        self.processor, self.config = processor, config
        self.token_budget, self.lookahead, self.fill_rows, self.padded = token_budget, lookahead, fill_rows, padded

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
        held_out: int = 0,
        fill_rows: bool | None = None,
        padded: bool | None = None,
    ) -> "PackedMixture":
        """The mixture that a recipe's section states: `sources` as `Source.from_recipe` says, the rest as here.

        Args:
            streams: how many share the rows out, a multiple of processes times rows a step times workers.
            max_skipped: share of a source's rows that may be unusable.
            fill_rows: whether rows are padded at the end, so that all are of one length and what is compiled for it
                is compiled once. Unless stated, a training does so with flex attention or `torch_compile`; elsewhere
                padding costs its share of a row and brings nothing.
            padded: whether batches hold a document a row, padded, in place of all in one row, but for those that
                would be mostly padding. Unless stated, a training does so on a CPU, where no attention skips the
                pairs of tokens that are of two documents.
        """
        fields = {"streams": streams, "max_skipped": max_skipped, "held_out": held_out}
        mixture = Mixture.from_recipe(sources, seed=seed, **fields)
        limits = {"token_budget": token_budget, "lookahead": lookahead}
        return cls(mixture, processor, config, **limits, fill_rows=bool(fill_rows), padded=bool(padded))

    def encoder(self) -> DocumentEncoder:
        return DocumentEncoder(self.processor, self.config, self.token_budget)

    def rows(self, draw, state):
        return packed(partial(in_parts, draw, self.token_budget), self.token_budget, self.lookahead, state)

    def parts(self, sample: Document) -> list[Document]:
        return parts_of(sample, self.token_budget)

    def tokens(self, sample: Document) -> int:
        return len(sample.input_ids)

    @property
    def row_budget(self) -> int:
        return self.token_budget

    def row(self, samples: list[tuple[str, Document]]) -> dict:
        """`input_ids`, `labels`, `position_ids`, `sources` (numbers of the mixture's, -1 of padding) [T],
        `pixel_values` (a list).
        """
        numbers = {name: number for number, name in enumerate(self.mixture.sources)}
        parts, of = [document for _, document in samples], [numbers[name] for name, _ in samples]
        empty = self.token_budget - sum(len(part.input_ids) for part in parts) if self.fill_rows else 0
        if empty:
            parts.append(Document([self.processor.tokenizer.pad_token_id] * empty, [-100] * empty, []))
            of.append(-1)
        return {
            "input_ids": torch.tensor([token for part in parts for token in part.input_ids]),
            "labels": torch.tensor([label for part in parts for label in part.labels]),
            "position_ids": torch.cat([torch.arange(len(part.input_ids)) for part in parts]),
            "sources": torch.tensor([n for n, part in zip(of, parts, strict=True) for _ in part.input_ids]),
            "pixel_values": [picture for part in parts for picture in part.pixel_values],
        }

    def collator(self) -> "PackedCollator":
        if self.padded:
            return PaddedCollator(self.mixture.sources, self.processor.tokenizer.pad_token_id)
        return PackedCollator(self.mixture.sources)

    def made_of(self) -> dict:
        limits = {"token_budget": self.token_budget, "lookahead": self.lookahead}
        processing = of_processing(self.processor.image_processor, self.processor.tokenizer)
        return {**super().made_of(), **limits, **processing}


class PackedCollator:
    """Rows -> one row [1, T] of them all: nothing is padded here, and flash attention's variable lengths want it so.

    Args:
        source_names: of the mixture, so that trainers can tell the loss of each apart; models take no notice.
    """

    def __init__(self, source_names: Iterable[str]):
        self.source_names = list(source_names)

    def __call__(self, rows: list[dict]) -> dict:
        names = ("input_ids", "labels", "position_ids", "sources")
        batch = {name: torch.cat([row[name] for row in rows])[None] for name in names}
        pictures = [picture for row in rows for picture in row["pixel_values"]]
        return {
            **batch,
            **({"pixel_values": Pictures(pictures)} if pictures else {}),
            "source_names": self.source_names,
            "use_cache": False,  # a cache would join the documents
            "states": {row["stream"]: row["state"] for row in rows},
        }


class PaddedCollator(PackedCollator):
    """Rows -> their documents, each in a row of its own, padded at the end to the longest: `input_ids`, `labels`,
    `sources` and `attention_mask` [documents, T]. What fills rows of a budget is left out.

    Where that would be mostly padding, as with one long document among many short ones, the row stays as
    `PackedCollator` makes it: padding would cost more than it saves, and memory without bound.

    Args:
        source_names: as there.
        pad_token_id: stands behind a document.
    """

    def __init__(self, source_names: Iterable[str], pad_token_id: int):
        super().__init__(source_names)
        self.padding = {"input_ids": pad_token_id, "labels": -100, "sources": -1}

    def __call__(self, rows: list[dict]) -> dict:
        batch = super().__call__(rows)
        starts = (batch["position_ids"][0] == 0).nonzero()[:, 0].tolist()
        lengths = [after - before for before, after in pairwise([*starts, batch["labels"].shape[1]])]
        real = [part[0] >= 0 for part in batch["sources"][0].split(lengths)]
        kept = list(compress(lengths, real))
        if len(kept) * max(kept) > MOST_PLACES * sum(kept):
            return batch
        del batch["position_ids"]
        for name, value in self.padding.items():
            batch[name] = stacked(compress(batch[name][0].split(lengths), real), value)
        return batch | {"attention_mask": (batch["sources"] >= 0).long()}
