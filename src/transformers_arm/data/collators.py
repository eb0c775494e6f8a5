"""Samples -> batches for models that are not an ARM yet: captioned pictures, and documents of words alone.

Knows nothing about where they come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

ASKED = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # ChatML, up to the answer


def to_pixel_values(images: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 RGB arrays [H, W, 3] of one size -> float32 [B, 3, H, W] in -1..1, as `ArmImageProcessor` gives them."""
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() - 127.5) / 127.5


@dataclass
class ImageTextCollator:
    """Stacks samples with `image` and `caption`; pads each tokenizer's captions the way its model wants them.

    Args:
        siglip_tokenizer: gives `input_ids` as `siglip_input_ids` does, without an attention mask.
        max_length: SigLIP's number of text positions.
        caption_tokenizer: gives `caption_ids` [B, T], as they are written, closed by its end-of-text token, -100 where
            padded.
        max_caption_length: most tokens of a caption; longer ones are cut and stay open.
    """

    siglip_tokenizer: object | None = None
    max_length: int = 64
    caption_tokenizer: object | None = None
    max_caption_length: int = 256

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        images = to_pixel_values([sample["image"] for sample in samples])
        return {"pixel_values": images, **self.ids([sample["caption"] for sample in samples])}

    def ids(self, captions: list[str | None]) -> dict[str, torch.Tensor]:
        """The ids of captions, as each tokenizer's model wants them; all -100 where a caption is None or blank."""
        batch, absent = {}, torch.tensor([not (caption or "").strip() for caption in captions])
        captions = [caption or "" for caption in captions]
        if self.siglip_tokenizer is not None:
            batch["input_ids"] = siglip_input_ids(self.siglip_tokenizer, captions, self.max_length)
        if self.caption_tokenizer is not None:
            ended = [caption + self.caption_tokenizer.eos_token for caption in captions]
            padded = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
            encoded = self.caption_tokenizer(ended, truncation=True, max_length=self.max_caption_length, **padded)
            batch["caption_ids"] = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
        return {name: ids.masked_fill(absent[:, None], -100) for name, ids in batch.items()}


def siglip_input_ids(tokenizer, captions: Sequence[str], max_length: int) -> torch.Tensor:
    """Captions -> ids [B, max_length] as SigLIP is trained: lower-cased, which not every tokenizer of it does itself,
    and padded to the full length, for the last position is pooled.
    """
    lowered = [caption.lower() for caption in captions]
    encoded = tokenizer(lowered, padding="max_length", max_length=max_length, truncation=True)
    return torch.tensor(encoded["input_ids"])


class TextCollator:
    """Documents `{"prompt", "answer", "chat"}` -> `input_ids`, `attention_mask`, `labels` [B, T], each closed by the
    end-of-text token.

    What has a prompt stands in ChatML where `chat` says so, or else on one line each. Prompts carry no loss: what they
    tell of is chance, and learning chance would cost most of the time.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @staticmethod
    def rendered(sample: Mapping) -> tuple[str, str]:
        """A document's prompt as it stands, and the whole text."""
        prompt, answer = sample["prompt"], sample["answer"]
        if not prompt:
            return "", answer
        if sample["chat"]:
            asked = ASKED.format(prompt)
            return asked, f"{asked}{answer}<|im_end|>"
        return f"{prompt}\n", f"{prompt}\n{answer}"

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        prompts, texts = zip(*map(self.rendered, samples), strict=True)
        texts = [text + self.tokenizer.eos_token for text in texts]
        batch = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        for row, prompt in zip(labels, self.tokenizer(list(prompts)).input_ids, strict=True):
            row[: len(prompt)] = -100
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}
