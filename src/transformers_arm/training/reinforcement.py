"""Reinforcement learning of ARM by a recipe (paper section 5): GRPO on image tokens, with any reward.

Writes a complete folder, which pipelines load, to `output_dir`/model. Interrupted, the same command goes on from the
newest complete checkpoint.
"""

import importlib
import logging
import math
import os
from pathlib import Path
from typing import Any

from datasets import Dataset
from pydantic import Field

from .. import rewards as rewards_of_ours
from ..data.folders import load_files
from ..data.world import find_world
from ..modeling_arm import ArmForCausalLM
from ..sizes.adapters import lora_config
from .callbacks import WorldScoresCallback
from .conversations import add_samples
from .grpo import ROLLOUTS, ArmGRPOConfig, ArmGRPOTrainer
from .recipe import Section, either, section
from .saving import save_model
from .sections import GenerationSettings, Lora, RequestsOfWorld, Samples, WorldScores
from .sharding import check_whole
from .trainer import set_generation, train
from .world_data import world_requests

logger = logging.getLogger(__name__)

DERIVED = ("gradient_accumulation_steps", "reward_weights")  # from `prompts_per_step` and `rewards`
GRPOTraining = section("GRPOTraining", ArmGRPOConfig, without=("output_dir", *DERIVED))


class RequestsOfDataset(Section):
    """Prompts, and pictures to edit, of your own."""

    dataset: dict[str, Any] = Field(description="Arguments of `load_files`; the columns are `ArmGRPOTrainer`'s.")


class Reward(Section):
    """A reward and how much it weighs."""

    reward: str = Field(description="A name among the world's or in `transformers_arm.rewards`, or `module:name`.")
    weight: float = Field(1.0, description="Of its advantage; 0 watches it.")
    arguments: dict[str, Any] | None = Field(None, description="With these it is called first, as classes are.")


class ReinforcementRecipe(Section):
    """Reinforcement learning: text-to-image, editing, or both."""

    output_dir: str = Field(description="Folder to write; the model goes to its `model`.")
    start_from: str = Field(description="A model's folder or Hub id, with its detokenizer.")
    reference: str | None = Field(
        None,
        description="Of the KL, the folder or Hub id of a policy; `start_from` unless stated. The paper (section 5) "
        "takes the fine-tuned one in every stage.",
    )
    dtype: str = Field("float32", description="Of the weights.")
    data: either(world=RequestsOfWorld, dataset=RequestsOfDataset) = Field(description="What is asked for.")
    rewards: list[Reward] = Field(description="What is rewarded.")
    prompts_per_step: int = Field(
        ge=1,
        description="Of one update, over all processes, which share its samples out evenly; accumulation follows.",
    )
    lora: Lora | None = Field(
        None, description="Only adapters are trained, saved to `model/adapter` and merged beside it."
    )
    generation: GenerationSettings = Field(
        GenerationSettings(), description="Saved with the model; rollouts take none."
    )
    evaluation: WorldScores | None = Field(None, description="A world's scores on the way.")
    samples: Samples | None = Field(None, description="What the model makes of requests of your own on the way.")
    training: GRPOTraining

    @property
    def world(self) -> str | None:
        """Of the data."""
        return self.data.world if isinstance(self.data, RequestsOfWorld) else None

    def problems(self):
        if self.evaluation is not None and not (self.evaluation.world or self.world):
            yield "evaluation.world", "the data are of no world; name the one whose items are scored."
        if (self.training.max_steps or 0) < 1:
            yield "training.max_steps", f"{self.training.max_steps} is no end; say how many steps to train."
        if self.reference is not None and not self.training.beta:
            yield "reference", "training.beta is 0, so none is asked; set beta, or leave it out."
        if self.training.per_device_train_batch_size < 1:
            yield "training.per_device_train_batch_size", "a process takes 1 sample at a time or more."
        if not self.rewards:
            yield "rewards", "there is none; name at least one."
        for number, entry in enumerate(self.rewards):
            try:
                find_reward(entry.reward, world=self.world)
            except (ValueError, ImportError) as error:
                yield f"rewards.{number}.reward", str(error)


