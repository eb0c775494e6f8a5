"""The emoji that `prepare` left in a folder, with their splits, and samples of them for the tokenizer.

    python -m transformers_arm.worlds.emoji.pictures runs/emoji/data

prints how many there are of each split.
"""

import argparse
import io
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from torch.utils.data import Dataset

from .captions import ENGLISH, caption, languages_of
from .catalog import GROUPS, Emoji
from .prepare import PICTURES
from .splits import SEEN_BY_TOKENIZER, SPLITS, splits
from .twins import twin_classes
from .variations import varied

FOLDER = "runs/emoji/data"
"""Where `make emoji-data` writes; the variable `ARM_EMOJI_DATA` names another folder."""


class Drawn(NamedTuple):
    """An emoji in a style.

    Attributes:
        image: uint8 [64, 64, 3].
        twins: number of its class, the same for pictures that look alike (`twins.twin_classes`).
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


def missing_pictures(folder: str | os.PathLike | None = None) -> str | None:
    """What to do about pictures that are not there; None if they are."""
    file = Path(pictures_folder(folder)) / PICTURES
    if file.exists():
        return None
    return (
        f"{file} is not there: the pictures of the emoji world are fetched, not shipped. `make emoji-data` does it in "
        "a minute; where they lie elsewhere, name their folder in the variable ARM_EMOJI_DATA."
    )


def read_pictures(folder: str | os.PathLike | None = None) -> tuple[Drawn, ...]:
    """All pictures of a folder, in its order; read once.

    Raises:
        FileNotFoundError: there are none; says what makes them.
        ValueError: they are of another version of this package.
    """
    return _read(Path(pictures_folder(folder)).resolve())


@lru_cache(maxsize=2)
def _read(folder: Path) -> tuple[Drawn, ...]:
    if missing := missing_pictures(folder):
        raise FileNotFoundError(missing)
    file = folder / PICTURES
    table = pq.read_table(file)
    if missing := {field.name for field in fields(Emoji)} - set(table.column_names):
        raise ValueError(
            f"{file} has no column {', '.join(sorted(missing))}: another version of this package wrote it. "
            "`make emoji-data` writes it anew."
        )
    rows = table.to_pylist()
    images = np.stack([Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows])
    styles, twins = [row["style"] for row in rows], twin_classes(images)
    emojis = [_emoji(row) for row in rows]
    found = splits(zip(emojis, styles, twins, strict=True))
    return tuple(Drawn(*each) for each in zip(emojis, styles, images, twins, found, strict=True))


def _emoji(row: dict) -> Emoji:
    known = {field.name: row[field.name] for field in fields(Emoji)}
    lists = {"tags": tuple(row["tags"]), "tones": tuple(row["tones"]), "names": tuple(map(tuple, row["names"]))}
    return Emoji(**known | lists)


class EmojiDataset(Dataset):
    """Samples `{"image": uint8 [64, 64, 3], "caption": str | None}`, each a pure function of seed and index.

    Args:
        length: number of samples.
        seed: of the choice and of the captions' words.
        of: splits that are drawn from.
        languages: that captions are in, each as often as the others. Beside English they must have been prepared
            (`prepare --languages`); emojis without a name in one of them are not drawn.
        folder: as `read_pictures` takes it.
        varied: share of the samples that are `variations.varied`, and have no caption: none would be true.

    Raises:
        ValueError: there is no such split, no picture is left, or `varied` is no share.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        of: Sequence[str] = SEEN_BY_TOKENIZER,
        languages: Sequence[str] = (ENGLISH,),
        folder: str | os.PathLike | None = None,
        varied: float = 0.0,
    ):
        if not 0 <= varied <= 1:
            raise ValueError(f"varied is {varied}, but a share: 0 to 1.")
        self.length, self.seed, self.of, self.languages = length, seed, tuple(of), tuple(languages)
        self.varied = varied
        if unknown := set(self.of) - set(SPLITS):
            raise ValueError(f"There is no split {', '.join(sorted(unknown))}, but {', '.join(SPLITS)}.")
        self.drawn = [
            each
            for each in read_pictures(folder)
            if each.split in self.of and not set(self.languages) - set(languages_of(each.emoji))
        ]
        if not self.drawn:
            raise ValueError(
                f"No picture of the splits {', '.join(self.of) or '()'} has a name in all of the languages "
                f"{', '.join(self.languages)}. `python -m transformers_arm.worlds.emoji.prepare {FOLDER} --languages "
                "...` adds names."
            )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"Sample {index} of {self.length}.")
        rng = random.Random(f"emoji/{self.seed}/{index}")
        each = rng.choice(self.drawn)
        if rng.random() < self.varied:
            return {"image": varied(each.image, rng), "caption": None}
        return {"image": each.image, "caption": caption(each.emoji, each.style, rng, rng.choice(self.languages))}


def counts(drawn: Sequence[Drawn]) -> str:
    """How many pictures there are of each group and split, as a table in Markdown, and how many look alike."""
    groups = [group for group in GROUPS if any(each.emoji.group == group for each in drawn)]
    found = Counter((each.emoji.group, each.split) for each in drawn)
    lines = [f"| | {' | '.join(SPLITS)} | all |", f"|---|{'---:|' * (len(SPLITS) + 1)}"]
    for name, some in (*((group, [group]) for group in groups), ("all", groups)):
        numbers = [sum(found[group, split] for group in some) for split in SPLITS]
        lines.append(f"| {name} | {' | '.join(f'{number:,}' for number in (*numbers, sum(numbers)))} |")
    sizes = Counter(each.twins for each in drawn)
    alike = sum(size for size in sizes.values() if size > 1)
    return "\n".join([*lines, "", f"{len(sizes):,} look different; {alike:,} have a twin."])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="that `prepare` wrote")
    try:
        print(counts(read_pictures(parser.parse_args().folder)))
    except (ValueError, OSError) as error:
        sys.exit(f"pictures: {error}")
