"""Trains a renderer by a recipe, and what of it is compared."""

import pytest
from short_trainings import Killed

from transformers_arm.renderers_arm import load_detokenizer
from transformers_arm.training.recipe import parse
from transformers_arm.training.renderer import LatentTraining, RendererRecipe, train_renderer


def train(values):
    train_renderer(parse(RendererRecipe, values, "recipe"))
    return load_detokenizer(values["output_dir"])


def weights(renderer):
    return {
        f"{part}.{name}": value
        for part in ("transformer", "connector", "vae")
        for name, value in getattr(renderer, part).state_dict().items()
    }


def train_killed(values, monkeypatch):
    """Begins a training, which dies in its fourth step."""
    plain_step, taken = LatentTraining.forward, []

    def dies(self, *args, **kwargs):
        taken.append(self.training)
        if sum(taken) == 4:
            raise Killed
        return plain_step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LatentTraining, "forward", dies)
        train(values)