def find_reward(reward: str, arguments: dict | None = None, world: str | None = None):
    """A reward by its name among a world's or in `transformers_arm.rewards`, or as `module:name`; called with
    `arguments` if given.
    """
    module, _, name = reward.rpartition(":")
    source = importlib.import_module(module) if module else rewards_of_ours
    of_world = {} if module or world is None else find_world(world).rewards
    if name not in of_world and not hasattr(source, name):
        others = f", nor has the world {world!r} one ({', '.join(of_world)})" if of_world else ""
        raise ValueError(
            f"There is no reward {name!r} in {source.__name__}{others}; use module:name for one of yours."
        )
    found = of_world[name] if name in of_world else getattr(source, name)
    return found if arguments is None else found(**arguments)


def samples_at_once(prompts: int, samples: int, processes: int, most: int) -> int:
    """How many samples a process takes at a time: the most that its share of an update is a multiple of.

    Args:
        prompts, samples: of an update, over all processes, and of a prompt.
        most: how many it may be.

    Raises:
        ValueError: processes that cannot share an update out evenly; names the nearest that can.
    """
    total = prompts * samples
    if total % processes:
        fewer = max(count for count in range(1, processes) if total % count == 0)
        more = next((f" or {count}" for count in range(processes, total + 1) if total % count == 0), "")
        multiple = processes // math.gcd(processes, samples)
        below, above = prompts // multiple * multiple, -(-prompts // multiple) * multiple
        others = " or ".join(str(each) for each in dict.fromkeys((below, above)) if each)
        raise ValueError(
            f"prompts_per_step {prompts} are {total} samples, {samples} a prompt, which {processes} processes cannot "
            f"share out evenly. Start {fewer}{more} processes, or state prompts_per_step {others}."
        )
    return max(count for count in range(1, most + 1) if total // processes % count == 0)


def arguments_of_run(recipe: ReinforcementRecipe) -> ArmGRPOConfig:
    """The recipe's `training`, with the gradient accumulation and the weights that its other sections state.

    `per_device_train_batch_size` is the most that a process takes at a time: an update is the same, however many
    processes share it out.
    """
    stated = {"report_to": "tensorboard", **recipe.training.plain()}
    processes, most = int(os.environ.get("WORLD_SIZE", 1)), recipe.training.per_device_train_batch_size
    prompts, samples = recipe.prompts_per_step, recipe.training.num_generations
    each = samples_at_once(prompts, samples, processes, most)
    share = prompts * samples // processes
    if each < most:
        logger.warning("Each process has %d samples an update, and takes %d at a time, not %d.", share, each, most)
    derived = {
        "per_device_train_batch_size": each,
        "gradient_accumulation_steps": share // each,
        "reward_weights": [entry.weight for entry in recipe.rewards],
    }
    return ArmGRPOConfig(output_dir=recipe.output_dir, **{**stated, **derived})


def requests_of_run(recipe: ReinforcementRecipe, arguments: ArmGRPOConfig) -> Dataset:
    """The recipe's prompts; of a world as many as the run draws."""
    if not isinstance(recipe.data, RequestsOfWorld):
        return load_files(**recipe.data.dataset)
    generations = -(-arguments.max_steps * arguments.gradient_accumulation_steps // arguments.steps_per_generation)
    prompts = generations * arguments.generation_batch_size // arguments.num_generations
    return world_requests(recipe.data, prompts, arguments.seed)


def train_by_rewards(recipe: ReinforcementRecipe) -> None:
    """Trains as a recipe says, from the newest checkpoint in `output_dir` if there is one."""
    arguments = arguments_of_run(recipe)
    check_whole(arguments, ROLLOUTS)
    model = ArmForCausalLM.from_pretrained(recipe.start_from, dtype=recipe.dtype)
    set_generation(model.generation_config, recipe.generation.plain())
    trainer = ArmGRPOTrainer(
        model,
        [find_reward(entry.reward, entry.arguments, recipe.world) for entry in recipe.rewards],
        arguments,
        requests_of_run(recipe, arguments),
        reference=None if recipe.reference == recipe.start_from else recipe.reference,
        peft_config=None if recipe.lora is None else lora_config(model, **recipe.lora.plain()),
    )
    parts = (trainer.processing_class, trainer.detokenizer)
    if recipe.evaluation is not None:
        world = find_world(recipe.evaluation.world or recipe.world)
        trainer.add_callback(WorldScoresCallback(trainer, world, *parts, **recipe.evaluation.plain("world")))
    if recipe.samples is not None:
        add_samples(trainer, parts[0], recipe.samples, parts[1])
    train(trainer)
    folder = Path(arguments.output_dir) / "model"
    save_model(trainer, folder, trainer.processing_class, detokenizer=(trainer.detokenizer,))
