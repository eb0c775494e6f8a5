"""Conversations of text and pictures -> ids and labels of the one sequence.

A conversation is a list of chat messages as transformers has them: `{"role", "content"}`, content a list of
`{"type": "text", "text"}` and `{"type": "image", "image"}` parts. Knows nothing about where they come from.
"""

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from numbers import Real

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..configuration_arm import ArmConfig
from ..image_processing_arm import ArmImageProcessor
from ..modeling_arm_vq import ArmVQModel, encoded_by_size
from ..written_text_arm import written_text_encoder
from .collators import to_pixel_values

# What a collator keeps of texts: at most 25 MB, whatever people write (a character is 4 bytes, and up to 4 ids).
CACHED_TEXTS, LONGEST_CACHED = 8192, 128


def message(role: str, *parts: str | np.ndarray | torch.Tensor) -> dict:
    """A chat message; a string is a text part, anything else a picture: pixels [H, W, 3] or codes [h, w]."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return {"role": role, "content": content}


DOCUMENT = "document"  # the role of a text that nobody says; no row's messages may have it


def document(text: str) -> list[dict]:
    """A plain document, such as a page of the web, as a conversation has its place: its only message."""
    return [message(DOCUMENT, text)]


def is_document(messages: list[dict]) -> bool:
    return [turn["role"] for turn in messages] == [DOCUMENT]


def document_parts(ids: list[int], labels: list[int], length: int) -> Iterator[tuple[list[int], list[int]]]:
    """A document of any length -> parts of at most `length` tokens, of which each begins with the last token of the
    one before, without loss: every token is learnt once, and none for want of what stands before it.

    Args:
        length: 2 or more.
    """
    for start in range(0, max(len(ids) - 1, 1), length - 1):
        yield ids[start : start + length], [-100, *labels[start + 1 : start + length]]


DROPOUT = {"text": 0.1, "image": 0.1, "both": 0.05}  # of pre-training
NO_DROPOUT = dict.fromkeys(DROPOUT, 0.0)
DROPPED = ({"text"}, {"image"}, {"text", "image"}, set())  # in the order of DROPOUT; the rest drops nothing


def check_condition_dropout(probabilities: Mapping[str, float] | None, others: Mapping[str, float] = DROPOUT) -> None:
    """Refuses what `drop_conditions` cannot draw.

    Args:
        probabilities: of some or all of `text`, `image` and `both`.
        others: those that are not among them.

    Raises:
        ValueError: another name, a probability outside of 0..1, or more than 1 in all.
    """
    if unknown := set(probabilities or {}) - set(DROPOUT):
        raise ValueError(f"condition_dropout names {', '.join(map(str, unknown))}; it takes {', '.join(DROPOUT)}.")
    all_three = {**others, **(probabilities or {})}
    for name, value in all_three.items():
        if not isinstance(value, Real) or not 0 <= value <= 1:
            raise ValueError(f"condition_dropout states {name} {value!r}, but a probability is in 0..1. Change it.")
    if sum(all_three.values()) > 1 + 1e-9:  # what rounding adds
        stated = ", ".join(f"{name} {value:g}" for name, value in all_three.items())
        raise ValueError(
            f"condition_dropout is {stated}: {sum(all_three.values()):g} in all, but each request loses one of these "
            "at most, so that the three must not exceed 1. Lower them, or state those that are left out as 0."
        )


def drop_conditions(
    rng: random.Random,
    messages: list[dict],
    *,
    text: float = DROPOUT["text"],
    image: float = DROPOUT["image"],
    both: float = DROPOUT["both"],
) -> list[dict]:
    """Removes text, pictures or both from the request before a picture, so that guidance has its other branches.

    Args:
        messages: a request and its answer, behind a system prompt or none, which stays; returned as they are unless
            the answer is one picture.
        text, image, both: the probabilities, as `check_condition_dropout` takes them.
    """
    roles = [turn["role"] for turn in messages if turn is not messages[0] or turn["role"] != "system"]
    if roles != ["user", "assistant"] or [part["type"] for part in messages[-1]["content"]] != ["image"]:
        return messages
    *system, asked, answer = messages
    (dropped,) = rng.choices(DROPPED, (text, image, both, max(0.0, 1 - text - image - both)))
    return [*system, {**asked, "content": [part for part in asked["content"] if part["type"] not in dropped]}, answer]


def pixel_values_of(picture, image_processor: ArmImageProcessor) -> torch.Tensor:
    """A picture of any kind -> float32 [3, H, W], at the size that the processor gives it."""
    return torch.as_tensor(image_processor(picture).pixel_values[0])


def pictures_of(messages: list[dict]) -> list:
    """What the image parts of a conversation hold, in order."""
    return [part["image"] for turn in messages for part in turn["content"] if part["type"] == "image"]


def is_codes(picture) -> bool:
    """Whether an image part holds codes, int64 [h, w], in place of pixels, which have a third side."""
    return isinstance(picture, torch.Tensor) and picture.ndim == 2


def check_codes(pictures: Sequence, config: ArmConfig) -> None:
    """Raises a ValueError if a grid of codes among the pictures holds one that is not in the model's codebook."""
    size = config.vq_config.codebook_size
    for picture in pictures:
        if is_codes(picture) and picture.max() >= size:
            raise ValueError(
                f"Code {int(picture.max())} is outside this model's codebook (0..{size - 1}). Encode the pictures "
                "with this model's own tokenizer."
            )


