"""Torch datasets over the embedded world. Samples are drawn by index, any one without those before it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from .captions import sample_caption
from .draw import DEFAULT_SIDE, render_scene, size_word
from .scene import Scene, sample_scene


@dataclass(frozen=True)
class Canvas:
    """A canvas size, the jitter of the objects on it, and how often it is drawn relative to the others."""

    height: int = DEFAULT_SIDE
    width: int = DEFAULT_SIDE
    max_jitter: int = 0
    weight: float = 1.0

    __pydantic_config__ = {"extra": "forbid"}  # recipes are checked by pydantic, which lets unknown fields pass else

    @property
    def size(self) -> dict[str, int]:
        """Height and width, as the pipelines take them."""
        return {"height": self.height, "width": self.width}

    @property
    def word(self) -> str | None:
        """What captions may call pictures of this size."""
        return size_word(self.height, self.width)


def as_canvases(canvases: Sequence[Canvas | dict]) -> list[Canvas]:
    """Canvases, of which dicts state the fields."""
    return [canvas if isinstance(canvas, Canvas) else Canvas(**canvas) for canvas in canvases]


def drawn_canvas(rng: random.Random, canvases: Sequence[Canvas]) -> Canvas:
    """One of the canvases, by their weights."""
    return rng.choices(canvases, [canvas.weight for canvas in canvases])[0]


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
        self.canvases = as_canvases(canvases)

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> tuple[Scene, Canvas, random.Random]:
        """The scene of a sample, the canvas it is drawn on, and the generator for whatever is drawn next."""
        canvas = drawn_canvas(random.Random(f"{self.seed}/batch/{index // self.batch_size}"), self.canvases)
        rng = random.Random(f"{self.seed}/sample/{index}")
        return sample_scene(rng, split=self.split, max_jitter=canvas.max_jitter), canvas, rng

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"Sample {index} is outside this dataset of {self.length}.")
        scene, canvas, rng = self.scene(index)
        return {"image": render_scene(scene, canvas.height, canvas.width), "caption": sample_caption(rng, scene)}
