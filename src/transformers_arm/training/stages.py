"""The stages of training by name: the type of each one's recipe, and what trains by it.

    train_stage("pretrain", "arm_tiny/pretrain", ["training.max_steps=10"])

A stage's module is imported when it is asked for: reinforcement learning needs trl, which the others do without.
"""

from collections.abc import Callable, Sequence
from importlib import import_module

from huggingface_hub.errors import HFValidationError

from ..extras import MissingExtra, require
from .recipe import RecipeError, Section, field_lines, read_recipe, shipped_recipes

STAGES = {
    "backbones": ("backbones", "BackbonesRecipe", "train_backbones"),
    "tokenizer": ("tokenizer", "TokenizerRecipe", "train_tokenizer"),
    "detokenizer": ("detokenizer", "DetokenizerRecipe", "train_detokenizer"),
    "renderer": ("renderer", "RendererRecipe", "train_renderer"),
    "pretrain": ("conversations", "ConversationsRecipe", "train_on_conversations"),
    "sft": ("conversations", "ConversationsRecipe", "train_on_conversations"),
    "grpo": ("reinforcement", "ReinforcementRecipe", "train_by_rewards"),
}


def find_stage(stage: str) -> tuple[type[Section], Callable]:
    """The type of a stage's recipe, and what trains by it.

    Raises:
        RecipeError: there is no such stage.
        MissingExtra: what it needs is not installed.
    """
    if stage not in STAGES:
        raise RecipeError(f"There is no stage {stage!r}; the stages are {', '.join(STAGES)}.")
    module, recipe, train = STAGES[stage]
    require(stage, "rl" if module == "reinforcement" else "train")
    found = import_module(f".{module}", __package__)
    return getattr(found, recipe), getattr(found, train)


def other_kinds(stage: str) -> dict[str, type[Section]]:
    """The recipes of the other stages, as far as they can be imported, by name."""
    kinds = {}
    for other, (module, *_) in STAGES.items():
        if module != STAGES[stage][0]:
            try:
                kinds[other] = find_stage(other)[0]
            except MissingExtra:
                continue
    return kinds


def read_stage(stage: str, config: str, overrides: Sequence[str] = ()) -> Section:
    """A recipe of a stage; raises RecipeError for whatever is wrong in it."""
    kind, _ = find_stage(stage)
    try:
        return read_recipe(kind, config, overrides)
    except RecipeError:
        return read_recipe(kind, config, overrides, other_kinds(stage))  # which may say whose it is


def train_stage(stage: str, config: str, overrides: Sequence[str] = ()) -> None:
    """Trains a stage by a recipe, a file or the name of one that comes with the package, with overrides.

    Raises:
        OSError: a folder that the recipe names is not there.
    """
    recipe = read_stage(stage, config, overrides)
    try:
        find_stage(stage)[1](recipe)
    except OSError as error:
        if isinstance(error.__cause__, HFValidationError):  # what is no folder was looked for on the Hub
            named = "A folder that the recipe names is not there, nor can it be the id of a repo on the Hub"
            raise OSError(f"{named}. Has the stage that writes it run, and in this folder? {error}") from error
        raise


def stage_help(stage: str) -> str:
    """All fields of a stage's recipe, with type, default and meaning, and the recipes that come with the package."""
    kind, train = find_stage(stage)
    about = (import_module(train.__module__).__doc__ or "").strip()
    return "\n".join(
        [about, "", "Fields of its recipe:", "", *field_lines(kind), "", f"Recipes: {', '.join(shipped_recipes())}"]
    )
