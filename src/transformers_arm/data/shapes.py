"""Torch datasets over the embedded world. Samples are drawn by index, any one without those before it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from ..shapes.captions import sample_caption
from ..shapes.draw import DEFAULT_SIDE, render_scene
from ..shapes.scene import Scene, sample_scene


@dataclass(frozen=True)
class Canvas:
    """A canvas size, the jitter of the objects on it, and how often it is drawn relative to the others."""

    height: int = DEFAULT_SIDE
    width: int = DEFAULT_SIDE
    max_jitter: int = 0
    weight: float = 1.0


class ShapesDataset(Dataset):
    """Scenes with a picture and a caption; sample `index` is a pure function of `(seed, index)`.

    Every run of `batch_size` consecutive samples shares one canvas, so that a batch can be stacked.

    Args:
        length: number of samples.
        batch_size: samples that share a canvas; the per-device batch size.
        seed: two datasets with different seeds are disjoint streams.
        canvases: canvases to draw on, or dicts with their fields.
        split: `"train"`, `"test"` or None for both.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        canvases: Sequence[Canvas | dict] = (Canvas(),),
        split: str | None = "train",
    ):
        self.length, self.batch_size, self.seed, self.split = length, batch_size, seed, split
        self.canvases = [c if isinstance(c, Canvas) else Canvas(**c) for c in canvases]

    @classmethod
    def for_training(cls, arguments: TrainingArguments, canvases: Sequence[Canvas | dict]) -> "ShapesDataset":
        """The training scenes of one run: as many as its steps take, batches and seed as its arguments say."""
        batch_size = arguments.per_device_train_batch_size
        steps = arguments.max_steps * arguments.gradient_accumulation_steps * arguments.world_size
        return cls(steps * batch_size, batch_size=batch_size, seed=arguments.seed, canvases=canvases)

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> tuple[Scene, Canvas, random.Random]:
        """The scene of a sample, the canvas it is drawn on, and the generator for whatever is drawn next."""
        weights = [c.weight for c in self.canvases]
        canvas = random.Random(f"{self.seed}/batch/{index // self.batch_size}").choices(self.canvases, weights)[0]
        rng = random.Random(f"{self.seed}/sample/{index}")
        return sample_scene(rng, split=self.split, max_jitter=canvas.max_jitter), canvas, rng

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"Sample {index} is outside this dataset of {self.length}.")
        scene, canvas, rng = self.scene(index)
        return {"image": render_scene(scene, canvas.height, canvas.width), "caption": sample_caption(rng, scene)}


def to_pixel_values(images: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 RGB arrays [H, W, 3] of one size -> float32 [B, 3, H, W] in -1..1, as `ArmImageProcessor` gives them."""
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() - 127.5) / 127.5


@dataclass
class ImageTextCollator:
    """Stacks samples with `image` and `caption`; pads each tokenizer's captions the way its model wants them.

    Args:
        siglip_tokenizer: gives `input_ids`, padded to `max_length` as SigLIP is trained, without an attention mask.
        max_length: SigLIP's number of text positions.
        caption_tokenizer: gives `caption_ids` [B, T], closed by its end-of-text token, -100 where padded.
        max_caption_length: most tokens of a caption; longer ones are cut and stay open.
    """

    siglip_tokenizer: object | None = None
    max_length: int = 64
    caption_tokenizer: object | None = None
    max_caption_length: int = 256

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        images = to_pixel_values([sample["image"] for sample in samples])
        return {"pixel_values": images, **self.ids([sample["caption"] for sample in samples])}

    def ids(self, captions: list[str]) -> dict[str, torch.Tensor]:
        """The ids of captions, as each tokenizer's model wants them."""
        batch = {}
        if self.siglip_tokenizer is not None:
            batch["input_ids"] = siglip_input_ids(self.siglip_tokenizer, captions, self.max_length)
        if self.caption_tokenizer is not None:
            ended = [caption + self.caption_tokenizer.eos_token for caption in captions]
            padded = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
            encoded = self.caption_tokenizer(ended, truncation=True, max_length=self.max_caption_length, **padded)
            batch["caption_ids"] = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
        return batch


def siglip_input_ids(tokenizer, captions: Sequence[str], max_length: int) -> torch.Tensor:
    """Captions -> ids [B, max_length], padded to the full length: SigLIP pools the last position."""
    encoded = tokenizer(list(captions), padding="max_length", max_length=max_length, truncation=True)
    return torch.tensor(encoded["input_ids"])
