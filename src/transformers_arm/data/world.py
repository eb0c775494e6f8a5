"""Worlds: embedded test beds that train, reward and score every stage of ARM; found by name.

A world draws pictures, tells of them and knows what is right. A recipe names one, `data: {world: shapes}`; what a name
stands for is an entry point of the group `transformers_arm.worlds`, so that a package of anyone's can bring one:

    [project.entry-points."transformers_arm.worlds"]
    shapes = "transformers_arm.worlds.shapes.world:ShapesWorld"

Knows no world.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from os import PathLike
from typing import NamedTuple

import datasets
import PIL.Image
from torch.utils.data import Dataset

GROUP = "transformers_arm.worlds"


class Sheet(NamedTuple):
    """A page of a demo: the name of its file, what it shows, the picture, and a text to lie beside it, if any."""

    name: str
    what: str
    picture: PIL.Image.Image
    text: str = ""


def takes(taker: Callable) -> Callable:
    """Marks a method of a world whose `**arguments` go to `taker`: a recipe is checked against what that takes."""

    def mark(method: Callable) -> Callable:
        method.takes = taker
        return method

    return mark


class World(ABC):
    """What a world gives. Only `pictures` must be there; a stage that needs more says so by name.

    Datasets are of a stated length and have samples by index, each a pure function of seed and index, none of the test
    split. Further arguments of a method are the world's own, named by itself or by what it `takes`: a recipe states
    them as `arguments` beside `world`.
    """

    rewards: Mapping[str, Callable] = {}
    """Rewards for `ArmGRPOTrainer`, by the names that recipes use."""
    figure_names: Mapping[str, str] = {}
    """Its scores in words, by their names, for cards."""

    @abstractmethod
    def pictures(self, length: int, *, seed: int, batch_size: int = 1, **arguments) -> Dataset:
        """For the tokenizer: samples `{"image": uint8 [H, W, 3], "caption": str}`.

        Args:
            batch_size: so many in a row have one size.
        """

    def documents(self, length: int, *, seed: int, **arguments) -> Dataset:
        """For a language model of words alone: samples `{"prompt": str, "answer": str, "chat": bool}`, as
        `TextCollator` takes them; the prompt may be empty.
        """
        raise self._lacks("documents")

    def tasks(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int = 1,
        per_step: int = 1,
        condition_dropout: Mapping[str, float] | None = None,
        **arguments,
    ) -> Dataset:
        """For the language model: conversations, lists of what `data.conversations.message` makes, pictures uint8.

        Args:
            batch_size: so many in a row are of one task and of like lengths.
            per_step: conversations in a step of the training, for what the world states in steps.
            condition_dropout: probabilities of `drop_conditions`, in place of its own.
        """
        raise self._lacks("tasks")

    def requests(self, count: int, *, seed: int, **arguments) -> datasets.Dataset:
        """For reinforcement learning: rows as `ArmGRPOTrainer` takes them, with whatever the rewards want to know."""
        raise self._lacks("requests")

    def reconstruction_scores(self, returned: Sequence, originals: Sequence) -> dict[str, float]:
        """What the world can read of pictures that the tokenizer gave back, beside their PSNR."""
        return {}

    def look(self, arm, *, count: int, seed: int) -> tuple[dict[str, float], PIL.Image.Image | None]:
        """While a model trains: its scores on `count` fresh training items each, and a sheet of what it draws.

        Args:
            arm: an `evaluation.arm.Arm`.
        """
        raise self._lacks("look")

    def scores(self, folder: str | PathLike, *, count: int, seed: int) -> dict[str, float]:
        """All scores of a complete ARM folder on `count` held-out items each, flat, by name."""
        raise self._lacks("scores")

    def scores_as_they_come(self, folder: str | PathLike, *, count: int, seed: int) -> Iterator[dict[str, float]]:
        """The same, some at a time, for who would rather not wait for all."""
        yield self.scores(folder, count=count, seed=seed)

    def missing(self) -> str | None:
        """What scores need that is not there, and what brings it, in a sentence; None if nothing is missing."""
        return None

    def sheets(self, folder: str | PathLike, *, seed: int) -> Iterator[Sheet]:
        """The demo: what the model of a folder makes of held-out items, page by page, also where scores cannot be had
        because something is `missing`.
        """
        raise self._lacks("sheets")

    def _lacks(self, method: str) -> ValueError:
        return ValueError(f"{type(self).__name__} has no {method}, which this needs; take another world, or add them.")


def find_world(name: str) -> World:
    """The world of a name.

    Raises:
        ValueError: there is none; names those that there are.
    """
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise ValueError(
            f"There is no world {name!r}, but {', '.join(sorted(known)) or 'none at all'}. A package brings one by an "
            f"entry point of the group {GROUP}; install it."
        )
    return known[name].load()()
