"""The emoji world as a plug: what `data.world.World` asks for, each from its own file."""

import random
from collections.abc import Iterator, Sequence
from os import PathLike

import datasets
from PIL import Image
from torch.utils.data import Dataset

from ...data.world import Sheet, World, takes
from ...evaluation.arm import Arm
from ...evaluation.sheets import picture_sheet
from .demo import sheets
from .evaluation import SIZE, look_scores, score_parts
from .figure_names import FIGURE_NAMES
from .items import items_of
from .pictures import EmojiDataset, missing_pictures
from .requests import emoji_requests
from .rewards import emoji_attribute, emoji_kept, emoji_match
from .scores import read_originals
from .splits import TRAIN
from .tasks import EmojiTasks, EmojiText, full

SHOWN = 16  # pictures on the sheet of a look


class EmojiWorld(World):
    """Real pictures with names: emoji of three styles."""

    figure_names = FIGURE_NAMES
    rewards = {reward.__name__: reward for reward in (emoji_match, emoji_attribute, emoji_kept)}

    @takes(EmojiDataset)
    def pictures(self, length: int, *, seed: int, batch_size: int = 1, **arguments) -> Dataset:
        """Nothing that the tokenizer must not have seen, unless `of` names it."""
        return EmojiDataset(length, seed, **arguments)

    @takes(EmojiText)
    def documents(self, length: int, *, seed: int, **arguments) -> EmojiText:
        return EmojiText(length, seed=seed, **arguments)

    @takes(EmojiTasks)
    def tasks(self, length: int, *, seed: int, batch_size: int = 1, per_step: int = 1, **arguments) -> EmojiTasks:
        """`EmojiTasks`."""
        return EmojiTasks(length, seed=seed, batch_size=batch_size, **arguments)

    @takes(emoji_requests)
    def requests(self, count: int, *, seed: int, **arguments) -> datasets.Dataset:
        return emoji_requests(count, seed=seed, **arguments)

    def reconstruction_scores(self, returned: Sequence, originals: Sequence) -> dict[str, float]:
        """Of pictures that come back: the nearest of all originals is the `right` one, is of the right `concept`,
        `tone`, `gender`, `style`.
        """
        known = read_originals()
        wanted = known.nearest(originals)
        means = known.means(returned, wanted)
        return {name: value.mean for name, value in means.items()}

    def look(self, arm: Arm, *, count: int, seed: int) -> tuple[dict[str, float], Image.Image]:
        """Right pictures, edits and answers of training pictures; drawn full captions."""
        scores = look_scores(arm, read_originals(), split=TRAIN, count=count, seed=seed)
        pictures = items_of(TRAIN).pictures
        shown = random.Random(f"{seed}/shown").sample(pictures, min(SHOWN, len(pictures)))
        return scores, picture_sheet([arm.draw([full(each) for each in shown], seed=seed, **SIZE)])

    def scores(self, folder: str | PathLike, *, count: int, seed: int) -> dict[str, float]:
        return {name: score for part in score_parts(folder, count=count, seed=seed) for name, score in part.items()}

    def scores_as_they_come(self, folder: str | PathLike, *, count: int, seed: int) -> Iterator[dict[str, float]]:
        return score_parts(folder, count=count, seed=seed)

    def missing(self) -> str | None:
        return missing_pictures()

    def sheets(self, folder: str | PathLike, *, seed: int) -> Iterator[Sheet]:
        return sheets(folder, seed=seed)
