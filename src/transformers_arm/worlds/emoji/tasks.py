"""The emoji world's mixture of tasks as conversations: text, image-to-text, text-to-image, editing."""

import os
import random
from collections.abc import Mapping, Sequence

from ...data.conversations import message
from ..mixtures import Documents, TaskMixture, check_weights
from .captions import caption
from .edits import KINDS
from .items import Item, items_of
from .pictures import Drawn
from .questions import QUESTION_KINDS
from .splits import TRAIN

TASKS = ("text", "image_to_text", "text_to_image", "editing")
DESCRIBE = "describe the picture"
EDIT_WEIGHTS = {**dict.fromkeys(KINDS, 1.0), "tone": 8.0, "gender": 4.0}  # of which there are most
DOCUMENTS = {"caption": 0.15, "paraphrase": 0.25, "question": 0.25, "edit": 0.2, "tags": 0.15}


def full(drawn: Drawn) -> str:
    """The caption of a picture, all that tells it from others."""
    return caption(drawn.emoji, drawn.style)


def weighted(rng: random.Random, by_kind: Mapping[str, Sequence[Item]], weights: Mapping[str, float]) -> Item:
    """An item of a kind that is drawn by weight, of those that there are."""
    kinds = [kind for kind in by_kind if weights.get(kind)]
    (kind,) = rng.choices(kinds, [weights[kind] for kind in kinds])
    return rng.choice(by_kind[kind])


class EmojiText(Documents):
    """Documents about training pictures in words alone; document `index` is a pure function of `(seed, index)`.

    - caption: any caption;
    - paraphrase: a caption in any order, answered by the full one;
    - question: the full caption and a question, answered;
    - edit: the full caption and an instruction, answered by the target's full caption;
    - tags: what an emoji is tagged with, answered by its name.

    Args:
        length: number of documents.
        seed: two datasets with different seeds are disjoint streams.
        folder: as `read_pictures` takes it.
    """

    def __init__(self, length: int, *, seed: int, folder: str | os.PathLike | None = None):
        super().__init__(length, seed)
        self.items = items_of(TRAIN, folder)
        self.tagged = [each for each in self.items.pictures if each.emoji.tags]

    def turn(self, index: int) -> tuple[str, str, str]:
        rng = random.Random(f"{self.seed}/text/{index}")
        (task,) = rng.choices(list(DOCUMENTS), DOCUMENTS.values())
        if task == "question":
            asked = weighted(rng, self.items.questions, dict.fromkeys(QUESTION_KINDS, 1.0))
            return task, f"{full(asked.drawn)}\n{rng.choice(asked.wordings)}", asked.answer
        if task == "edit":
            edit = weighted(rng, self.items.edits, EDIT_WEIGHTS)
            return task, f"{full(edit.source)}\n{rng.choice(edit.instructions)}", full(edit.target)
        if task == "tags" and self.tagged:
            emoji = rng.choice(self.tagged).emoji
            return task, ", ".join(rng.sample(emoji.tags, rng.randint(1, len(emoji.tags)))), emoji.label
        each = rng.choice(self.items.pictures)
        told = caption(each.emoji, each.style, rng)
        return ("paraphrase", told, full(each)) if task == "paraphrase" else ("caption", "", told)


class EmojiTasks(TaskMixture):
    """Conversations about training pictures; conversation `index` is a pure function of `(seed, index)`.

    - text: a document of `EmojiText`;
    - image_to_text: a picture and its full caption, or `questions` questions about it in a row;
    - text_to_image: a caption and the picture;
    - editing: an instruction, the source's picture, and the target's.

    Every run of `batch_size` consecutive conversations is of one task.

    Args:
        length: number of conversations.
        mixture: weight of each of `TASKS`.
        batch_size: conversations of one task in a row: one step's batch over all processes.
        seed: two datasets with different seeds are disjoint streams.
        paraphrased: share of the captions to draw from whose words stand in any order, with tags; the rest are full
            captions, which scores are taken with.
        described: share of captions in image-to-text; the rest are questions.
        questions: questions in a row about a picture, at most one of a kind.
        edit_kinds: weights of kinds of edits in place of `EDIT_WEIGHTS`; 0 leaves one out.
        condition_dropout: probabilities in place of those that `drop_conditions` has by default.
        split: of the pictures.
        folder: as `read_pictures` takes it.

    Raises:
        ValueError: a task in `mixture` or a kind in `edit_kinds` that there is not.
    """

    tasks = TASKS

    def __init__(
        self,
        length: int,
        *,
        mixture: dict[str, float],
        batch_size: int,
        seed: int,
        paraphrased: float = 0.5,
        described: float = 0.5,
        questions: int = 3,
        edit_kinds: dict[str, float] | None = None,
        condition_dropout: dict[str, float] | None = None,
        split: str = TRAIN,
        folder: str | os.PathLike | None = None,
    ):
        super().__init__(length, mixture, batch_size, seed, condition_dropout)
        check_weights("kind of edit", edit_kinds or {}, KINDS)
        self.paraphrased, self.described, self.questions = paraphrased, described, questions
        self.edit_kinds = EDIT_WEIGHTS | (edit_kinds or {})
        self.items, self.documents = items_of(split, folder), EmojiText(length, seed=seed, folder=folder)
        self.about = {}
        for asked in (asked for of_kind in self.items.questions.values() for asked in of_kind):
            self.about.setdefault(id(asked.drawn), []).append(asked)

    def _text(self, rng: random.Random, index: int) -> list[dict]:
        _, prompt, answer = self.documents.turn(index)
        return [message("user", prompt), message("assistant", answer)]

    def _image_to_text(self, rng: random.Random, index: int) -> list[dict]:
        each = rng.choice(self.items.pictures)
        if self._of_batch("described", index).random() < self.described:
            return [message("user", each.image, DESCRIBE), message("assistant", full(each))]
        about, messages = self.about[id(each)], []  # its style at least
        for number, asked in enumerate(rng.sample(about, min(self.questions, len(about)))):
            messages.append(message("user", *([] if number else [each.image]), rng.choice(asked.wordings)))
            messages.append(message("assistant", asked.answer))
        return messages

    def _text_to_image(self, rng: random.Random, index: int) -> list[dict]:
        each = rng.choice(self.items.pictures)
        asked = caption(each.emoji, each.style, rng) if rng.random() < self.paraphrased else full(each)
        return [message("user", asked), message("assistant", each.image)]

    def _editing(self, rng: random.Random, index: int) -> list[dict]:
        edit = weighted(rng, self.items.edits, self.edit_kinds)
        request = message("user", rng.choice(edit.instructions), edit.source.image)
        return [request, message("assistant", edit.target.image)]
