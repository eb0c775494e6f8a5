"""What rows of a mixture have of words alone: what a language model learns before it knows pictures, and tokenizers
their merges from.

    data = WordMixture.from_recipe(tokenizer, seed=0, **recipe["data"])
    for batch in data.loader(batch_size=32):
        loss = model(**data.consume(batch)).loss

Rows are those of `data/columns.py`, whatever their task; their pictures are left out, and never decoded. Knows nothing
about models.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice, takewhile

from .conversations import ConversationCollator, document, stacked
from .fingerprints import of_tokenizers
from .mixture import Mixture
from .packing import Document, in_parts, parts_of
from .row_errors import RowError, as_row_error
from .streams import MixtureRows, WaitingRoom


def texts_of(conversation: list[dict]) -> list[str]:
    """The texts of a conversation, in order."""
    return [part["text"] for turn in conversation for part in turn["content"] if part["type"] == "text"]


def words_of(conversation: list[dict]) -> list[dict]:
    """A conversation without its pictures. Where the assistant then says nothing, as behind a caption or an
    instruction, its texts are a plain document.

    Raises:
        RowError: it has no texts.
    """
    turns = [
        {**turn, "content": [part for part in turn["content"] if part["type"] == "text"]} for turn in conversation
    ]
    turns = [turn for turn in turns if turn["content"]]
    if not turns:
        raise RowError("it holds no words, of which a language model is to learn. Leave it out.")
    if any(turn["role"] == "assistant" for turn in turns):
        return turns
    return document("\n".join(texts_of(turns)))


def undrawn(picture):
    """A picture as it is: `prepare` of those who leave it out."""
    return picture


def sampled_words(mixture: Mixture, count: int) -> Iterator[str]:
    """The words of about `count` rows, of each source a share by its weight and no row twice.

    Rows that cannot be used are passed over: who trains on the mixture counts and names them.
    """
    total = sum(source.weight for source in mixture.sources.values())
    for name, source in mixture.sources.items():
        reads = takewhile(lambda read: read.state.epoch == 0, mixture.readers[name].read(0, 1))
        for read in islice(reads, math.ceil(count * source.weight / total)):
            try:
                with as_row_error(read.number, file=read.file):
                    if isinstance(read.row, RowError):
                        raise read.row
                    words = "\n".join(texts_of(source.conversation(read.row, read.number, undrawn)))
            except RowError:
                continue
            yield words


class WordEncoder:
    """Conversations -> documents of their words.

    What the assistant says is learnt, and of a plain document all; see `ConversationCollator`.

    Args:
        tokenizer: with Qwen2.5's special tokens.
    """

    prepare = staticmethod(undrawn)

    def __init__(self, tokenizer):
        self.collator = ConversationCollator(tokenizer, None, None)

    def __call__(self, conversation: list[dict]) -> Document:
        return Document(*self.collator.encode(words_of(conversation), iter(())), [])


class WordMixture(MixtureRows):
    """Documents of words, one a row; rows of a batch are padded.

    Args:
        mixture: what is drawn, without condition dropout.
        tokenizer: with Qwen2.5's special tokens.
        max_tokens: of a row, 2 or more; longer texts are learnt in parts.

    Raises:
        ValueError: fewer.
    """

    def __init__(self, mixture: Mixture, tokenizer, *, max_tokens: int = 256):
        super().__init__(mixture)
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; it must be 2 or more.")
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    @classmethod
    def from_recipe(
        cls,
        tokenizer,
        *,
        seed: int,
        sources: Mapping[str, Mapping],
        streams: int = 8,
        max_skipped: float = 0.05,
        max_tokens: int = 256,
        held_out: int = 0,
    ) -> "WordMixture":
        """The mixture that a recipe's section states: `sources` as `Source.from_recipe` says, the rest as here.

        Args:
            streams: how many share the rows out, a multiple of processes times rows a step times workers.
            max_skipped: share of a source's rows that may be unusable.
        """
        fields = {"streams": streams, "max_skipped": max_skipped, "held_out": held_out}
        return cls(Mixture.from_recipe(sources, seed=seed, complete=True, **fields), tokenizer, max_tokens=max_tokens)

    def encoder(self) -> WordEncoder:
        return WordEncoder(self.tokenizer)

    def rows(self, draw, state):
        room = WaitingRoom(partial(in_parts, draw, self.max_tokens), state)
        while True:
            room.receive()
            (only,) = room.waiting
            room.release([only])
            yield [(only.name, only.sample)], room.state()

    def parts(self, sample: Document) -> list[Document]:
        return parts_of(sample, self.max_tokens)

    def tokens(self, sample: Document) -> int:
        return len(sample.input_ids)

    @property
    def row_budget(self) -> int:
        return self.max_tokens

    def items(self, batch: dict) -> int:
        """The tokens that are learnt."""
        return int((batch["labels"] != -100).sum())

    def row(self, samples: list[tuple[str, Document]]) -> dict:
        return {"documents": [sample for _, sample in samples]}

    def collator(self) -> Callable[[list[dict]], dict]:
        return partial(padded, pad_token_id=self.tokenizer.pad_token_id)

    def made_of(self) -> dict:
        return {**super().made_of(), "max_tokens": self.max_tokens, "tokenizers": of_tokenizers(self.tokenizer)}


def padded(rows: list[dict], *, pad_token_id: int) -> dict:
    """Rows of documents -> `input_ids`, `attention_mask`, `labels` [B, T], padded on the right, and their `states`."""
    documents = [each for row in rows for each in row["documents"]]
    return {
        "input_ids": stacked((each.input_ids for each in documents), pad_token_id),
        "attention_mask": stacked(([1] * len(each.input_ids) for each in documents), 0),
        "labels": stacked((each.labels for each in documents), -100),
        "states": {row["stream"]: row["state"] for row in rows},
    }
