"""The embedded world's mixture of tasks as conversations: text, image-to-text, text-to-image, editing, stories."""

import random
from collections.abc import Sequence

import numpy as np

from ...data.conversations import message
from ..mixtures import TaskMixture, check_weights
from .captions import (
    full_caption,
    loose_caption,
    related_caption,
    sample_caption,
    short_caption,
    shuffled_caption,
    sized_caption,
)
from .draw import render_scene
from .edits import sample_edit, sample_editing_pair
from .pictures import Canvas, as_canvases, drawn_canvas
from .questions import QUESTION_KINDS, Question, sample_question
from .references import names_drawn
from .scene import MAX_OBJECTS, Scene, sample_scene
from .text import WorldText

TASKS = ("text", "image_to_text", "text_to_image", "editing", "interleaved")
CAPTIONS = {
    "full": shuffled_caption,
    "short": short_caption,
    "any": sample_caption,
    "loose": loose_caption,
    "related": related_caption,
}
DESCRIBE = "describe the picture"
STORY = "tell a story of "


class WorldTasks(TaskMixture):
    """Conversations about training scenes; conversation `index` is a pure function of `(seed, index)`.

    - text: a document of `WorldText`;
    - image_to_text: a picture and its full caption in reading order, or `questions` questions about it in a row, or
      one before it;
    - text_to_image: a caption and the picture;
    - editing: an instruction, the source's picture, and the target's;
    - interleaved: a story: the pictures of a scene and of two edits of it, told in one answer.

    Captions state objects in random order. Every run of `batch_size` consecutive conversations is of one task and one
    canvas, and what is drawn or described in it holds the same number of objects, so that their lengths agree.
    Pictures that a model must draw are of the split and hold no held-out pair; those it only reads may hold one.

    Args:
        length: number of conversations.
        mixture: weight of each of `TASKS`.
        batch_size: conversations of one task in a row: one step's batch over all processes.
        seed: two datasets with different seeds are disjoint streams.
        curriculum: `[a, b]`: scenes have one object up to conversation a, up to two until b, then up to three.
        captions: weight of each kind of caption in text-to-image: `full`, `short`, `any` form of the language, `loose`
            (no cells, no background) and `related` (two objects, one left of the other, ...; before the curriculum
            has two, `loose` takes its place).
        described: share of captions in image-to-text; the rest are questions.
        question_first: share of the questions that stand before their picture, one to a picture.
        questions: questions in a row about a picture that stands before them.
        question_kinds: weights of kinds of questions, above 0, where they are not 1.
        other_names: share of edits and questions that name their object in other ways than plainly (`NAMES`).
        condition_dropout: probabilities in place of those that `drop_conditions` has by default.
        canvases: canvases to draw on, or dicts with their fields.
        stated_size: share of what is asked to be drawn that states the size of its picture, where there is a word for
            it; from the others a model learns the sizes' shares, so that the commonest is drawn where none is stated.
        split: `"train"`, `"test"` or None for both.

    Raises:
        ValueError: a task in `mixture` or a kind in `captions` or `question_kinds` that there is not, or a kind of
            question without weight.
    """

    tasks = TASKS

    def __init__(
        self,
        length: int,
        *,
        mixture: dict[str, float],
        batch_size: int,
        seed: int,
        curriculum: tuple[int, int] = (0, 0),
        captions: dict[str, float] | None = None,
        described: float = 0.5,
        question_first: float = 0.0,
        questions: int = 3,
        question_kinds: dict[str, float] | None = None,
        condition_dropout: dict[str, float] | None = None,
        other_names: float = 0.5,
        canvases: Sequence[Canvas | dict] = (Canvas(),),
        stated_size: float = 0.0,
        split: str | None = "train",
    ):
        super().__init__(length, mixture, batch_size, seed, condition_dropout)
        self.question_kinds = dict.fromkeys(QUESTION_KINDS, 1.0) | (question_kinds or {})
        check_weights("kind of caption", captions or {}, CAPTIONS)
        check_weights("kind of question", self.question_kinds, QUESTION_KINDS)
        if (least := min(self.question_kinds.values())) <= 0:
            raise ValueError(f"A kind of question has weight {least}; it must be above 0: a scene may allow no other.")
        self.split = split
        self.captions = captions or {"full": 1.0}
        self.curriculum, self.questions = curriculum, questions
        self.described, self.question_first = described, question_first
        self.other_names, self.stated_size = other_names, stated_size
        self.canvases = as_canvases(canvases)
        self.documents = WorldText(length, seed=seed, split=split, other_names=other_names)

    def _most_objects(self, index: int) -> int:
        return min(MAX_OBJECTS, 1 + sum(index >= bound for bound in self.curriculum))

    def canvas(self, index: int) -> Canvas:
        """What the pictures of a conversation, and of its batch, are drawn on."""
        return drawn_canvas(self._of_batch("canvas", index), self.canvases)

    def _draw(self, scene: Scene, index: int) -> np.ndarray:
        return render_scene(scene, **self.canvas(index).size)

    def _sized(self, rng: random.Random, caption: str, index: int) -> str:
        return sized_caption(caption, self.canvas(index).word if rng.random() < self.stated_size else None)

    def _ask(self, rng: random.Random, scene: Scene) -> Question:
        return sample_question(rng, scene, weights=self.question_kinds, names=names_drawn(rng, self.other_names))

    def _scene(self, rng: random.Random, index: int, **wanted) -> Scene:
        """A scene with the batch's number of objects. One in ten with several is of one shape: chance alone draws
        those too rarely to learn counting.
        """
        wanted.setdefault("num_objects", self._of_batch("objects", index).randint(1, self._most_objects(index)))
        alike = rng.random() < 0.1
        while True:
            scene = sample_scene(rng, split=self.split, max_jitter=self.canvas(index).max_jitter, **wanted)
            if not alike or len({item.shape for item in scene.objects}) == 1:
                return scene

    def _text(self, rng: random.Random, index: int) -> list[dict]:
        _, prompt, answer = self.documents.turn(index)
        return [message("user", prompt), message("assistant", answer)]

    def _image_to_text(self, rng: random.Random, index: int) -> list[dict]:
        if self._of_batch("described", index).random() < self.described:
            scene = self._scene(rng, index)
            return [message("user", self._draw(scene, index), DESCRIBE), message("assistant", full_caption(scene))]
        scene = self._scene(rng, index, num_objects=rng.randint(1, self._most_objects(index)))
        if self._of_batch("question first", index).random() < self.question_first:
            asked = self._ask(rng, scene)
            return [message("user", asked.question, self._draw(scene, index)), message("assistant", asked.answer)]
        messages = []
        for number in range(self.questions):
            asked = self._ask(rng, scene)
            messages.append(message("user", *([] if number else [self._draw(scene, index)]), asked.question))
            messages.append(message("assistant", asked.answer))
        return messages

    def _text_to_image(self, rng: random.Random, index: int) -> list[dict]:
        (kind,) = self._of_batch("captions", index).choices(list(self.captions), self.captions.values())
        if kind == "related" and self._most_objects(index) < 2:
            kind = "loose"
        scene = self._scene(rng, index, held_out_pairs=False, **({"num_objects": 2} if kind == "related" else {}))
        caption = self._sized(rng, CAPTIONS[kind](rng, scene), index)
        return [message("user", caption), message("assistant", self._draw(scene, index))]

    def _editing(self, rng: random.Random, index: int) -> list[dict]:
        most, names = self._most_objects(index), names_drawn(rng, self.other_names)
        wanted = {"split": self.split, "max_jitter": self.canvas(index).max_jitter, "held_out_pairs": False}
        while True:
            pair = sample_editing_pair(rng, names=names, **wanted)
            if max(len(pair.source.objects), len(pair.target.objects)) <= most:
                break
        request = message("user", pair.instruction, self._draw(pair.source, index))
        return [request, message("assistant", self._draw(pair.target, index))]

    def _interleaved(self, rng: random.Random, index: int) -> list[dict]:
        scene = self._scene(rng, index, held_out_pairs=False)
        asked_for = self._sized(rng, shuffled_caption(rng, scene), index)
        request, told = message("user", STORY + asked_for), [self._draw(scene, index)]
        for _ in range(2):
            while True:
                names = names_drawn(rng, self.other_names)
                edit = sample_edit(rng, scene, split=self.split, held_out_pairs=False, names=names)
                if len(edit.target.objects) <= self._most_objects(index):
                    break
            scene = edit.target
            told += [edit.instruction, self._draw(scene, index)]
        return [request, message("assistant", *told)]
