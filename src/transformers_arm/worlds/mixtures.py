"""What the mixtures of tasks of all worlds share: whose turn it is, a batch of one task, conditions dropped.

Knows no world.
"""

import random
from collections.abc import Collection, Mapping

from torch.utils.data import Dataset

from ..data.conversations import check_condition_dropout, drop_conditions


def check_weights(what: str, weights: Mapping[str, float], known: Collection[str]) -> None:
    """Raises a ValueError if weights name something that there is not."""
    if unknown := set(weights) - set(known):
        raise ValueError(f"Unknown {what} {', '.join(unknown)} in the mixture; use {', '.join(known)}.")


class TaskMixture(Dataset):
    """Conversations, lists of messages; conversation `index` is a pure function of `(seed, index)`.

    A task is a method of its name behind a `_`, which takes a source of randomness and the index. Every run of
    `batch_size` consecutive conversations is of one task.

    Args:
        length: number of conversations.
        mixture: weight of each task.
        batch_size: conversations of one task in a row: one step's batch over all processes.
        seed: two datasets with different seeds are disjoint streams.
        condition_dropout: probabilities in place of those that `drop_conditions` has by default.

    Raises:
        ValueError: a task that is not among `tasks`.
    """

    tasks: tuple[str, ...] = ()

    def __init__(
        self,
        length: int,
        mixture: Mapping[str, float],
        batch_size: int,
        seed: int,
        condition_dropout: Mapping[str, float] | None,
    ):
        check_weights("task", mixture, self.tasks)
        check_condition_dropout(condition_dropout)
        self.length, self.mixture, self.batch_size, self.seed = length, mixture, batch_size, seed
        self.condition_dropout = condition_dropout or {}

    def __len__(self) -> int:
        return self.length

    def _of_batch(self, name: str, index: int) -> random.Random:
        """Randomness that the conversations of a batch share."""
        return random.Random(f"{self.seed}/{name}/{index // self.batch_size}")

    def task(self, index: int) -> str:
        return self._of_batch("task", index).choices(list(self.mixture), self.mixture.values())[0]

    def __getitem__(self, index: int) -> list[dict]:
        if not 0 <= index < self.length:
            raise IndexError(f"Conversation {index} is outside this dataset of {self.length}.")
        rng = random.Random(f"{self.seed}/conversation/{index}")
        messages = getattr(self, f"_{self.task(index)}")(rng, index)
        return drop_conditions(rng, messages, **self.condition_dropout)


class Documents(Dataset):
    """Documents of words alone, each a pure function of its index, in ChatML or plainly on one line each, half and
    half.
    """

    def __init__(self, length: int, seed: int):
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def turn(self, index: int) -> tuple[str, str, str]:
        """(task, prompt, answer) of a document; the prompt may be empty."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"Document {index} is outside this dataset of {self.length}.")
        _, prompt, answer = self.turn(index)
        return {"prompt": prompt, "answer": answer, "chat": bool(index % 2)}
