"""Pictures with captions from a mixture of sources, in batches of one size each: what the tokenizer is trained on.

    data = ImageTextMixture.from_recipe(image_processor, seed=0, **recipe["data"])
    for batch in data.loader(num_workers=2):
        loss = model(**data.consume(batch)).loss

Rows are those of text-to-image (`data/columns.py`): a `prompt`, which is the caption, and an `image`. A batch holds as
many pictures as its budget of pixels has room for, so that small and large ones take the same memory. Knows nothing
about models.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from ..image_processing_arm import ArmImageProcessor
from .collators import ImageTextCollator, to_pixel_values
from .conversations import NO_DROPOUT, is_codes, pixel_values_of
from .fingerprints import of_processing
from .mixture import Mixture
from .row_errors import RowError
from .streams import MixtureRows, WaitingRoom


class Captioned(NamedTuple):
    """A picture [3, H, W] in -1..1 and its caption."""

    pixel_values: torch.Tensor
    caption: str


class CaptionedEncoder:
    """Conversations of a caption and its picture -> `Captioned`.

    Args:
        image_processor: sizes the pictures.
        pixel_budget: pictures with more pixels are refused.
    """

    def __init__(self, image_processor: ArmImageProcessor, pixel_budget: int):
        self.image_processor, self.pixel_budget = image_processor, pixel_budget

    def prepare(self, picture) -> torch.Tensor:
        """`pixel_values_of` a picture."""
        return pixel_values_of(picture, self.image_processor)

    def __call__(self, conversation: list[dict]) -> Captioned:
        """The picture may be pixels as `prepare` gives them, or a drawing uint8 [H, W, 3].

        Raises:
            ValueError: the conversation is no caption and its picture, or the picture is larger than the budget.
        """
        kinds = [[part["type"] for part in turn["content"]] for turn in conversation]
        if kinds != [["text"], ["image"]]:
            raise RowError("it is no picture with a caption. Give it the columns 'prompt' and 'image', and no other.")
        (caption,), (picture,) = (turn["content"] for turn in conversation)
        picture = picture["image"]
        if is_codes(picture):
            raise RowError("it holds codes, but the tokenizer learns from pixels. Name the pictures that they are of.")
        if isinstance(picture, np.ndarray):  # a world's drawing
            picture = to_pixel_values([picture])[0]
        height, width = picture.shape[1:]
        if height * width > self.pixel_budget:
            raise RowError(
                f"a picture of {height}x{width} pixels (height x width) exceeds the pixel_budget of "
                f"{self.pixel_budget}. Raise it, or let the image processor make pictures smaller."
            )
        return Captioned(picture, caption["text"])


def of_one_size(
    draw: Callable[[dict | None], Iterator], pixel_budget: int, lookahead: int, state: dict | None = None
) -> Iterator[tuple[list[tuple[str, Captioned]], dict]]:
    """Rows of pictures of one size, endlessly, behind `state`: ((name, sample), ...) and the state after the row.

    A row leaves when it has as many pictures as the budget has room for. Where a picture has waited for `lookahead`
    draws, it leaves with however many there are of its size, so that rare sizes are not kept for ever.

    Args:
        draw: gives what is drawn behind a state, `(name, sample, state after)`, endlessly.
        pixel_budget: most pixels in a row; no picture may have more.
        lookahead: draws that a picture waits for others of its size.
        state: of the last row; None begins.
    """
    room = WaitingRoom(draw, state)
    while True:
        room.receive()
        newest, oldest = room.waiting[-1], room.waiting[0]
        alike = [each for each in room.waiting if _size(each) == _size(newest)]
        if (len(alike) + 1) * newest.sample.pixel_values[0].numel() <= pixel_budget:
            if newest.number - oldest.number < lookahead:
                continue
            alike = [each for each in room.waiting if _size(each) == _size(oldest)]
        room.release(alike)
        yield [(each.name, each.sample) for each in alike], room.state()


def _size(waiting) -> torch.Size:
    return waiting.sample.pixel_values.shape


class ImageTextMixture(MixtureRows):
    """Rows of pictures of one size with their captions; a row is a process's batch.

    Args:
        mixture: what is drawn, without condition dropout.
        image_processor: sizes the pictures; with `keep_aspect_ratio` they have many sizes.
        collator: makes ids of captions.
        pixel_budget: most pixels in a row.
        lookahead: draws of a stream that a picture waits for others of its size.

    Raises:
        ValueError: a budget or lookahead below 1.
    """

    def __init__(
        self,
        mixture: Mixture,
        image_processor: ArmImageProcessor,
        collator: ImageTextCollator,
        *,
        pixel_budget: int,
        lookahead: int = 1024,
    ):
        super().__init__(mixture)
        for name, value in (("pixel_budget", pixel_budget), ("lookahead", lookahead)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        self.image_processor, self.captions = image_processor, collator
        self.pixel_budget, self.lookahead = pixel_budget, lookahead

    @classmethod
    def from_recipe(
        cls,
        image_processor: ArmImageProcessor,
        collator: ImageTextCollator,
        *,
        seed: int,
        sources: Mapping[str, Mapping],
        pixel_budget: int,
        streams: int = 8,
        max_skipped: float = 0.05,
        lookahead: int = 1024,
        held_out: int = 0,
    ) -> "ImageTextMixture":
        """The mixture that a recipe's section states: `sources` as `Source.from_recipe` says, the rest as here."""
        sources = {name: {**section, "condition_dropout": NO_DROPOUT} for name, section in sources.items()}
        fields = {"streams": streams, "max_skipped": max_skipped, "held_out": held_out}
        mixture = Mixture.from_recipe(sources, seed=seed, **fields)
        return cls(mixture, image_processor, collator, pixel_budget=pixel_budget, lookahead=lookahead)

    def encoder(self) -> CaptionedEncoder:
        return CaptionedEncoder(self.image_processor, self.pixel_budget)

    def rows(self, draw, state):
        return of_one_size(draw, self.pixel_budget, self.lookahead, state)

    def tokens(self, sample: Captioned) -> int:
        return sample.pixel_values[0].numel() // self.image_processor.patch_size**2

    @property
    def budget(self) -> int:
        return self.pixel_budget

    def fit(self, sample: Captioned) -> tuple[torch.Size, int]:
        return sample.pixel_values.shape, sample.pixel_values[0].numel()

    def row(self, samples: list[tuple[str, Captioned]]) -> dict:
        """`pixel_values` [B, 3, H, W] and the ids of the captions."""
        pixel_values = torch.stack([sample.pixel_values for _, sample in samples])
        return {"pixel_values": pixel_values, **self.captions.ids([sample.caption for _, sample in samples])}

    def collator(self) -> Callable[[list[dict]], dict]:
        return only_row

    def made_of(self) -> dict:
        captions = self.captions
        limits = {"pixel_budget": self.pixel_budget, "lookahead": self.lookahead}
        limits |= {"max_length": captions.max_length, "max_caption_length": captions.max_caption_length}
        processing = of_processing(self.image_processor, captions.siglip_tokenizer, captions.caption_tokenizer)
        return {**super().made_of(), **limits, **processing}


def only_row(rows: list[dict]) -> dict:
    """The one row of a batch, which is one already.

    Raises:
        ValueError: there are more.
    """
    if len(rows) != 1:
        raise ValueError(
            f"A batch has {len(rows)} rows of pictures, of different sizes; state per_device_train_batch_size: 1 and "
            "the pixels of a row as pixel_budget."
        )
    batch = dict(rows[0])
    return {**batch, "states": {batch.pop("stream"): batch.pop("state")}}
