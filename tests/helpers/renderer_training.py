"""Trains a renderer by a recipe, and what of it is compared."""

from transformers_arm.renderers_arm import load_detokenizer
from transformers_arm.training.recipe import parse
from transformers_arm.training.renderer import RendererRecipe, train_renderer


def train(values):
    train_renderer(parse(RendererRecipe, values, "recipe"))
    return load_detokenizer(values["output_dir"])


def weights(renderer):
    return {
        f"{part}.{name}": value
        for part in ("transformer", "connector", "vae")
        for name, value in getattr(renderer, part).state_dict().items()
    }
