"""The emoji that `prepare` left in a folder, with their splits, and samples of them for the tokenizer."""

import io
import os
import random
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from torch.utils.data import Dataset

from .captions import caption
from .catalog import Emoji
from .prepare import PICTURES
from .splits import SEEN_BY_TOKENIZER, splits

FOLDER = "runs/emoji/data"
"""Where `make emoji-data` writes; the variable `ARM_EMOJI_DATA` names another folder."""


class Drawn(NamedTuple):
    """An emoji in a style.

    Attributes:
        image: uint8 [64, 64, 3].
        twins: number of its class, the same for pictures that look alike.
        split: one of `splits`.
    """

    emoji: Emoji
    style: str
    image: np.ndarray
    twins: int
    split: str


def pictures_folder(folder: str | os.PathLike | None = None) -> str:
    """Where pictures lie: in a folder that is named, or else where the variable or `make emoji-data` has them."""
    return str(folder or os.environ.get("ARM_EMOJI_DATA", FOLDER))


def read_pictures(folder: str | os.PathLike | None = None) -> tuple[Drawn, ...]:
    """All pictures of a folder, in its order; read once.

    Raises:
        FileNotFoundError: there are none; says what makes them.
    """
    return _read(pictures_folder(folder))


@lru_cache(maxsize=2)
def _read(folder: str) -> tuple[Drawn, ...]:
    file = Path(folder) / PICTURES
    if not file.exists():
        raise FileNotFoundError(
            f"{file} is not there: the pictures of the emoji world are fetched, not shipped. `make emoji-data` does it "
            "in a minute; where they lie elsewhere, name their folder in the variable ARM_EMOJI_DATA."
        )
    rows, classes, read = pq.read_table(file).to_pylist(), {}, []
    for row in rows:
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        known = {field.name: row[field.name] for field in fields(Emoji)}
        emoji = Emoji(**{**known, "tags": tuple(known["tags"]), "tones": tuple(known["tones"])})
        read.append((emoji, row["style"], image, classes.setdefault(image.tobytes(), len(classes))))
    found = splits((emoji, style, twins) for emoji, style, _, twins in read)
    return tuple(Drawn(*each, split) for each, split in zip(read, found, strict=True))


class EmojiDataset(Dataset):
    """Samples `{"image": uint8 [64, 64, 3], "caption": str}`, each a pure function of seed and index.

    Args:
        length: number of samples.
        seed: of the choice and of the captions' words.
        of: splits that are drawn from.
        folder: as `read_pictures` takes it.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        of: Sequence[str] = SEEN_BY_TOKENIZER,
        folder: str | os.PathLike | None = None,
    ):
        self.length, self.seed, self.of = length, seed, tuple(of)
        self.drawn = [each for each in read_pictures(folder) if each.split in self.of]
        if not self.drawn:
            raise ValueError(
                f"No picture is of the splits {', '.join(self.of)}; there are {', '.join(SEEN_BY_TOKENIZER)}."
            )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"Sample {index} of {self.length}.")
        rng = random.Random(f"emoji/{self.seed}/{index}")
        each = rng.choice(self.drawn)
        return {"image": each.image, "caption": caption(each.emoji, each.style, rng)}
