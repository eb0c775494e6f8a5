"""Rows to train on with GRPO, the settings and the reward of short runs, and what is read from a trainer."""

import numpy as np
from datasets import Dataset, Features, Image, Value

from transformers_arm.training.grpo import ArmGRPOTrainer
from transformers_arm.worlds.shapes.draw import draw_scene
from transformers_arm.worlds.shapes.scene import Scene, SceneObject

SCENE = draw_scene(Scene((SceneObject("circle", "red", "large", "center"),)))
TINY = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "picture_steps": 0,
    "top_k": 0,
    "disable_tqdm": True,
}


def brightness(images, **_):
    return [float(np.asarray(image).mean()) / 255 for image in images]


def dataset_of(rows, **columns) -> Dataset:
    """Rows of both tasks as a dataset with `columns` beside the usual ones."""
    features = Features({"task": Value("string"), "prompt": Value("string"), "source_image": Image(), **columns})
    rows = [{"task": "editing" if row.get("source_image") else "text_to_image", **row} for row in rows]
    return Dataset.from_list([dict.fromkeys(features) | row for row in rows], features=features)


MIXED = [
    {"prompt": "a red circle"},
    {"prompt": "make the red circle blue", "source_image": SCENE},
    {"prompt": "two squares"},
    {"prompt": "remove the red circle and then draw a longer instruction", "source_image": SCENE},
]


def rollout(trainer: ArmGRPOTrainer) -> dict:
    """What one generation gives the loss."""
    rows = [row for row in trainer.train_dataset for _ in range(trainer.num_generations)]
    trainer.model.train()
    return trainer._generate_and_score_completions(rows)


def logged(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]