def picture_tokens(pictures: Sequence, encode: Callable, config: ArmConfig) -> list[torch.LongTensor]:
    """Pictures -> image token ids [h, w], in their order.

    Args:
        pictures: what `encode` takes lists of, and grids of codes, which need no encoding.
        encode: pictures of one size -> their codes [B, h, w].
        config: says where codes stand among the ids.
    """
    encoded = iter(encoded_by_size([picture for picture in pictures if not is_codes(picture)], encode))
    grids = [picture if is_codes(picture) else next(encoded) for picture in pictures]
    return [grid + config.visual_token_offset for grid in grids]


def stacked(rows: Iterable[Sequence[int] | torch.Tensor], padding: int) -> torch.LongTensor:
    """Rows of any lengths -> [B, T], padded on the right."""
    return pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=padding)


class ConversationCollator:
    """Conversations -> `input_ids`, `labels` [B, T], padded on the right, where a causal model needs no mask.

    Pictures are encoded by the frozen tokenizer, all of one size together; grids of codes stay as they are. Only what
    the assistant says carries loss, its closing `<|im_end|>` included; `<|vision_end|>` is forced and carries none.

    A plain document has no template around it, and `<|endoftext|>` ends it, as in the text model's pre-training. All
    of it carries loss but its first token, before which nothing stands.

    Args:
        tokenizer: ARM's text tokenizer.
        vq_model: encodes the pictures.
        config: the model's `ArmConfig`.
    """

    def __init__(self, tokenizer, vq_model: ArmVQModel, config: ArmConfig):
        self.tokenizer, self.vq_model, self.config = tokenizer, vq_model, config
        encode = written_text_encoder(tokenizer)
        self.encode_long = encode
        self.encode_short = lru_cache(CACHED_TEXTS)(lambda text: array("i", encode(text)))
        self.start, self.end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        self.end_of_text = tokenizer.get_vocab().get("<|endoftext|>", tokenizer.eos_token_id)

    def __reduce__(self):
        return type(self), (self.tokenizer, self.vq_model, self.config)  # its cache stays here

    def encode_text(self, text: str) -> Sequence[int]:
        """Ids of what people write. Short texts are kept: roles and instructions come again and again."""
        return self.encode_short(text) if len(text) <= LONGEST_CACHED else self.encode_long(text)

    def image_tokens(self, images: Sequence[np.ndarray | torch.Tensor]) -> list[torch.LongTensor]:
        """Pictures uint8 [H, W, 3] or codes int64 [h, w] -> their tokens [h, w], in the same order.

        Raises:
            ValueError: a code outside the codebook.
        """
        check_codes(images, self.config)

        def encode(alike: list[np.ndarray]) -> torch.LongTensor:
            pixel_values = to_pixel_values(alike).to(self.vq_model.device, self.vq_model.dtype)
            return self.vq_model.get_codes(pixel_values)

        return picture_tokens(images, encode, self.config)

    def encode(self, messages: list[dict], tokens: Iterator[torch.LongTensor]) -> tuple[list[int], list[int]]:
        """One conversation and the tokens of its pictures in order -> ids and labels."""
        if is_document(messages):
            ids = [*self.encode_text(messages[0]["content"][0]["text"]), self.end_of_text]
            return ids, [-100, *ids[1:]]
        ids, labels = [], []

        def write(piece: Sequence[int], with_loss: bool = False) -> None:
            ids.extend(piece)
            labels.extend(piece if with_loss else [-100] * len(piece))

        for turn in messages:
            spoken = turn["role"] == "assistant"
            write((self.start, *self.encode_text(turn["role"]), *self.encode_text("\n")))
            for part in turn["content"]:
                if part["type"] == "text":
                    write(self.encode_text(part["text"]), spoken)
                else:
                    grid = next(tokens)
                    write((*self.config.image_opening(*grid.shape), *grid.flatten().tolist()), spoken)
                    write((self.config.vision_end_token_id,))
            write((self.end,), spoken)
            write(self.encode_text("\n"))
        return ids, labels

    def __call__(self, conversations: list[list[dict]]) -> dict[str, torch.Tensor]:
        tokens = iter(self.image_tokens([image for messages in conversations for image in pictures_of(messages)]))
        ids, labels = zip(*(self.encode(messages, tokens) for messages in conversations), strict=True)
        return {"input_ids": stacked(ids, self.tokenizer.pad_token_id), "labels": stacked(labels, -100)}
