"""Pictures with captions from a mixture of sources, in rows of one size each: what the tokenizer is trained on.

    data = ImageTextMixture.from_recipe(image_processor, seed=0, **recipe["data"])
    for batch in data.loader(num_workers=2):
        loss = model(**data.consume(batch)).loss

What is read are rows of text-to-image (`data/columns.py`): a `prompt`, which is the caption, and an `image`. A row of
the mixture holds as many pictures as its budget of pixels has room for, so that small and large ones take the same
memory, and the pictures of a mixture share few sizes (`aspect_buckets`), so that rows are full. Knows nothing about
models.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from ..image_processing_arm import ArmImageProcessor
from .aspect_buckets import AspectBuckets
from .collators import ImageTextCollator
from .conversations import is_codes
from .fingerprints import of_processing
from .mixture import Mixture
from .row_errors import RowError
from .streams import MixtureRows, WaitingRoom

BUCKETS, LOOKAHEAD, WAITING_ROWS = 11, 4096, 6


class Captioned(NamedTuple):
    """A picture, uint8 [3, H, W] as long as it waits, for that is a quarter of its `pixel_values`; and its caption."""

    pixels: torch.Tensor
    caption: str


class CaptionedEncoder:
    """Conversations of a caption and its picture -> `Captioned`.

    Args:
        image_processor: sizes the pictures.
        pixel_budget: pictures with more pixels are refused.
        buckets: size them in its place.
    """

    def __init__(self, image_processor: ArmImageProcessor, pixel_budget: int, buckets: AspectBuckets | None = None):
        self.image_processor, self.pixel_budget, self.buckets = image_processor, pixel_budget, buckets

    def prepare(self, picture) -> torch.Tensor:
        """A picture of any kind -> uint8 [3, H, W]."""
        if self.buckets is not None:
            return torch.as_tensor(self.buckets.fit(picture))
        sized = self.image_processor(picture, do_rescale=False, do_normalize=False)
        return torch.as_tensor(sized.pixel_values[0])

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
            picture = torch.from_numpy(picture).permute(2, 0, 1)
        height, width = picture.shape[1:]
        if height * width > self.pixel_budget:
            raise RowError(
                f"a picture of {height}x{width} pixels (height x width) exceeds the pixel_budget of "
                f"{self.pixel_budget}. Raise it, or let the image processor make pictures smaller."
            )
        return Captioned(picture, caption["text"])


def of_one_size(
    draw: Callable[[dict | None], Iterator],
    pixel_budget: int,
    lookahead: int,
    waiting_rows: int,
    state: dict | None = None,
) -> Iterator[tuple[list[tuple[str, Captioned]], dict]]:
    """Rows of pictures of one size, endlessly, behind `state`: ((name, sample), ...) and the state after the row.

    A row leaves when it has as many pictures as the budget has room for. Where a picture has waited for `lookahead`
    draws, it leaves with however many there are of its size, so that rare sizes are not kept for ever; and where all
    that wait have more pixels than `waiting_rows` rows have room for, the size leaves that fills most of a row.

    Args:
        draw: gives what is drawn behind a state, `(name, sample, state after)`, endlessly.
        pixel_budget: most pixels in a row; no picture may have more.
        lookahead: draws that a picture waits for others of its size.
        waiting_rows: rows' worth of pixels that may wait.
        state: of the last row; None begins.
    """
    room, alike, waiting = WaitingRoom(draw, state), {}, 0  # those that wait by size, the size of the oldest first
    while True:
        room.receive()
        oldest, newest = room.waiting[0], room.waiting[-1]
        size = newest.sample.pixels.shape[1:]
        alike.setdefault(size, []).append(newest)
        waiting += size.numel()
        if (len(alike[size]) + 1) * size.numel() > pixel_budget:
            leaving = size
        elif newest.number - oldest.number >= lookahead:
            leaving = next(iter(alike))
        elif waiting > waiting_rows * pixel_budget:
            leaving = max(alike, key=lambda each: len(alike[each]) * each.numel())
        else:
            continue
        row = alike.pop(leaving)
        waiting -= len(row) * leaving.numel()
        room.release(row)
        yield [(each.name, each.sample) for each in row], room.state()


class ImageTextMixture(MixtureRows):
    """Rows of pictures of one size with their captions; a row is a process's batch, and counts by its pictures.

    Args:
        mixture: what is drawn, without condition dropout.
        image_processor: sizes the pictures.
        collator: makes ids of captions.
        pixel_budget: most pixels in a row.
        buckets: of an image processor that has `keep_aspect_ratio`: how many `AspectBuckets` its pictures are sized
            to; 0 leaves each at the size that the processor gives it, of which there are hundreds.
        lookahead: draws of a stream that a picture waits for others of its size. Whoever goes on with a training draws
            what waited, and so many at most, once more.
        waiting_rows: rows' worth of pixels that wait in a stream at most, at 3 bytes a pixel.

    Raises:
        ValueError: a budget, lookahead or number of waiting rows below 1, fewer than 0 buckets, or such as do not fit
            the budget.
    """

    def __init__(
        self,
        mixture: Mixture,
        image_processor: ArmImageProcessor,
        collator: ImageTextCollator,
        *,
        pixel_budget: int,
        buckets: int = BUCKETS,
        lookahead: int = LOOKAHEAD,
        waiting_rows: int = WAITING_ROWS,
    ):
        super().__init__(mixture)
        self.limits = {"pixel_budget": pixel_budget, "lookahead": lookahead, "waiting_rows": waiting_rows}
        for name, value in self.limits.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        if buckets < 0:
            raise ValueError(f"buckets is {buckets}; it must be 0, for none, or more.")
        self.image_processor, self.captions, self.pixel_budget = image_processor, collator, pixel_budget
        shaped = image_processor.do_resize and image_processor.keep_aspect_ratio
        self.buckets = AspectBuckets(image_processor, buckets) if buckets and shaped else None
        largest = max(height * width for height, width in self.buckets.sizes) if self.buckets else 0
        if largest > pixel_budget:
            raise ValueError(
                f"pixel_budget is {pixel_budget}, but pictures of the image processor's size have up to {largest} "
                "pixels. Raise it to a multiple of that, or lower the size."
            )

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
        buckets: int = BUCKETS,
        lookahead: int = LOOKAHEAD,
        waiting_rows: int = WAITING_ROWS,
        held_out: int = 0,
    ) -> "ImageTextMixture":
        """The mixture that a recipe's section states: `sources` as `Source.from_recipe` says, the rest as here.

        Args:
            streams: how many share the rows out, a multiple of processes times rows a step times workers.
            max_skipped: share of a source's rows that may be unusable.
        """
        fields = {"streams": streams, "max_skipped": max_skipped, "held_out": held_out}
        mixture = Mixture.from_recipe(sources, seed=seed, complete=True, **fields)
        limits = {"pixel_budget": pixel_budget, "lookahead": lookahead, "waiting_rows": waiting_rows}
        return cls(mixture, image_processor, collator, buckets=buckets, **limits)

    def encoder(self) -> CaptionedEncoder:
        return CaptionedEncoder(self.image_processor, self.pixel_budget, self.buckets)

    def rows(self, draw, state):
        return of_one_size(draw, **self.limits, state=state)

    def tokens(self, sample: Captioned) -> int:
        return sample.pixels[0].numel() // self.image_processor.patch_size**2

    @property
    def row_budget(self) -> int:
        return self.pixel_budget // self.image_processor.patch_size**2

    def items(self, batch: dict) -> int:
        """The pictures of a batch."""
        return len(batch["pixel_values"])

    def kind(self, sample: Captioned) -> torch.Size:
        return sample.pixels.shape

    def row(self, samples: list[tuple[str, Captioned]]) -> dict:
        """`pixel_values` [B, 3, H, W] and the ids of the captions."""
        pictures = [sample.pixels.numpy() for _, sample in samples]
        as_they_are = {"do_resize": False, "input_data_format": "channels_first", "return_tensors": "pt"}
        pixel_values = self.image_processor(pictures, **as_they_are).pixel_values
        return {"pixel_values": pixel_values, **self.captions.ids([sample.caption for _, sample in samples])}

    def collator(self) -> Callable[[list[dict]], dict]:
        return only_row

    def made_of(self) -> dict:
        captions, sizes = self.captions, [list(size) for size in self.buckets.sizes] if self.buckets else []
        limits = {"max_length": captions.max_length, "max_caption_length": captions.max_caption_length}
        processing = of_processing(self.image_processor, captions.siglip_tokenizer, captions.caption_tokenizer)
        return {**super().made_of(), **self.limits, "buckets": sizes, **limits, **processing}


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
    (row,) = rows
    batch = {name: value for name, value in row.items() if name not in ("stream", "state")}
    return {**batch, "states": {row["stream"]: row["state"]}}
