"""Rows of the four tasks to fine-tune on, and what is read from a trainer."""

import random

import numpy as np
import PIL.Image
from datasets import Dataset

from transformers_arm.data.conversations import message
from transformers_arm.worlds.shapes.captions import full_caption
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.edits import sample_editing_pair


def rows(count=4):
    """`count` rows, of the four tasks in turn; pictures are uint8 arrays of the embedded world."""
    rng, made = random.Random(0), []
    for number in range(count):
        pair = sample_editing_pair(rng)
        source, target = (render_scene(scene) for scene in (pair.source, pair.target))
        of_task = {
            "text_to_image": {"prompt": full_caption(pair.source), "image": source},
            "text": {"prompt": f"<|im_end|> {number}", "answer": "<|vision_start|>a"},  # no control tokens
            "editing": {"prompt": "redder", "source_image": source, "image": target},
            "image_to_text": {"prompt": "what is it?", "image": source, "answer": "a circle"},
        }
        task = list(of_task)[number % 4]
        made.append({"task": task, **of_task[task]})
    return made


CONVERSATIONS = {
    "text_to_image": lambda row: [message("user", row["prompt"]), message("assistant", row["image"])],
    "text": lambda row: [message("user", row["prompt"]), message("assistant", row["answer"])],
    "editing": lambda row: [message("user", row["prompt"], row["source_image"]), message("assistant", row["image"])],
    "image_to_text": lambda row: [message("user", row["image"], row["prompt"]), message("assistant", row["answer"])],
}


def dataset_of(rows):
    names = dict.fromkeys(name for row in rows for name in row)
    values = [{name: row.get(name) for name in names} for row in rows]
    pictures = ({n: PIL.Image.fromarray(v) for n, v in row.items() if isinstance(v, np.ndarray)} for row in values)
    return Dataset.from_list([row | opened for row, opened in zip(values, pictures, strict=True)])


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]
