"""The smallest world: flat pictures of three colors. `tests/data/test_world.py` installs it as anyone's package."""

import random

import datasets
import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from transformers_arm.data.conversations import drop_conditions, message
from transformers_arm.data.world import Sheet, World
from transformers_arm.evaluation.arm import Arm

COLORS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 80, 225)}


def flat(color: str, side: int = 48) -> np.ndarray:
    return np.full((side, side, 3), COLORS[color], np.uint8)


def color_of(image) -> str:
    mean = np.asarray(image, float).mean((0, 1))
    return min(COLORS, key=lambda color: np.square(mean - COLORS[color]).sum())


class Samples(Dataset):
    """Colors by index, each made into a sample."""

    def __init__(self, length: int, seed: int, sample):
        self.length, self.seed, self.sample = length, seed, sample

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        rng = random.Random(f"{self.seed}/{index}")
        return self.sample(rng, rng.choice(list(COLORS)))


def right_color(prompts, images, **columns) -> list[float]:
    return [float(color_of(image) == prompt) for image, prompt in zip(images, prompts, strict=True)]


class ToyWorld(World):
    rewards = {"right_color": right_color}

    def pictures(self, length, *, seed, batch_size=1, side=48):
        return Samples(length, seed, lambda rng, color: {"image": flat(color, side), "caption": color})

    def tasks(self, length, *, seed, batch_size=1, per_step=1, condition_dropout=None):
        def sample(rng, color):
            messages = [message("user", color), message("assistant", flat(color))]
            return drop_conditions(rng, messages, **(condition_dropout or {}))

        return Samples(length, seed, sample)

    def requests(self, count, *, seed):
        colors = random.Random(seed).choices(list(COLORS), k=count)
        return datasets.Dataset.from_dict({"prompt": colors})

    def reconstruction_scores(self, returned, originals):
        pairs = list(zip(returned, originals, strict=True))
        return {"right_color": sum(color_of(one) == color_of(other) for one, other in pairs) / len(pairs)}

    def look(self, arm, *, count, seed):
        prompts = random.Random(seed).choices(list(COLORS), k=count)
        drawn = arm.draw(prompts, seed=seed)
        return {"right_color": float(np.mean(right_color(prompts, drawn)))}, None

    def scores(self, folder, *, count, seed):
        return self.look(Arm.from_pretrained(folder), count=count, seed=seed)[0]

    def sheets(self, folder, *, seed):
        yield Sheet("colors", "all colors", Image.fromarray(np.hstack([flat(color) for color in COLORS])))
