"""Text of the embedded world for language-model pre-training: captions, paraphrases, questions and edits in words."""

import random

from ..mixtures import Documents
from .captions import full_caption, sample_caption, shuffled_caption, sized_caption
from .draw import PICTURE_SIZES
from .edits import sample_edit
from .questions import sample_question
from .references import names_drawn
from .scene import sample_scene

TASKS = {"caption": 0.15, "paraphrase": 0.25, "question": 0.3, "edit": 0.3}


class WorldText(Documents):
    """Text documents about training scenes; document `index` is a pure function of `(seed, index)`.

    - caption: any caption of a scene; half of them state a size of its picture;
    - paraphrase: the full caption with objects in random order, answered by the full caption in cell order;
    - question: the full caption and a question about it, answered;
    - edit: the full caption and an instruction, answered by the target's full caption.

    What has a prompt and an answer stands in ChatML, or plainly on one line each, half and half.

    Args:
        length: number of documents.
        seed: two datasets with different seeds are disjoint streams.
        split: `"train"`, `"test"` or None for both.
        other_names: share of questions and edits that name their object in other ways than plainly (`NAMES`).
    """

    def __init__(self, length: int, *, seed: int, split: str | None = "train", other_names: float = 0.5):
        super().__init__(length, seed)
        self.split, self.other_names = split, other_names

    def turn(self, index: int) -> tuple[str, str, str]:
        """(task, prompt, answer) of a document; a caption has no prompt."""
        rng = random.Random(f"{self.seed}/text/{index}")
        (task,) = rng.choices(list(TASKS), TASKS.values())
        scene = sample_scene(rng, split=self.split)
        described = shuffled_caption(rng, scene)
        if task == "question":
            asked = sample_question(rng, scene, names=names_drawn(rng, self.other_names))
            return task, f"{described}\n{asked.question}", asked.answer
        if task == "edit":
            edit = sample_edit(rng, scene, split=self.split, names=names_drawn(rng, self.other_names))
            return task, f"{described}\n{edit.instruction}", full_caption(edit.target)
        if task == "paraphrase":
            return task, described, full_caption(scene)
        size = rng.choice(list(PICTURE_SIZES)) if rng.random() < 0.5 else None
        return task, "", sized_caption(sample_caption(rng, scene), size)
