"""Conversations of text and pictures -> ids and labels of the one sequence.

A conversation is a list of chat messages as transformers has them: `{"role", "content"}`, content a list of
`{"type": "text", "text"}` and `{"type": "image", "image"}` parts. Knows nothing about where they come from.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch

from ..configuration_arm import ArmConfig
from ..image_processing_arm import ArmImageProcessor
from ..modeling_arm_vq import ArmVQModel, encoded_by_size
from ..written_text_arm import written_text_encoder
from .collators import to_pixel_values


def message(role: str, *parts: str | np.ndarray | torch.Tensor) -> dict:
    """A chat message; a string is a text part, anything else a picture: pixels [H, W, 3] or codes [h, w]."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return {"role": role, "content": content}


NO_DROPOUT = {"text": 0.0, "image": 0.0, "both": 0.0}


def check_condition_dropout(probabilities: dict[str, float] | None) -> None:
    """Raises ValueError if they have other names than those of `drop_conditions`."""
    if unknown := set(probabilities or {}) - set(NO_DROPOUT):
        raise ValueError(f"condition_dropout names {', '.join(unknown)}; it takes {', '.join(NO_DROPOUT)}.")


def drop_conditions(
    rng: random.Random, messages: list[dict], *, text: float = 0.1, image: float = 0.1, both: float = 0.05
) -> list[dict]:
    """Removes text, pictures or both from the request before a picture, so that guidance has its other branches.

    Args:
        messages: a request and its answer; returned as they are unless the answer is one picture.
        text, image, both: the probabilities.
    """
    if len(messages) != 2 or [part["type"] for part in messages[1]["content"]] != ["image"]:
        return messages
    draw = rng.random()
    kinds = [{"text"}, {"image"}, {"text", "image"}, set()][
        sum(draw >= p for p in (text, text + image, text + image + both))
    ]
    kept = [part for part in messages[0]["content"] if part["type"] not in kinds]
    return [{**messages[0], "content": kept}, messages[1]]


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


class ConversationCollator:
    """Conversations -> `input_ids`, `labels` [B, T], padded on the right, where a causal model needs no mask.

    Pictures are encoded by the frozen tokenizer, all of one size together; grids of codes stay as they are. Only what
    the assistant says carries loss, its closing `<|im_end|>` included; `<|vision_end|>` is forced and carries none.

    Args:
        tokenizer: ARM's text tokenizer.
        vq_model: encodes the pictures.
        config: the model's `ArmConfig`.
    """

    def __init__(self, tokenizer, vq_model: ArmVQModel, config: ArmConfig):
        self.tokenizer, self.vq_model, self.config = tokenizer, vq_model, config
        encode = written_text_encoder(tokenizer)
        self.encode_text = lru_cache(100_000)(lambda text: tuple(encode(text)))
        self.start, self.end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])

    def __reduce__(self):
        return type(self), (self.tokenizer, self.vq_model, self.config)  # its cache stays here

    def image_tokens(self, images: Sequence[np.ndarray | torch.Tensor]) -> list[torch.LongTensor]:
        """Pictures uint8 [H, W, 3] or codes int64 [h, w] -> their tokens [h, w], in the same order.

        Raises:
            ValueError: a code outside the codebook.
        """
        check_codes(images, self.config)

        def encode(alike: list[np.ndarray]) -> torch.LongTensor:
            pixel_values = to_pixel_values(alike).to(self.vq_model.device, self.vq_model.dtype)
            return self.vq_model.encode(pixel_values).codes

        return picture_tokens(images, encode, self.config)

    def encode(self, messages: list[dict], tokens: Iterator[torch.LongTensor]) -> tuple[list[int], list[int]]:
        """One conversation and the tokens of its pictures in order -> ids and labels."""
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
        encoded = [self.encode(messages, tokens) for messages in conversations]
        longest = max(len(ids) for ids, _ in encoded)
        batch = {
            "input_ids": torch.full((len(encoded), longest), self.tokenizer.pad_token_id),
            "labels": torch.full((len(encoded), longest), -100),
        }
        for row, (ids, labels) in enumerate(encoded):
            batch["input_ids"][row, : len(ids)] = torch.tensor(ids)
            batch["labels"][row, : len(ids)] = torch.tensor(labels)
        return batch
